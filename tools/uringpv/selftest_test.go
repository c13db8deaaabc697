// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/uringpv/uringpv/internal/feature"
	"github.com/uringpv/uringpv/internal/testutil"
)

func TestSelftestPassesOnEveryBackend(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	backends := workingBackends(t)

	c := newCommand(t, "run", "--report", "json")
	status := c.finish()
	r := c.report()
	for _, k := range r.Cases {
		if k.Result != resultPass {
			t.Errorf("%s on %s: %s: %s", k.Name, k.Backend, k.Result, k.Detail)
		}
	}
	if status != exitOK || c.stderr.Len() != 0 {
		t.Errorf("exit status %d, stderr %q; want 0 and nothing", status, &c.stderr)
	}

	release, err := feature.KernelRelease()
	if err != nil {
		t.Fatal(err)
	}
	if want := (hostReport{KVM: feature.ProbeKVM().Kind, Kernel: release}); r.Guest != "selftest" || r.Host != want {
		t.Errorf("guest %q on %+v, want selftest on %+v", r.Guest, r.Host, want)
	}
	if r.Passed != len(r.Cases) || r.Failed != 0 || r.Skipped != 0 {
		t.Errorf("passed %d, failed %d, skipped %d of %d cases", r.Passed, r.Failed, r.Skipped, len(r.Cases))
	}
	if r.IOs < 100_000*uint64(len(backends)) || r.KVMExits == 0 || r.IRQs == 0 || r.Doorbells == 0 || r.WallMS <= 0 {
		t.Errorf("counters %+v in %v ms: at least 100,000 I/Os for each of %v, and some of the rest", r.counters, r.WallMS, backends)
	}

	// The same cases, on every backend.
	names := map[string][]string{}
	for _, k := range r.Cases {
		names[k.Backend] = append(names[k.Backend], k.Name)
	}
	var first []string
	for _, b := range backends {
		slices.Sort(names[b])
		if len(names[b]) < 15 {
			t.Errorf("%s: only the cases %v", b, names[b])
		}
		if first == nil {
			first = names[b]
		} else if !slices.Equal(first, names[b]) {
			t.Errorf("%s has the cases %v, %s has %v", b, names[b], backends[0], first)
		}
	}
	if len(names) != len(backends) {
		t.Errorf("cases of the backends %v, want those of %v", names, backends)
	}
}

// inOwnProcess says to a test that it is in a process of its own.
const inOwnProcess = "URINGPV_TEST_IN_OWN_PROCESS"

// TestRunLeavesNothingInTheProcess runs the command inside the test's process,
// twice, and looks at its descriptors and goroutines. The conformance guest has devices
// on every backend, and things that are exported. The process is not that of the other
// tests: a disk that is passed through bounds every file of its process, and go test
// has such a process write a list of all that its tests open, which grows past the disk.
func TestRunLeavesNothingInTheProcess(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	if os.Getenv(inOwnProcess) == "" {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
		c.Env = append(os.Environ(), inOwnProcess+"=1")
		out, err := c.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	testutil.NoLeaks(t)
	var stdout, stderr bytes.Buffer
	if status := execute([]string{"run", "--guest", "conformance"}, &stdout, &stderr); status != exitOK {
		t.Fatalf("exit status %d\n%s%s", status, &stdout, &stderr)
	}
	if !strings.Contains(stdout.String(), "\npass: ") {
		t.Errorf("the report has no verdict:\n%s", &stdout)
	}
	stdout.Reset()
	stderr.Reset()
	if status := execute([]string{"run", "--timeout", "200ms"}, &stdout, &stderr); status != exitFailure {
		t.Errorf("a run that its timeout ends: exit status %d, want 1\n%s", status, &stderr)
	}
}
