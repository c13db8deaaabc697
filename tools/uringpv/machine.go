// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/disk"
	"github.com/uringpv/uringpv/device/uringpv/isolated"
	"github.com/uringpv/uringpv/device/uringpv/passthrough"
	"github.com/uringpv/uringpv/guest/bare"
	"github.com/uringpv/uringpv/vmm"
)

// machine is one guest's life: one disk on one backend, and what is exported
// besides.
type machine struct {
	memory  byteSize
	sized   func() // as vmm.Config has it
	huge    bool   // its pages are of 2 MiB
	cpus    int
	disk    diskSpec
	backend vmm.Choice
	twin    bool // the disk's read-only twin is the device's second file
	cmdline string
	log     *slog.Logger

	// exports is the device of what is exported, behind the disk's; nil: none.
	exports *vmm.DeviceConfig
	// subject is the device that the run is about: 0 the disk's, 1 exports.
	subject int

	// begin is called when the machine is made, before its guest runs.
	begin func(vmm.Chosen)
	// line is called for each line that the guest writes.
	line func(bare.Line)
}

// outcome is what a guest that ran has cost and said.
type outcome struct {
	exit   vmm.Exit
	wall   time.Duration // from the first instruction to the last
	counts counters
	log    []string // what the guest wrote besides its results, its last lines
}

// gaveUp is the error of a guest that ended with a status other than 0 and
// without a case that failed: what it said last.
func (o *outcome) gaveUp() error {
	for i := len(o.log) - 1; i >= 0; i-- {
		if why, ok := strings.CutPrefix(o.log[i], "error "); ok {
			return fmt.Errorf("the guest gave up: %s", why)
		}
	}
	return fmt.Errorf("the guest ended with status %d and did not say why", o.exit.Code)
}

// run makes the machine, runs its guest and takes the machine down, whatever
// happens. The error is the host's, the context's cause, or a *vmm.GuestCrash.
func (m *machine) run(ctx context.Context) (out outcome, err error) {
	files, closeDisks, err := m.open()
	if err != nil {
		return out, err
	}
	defer finally(&err, m.log, closeDisks)

	devices := []vmm.DeviceConfig{m.disk.device(files, m.backend)}
	if m.exports != nil {
		devices = append(devices, *m.exports)
	}
	console := &lineWriter{line: func(s string) {
		l := bare.ParseLine(s)
		if l.Kind == bare.Text {
			m.log.Info("guest", "text", s)
			out.log = append(out.log[max(0, len(out.log)-keptLines+1):], s)
		}
		m.line(l)
	}}
	vm, err := vmm.New(vmm.Config{
		Memory:    uint64(m.memory),
		HugePages: m.huge,
		CPUs:      m.cpus,
		Guest:     vmm.Guest{ELF: bare.Guest(), Cmdline: m.cmdline},
		Devices:   devices,
		Console:   console,
		Logger:    m.log,
		Sized:     m.sized,
	})
	if err != nil {
		return out, err
	}
	defer finally(&err, m.log, vm.Close)

	// Making a machine takes a while; a signal in that time ends it here.
	if ctx.Err() != nil {
		return out, context.Cause(ctx)
	}
	backends := vm.Backends()
	for i, b := range backends {
		if i != m.subject {
			logBackend(ctx, m.log, b)
		}
	}
	m.begin(backends[m.subject])
	start := time.Now()
	out.exit, err = vm.Run(ctx)
	out.wall = time.Since(start)
	console.flush()
	out.counts = m.count(vm.Stats())
	return out, err
}

// hostLacks reports whether err says that a backend does not work on this host or
// for these files, so that another may.
func hostLacks(err error) bool {
	for _, lack := range []error{
		passthrough.ErrUnsupported, passthrough.ErrGrowth, passthrough.ErrMemlock, passthrough.ErrIntegrity,
		isolated.ErrUnsupported, isolated.ErrGrowth, isolated.ErrMemlock, isolated.ErrPeer,
	} {
		if errors.Is(err, lack) {
			return true
		}
	}
	return false
}

// keptLines is how much of a guest's text is kept for a failure's explanation.
const keptLines = 50

// open opens the disk, and its twin if the guest gets one.
func (m *machine) open() (_ []uringpv.File, closeAll func() error, err error) {
	var open []*disk.Disk
	closeAll = func() error {
		var all []error
		for _, d := range open {
			all = append(all, d.Close())
		}
		return errors.Join(all...)
	}
	d, err := disk.OpenDisk(m.disk.Path, disk.Options{ID: m.disk.ID, ReadOnly: m.disk.ReadOnly, Direct: m.disk.Direct})
	if err != nil {
		return nil, nil, err
	}
	open = append(open, d)
	files := []uringpv.File{d.File()}
	if m.twin {
		t, err := d.ReadOnlyTwin("")
		if err != nil {
			return nil, nil, errors.Join(err, closeAll())
		}
		open = append(open, t)
		files = append(files, t.File())
	}
	return files, closeAll, nil
}

// count takes from a machine's statistics what reports have.
func (m *machine) count(s vmm.Stats) counters {
	if !s.HaveKVM {
		m.log.Warn("this host's KVM keeps no statistics (Linux 5.14 has them): exits and interrupts are not counted")
	}
	c := counters{KVMExits: s.KVM.GuestExits(), VMMSyscalls: s.SystemCalls, IRQs: s.KVM.IRQInjections}
	for _, d := range s.Devices {
		c.IOs += d.Total.CQEs
		c.Doorbells += d.Total.Doorbells
	}
	return c
}

// lineWriter cuts what is written to it into lines.
type lineWriter struct {
	line func(string)

	mu   sync.Mutex // guards part: a machine's log comes from several goroutines
	part strings.Builder
}

// maxLine is the longest line that is kept whole, in bytes: a guest must not
// fill the host's memory by never ending one.
const maxLine = 4096

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range p {
		if c == '\n' || w.part.Len() >= maxLine {
			w.flushLocked()
		}
		if c != '\n' {
			w.part.WriteByte(c)
		}
	}
	return len(p), nil
}

// flush ends a line that the guest has not ended; but it does not wait for a line that
// nobody reads.
func (w *lineWriter) flush() {
	if !w.mu.TryLock() {
		return
	}
	defer w.mu.Unlock()
	w.flushLocked()
}

func (w *lineWriter) flushLocked() {
	if w.part.Len() == 0 {
		return
	}
	s := w.part.String()
	w.part.Reset()
	w.line(strings.Map(printable, controls.ReplaceAllString(strings.TrimRight(s, "\r"), "")))
}

// controls are the sequences by which a program sets colours and moves a
// terminal's cursor (ECMA-48, CSI).
var controls = regexp.MustCompile(`\x1b\[[0-?]*[ -/]*[@-~]`)

// printable replaces what a terminal could take as a command: a guest's words
// are shown to the user.
func printable(r rune) rune {
	if unicode.IsPrint(r) || r == '\t' {
		return r
	}
	return '\uFFFD'
}

// explain writes what a developer wants to see of a guest that failed: its last
// words, and its registers if it crashed.
func explain(w io.Writer, out outcome, err error) {
	for _, s := range out.log {
		fmt.Fprintf(w, "guest: %s\n", s)
	}
	var crash *vmm.GuestCrash
	if errors.As(err, &crash) {
		fmt.Fprint(w, crash.Report)
	}
}
