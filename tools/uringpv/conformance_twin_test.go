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
	want := hostsOwnRings(t)
	if len(want.traces) < 40 {
		t.Fatalf("the host's own rings gave %d traces: %v", len(want.traces), want.results)
	}
	for _, choice := range everyBackend {
		t.Run(string(choice), func(t *testing.T) {
			got := conformanceGuest(t, choice)
			compared := 0
			for _, name := range slices.Sorted(maps.Keys(want.traces)) {
				trace, ok := got.traces[name]
				switch result := got.results[name]; {
				case ok && trace == want.traces[name]:
					compared++
				case ok:
					t.Errorf("%s\nguest: %s\n host: %s", name, trace, want.traces[name])
				case strings.HasPrefix(result, bare.Skip):
					t.Logf("NOT TESTED: %s: %s", name, result)
				default:
					t.Errorf("%s: no trace, %s", name, result)
				}
			}
			if compared < 20 {
				t.Errorf("only %d cases were compared", compared)
			}
		})
	}
}

// hostsOwnRings runs the cases' twin.
func hostsOwnRings(t *testing.T) (s said) {
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
func conformanceGuest(t *testing.T, choice vmm.Choice) (s said) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "says-conformance", string(choice))
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

// saysConformance is a command: it runs the guest on the backend that its argument names
// and writes what the guest says, a line of JSON for each line.
func saysConformance() {
	out := json.NewEncoder(os.Stdout)
	err := runConformanceTwin(vmm.Choice(os.Args[1]), func(l bare.Line) {
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

func runConformanceTwin(choice vmm.Choice, line func(bare.Line)) (err error) {
	ctx := context.Background()
	o := newRunOptions()
	disk, closeDisk, err := scratchDisk(conformanceSize, images.Zeros)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeDisk()) }()
	made, err := makeConformanceExports(ctx, choice)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, made.close()) }()
	exports := o.exports.device(made.files(), choice)
	m := machine{
		memory: o.memory, cpus: o.cpus.value, disk: disk, backend: choice, twin: true,
		cmdline: "guest=conformance device=0 exports=1 listener=" + made.listener,
		exports: &exports, subject: 1, log: slog.New(slog.DiscardHandler),
		begin: func(vmm.Chosen) {}, line: line,
	}
	_, err = m.run(ctx)
	return err
}
