// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uringpv/uringpv/guest/bare"
	"github.com/uringpv/uringpv/images"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/vmm"
)

// said is what a run of the conformance cases has said: of each case the results
// in their order, and how it ended.
type said struct {
	traces, results map[string]string
}

func (s *said) take(l bare.Line) {
	if s.traces == nil {
		s.traces, s.results = map[string]string{}, map[string]string{}
	}
	switch l.Kind {
	case bare.Case:
		s.results[l.Name] = l.Result + " " + l.Detail
	case bare.Value:
		if name, ok := strings.CutPrefix(l.Name, "trace-"); ok {
			s.traces[name] = l.Detail
		}
	}
}

// The same requests on a device and on the host's own io_uring give the same
// results, the same CQE flags, and the same order where there is one.
func TestConformanceGuestsAgreeWithTheHostsOwnRings(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	compareConformance(t, "")
}

// So do those on a disk that polls for completions.
func TestConformanceGuestsAgreeOnAPolledDisk(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	path, polls := polledDisk(t)
	if !polls {
		t.Skip("NOT TESTED: no disk here polls for completions (O_DIRECT on NVMe with poll queues)")
	}
	compareConformance(t, path)
}

// withoutTwin are the guest's cases that the host's own rings have none like, and why.
var withoutTwin = map[string]string{
	"probe":                  "every opcode of the host's is allowed there",
	"refuse-control-message": "the host's own rings pass descriptors",
	"refuse-other-address":   "the host's own rings talk to anybody",
	"shutdown-listener":      "on the host it is no matter",
}

// compareConformance compares every case; with a disk that polls, only the one that
// needs it.
func compareConformance(t *testing.T, polled string) {
	t.Helper()
	want := hostsOwnRings(t, polled)
	for _, choice := range everyBackend {
		t.Run(string(choice), func(t *testing.T) {
			got := conformanceGuest(t, choice, polled)
			lack := mayLack(string(choice), polled != "")
			for _, name := range slices.Sorted(maps.Keys(got.results)) {
				guest, host := got.traces[name], want.traces[name]
				switch result := got.results[name]; {
				case withoutTwin[name] != "" || lack[name] != "":
					if host != "" && guest != "" {
						t.Errorf("%s: both were run, and are not compared", name)
					}
				case guest == "" || host == "":
					t.Errorf("%s: not compared\nguest: %s, %q\n host: %s, %q", name, result, guest, want.results[name], host)
				case guest != host:
					t.Errorf("%s\nguest: %s\n host: %s", name, guest, host)
				}
			}
			for name := range want.results {
				if got.results[name] == "" {
					t.Errorf("%s: the guest has no such case", name)
				}
			}
			if polled != "" && (len(got.results) != 1 || got.results["iopoll"] == "") {
				t.Errorf("cases %v, want iopoll", got.results)
			}
		})
	}
}

// hostsOwnRings runs the cases' twin, with a disk only that of iopoll.
func hostsOwnRings(t *testing.T, disk string) (s said) {
	t.Helper()
	dir, err := os.MkdirTemp("", "upv-") // a short path, for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program, err := memoryFile("conformance", bare.NativeConformance())
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	cmd := exec.CommandContext(t.Context(), "/proc/self/fd/3", "listener="+filepath.Join(dir, "s"))
	if disk != "" {
		cmd.Args = append(cmd.Args, "disk="+disk, "case=iopoll")
	}
	cmd.ExtraFiles = []*os.File{program}
	var out, wrong bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &wrong
	if err := cmd.Run(); err != nil {
		t.Errorf("the host's own rings: %v: %s%s", err, &out, &wrong)
	}
	for line := range strings.Lines(out.String()) {
		s.take(bare.ParseLine(strings.TrimSuffix(line, "\n")))
	}
	return s
}

// lacking is the exit status of saysConformance for a host that has no such backend.
const lacking = 75

// conformanceGuest runs the guest on one backend, in a process of its own: the bound on
// files holds for whatever a process writes, and go test has its own file open in this one.
func conformanceGuest(t *testing.T, choice vmm.Choice, disk string) (s said) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "says-conformance", string(choice), disk)
	var out, wrong bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &wrong
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == lacking:
		t.Skipf("NOT TESTED: %s", &wrong)
	case err != nil:
		t.Fatalf("%v: %s", err, &wrong)
	}
	for line := range strings.Lines(out.String()) {
		var l bare.Line
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		s.take(l)
	}
	return s
}

// saysConformance is a command: it runs the guest on the backend that its first argument
// names and writes what the guest says, a line of JSON for each line. A second argument
// that is not empty is a disk for iopoll, the only case then.
func saysConformance() {
	out := json.NewEncoder(os.Stdout)
	err := runConformanceTwin(vmm.Choice(os.Args[1]), os.Args[2], func(l bare.Line) {
		if err := out.Encode(l); err != nil {
			fatal(err)
		}
	})
	if hostLacks(err) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(lacking)
	}
	if err != nil {
		fatal(err)
	}
}

func runConformanceTwin(choice vmm.Choice, polled string, line func(bare.Line)) (err error) {
	ctx := context.Background()
	o := newRunOptions()
	disk, only := defaultDisk(), ""
	if polled != "" {
		disk.Path, disk.ID, disk.Direct, only = polled, "polled", true, " case=iopoll"
	} else {
		var closeDisk func() error
		if disk, closeDisk, err = scratchDisk(conformanceSize, images.Zeros); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeDisk()) }()
	}
	made, err := makeConformanceExports(ctx, choice)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, made.close()) }()
	exports := o.exports.device(made.files(), choice)
	m := machine{
		memory: o.memory, cpus: o.cpus.value, disk: disk, backend: choice, twin: true,
		cmdline: "guest=conformance device=0 exports=1 listener=" + made.listener + only,
		exports: &exports, subject: 1, log: slog.New(slog.DiscardHandler),
		begin: func(vmm.Chosen) {}, line: line,
	}
	_, err = m.run(ctx)
	return err
}
