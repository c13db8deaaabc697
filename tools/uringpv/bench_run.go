// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/guest/bare"
	"github.com/uringpv/uringpv/images"
	"github.com/uringpv/uringpv/vmm"
)

// run measures what the command line asks for.
func (o *benchOptions) run(ctx context.Context, sizeGiven bool, stdout, stderr io.Writer) (err error) {
	if err := o.validate(sizeGiven); err != nil {
		return err
	}
	log := newLogger(stderr, o.verbosity)
	host, err := lookAtHost()
	if err != nil {
		return err
	}
	d := defaultDisk()
	d.Path, d.ID, d.ReadOnly = o.file, "bench", true
	if o.file == "" {
		scratch, remove, err := scratchDisk(int64(o.size), images.Random)
		if err != nil {
			return err
		}
		defer finally(&err, log, remove)
		d.Path, d.Shown = scratch.Path, scratch.Shown
	}
	r := &benchReport{
		Host: host, RW: o.rw.value, Block: uint64(o.block), File: d.shown(),
		RuntimeMS: millis(o.runtime.value), Rounds: o.rounds.value, Samples: []sample{},
	}
	b := &bencher{options: o, disk: d, log: log}
	engines, err := b.working(ctx, r)
	if err != nil {
		return endedBy(ctx, err)
	}
	if err := b.rounds(ctx, engines, r, progressTo(stderr)); err != nil {
		return endedBy(ctx, err)
	}
	r.Summary = summarize(r.Samples, o.depths.values, engines)
	if o.json != "-" {
		if err := writeBenchTable(stdout, r); err != nil {
			return err
		}
	}
	if o.json != "" {
		return writeJSON(o.json, stdout, r)
	}
	return nil
}

// bencher takes measurements.
type bencher struct {
	options *benchOptions
	disk    diskSpec
	log     *slog.Logger
}

// warmUp is how long the trial of each engine runs.
const warmUp = 10 * time.Millisecond

// working tries each engine once and returns those that this host can run. It is
// an error if none is.
func (b *bencher) working(ctx context.Context, r *benchReport) ([]string, error) {
	var engines []string
	var last error
	for _, e := range b.options.engines.values {
		_, err := b.measure(ctx, e, b.options.depths.values[0], warmUp)
		switch {
		case err == nil:
			engines = append(engines, e)
			continue
		case ctx.Err() != nil || e == engineNative || !hostLacks(err):
			return nil, err
		}
		last = err
		b.log.Warn("engine is left out", "engine", e, "why", oneLine(err.Error()))
		r.Skipped = append(r.Skipped, runSkip{e, oneLine(err.Error())})
	}
	if len(engines) == 0 {
		return nil, last
	}
	return engines, nil
}

// rounds lets the engines take turns.
func (b *bencher) rounds(ctx context.Context, engines []string, r *benchReport, progress func(string)) error {
	defer progress("")
	for round := 1; round <= b.options.rounds.value; round++ {
		for _, depth := range b.options.depths.values {
			for i := range engines {
				// Each round begins with another engine, so that none of them
				// always runs after the same one.
				e := engines[(i+round)%len(engines)]
				progress(fmt.Sprintf("round %d of %d, depth %d, %s", round, b.options.rounds.value, depth, e))
				s, err := b.measure(ctx, e, depth, b.options.runtime.value)
				if err != nil {
					return fmt.Errorf("%s at depth %d: %w", e, depth, err)
				}
				s.Round = round
				r.Samples = append(r.Samples, s)
			}
		}
	}
	return nil
}

// measure runs one engine once.
func (b *bencher) measure(ctx context.Context, engine string, depth int, length time.Duration) (sample, error) {
	values := map[string]uint64{}
	take := func(l bare.Line) {
		if l.Kind != bare.Value {
			return
		}
		if n, err := strconv.ParseUint(l.Detail, 10, 64); err == nil {
			values[l.Name] = n
		}
	}
	// An engine that loses a request waits for ever.
	limit := 2*length + 30*time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("a measurement of %v has not ended after %v", length, limit))
	defer cancel()
	args := fmt.Sprintf("depth=%d bs=%d ms=%d rw=%s", depth, b.options.block, max(1, length.Milliseconds()), b.options.rw.value)
	var err error
	if engine == engineNative {
		err = b.native(ctx, args, take)
	} else {
		err = b.guest(ctx, engine, depth, args, take)
	}
	if err != nil {
		return sample{}, err
	}
	ios, ns := values["ios"], values["ns"]
	if ios == 0 || ns == 0 {
		return sample{}, fmt.Errorf("no measurement: %d I/Os in %d ns", ios, ns)
	}
	s := sample{Engine: engine, Depth: depth, IOs: ios, IOPS: float64(ios) / (float64(ns) / 1e9)}
	if n, ok := values["kvm_exits"]; ok {
		s.KVMExits = &n
	}
	if n, ok := values["vmm_syscalls"]; ok {
		s.VMMSyscalls = &n
	}
	return s, nil
}

// benchMemory is the RAM of a benchmark's guest, without its buffers, in bytes.
const benchMemory = 64 << 20

// guest measures a guest on a backend.
func (b *bencher) guest(ctx context.Context, backend string, depth int, args string, take func(bare.Line)) error {
	d := b.disk
	d.Rings, d.Entries = 1, 1<<bits.Len(uint(max(depth-1, 0)))
	buffers := byteSize(depth) * b.options.block
	m := machine{
		memory: benchMemory + (buffers+(2<<20)-1)&^((2<<20)-1), cpus: 1, disk: d, backend: vmm.Choice(backend),
		cmdline: "guest=bench device=0 " + args, log: b.log, begin: func(vmm.Chosen) {}, line: take,
	}
	out, err := m.run(ctx)
	if err == nil && out.exit.Code != 0 {
		err = out.gaveUp()
	}
	return err
}

// native measures the guest's loop as a process of the host.
func (b *bencher) native(ctx context.Context, args string, take func(bare.Line)) error {
	program, err := memoryFile("uringpv-native", bare.Native())
	if err != nil {
		return err
	}
	defer program.Close()
	file, err := os.Open(b.disk.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	// The child's descriptors 3 and 4.
	cmd := exec.CommandContext(ctx, "/proc/self/fd/4", append([]string{"file=/proc/self/fd/3"}, strings.Fields(args)...)...)
	cmd.Args[0] = "uringpv-native"
	cmd.ExtraFiles = []*os.File{file, program}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // a terminal's signals reach it by way of us
		Pdeathsig: syscall.SIGKILL, // and if we are killed, so is it
	}
	// Pdeathsig is about the thread that forks, not the process: it must live on.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var said, wrong bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &wrong
	err = cmd.Run()
	console := &lineWriter{line: func(s string) {
		l := bare.ParseLine(s)
		if l.Kind == bare.Text {
			fmt.Fprintln(&wrong, s)
		}
		take(l)
	}}
	_, _ = console.Write(said.Bytes())
	console.flush()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("the native loop: %w: %s", err, oneLine(wrong.String()))
	}
	return nil
}

// memoryFile is a file of that content which no directory lists, for execution.
func memoryFile(name string, content []byte) (_ *os.File, err error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(content); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// progressTo shows one line that is written over again, if w is a terminal.
func progressTo(w io.Writer) func(string) {
	if !isTerminal(w) {
		return func(string) {}
	}
	return func(s string) { fmt.Fprintf(w, "\r\x1b[K%s", s) }
}
