// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/guest/bare"
	"github.com/uringpv/uringpv/vmm"
)

// checksumDepth is how many reads checksum keeps in flight.
const checksumDepth = 32

// guestRunner runs a guest on the disks and backends that were asked for, one
// after the other.
type guestRunner struct {
	options *runOptions
	guest   string
	exports []uringpv.File // open for all runs
	report  *report
	show    reporter
	log     *slog.Logger
	stderr  io.Writer
}

// run runs them all. An error ends it; cases that failed are in the report and
// are none.
func (g *guestRunner) run(ctx context.Context, disks []diskSpec) error {
	for _, d := range disks {
		run := g.runOn
		if g.onEvery(d) {
			run = g.runOnEvery
		}
		asked := d.Backend
		if g.guest == guestConformance {
			asked = g.options.exports.backend.value
		}
		if err := run(ctx, d, vmm.Choice(asked)); err != nil {
			return err
		}
	}
	return nil
}

// everyBackend is what the self-test and the conformance cases run on, one after
// the other.
var everyBackend = []vmm.Choice{vmm.ChoosePassthrough, vmm.ChooseIsolated, vmm.ChooseRelay}

// onEvery says whether the guest is to run on every backend that works here.
func (g *guestRunner) onEvery(d diskSpec) bool {
	switch g.guest {
	case guestSelftest:
		return d.Backend == backendAuto
	case guestConformance:
		return g.options.exports.backend.value == backendAuto
	}
	return false
}

// runOnEvery runs the guest with disk d on every backend that works here.
func (g *guestRunner) runOnEvery(ctx context.Context, d diskSpec, _ vmm.Choice) error {
	for _, choice := range everyBackend {
		runs := len(g.report.Runs)
		err := g.runOn(ctx, d, choice)
		if err != nil && len(g.report.Runs) == runs && choice != backendRelay && hostLacks(err) {
			left := runReport{Disk: d.ID, Path: d.shown(), Backend: string(choice), Why: oneLine(err.Error()), Skipped: true}
			g.report.addRun(left)
			g.show.run(g.report.Host, g.guest, left)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// runOn runs the guest with disk d on one backend. With the conformance guest the
// backend is that of its exports, and of a disk that has none of its own.
func (g *guestRunner) runOn(ctx context.Context, d diskSpec, choice vmm.Choice) (err error) {
	m := machine{
		memory: g.options.memory, huge: g.options.hugePages, cpus: g.options.cpus.value, disk: d, backend: choice, log: g.log, sized: g.options.sized,
		twin:    g.guest != guestChecksum,
		cmdline: g.cmdline(),
	}
	exports, backend := g.exports, vmm.Choice(g.options.exports.backend.value)
	if g.guest == guestConformance {
		made, e := makeConformanceExports(ctx, choice)
		if e != nil {
			return e
		}
		defer finally(&err, g.log, made.close)
		exports, backend, m.subject = made.files(), choice, 1
		m.cmdline += " listener=" + made.listener
		if d.Backend != backendAuto {
			m.backend = vmm.Choice(d.Backend)
		}
	}
	if len(exports) > 0 {
		c := g.options.exports.device(exports, backend)
		c.SQThreadShared = g.options.crowded
		m.exports = &c
	}
	return g.runMachine(ctx, &m)
}

// runMachine runs m and takes what it says into the report.
func (g *guestRunner) runMachine(ctx context.Context, m *machine) error {
	d := m.disk
	run := runReport{Disk: d.ID, Path: d.shown()}
	failed := g.report.Failed
	cases := len(g.report.Cases)
	first := !slices.ContainsFunc(g.report.Runs, func(r runReport) bool { return !r.Skipped })
	m.begin = func(c vmm.Chosen) {
		switch {
		case !g.onEvery(d) || !first:
		case g.guest == guestSelftest:
			c.Why = "the self-test runs on every backend that works here"
		default:
			c.Why = "the conformance cases run on every backend that works here"
		}
		run.Backend, run.Why = c.Backend, oneLine(c.Why)
		g.log.Info("backend", "device", c.Device, "backend", run.Backend, "why", run.Why)
		g.show.run(g.report.Host, g.guest, run)
	}
	m.line = func(l bare.Line) { g.take(&run, l) }

	out, err := m.run(ctx)
	if run.Backend == "" {
		return err // there was no machine
	}
	run.counters, run.WallMS = out.counts, millis(out.wall)
	g.report.addRun(run)
	switch {
	case ctx.Err() != nil:
		return err
	case err != nil, g.report.Failed > failed:
		explain(g.stderr, out, err)
		return err
	case out.exit.Code != 0:
		return out.gaveUp()
	case len(g.report.Cases) == cases:
		return errors.New("the guest ended and reported no case")
	}
	return nil
}

func (g *guestRunner) cmdline() string {
	switch g.guest {
	case guestChecksum:
		return fmt.Sprintf("guest=checksum device=0 depth=%d", checksumDepth)
	case guestConformance:
		return "guest=conformance device=0 exports=1"
	}
	return "guest=selftest device=0"
}

// take takes one line of the guest's into the report.
func (g *guestRunner) take(run *runReport, l bare.Line) {
	switch l.Kind {
	case bare.Case:
		c := caseReport{Name: l.Name, Disk: run.Disk, Backend: run.Backend, Result: l.Result, Detail: l.Detail}
		g.report.addCase(c)
		g.show.result(c)
	case bare.Value:
		switch l.Name {
		case "sha256":
			run.SHA256 = l.Detail
		case "bytes":
			if n, err := strconv.ParseUint(l.Detail, 10, 64); err == nil {
				run.Bytes = &n
			}
		}
	}
}
