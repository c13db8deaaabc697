// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/guest/bare"
	"github.com/uringpv/uringpv/images"
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
	d.Path, d.ID = o.file, "bench"
	if o.file == "" {
		scratch, remove, err := scratchDisk(int64(o.size), images.Random)
		if err != nil {
			return err
		}
		defer finally(&err, log, remove)
		d.Path, d.Shown = scratch.Path, scratch.Shown
	}
	d.ReadOnly, d.Direct = o.readOnly(), o.direct
	r := &benchReport{
		what: o.what(), rounds: o.rounds.value, missing: map[string]missing{},
		common: row{
			RW: o.rw.value, Block: uint64(o.block), Rings: o.rings.value, IRQ: o.irq.value == "on", Direct: o.direct, File: d.shown(),
			RuntimeMS: millis(o.runtime.value), KVM: host.KVM, Kernel: host.Kernel, CPUs: runtime.NumCPU(), Load: loadAverage(),
		},
	}
	b := &bencher{options: o, disk: d, log: log}
	engines, err := b.working(ctx, r)
	if err != nil {
		return endedBy(ctx, err)
	}
	if err := b.rounds(ctx, engines, r, progressTo(stderr)); err != nil {
		return endedBy(ctx, err)
	}
	r.summarize(o.settings(engines))
	if err := o.show(r, stdout); err != nil {
		return err
	}
	return r.failures()
}

// show writes the report in the forms that were asked for.
func (o *benchOptions) show(r *benchReport, stdout io.Writer) error {
	if o.json != "-" {
		if err := r.writeTable(stdout); err != nil {
			return err
		}
	}
	if o.json != "" {
		if err := writeJSON(o.json, stdout, r.rows); err != nil {
			return err
		}
	}
	if o.plot != "" {
		return r.writePlot(o.plot)
	}
	return nil
}

// loadAverage is the host's over a minute, 0 if it does not say.
func loadAverage() float64 {
	b, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(b), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}

// bencher takes measurements.
type bencher struct {
	options *benchOptions
	disk    diskSpec
	log     *slog.Logger
	tscKHz  uint64 // as the native loop has found it, for guests whose monitor does not say
}

// warmUp is how long the trial of each engine runs.
const warmUp = 10 * time.Millisecond

// working tries each engine once and returns those that this host can run. It is
// an error if none is.
func (b *bencher) working(ctx context.Context, r *benchReport) ([]string, error) {
	var engines []string
	var last error
	for _, e := range b.options.engines.values {
		if len(b.options.settings([]string{e})) == 0 {
			why := fmt.Sprintf("it is measured with one guest, and --guests is %s", &b.options.guests)
			b.log.Warn("engine is left out", "engine", e, "why", why)
			r.skipped = append(r.skipped, runSkip{e, why})
			continue
		}
		err := b.cannot(e)
		if err == nil {
			_, err = b.measure(ctx, setting{e, b.options.depths.values[0], b.options.most(e)}, warmUp)
		}
		switch {
		case err == nil:
			engines = append(engines, e)
			r.missing[e] = b.missing(e)
			continue
		case ctx.Err() != nil || e == engineNative || !hostLacks(err) && !errors.Is(err, errNoVirtio):
			return nil, err
		}
		last = err
		b.log.Warn("engine is left out", "engine", e, "why", oneLine(err.Error()))
		r.skipped = append(r.skipped, runSkip{e, oneLine(err.Error())})
	}
	if len(engines) == 0 {
		return nil, last
	}
	return engines, nil
}

// cannot says why an engine cannot do what is asked for, whatever the host.
func (b *bencher) cannot(engine string) error {
	if engine == engineVirtio && b.options.rw.value == rwNop {
		return fmt.Errorf("%w: it has no request that does nothing", errNoVirtio)
	}
	for _, depth := range b.options.depths.values {
		if engine == engineVirtio && depth > maxVirtioDepth {
			return fmt.Errorf("%w: its queue has room for %d requests, not %d", errNoVirtio, maxVirtioDepth, depth)
		}
	}
	return nil
}

// missing says why fields of an engine's rows are null.
func (b *bencher) missing(engine string) missing {
	m := missing{}
	if !inGuest(engine) {
		m["own_memory_mib"] = "the loop is not in a guest of this program"
	}
	if engine == engineNative {
		for _, field := range []string{"kvm_exits_per_io", "vmm_syscalls_per_io", "irqs_per_io"} {
			m[field] = "a process of the host has no virtual machine"
		}
	}
	if engine == engineVirtio {
		if err := canCountCalls(); err != nil {
			m["vmm_syscalls_per_io"] = oneLine(err.Error())
		}
	}
	if b.options.irq.value == "off" {
		m["interrupts_lost"] = "the loop polls"
	} else if engine == engineNative {
		m["interrupts_lost"] = "an eventfd, not an interrupt, ends its sleep"
	}
	return m
}

// setting is one thing that is measured.
type setting struct {
	Engine string
	Depth  int
	Guests int
}

// String is for a progress line and an error.
func (s setting) String() string {
	if s.Guests == 1 {
		return fmt.Sprintf("%s at depth %d", s.Engine, s.Depth)
	}
	return fmt.Sprintf("%d guests on %s at depth %d", s.Guests, s.Engine, s.Depth)
}

// inGuest says whether an engine is measured in this program's own guests, of which
// there may be several.
func inGuest(engine string) bool { return engine != engineNative && engine != engineVirtio }

// most is the largest number of guests that an engine is measured with.
func (o *benchOptions) most(engine string) int {
	if !inGuest(engine) {
		return 1
	}
	return slices.Max(o.guests.values)
}

// settings are all that is measured with these engines, in the report's order.
func (o *benchOptions) settings(engines []string) []setting {
	var all []setting
	for _, guests := range o.guests.values {
		for _, depth := range o.depths.values {
			for _, e := range engines {
				if guests == 1 || inGuest(e) {
					all = append(all, setting{e, depth, guests})
				}
			}
		}
	}
	return all
}

// rounds lets the engines take turns.
func (b *bencher) rounds(ctx context.Context, engines []string, r *benchReport, progress func(string)) error {
	defer progress("")
	begun := time.Now()
	done, all := 0, b.options.rounds.value*len(b.options.settings(engines))
	for round := 1; round <= b.options.rounds.value; round++ {
		// Each round begins with another engine, so that none of them always runs
		// after the same one.
		turn := slices.Concat(engines[round%len(engines):], engines[:round%len(engines)])
		for _, s := range b.options.settings(turn) {
			left := ""
			if done > 0 {
				left = fmt.Sprintf(", %v left", (time.Since(begun) / time.Duration(done) * time.Duration(all-done)).Round(time.Second))
			}
			progress(fmt.Sprintf("round %d of %d, %s%s", round, b.options.rounds.value, s, left))
			m, err := b.measure(ctx, s, b.options.runtime.value)
			if err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
			m.Round = round
			r.samples = append(r.samples, m)
			done++
		}
	}
	return nil
}

// stretch is what one run of the loop has said, and what its threads have used.
type stretch struct {
	values map[string]uint64
	text   []string
	cpu    cpuUse
}

// listen is for each line that the loop writes. snapshot reads the processors' use;
// it is called when the stretch begins and when it ends.
func (s *stretch) listen(snapshot func() (cpuTimes, error), fail func(error)) func(bare.Line) {
	s.values = map[string]uint64{}
	var before cpuTimes
	return func(l bare.Line) {
		if l.Kind == bare.Text {
			s.text = append(s.text[:min(len(s.text), keptLines)], l.Detail)
		}
		if l.Kind != bare.Value {
			return
		}
		switch l.Name {
		case "begin", "end":
			now, err := snapshot()
			if err != nil {
				fail(fmt.Errorf("processor times: %w", err))
			}
			if l.Name == "end" {
				s.cpu = now.use(before)
			}
			before = now
		default:
			if n, err := strconv.ParseUint(l.Detail, 10, 64); err == nil {
				s.values[l.Name] = n
			}
		}
	}
}

// count is the value of that name, nil if there is none.
func (s *stretch) count(name string) *uint64 {
	if n, ok := s.values[name]; ok {
		return &n
	}
	return nil
}

// measure runs one engine once.
func (b *bencher) measure(ctx context.Context, what setting, length time.Duration) (sample, error) {
	// An engine that loses a request waits for ever.
	limit := 2*length + 30*time.Second + time.Duration(what.Guests)*time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("a measurement of %v has not ended after %v", length, limit))
	defer cancel()
	o := b.options
	args := fmt.Sprintf("depth=%d bs=%d ms=%d rw=%s rings=%d irq=%s", what.Depth, o.block, max(1, length.Milliseconds()), o.rw.value, o.rings.value, o.irq.value)
	all := make([]stretch, what.Guests)
	s := sample{setting: what}
	var err error
	switch what.Engine {
	case engineNative:
		err = b.native(ctx, args, &all[0])
	case engineVirtio:
		err = b.virtio(ctx, what.Depth, args, length, &all[0])
	default:
		s.Memory, err = b.guests(ctx, what, args, all)
	}
	if err != nil {
		return sample{}, err
	}
	return s, s.sum(all)
}

// sum adds up what the loops have said, of which there is at least one.
func (s *sample) sum(all []stretch) error {
	rate, slowest, fastest := 0.0, math.Inf(1), 0.0
	for i := range all {
		st := &all[i]
		ios, ns := st.values["ios"], st.values["ns"]
		if ios == 0 || ns == 0 {
			return fmt.Errorf("no measurement: %d I/Os in %d ns", ios, ns)
		}
		iops := float64(ios) / (float64(ns) / 1e9)
		rate, slowest, fastest = rate+iops, min(slowest, iops), max(fastest, iops)
		s.IOs += ios
		s.Batches += st.values["batches"]
		if errors := st.values["errors"]; errors > 0 {
			s.Errors += errors
			s.Why = strings.Join(st.text, "; ")
		}
		us := func(name string) float64 { return float64(st.values[name]) / 1000 }
		s.Latency = latency{P50: max(s.Latency.P50, us("lat_p50")), P99: max(s.Latency.P99, us("lat_p99")), P999: max(s.Latency.P999, us("lat_p999"))}
		if s.Engine != engineNative {
			s.KVMExits, s.VMMSyscalls = plus(s.KVMExits, st.count("kvm_exits")), plus(s.VMMSyscalls, st.count("vmm_syscalls"))
			s.IRQs, s.Lost = plus(s.IRQs, st.count("irqs")), plus(s.Lost, st.count("lost"))
		}
	}
	s.Seconds, s.Fairness = float64(s.IOs)/rate, slowest/fastest
	s.CPU = all[0].cpu // guests begin and end together
	return nil
}

// plus adds counts of which there may be none.
func plus(a, b *uint64) *uint64 {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	sum := *a + *b
	return &sum
}

// benchMemory is the RAM of a benchmark's guest, without its buffers, in bytes.
const benchMemory = 32 << 20

// memory is the RAM for a depth, in bytes, a multiple of 2 MiB.
func (b *bencher) memory(depth int) byteSize {
	buffers := byteSize(depth*b.options.rings.value) * b.options.block
	return benchMemory + (buffers+(2<<20)-1)&^((2<<20)-1)
}

// child is another program that runs the loop.
type child struct {
	cmd  *exec.Cmd
	name string
	// console is what the loop writes; its lines go to line, as they come.
	console *os.File
	line    func(bare.Line)
	said    bytes.Buffer // to stderr
}

// run starts the program and waits until it has ended. begun is called when it has
// started.
func (c *child) run(ctx context.Context, writeEnd *os.File, begun func(pid int)) error {
	c.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // a terminal's signals reach it by way of us
		Pdeathsig: syscall.SIGKILL, // and if we are killed, so is it
	}
	c.cmd.Stderr = &c.said
	// Pdeathsig is about the thread that forks, not the process: it must live on.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := c.cmd.Start()
	_ = writeEnd.Close()
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	begun(c.cmd.Process.Pid)
	lines := &lineWriter{line: func(s string) { c.line(bare.ParseLine(s)) }}
	_, copyErr := io.Copy(lines, c.console)
	lines.flush()
	err = c.cmd.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(err, copyErr)
}

// native measures the guest's loop as a process of the host.
func (b *bencher) native(ctx context.Context, args string, st *stretch) error {
	program, err := memoryFile("uringpv-native", bare.Native())
	if err != nil {
		return err
	}
	defer program.Close()
	flags := os.O_RDONLY
	if !b.options.readOnly() {
		flags = os.O_RDWR
	}
	file, err := os.OpenFile(b.disk.Path, flags, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The child's descriptors 3 and 4.
	words := append([]string{"file=/proc/self/fd/3"}, strings.Fields(args)...)
	if b.disk.Direct {
		words = append(words, "direct=on")
	}
	c := &child{cmd: exec.CommandContext(ctx, "/proc/self/fd/4", words...), name: "the native loop", console: read}
	c.cmd.Args[0] = "uringpv-native"
	c.cmd.ExtraFiles = []*os.File{file, program}
	c.cmd.Stdout = write
	pid := 0
	c.line = st.listen(func() (cpuTimes, error) {
		return readCPU(pid, func(tid int, _ string) bool { return tid == pid })
	}, cancel)
	if err := c.run(ctx, write, func(p int) { pid = p }); err != nil {
		return fmt.Errorf("%s: %w: %s", c.name, err, oneLine(c.said.String()))
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
