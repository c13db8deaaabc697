// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// playReport shows a run of two cases on two backends, one of which this host lacks.
func playReport(show reporter) (*report, error) {
	r := &report{Guest: "selftest", Host: hostReport{KVM: "kvm-amd", Kernel: "6.12.0"}, WallMS: 1234.5}
	show.run(r.Host, r.Guest, runReport{Disk: "scratch", Backend: "passthrough", Why: "not supported", Skipped: true})
	r.addRun(runReport{Disk: "scratch", Backend: "passthrough", Why: "not supported", Skipped: true})
	run := runReport{Disk: "scratch", Path: "/x", Backend: "relay", Why: "what is left", WallMS: 1000}
	show.run(r.Host, r.Guest, run)
	for _, c := range []caseReport{
		{Name: "identify", Disk: "scratch", Backend: "relay", Result: resultPass, Detail: "2 files"},
		{Name: "nop", Disk: "scratch", Backend: "relay", Result: resultFail, Detail: "lost 1"},
		{Name: "fsync", Disk: "scratch", Backend: "relay", Result: resultSkip},
		{Name: "odd", Disk: "scratch", Backend: "relay", Result: "bogus"},
	} {
		r.addCase(c)
		show.result(c)
	}
	run.counters = counters{IOs: 10, KVMExits: 2, VMMSyscalls: 3, IRQs: 4, Doorbells: 5}
	r.addRun(run)
	return r, show.done(r)
}

func TestJSONReportIsOneObjectWithTheIssuesKeys(t *testing.T) {
	var b bytes.Buffer
	if _, err := playReport(jsonReporter{&b}); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	dec := json.NewDecoder(&b)
	if err := dec.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if dec.More() {
		t.Error("there is more than one object")
	}
	delete(got, "runs")
	delete(got, "cases")
	want := map[string]any{
		"guest": "selftest", "host": map[string]any{"kvm": "kvm-amd", "kernel": "6.12.0"},
		"passed": 1.0, "failed": 2.0, "skipped": 1.0,
		"ios": 10.0, "kvm_exits": 2.0, "vmm_syscalls": 3.0, "irqs": 4.0, "doorbells": 5.0,
		"wall_ms": 1234.5,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestEmptyReportHasEmptyLists(t *testing.T) {
	var b bytes.Buffer
	if err := (jsonReporter{&b}).done(&report{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), `"cases": []`) || !strings.Contains(b.String(), `"runs": []`) {
		t.Errorf("cases and runs are not lists:\n%s", b.String())
	}
}

func TestTextReportShowsCasesAsTheyComeAndTotals(t *testing.T) {
	var b bytes.Buffer
	if _, err := playReport(&textReporter{w: &b, disks: 1}); err != nil {
		t.Fatal(err)
	}
	const want = `uringpv selftest on kvm-amd, Linux 6.12.0
passthrough is left out: not supported
relay: what is left

CASE                          BACKEND       RESULT  DETAIL
identify                      relay         pass    2 files
nop                           relay         fail    lost 1
fsync                         relay         skip
odd                           relay         bogus

  BACKEND  I/Os  VM EXITS  VMM SYSTEM CALLS  INTERRUPTS  DOORBELLS  SECONDS
    relay    10         2                 3           4          5     1.00

fail: 1 passed, 2 failed, 1 skipped in 1.2 s
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestColourOnlyWhenAsked(t *testing.T) {
	var plain, colour bytes.Buffer
	if _, err := playReport(&textReporter{w: &plain, disks: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := playReport(&textReporter{w: &colour, colour: true, disks: 1}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(plain.String(), "\x1b") || !strings.Contains(colour.String(), "\x1b[32mpass\x1b[0m") || !strings.Contains(colour.String(), "\x1b[31mfail\x1b[0m") {
		t.Errorf("plain %q\ncoloured %q", plain.String(), colour.String())
	}
}

type fullDisk struct{}

var errFull = errors.New("no space left")

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestAReportThatCannotBeWrittenIsAnError(t *testing.T) {
	for _, show := range []reporter{jsonReporter{fullDisk{}}, &textReporter{w: fullDisk{}, disks: 1}} {
		if _, err := playReport(show); !errors.Is(err, errFull) {
			t.Errorf("%T: %v, want %v", show, err, errFull)
		}
	}
}
