// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Engines of a benchmark: who does the I/O.
const (
	engineNative      = "native"
	enginePassthrough = backendPassthrough
	engineIsolated    = backendIsolated
	engineRelay       = backendRelay
	engineVirtio      = "virtio-blk"
)

// Kinds of I/O.
const (
	rwRandRead  = "randread"
	rwRandWrite = "randwrite"
	rwRead      = "read"
	rwWrite     = "write"
	rwNop       = "nop"
	rwFsync     = "fsync"
)

// Bounds of a benchmark.
const (
	minBlock       = 512
	maxBlock       = 1 << 20
	maxDepth       = 1024
	maxRounds      = 1000
	maxBenchRings  = 16
	maxBenchBuffer = 512 << 20 // of all rings of a guest
	maxBenchGuests = 63        // a process has room for 64 machines, and a trial takes one
)

// benchOptions is the command line of `uringpv bench`.
type benchOptions struct {
	engines   words
	rw        choice
	block     byteSize
	depths    numbers
	runtime   span
	rounds    count
	rings     count
	guests    numbers
	sqThread  choice
	irq       choice
	direct    bool
	hugePages bool
	size      byteSize
	file      string
	json      string
	plot      string
	verbosity int
}

func newBenchOptions() *benchOptions {
	all := []string{engineNative, enginePassthrough, engineIsolated, engineRelay, engineVirtio}
	return &benchOptions{
		engines:  words{values: all, of: all},
		rw:       choice{value: rwRandRead, of: []string{rwRandRead, rwRandWrite, rwRead, rwWrite, rwNop, rwFsync}, what: "NAME"},
		block:    4096,
		depths:   numbers{values: []int{1, 32, 128}, min: 1, max: maxDepth},
		runtime:  span{value: 3 * time.Second, min: 10 * time.Millisecond, max: time.Hour},
		rounds:   count{value: 3, min: 1, max: maxRounds},
		rings:    count{value: 1, min: 1, max: maxBenchRings},
		guests:   numbers{values: []int{1}, min: 1, max: maxBenchGuests},
		sqThread: choice{value: threadAuto, of: []string{threadAuto, threadOwn, threadShared}},
		irq:      choice{value: "off", of: []string{"on", "off"}},
		size:     64 << 20,
	}
}

// writes says whether the I/O changes the disk.
func (o *benchOptions) writes() bool { return o.rw.value == rwRandWrite || o.rw.value == rwWrite }

// readOnly says whether the disk is opened for reading only. Not for flushes: of
// such a disk some monitors ignore them.
func (o *benchOptions) readOnly() bool { return !o.writes() && o.rw.value != rwFsync }

// moves says whether the I/O has data.
func (o *benchOptions) moves() bool { return o.rw.value != rwNop && o.rw.value != rwFsync }

func newBenchCommand() *cobra.Command {
	o := newBenchOptions()
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Compare a guest's I/O with the same loop on the host",
		Long: `Bench runs one loop of I/O in a guest, on each backend, on the host itself and on
another monitor's device, and prints how they compare.

Engines:
  native       the guest's own loop as a process of the host: an io_uring of its
               own with SQPOLL, registered buffers and files
  passthrough  the guest's ring is the host's
  isolated     likewise, but in a process that has only the guest's memory
  relay        the monitor copies requests to a ring of its own
  virtio-blk   QEMU's: microvm, an iothread that polls, aio=io_uring, driven by the
               same loop in the same guest. QEMU is qemu-system-x86_64, or what the
               variable QEMU names; without it the engine is left out

The I/O: randread, randwrite, read, write (in order), nop (requests that do
nothing) or fsync (the file's flush). By default the loop polls; with --irq on it
sleeps until an interrupt comes (native: an eventfd).

The engines take turns within each round, so that what else the host does hits all
of them; on a terminal a line shows how far it is. The table has medians over the rounds; the ratio is to native in the same
round, with the smallest and the largest beside it. Latencies are from a request's
making to its completion's being seen. VM exits are without those that the host's
own interrupts cause. CPU is in processors: the vCPU's (native: the loop's) thread,
the monitor's other threads, and the kernel's io_uring threads.

With --guests N so many guests run the loop at the same time, each with a machine,
a ring and a disk of its own, on one file; native and virtio-blk only if 1 is among
the numbers. IOPS are then the sum of all guests' rates, TO ONE is their ratio to one
guest's in the same round, SLOWEST the slowest guest's to the fastest's, latencies are
the worst guest's, and MiB EACH is the monitor's own memory, without guest RAM, divided
by their number.

Without --file the disk is a scratch file in the page cache, or with --direct on the
file system of the directory for temporary files. What writes, writes over --file!`,
		Example: `  uringpv bench
  uringpv bench --engine native,passthrough --iodepth 1,32,128 --rounds 9 --json bench.json
  uringpv bench --direct --size 1G --rw randread --plot direct.svg
  uringpv bench --engine passthrough --guests 1,8,32 --iodepth 32`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.Flags().Changed("size"), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.Var(&o.engines, "engine", "engines to compare, separated by commas")
	f.Var(&o.rw, "rw", "the I/O: "+alternatives(o.rw.of))
	f.Var(&sizeWithoutUnit{&o.block}, "bs", "bytes of each request, a power of two")
	f.Var(&o.depths, "iodepth", "requests in flight on each ring, one or several depths")
	f.Var(&o.runtime, "runtime", "time of each measurement")
	f.Var(&o.rounds, "rounds", "rounds; in each, every engine runs once at every depth")
	f.StringVar(&o.file, "file", "", "use the file or block device at `PATH` instead of a scratch file")
	f.Var(&o.size, "size", "size of the scratch file")
	f.BoolVar(&o.direct, "direct", false, "bypass the host's page cache, O_DIRECT")
	f.Var(&o.irq, "irq", "sleep until an interrupt comes instead of polling")
	f.Var(&o.rings, "rings", "rings, all driven by the one loop")
	f.Var(&o.guests, "guests", "guests at the same time, one or several numbers of them")
	f.Var(&o.sqThread, "sqpoll-thread", "an SQ thread for each ring of passthrough, or one for all; auto: one if there are more rings than half of the CPUs")
	f.BoolVar(&o.hugePages, "huge-pages", false, "take the guests' RAM from the host's pool of 2 MiB pages (not virtio-blk's)")
	f.StringVar(&o.json, "json", "", "write the rows to `PATH`; - is stdout, instead of the table")
	f.StringVar(&o.plot, "plot", "", "draw IOPS and latencies to `PATH`, as SVG")
	f.CountVarP(&o.verbosity, "verbose", "v", "log more to stderr; twice for debugging")
	f.SortFlags = false
	mustComplete(cmd, "engine", o.engines.of)
	mustComplete(cmd, "rw", o.rw.of)
	mustComplete(cmd, "irq", o.irq.of)
	mustComplete(cmd, "sqpoll-thread", o.sqThread.of)
	return cmd
}

func (o *benchOptions) validate(sizeGiven bool) error {
	if o.block < minBlock || o.block > maxBlock || o.block&(o.block-1) != 0 {
		return usagef("--bs %s: must be a power of two from %s to %s", o.block, byteSize(minBlock), byteSize(maxBlock))
	}
	if o.size < o.block {
		return usagef("--size %s: must be at least one block, --bs %s", o.size, o.block)
	}
	if sizeGiven && o.file != "" {
		return usagef("--size is of the scratch file; leave it out with --file")
	}
	if n := slices.Max(o.guests.values); n > 1 && !o.readOnly() {
		return usagef("--guests %d: several guests would write to the same disk, with --rw %s it is one", n, o.rw.value)
	}
	if len(o.settings(o.engines.values)) == 0 {
		return usagef("--guests %s: %s is measured with one; add 1", &o.guests, &o.engines)
	}
	for _, depth := range o.depths.values {
		if need := o.block * byteSize(depth*o.rings.value); need > maxBenchBuffer {
			return usagef("--iodepth %d: with --bs %s and --rings %d the buffers would be %s; %s are the most", depth, o.block, o.rings.value, need, byteSize(maxBenchBuffer))
		}
	}
	// Not when all is measured.
	if err := canWrite(o.json); o.json != "-" && err != nil {
		return usagef("--json %s: %v", o.json, err)
	}
	if err := canWrite(o.plot); err != nil {
		return usagef("--plot %s: %v", o.plot, err)
	}
	return nil
}

// canWrite is nil if a file can be written at path, or if path is empty. It leaves
// what is there as it is.
func canWrite(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err.(*fs.PathError).Err
	}
	dir := filepath.Dir(path)
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("no file can be made in %s: %w", dir, err)
	}
	return nil
}

// what says in words what is measured.
func (o *benchOptions) what() string {
	names := map[string]string{
		rwRandRead: "random reads", rwRandWrite: "random writes", rwRead: "reads in order", rwWrite: "writes in order",
		rwNop: "requests that do nothing", rwFsync: "flushes",
	}
	s := names[o.rw.value]
	if o.moves() {
		s += fmt.Sprintf(" of %s", o.block)
		if o.direct {
			s += " with O_DIRECT"
		}
	}
	if o.rings.value > 1 {
		s += fmt.Sprintf(" on %d rings", o.rings.value)
	}
	if o.irq.value == "on" {
		s += ", by interrupts"
	} else {
		s += ", by polling"
	}
	return s
}
