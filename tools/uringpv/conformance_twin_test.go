// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
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

// conformanceGuest runs the guest on one backend.
func conformanceGuest(t *testing.T, choice vmm.Choice) (s said) {
	t.Helper()
	o := newRunOptions()
	disk, closeDisk, err := scratchDisk(conformanceSize, images.Zeros)
	if err != nil {
		t.Fatal(err)
	}
	defer closeDisk()
	made, err := makeConformanceExports(t.Context(), choice)
	if err != nil {
		t.Fatal(err)
	}
	defer made.close()
	exports := o.exports.device(made.files(), choice)
	m := machine{
		memory: o.memory, cpus: o.cpus.value, disk: disk, backend: choice, twin: true,
		cmdline: "guest=conformance device=0 exports=1 listener=" + made.listener,
		exports: &exports, subject: 1, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		begin: func(vmm.Chosen) {}, line: s.take,
	}
	switch _, err := m.run(t.Context()); {
	case hostLacks(err):
		t.Skipf("NOT TESTED: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	return s
}
