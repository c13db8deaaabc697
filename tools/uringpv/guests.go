// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"

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
	report  *report
	show    reporter
	log     *slog.Logger
	stderr  io.Writer
}

// run runs them all. An error ends it; cases that failed are in the report and
// are none.
func (g *guestRunner) run(ctx context.Context, disks []diskSpec) error {
	for _, d := range disks {
		got, err := g.runOn(ctx, d, vmm.Choice(d.Backend))
		if err != nil {
			return err
		}
		// The self-test runs on every backend that this host has.
		if g.guest == guestSelftest && d.Backend == backendAuto && got.Backend != backendRelay {
			if _, err := g.runOn(ctx, d, vmm.ChooseRelay); err != nil {
				return err
			}
		}
	}
	return nil
}

// runOn runs the guest with disk d on one backend, and says which that was.
func (g *guestRunner) runOn(ctx context.Context, d diskSpec, choice vmm.Choice) (got vmm.Chosen, err error) {
	run := runReport{Disk: d.ID, Path: d.shown()}
	m := machine{
		memory: g.options.memory, cpus: g.options.cpus.value, disk: d, backend: choice, log: g.log,
		twin:    g.guest == guestSelftest,
		cmdline: g.cmdline(),
	}
	failed := g.report.Failed
	cases := len(g.report.Cases)
	m.begin = func(c vmm.Chosen) {
		got = c
		if g.guest == guestSelftest && choice == vmm.ChooseAuto {
			if c.Backend == backendRelay {
				left := runReport{Disk: d.ID, Path: d.shown(), Backend: backendPassthrough, Why: oneLine(c.Why), Skipped: true}
				g.report.addRun(left)
				g.show.run(g.report.Host, g.guest, left)
			}
			c.Why = "the self-test runs on every backend that works here"
		}
		run.Backend, run.Why = c.Backend, oneLine(c.Why)
		g.log.Info("backend", "disk", d.ID, "backend", run.Backend, "why", run.Why)
		g.show.run(g.report.Host, g.guest, run)
	}
	m.line = func(l bare.Line) { g.take(&run, l) }

	out, err := m.run(ctx)
	if run.Backend == "" {
		return got, err // there was no machine
	}
	run.counters, run.WallMS = out.counts, millis(out.wall)
	g.report.addRun(run)
	switch {
	case ctx.Err() != nil:
		return got, err
	case err != nil, g.report.Failed > failed:
		explain(g.stderr, out, err)
		return got, err
	case out.exit.Code != 0:
		return got, out.gaveUp()
	case len(g.report.Cases) == cases:
		return got, errors.New("the guest ended and reported no case")
	}
	return got, nil
}

func (g *guestRunner) cmdline() string {
	if g.guest == guestChecksum {
		return fmt.Sprintf("guest=checksum device=0 depth=%d", checksumDepth)
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
