// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
)

// fleet is several machines in this one process, all at the same time. One that
// fails does not end the others.
type fleet struct {
	machines       []namedMachine
	json           bool // one object for all on stdout, else each one's lines behind its name
	verbosity      int
	stdout, stderr io.Writer

	outMu, errMu sync.Mutex // held while a line is written to stdout, to stderr
}

// machineReport is a machine in a fleet's JSON report.
type machineReport struct {
	Name string `json:"name"`
	// Report is what a run of its own would have written, null if that is nothing.
	Report json.RawMessage `json:"report"`
	// Error says why it failed, empty if it did not.
	Error string `json:"error,omitempty"`
}

// fleetReport is a fleet's JSON report.
type fleetReport struct {
	Machines []machineReport `json:"machines"`
}

// failedMachines is a fleet of which some failed. Each has said why.
type failedMachines struct{ failed, all int }

func (e *failedMachines) Error() string {
	return fmt.Sprintf("%d of %d machines failed", e.failed, e.all)
}

// check says what is wrong before any machine is made.
func (f *fleet) check() error {
	for _, m := range f.machines {
		if _, linux := m.options.linux.given(); linux && f.json {
			return usagef("--report json and machine %s, which boots a Linux kernel: it has no report; its console is shown", m.name)
		}
	}
	return nil
}

// run runs them all and returns when all have ended.
func (f *fleet) run(ctx context.Context) error {
	if err := f.check(); err != nil {
		return err
	}
	width := 0
	for _, m := range f.machines {
		width = max(width, len(m.name))
	}
	pollers := 0
	for _, m := range f.machines {
		pollers += m.options.pollers()
	}
	if crowded(pollers, runtime.NumCPU()) {
		for _, m := range f.machines {
			m.options.crowded = true
		}
	}
	// A disk that is passed through bounds what the process writes, the making of RAM
	// included: before the first one all machines have theirs.
	sized := newBarrier(len(f.machines))
	reports := make([]machineReport, len(f.machines))
	errs := make([]error, len(f.machines))
	var all sync.WaitGroup
	for i, m := range f.machines {
		all.Go(func() {
			prefix := fmt.Sprintf("%-*s | ", width, m.name)
			arrive := sync.OnceFunc(sized.arrive)
			defer arrive() // a machine that has failed
			m.options.sized = func() {
				arrive()
				sized.wait(ctx)
			}
			errs[i] = f.runOne(ctx, m, prefix, &reports[i])
			if errs[i] != nil && ctx.Err() == nil {
				f.line(f.stderr, prefix, "uringpv: "+oneLine(errs[i].Error()))
			}
		})
	}
	all.Wait()
	if f.json {
		enc := json.NewEncoder(f.stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(fleetReport{reports}); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	failed := &failedMachines{all: len(errs)}
	for _, err := range errs {
		if err != nil {
			failed.failed++
		}
	}
	if failed.failed > 0 {
		return failed
	}
	return nil
}

// crowded says whether so many rings are too many for each to have a vCPU and an SQ thread
// that poll.
func crowded(rings, cpus int) bool { return rings > 1 && 2*rings > cpus }

// pollers is how many rings of the machine are in use at a time, as far as can be told: a
// built-in guest's one, and of a Linux guest one for each virtual CPU and disk.
func (o *runOptions) pollers() int {
	if _, linux := o.linux.given(); !linux {
		return 1
	}
	n := 0
	for _, d := range o.disks.disks {
		n += min(cmp.Or(d.Rings, o.cpus.value), o.cpus.value)
	}
	return n
}

// barrier is where goroutines wait until all have come.
type barrier struct {
	mu      sync.Mutex
	missing int
	all     chan struct{} // closed when nobody is missing
}

func newBarrier(n int) *barrier { return &barrier{missing: n, all: make(chan struct{})} }

// arrive is called once for each.
func (b *barrier) arrive() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.missing--; b.missing == 0 {
		close(b.all)
	}
}

// wait waits until all have arrived, or ctx ends.
func (b *barrier) wait(ctx context.Context) {
	select {
	case <-b.all:
	case <-ctx.Done():
	}
}

// runOne runs one machine, whose lines begin with prefix.
func (f *fleet) runOne(ctx context.Context, m namedMachine, prefix string, r *machineReport) error {
	o := m.options
	o.verbosity = f.verbosity
	stderr := &lineWriter{line: func(s string) { f.line(f.stderr, prefix, s) }}
	defer stderr.flush()
	r.Name = m.name
	if f.json {
		o.report.value = "json"
		var out bytes.Buffer
		err := o.run(ctx, strings.NewReader(""), &out, stderr)
		if out.Len() > 0 {
			r.Report = bytes.Clone(out.Bytes())
		}
		if err != nil {
			r.Error = oneLine(err.Error())
		}
		return err
	}
	stdout := &lineWriter{line: func(s string) { f.line(f.stdout, prefix, s) }}
	defer stdout.flush()
	return o.run(ctx, strings.NewReader(""), stdout, stderr)
}

// line writes one line of a machine's. That it cannot be written is no fault of
// the machine's.
func (f *fleet) line(w io.Writer, prefix, s string) {
	mu := &f.errMu
	if w == f.stdout {
		mu = &f.outMu
	}
	mu.Lock()
	defer mu.Unlock()
	_, _ = fmt.Fprintf(w, "%s%s\n", prefix, s)
}
