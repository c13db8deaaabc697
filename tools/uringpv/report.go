// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Results of a case.
const (
	resultPass = "pass"
	resultFail = "fail"
	resultSkip = "skip"
)

// report is what a run has found; its JSON form is one object.
type report struct {
	Guest    string       `json:"guest"`
	Host     hostReport   `json:"host"`
	Runs     []runReport  `json:"runs"`
	Cases    []caseReport `json:"cases"`
	Passed   int          `json:"passed"`
	Failed   int          `json:"failed"`
	Skipped  int          `json:"skipped"`
	counters              // of all runs together
	WallMS   float64      `json:"wall_ms"`
	// SHA256 and Bytes are those of the one disk that checksum read; with several
	// disks they are in Runs only.
	SHA256 string  `json:"sha256,omitempty"`
	Bytes  *uint64 `json:"bytes,omitempty"`
	// Error says what ended the run before its end.
	Error string `json:"error,omitempty"`
}

// hostReport is the host that a run was on.
type hostReport struct {
	KVM    string `json:"kvm"`    // its kind
	Kernel string `json:"kernel"` // its release
}

// runReport is one guest's life: one disk on one backend.
type runReport struct {
	Disk    string `json:"disk"`
	Path    string `json:"path"`
	Backend string `json:"backend"`
	Why     string `json:"why"` // this backend was taken, or skipped
	Skipped bool   `json:"skipped,omitempty"`
	counters
	WallMS float64 `json:"wall_ms"`
	SHA256 string  `json:"sha256,omitempty"`
	Bytes  *uint64 `json:"bytes,omitempty"`
}

// counters is what a guest's I/O has cost.
type counters struct {
	IOs         uint64 `json:"ios"`          // requests completed
	KVMExits    uint64 `json:"kvm_exits"`    // of the guest's making: without the host's own interrupts
	VMMSyscalls uint64 `json:"vmm_syscalls"` // to serve the guest's I/O
	IRQs        uint64 `json:"irqs"`         // interrupts injected into the guest
	Doorbells   uint64 `json:"doorbells"`    // served
}

func (c *counters) add(o counters) {
	c.IOs += o.IOs
	c.KVMExits += o.KVMExits
	c.VMMSyscalls += o.VMMSyscalls
	c.IRQs += o.IRQs
	c.Doorbells += o.Doorbells
}

// caseReport is one case on one backend.
type caseReport struct {
	Name    string `json:"name"`
	Disk    string `json:"disk"`
	Backend string `json:"backend"`
	Result  string `json:"result"`
	Detail  string `json:"detail"`
}

func (r *report) addCase(c caseReport) {
	r.Cases = append(r.Cases, c)
	switch c.Result {
	case resultPass:
		r.Passed++
	case resultSkip:
		r.Skipped++
	default:
		r.Failed++
	}
}

func (r *report) addRun(run runReport) {
	r.Runs = append(r.Runs, run)
	r.counters.add(run.counters)
}

// millis is d as reports write it: milliseconds, to the microsecond.
func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// reporter shows a run to the user, as it comes and at its end.
type reporter interface {
	// run is called before a guest runs, or in its stead when it cannot.
	run(host hostReport, guest string, run runReport)
	// result is called for each case as it comes.
	result(c caseReport)
	// done is called once, at the end, unless no guest could be run at all.
	done(r *report) error
}

// jsonReporter writes nothing but the object.
type jsonReporter struct{ w io.Writer }

func (jsonReporter) run(hostReport, string, runReport) {}
func (jsonReporter) result(caseReport)                 {}

func (j jsonReporter) done(r *report) error {
	if r.Cases == nil {
		r.Cases = []caseReport{} // a list, also when it is empty
	}
	if r.Runs == nil {
		r.Runs = []runReport{}
	}
	enc := json.NewEncoder(j.w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// textReporter writes a table, row by row as the cases come.
type textReporter struct {
	w      io.Writer
	colour bool
	disks  int // with more than one, each row names its disk
	begun  bool
	rows   int
	err    error
}

// Widths of the table's columns; the rows are written before all are known.
const (
	nameWidth    = 28
	backendWidth = 12
)

func (t *textReporter) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(t.w, format, args...); err != nil && t.err == nil {
		t.err = err
	}
}

func (t *textReporter) run(host hostReport, guest string, run runReport) {
	if !t.begun {
		t.begun = true
		t.printf("uringpv %s on %s, Linux %s\n", guest, host.KVM, host.Kernel)
	}
	disk := ""
	if t.disks > 1 {
		disk = run.Disk + ": "
	}
	if run.Skipped {
		t.printf("%s%s is left out: %s\n", disk, run.Backend, run.Why)
		return
	}
	t.printf("%s%s: %s\n", disk, run.Backend, run.Why)
}

func (t *textReporter) result(c caseReport) {
	if t.rows == 0 {
		t.printf("\n%s  RESULT  DETAIL\n", strings.TrimRight(t.columns("CASE", "BACKEND", "DISK"), "\n"))
	}
	t.rows++
	t.printf("%s  %s", t.columns(c.Name, c.Backend, c.Disk), t.paint(c.Result))
	if c.Detail != "" {
		t.printf("    %s", c.Detail)
	}
	t.printf("\n")
}

func (t *textReporter) columns(name, backend, disk string) string {
	s := fmt.Sprintf("%-*s  %-*s", nameWidth, name, backendWidth, backend)
	if t.disks > 1 {
		s += fmt.Sprintf("  %-10s", disk)
	}
	return s
}

func (t *textReporter) paint(result string) string {
	if !t.colour {
		return result
	}
	colour := "31" // red
	switch result {
	case resultPass:
		colour = "32" // green
	case resultSkip:
		colour = "33" // yellow
	}
	return "\x1b[" + colour + "m" + result + "\x1b[0m"
}

func (t *textReporter) done(r *report) error {
	t.printf("\n")
	tw := tabwriter.NewWriter(t.w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "BACKEND\tI/Os\tVM EXITS\tVMM SYSTEM CALLS\tINTERRUPTS\tDOORBELLS\tSECONDS\t\n")
	for _, run := range r.Runs {
		if run.Skipped {
			continue
		}
		name := run.Backend
		if t.disks > 1 {
			name = run.Disk + " " + name
		}
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%d\t%.2f\t\n",
			name, run.IOs, run.KVMExits, run.VMMSyscalls, run.IRQs, run.Doorbells, run.WallMS/1000)
	}
	if err := tw.Flush(); err != nil && t.err == nil {
		t.err = err
	}
	t.printf("\n")
	for _, run := range r.Runs {
		if run.SHA256 != "" {
			t.printf("%s  %s\n", run.SHA256, run.Path)
		}
	}
	if len(r.Cases) > 0 {
		verdict := t.paint(resultPass)
		if r.Failed > 0 || r.Error != "" {
			verdict = t.paint(resultFail)
		}
		t.printf("%s: %d passed, %d failed, %d skipped in %.1f s\n", verdict, r.Passed, r.Failed, r.Skipped, r.WallMS/1000)
	}
	return t.err
}
