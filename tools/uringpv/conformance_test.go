// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/disk"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/images"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/vmm"
)

func TestConformanceExportsAreThoseThatTheGuestKnows(t *testing.T) {
	testutil.NoLeaks(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	for _, choice := range []vmm.Choice{backendPassthrough, backendIsolated, backendRelay} {
		made, err := makeConformanceExports(t.Context(), choice)
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]abi.FileKind{}
		byName := map[string]uringpv.File{}
		for _, f := range made.files() {
			kinds[f.Name], byName[f.Name] = f.Kind, f
			if f.Seekable() {
				if n, err := f.Size(); n != conformanceSize || err != nil {
					t.Errorf("%s has %d bytes, %v", f.Name, n, err)
				}
			}
			if f.Kind == abi.FileDgram && f.AnyPeer != (choice == backendIsolated) {
				t.Errorf("%s on %s: any peer is %v", f.Name, choice, f.AnyPeer)
			}
		}
		want := map[string]abi.FileKind{
			"file": abi.FileRegular, "file2": abi.FileRegular, "ro": abi.FileRegular, "stream-a": abi.FileStream, "stream-b": abi.FileStream,
			"dgram-a": abi.FileDgram, "dgram-b": abi.FileDgram, "listener": abi.FileListener, "connector": abi.FileStream, "connector2": abi.FileStream, "connector3": abi.FileStream,
			"pipe.read": abi.FilePipe, "pipe.write": abi.FilePipe, "eventfd": abi.FileEventfd, "tcp-listener": abi.FileListener,
		}
		if !maps.Equal(kinds, want) {
			t.Errorf("files %v, want %v", kinds, want)
		}
		if names := slices.Sorted(maps.Keys(kinds)); !slices.Equal(names, conformanceNames) {
			t.Errorf("files %q, and --export-policy may name %q", names, conformanceNames)
		}
		if !byName["ro"].ReadOnly || byName["file"].ReadOnly || !byName["connector"].Unconnected || byName["connector"].Peer == nil {
			t.Errorf("%+v", byName)
		}
		if fi, err := os.Lstat(made.listener); err != nil || fi.Mode()&os.ModeSocket == 0 {
			t.Errorf("%s: %v, %v", made.listener, fi, err)
		}
		for range 2 {
			if err := made.close(); err != nil {
				t.Error(err)
			}
		}
		if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// polledDisk makes a file and says whether rings with IORING_SETUP_IOPOLL can read and
// write it. The nested machine's disk polls.
func polledDisk(t *testing.T) (path string, polls bool) {
	t.Helper()
	if f, _ := hostring.ProbeFeature(hostring.FeatureNoMmap); f.Result != hostring.Yes {
		t.Log("rings of Linux 6.1 with IORING_SETUP_IOPOLL lose writes; from 6.10 on there is one on every backend")
		return "", false
	}
	path = filepath.Join(t.TempDir(), "polled.img")
	if err := os.WriteFile(path, make([]byte, conformanceSize), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := disk.OpenDisk(path, disk.Options{Direct: true}); err != nil {
		t.Logf("O_DIRECT: %v", err)
	} else {
		polls = d.File().Poll
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	if !polls && os.Getenv("URINGPV_NESTED") != "" && os.Getenv("REQUIRE_IO_URING") == "1" {
		t.Fatalf("%s: the machine's disk does not poll for completions", path)
	}
	return path, polls
}

// mayLack is what a backend's cases may do without on this host: why each is skipped.
func mayLack(backend string, polls bool) map[string]string {
	lack := map[string]string{}
	if backend == backendPassthrough {
		lack["cqe-skip-success"] = "IOSQE_CQE_SKIP_SUCCESS"
	}
	if f, _ := hostring.ProbeFeature(hostring.FeatureNoMmap); f.Result != hostring.Yes && backend == backendRelay {
		lack["iopoll"] = "no IORING_SETUP_IOPOLL"
	} else if !polls {
		lack["iopoll"] = "not on a device that polls"
	}
	if f, _ := hostring.ProbeFeature(hostring.FeatureAllocRange); f.Result != hostring.Yes && backend != backendIsolated {
		lack["accept-multishot"] = "multishot ACCEPT"
	}
	return lack
}

// Every backend of this host runs the cases; none fails, and what is skipped is what
// cannot be.
func TestConformancePassesOnEveryBackend(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	args := []string{"run", "--guest", "conformance", "--report", "json"}
	path, polls := polledDisk(t)
	if polls {
		args = append(args, "--disk", path+",direct=on")
	} else {
		t.Log("NOT TESTED: iopoll: no disk here polls for completions")
	}
	c := newCommand(t, args...)
	status := c.finish()
	r := c.report()
	if status != exitOK || r.Guest != "conformance" || r.Failed != 0 || r.Error != "" {
		t.Errorf("exit status %d, guest %q, %d failed, error %q, stderr %q", status, r.Guest, r.Failed, r.Error, &c.stderr)
	}
	var ran []string
	for _, run := range r.Runs {
		if run.Skipped {
			t.Logf("%s is left out: %s", run.Backend, run.Why)
			continue
		}
		ran = append(ran, run.Backend)
	}
	for _, b := range workingBackends(t) {
		if !slices.Contains(ran, b) {
			t.Errorf("%s works here, but the cases ran on %v", b, ran)
		}
	}
	names := map[string][]string{}
	for _, k := range r.Cases {
		names[k.Backend] = append(names[k.Backend], k.Name)
		switch {
		case k.Result == resultFail:
			t.Errorf("%s on %s: %s", k.Name, k.Backend, k.Detail)
		case k.Result == resultSkip != (mayLack(k.Backend, polls)[k.Name] != "") || !strings.Contains(k.Detail, mayLack(k.Backend, polls)[k.Name]):
			t.Errorf("%s on %s: %s %s; to be skipped here: %v", k.Name, k.Backend, k.Result, k.Detail, mayLack(k.Backend, polls))
		}
	}
	for _, b := range ran {
		if !slices.Equal(names[b], names[ran[0]]) {
			t.Errorf("%s has the cases %q, %s has %q", b, names[b], ran[0], names[ran[0]])
		}
	}
}

// An opcode or a flag that the host denies is one that the guest does not have: the
// cases that need it are skipped and say so, the others pass.
func TestPolicyTakesOpcodesAndFlagsFromTheGuest(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	working := workingBackends(t)
	for _, backend := range []string{backendRelay, backendIsolated} {
		if !slices.Contains(working, backend) {
			t.Logf("NOT TESTED: %s does not work on this host", backend)
			continue
		}
		c := newCommand(t, "run", "--guest", "conformance", "--export-backend", backend, "--export-policy", "deny=accept,deny-flag=cqe_skip_success", "--report", "json")
		status := c.finish()
		r := c.report()
		if len(r.Runs) == 1 && r.Runs[0].Skipped {
			t.Logf("%s is left out: %s", backend, r.Runs[0].Why)
			continue
		}
		if status != exitOK {
			t.Errorf("%s: exit status %d, stderr %q", backend, status, &c.stderr)
		}
		for _, k := range r.Cases {
			denied := map[string]string{"accept-connect": "ACCEPT", "accept-multishot": "ACCEPT", "cqe-skip-success": "IOSQE_CQE_SKIP_SUCCESS"}[k.Name]
			switch {
			case k.Result == resultFail:
				t.Errorf("%s: %s: %s", backend, k.Name, k.Detail)
			case denied != "" && (k.Result != resultSkip || !strings.Contains(k.Detail, denied)):
				t.Errorf("%s: %s: %s, %s, although %s is denied", backend, k.Name, k.Result, k.Detail, denied)
			}
		}
	}
}

// What the host denies for one file the guest gets -EACCES for with that file, and
// the case that works on two says which.
func TestPolicyOfOneFileIsTheGuests(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	c := newCommand(t, "run", "--guest", "conformance", "--export-backend", "relay", "--export-policy", "deny=fsync:file", "--report", "json")
	if status := c.finish(); status != exitFailure {
		t.Errorf("exit status %d, stderr %q; want %d, as cases use FSYNC with it", status, &c.stderr, exitFailure)
	}
	for _, k := range c.report().Cases {
		if k.Result == resultFail && !strings.Contains(k.Detail, "-13") && !strings.Contains(k.Detail, "EACCES") {
			t.Errorf("%s: %s", k.Name, k.Detail)
		}
	}
}

// What is exported is a further device, on the backend that was asked for, and
// what the run has made on the host goes with it.
func TestExportsAreADeviceBehindTheDisk(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	dir := t.TempDir()
	data := filepath.Join(dir, "data,bin")
	if err := os.WriteFile(data, make([]byte, conformanceSize), 0o600); err != nil {
		t.Fatal(err)
	}
	disk, err := images.NewScratch("", conformanceSize, images.Random)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	image := filepath.Join(dir, "disk.img")
	b, err := os.ReadFile(disk.Path())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, b, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	for _, backend := range []vmm.Choice{vmm.ChooseRelay, vmm.ChooseAuto} {
		c := newCommand(t, "run", "--guest", "checksum", "--disk", image, "-v",
			"--file", "name=data,path="+strings.ReplaceAll(data, ",", ",,"), "--socket", "name=l,unix="+socket+",listen=on",
			"--socket", "name=d,unix=@"+filepath.Base(dir)+",type=dgram,listen=on", "--pipe", "name=p", "--eventfd", "name=e",
			"--export-backend", string(backend), "--export-rings", "2", "--export-policy", "deny=accept")
		if status := c.finish(); status != exitOK {
			t.Fatalf("%s: exit status %d\n%s%s", backend, status, &c.stdout, &c.stderr)
		}
		want := "device=exports backend="
		if backend == vmm.ChooseRelay {
			want += "relay"
		}
		if !strings.Contains(c.stderr.String(), want) {
			t.Errorf("%s: the log does not say %q:\n%s", backend, want, &c.stderr)
		}
		if _, err := os.Lstat(socket); !os.IsNotExist(err) {
			t.Errorf("%s: the socket is there still: %v", backend, err)
		}
	}
}
