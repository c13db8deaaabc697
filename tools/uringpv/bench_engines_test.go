// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/testutil"
)

// benchTime is long enough for the kernel to find a thread at work at one of its ticks,
// by which it counts processor time, on a host that is busy with other things, too.
const benchTime = "60ms"

// benchRows runs `uringpv bench` and reads its rows.
func benchRows(t *testing.T, args ...string) []row {
	t.Helper()
	c := newCommand(t, append([]string{"bench", "--rounds", "1", "--runtime", benchTime, "--size", "1M", "--json", "-"}, args...)...)
	if status := c.finish(); status != exitOK {
		t.Fatalf("bench %v: exit status %d: %s", args, status, &c.stderr)
	}
	var rows []row
	dec := json.NewDecoder(bytes.NewReader(c.stdout.Bytes()))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&rows); err != nil {
		t.Fatalf("bench %v: no JSON: %v\n%s", args, err, &c.stdout)
	}
	return rows
}

// checkRow says what is wrong with a row, whatever the speed.
func checkRow(t *testing.T, r row, data bool) {
	t.Helper()
	if r.IOs == 0 || r.IOPS <= 0 || r.Errors != 0 || len(r.IOPSByRound) != 1 || (r.MiBs > 0) != data || r.Batches <= 0 || r.Batches > 1 {
		t.Errorf("%s at depth %d: %+v", r.Engine, r.Depth, r)
	}
	if l := r.Latency; l.P50 <= 0 || l.P99 < l.P50 || l.P999 < l.P99 {
		t.Errorf("%s at depth %d: latencies %+v", r.Engine, r.Depth, l)
	}
	if r.CPU.VCPU <= 0 || r.CPU.VCPU > 1.1 || r.CPU.VMM < 0 || r.CPU.Kernel < 0 {
		t.Errorf("%s at depth %d: processors %+v", r.Engine, r.Depth, r.CPU)
	}
	if r.Ratio == nil || *r.Ratio <= 0 || *r.RatioMin > *r.Ratio || *r.RatioMax < *r.Ratio {
		t.Errorf("%s at depth %d: no ratio to native", r.Engine, r.Depth)
	}
	for field, v := range map[string]*float64{"kvm_exits_per_io": r.KVMExits, "vmm_syscalls_per_io": r.VMMSyscalls, "irqs_per_io": r.IRQs, "own_memory_mib": r.Memory} {
		if (v == nil) != (r.Missing[field] != "") {
			t.Errorf("%s at depth %d: %s is %v, and the reason is %q", r.Engine, r.Depth, field, v, r.Missing[field])
		}
	}
	if (r.Lost == nil) != (r.Missing["interrupts_lost"] != "") || r.Lost != nil && *r.Lost != 0 {
		t.Errorf("%s at depth %d: interrupts lost: %v, and the reason is %q", r.Engine, r.Depth, r.Lost, r.Missing["interrupts_lost"])
	}
}

// engineNames are the engines of rows, each depth's in its order.
func engineNames(rows []row) []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.Engine)
	}
	return names
}

func TestBenchMeasuresEveryEngine(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	engines := []string{engineNative}
	working := workingBackends(t)
	for _, e := range []string{enginePassthrough, engineIsolated, engineRelay} {
		if slices.Contains(working, e) {
			engines = append(engines, e)
		}
	}
	all := "--engine=" + strings.Join(engines, ",")
	for _, rw := range []string{rwRandRead, rwRandWrite, rwRead, rwWrite, rwNop, rwFsync} {
		t.Run(rw, func(t *testing.T) {
			rows := benchRows(t, all, "--rw", rw, "--iodepth", "1,7")
			if want := append(slices.Clone(engines), engines...); !slices.Equal(engineNames(rows), want) {
				t.Fatalf("rows of %v, want %v", engineNames(rows), want)
			}
			for _, r := range rows {
				checkRow(t, r, rw != rwNop && rw != rwFsync)
				if r.RW != rw || r.Block != 4096 || r.Rings != 1 || r.IRQ || r.Direct {
					t.Errorf("%s at depth %d: %+v is not what was asked for", r.Engine, r.Depth, r)
				}
			}
		})
	}
	t.Run("interrupts", func(t *testing.T) {
		for _, r := range benchRows(t, all, "--irq", "on", "--rings", "2", "--iodepth", "4") {
			checkRow(t, r, true)
			if !r.IRQ || r.Rings != 2 {
				t.Errorf("%s: %+v is not what was asked for", r.Engine, r)
			}
			// Each batch raises one at most, the timer of the guest's waits aside.
			if r.Engine != engineNative && (*r.IRQs <= 0 || *r.IRQs > 2*r.Batches) {
				t.Errorf("%s: %v interrupts for each I/O, in %v batches", r.Engine, *r.IRQs, r.Batches)
			}
		}
	})
	t.Run("direct", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINVAL) {
			t.Skipf("the file system of %s has no O_DIRECT", filepath.Dir(path))
		}
		unix.Close(fd)
		c := newCommand(t, "bench", "--rounds", "1", "--runtime", "20ms", "--file", path, "--direct", "--json", "-", all, "--iodepth", "2")
		if status := c.finish(); status != exitOK {
			t.Fatalf("exit status %d: %s", status, &c.stderr)
		}
		var rows []row
		if err := json.Unmarshal(c.stdout.Bytes(), &rows); err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if checkRow(t, r, true); !r.Direct || r.File != path {
				t.Errorf("%s: %+v is not what was asked for", r.Engine, r)
			}
		}
	})
}

// The same loop drives QEMU's device.
func TestBenchMeasuresQEMU(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	if _, err := qemuCommand(); err != nil {
		if os.Getenv("REQUIRE_QEMU") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	engines := []string{engineNative, engineVirtio}
	for _, more := range [][]string{{"--rw", rwRandWrite}, {"--rw", rwFsync}, {"--irq", "on", "--rings", "2"}} {
		rows := benchRows(t, append([]string{"--engine", strings.Join(engines, ","), "--iodepth", "3"}, more...)...)
		if !slices.Equal(engineNames(rows), engines) {
			t.Fatalf("%v: rows of %v", more, engineNames(rows))
		}
		for _, r := range rows {
			checkRow(t, r, r.RW == rwRandWrite || r.RW == rwRandRead)
		}
	}
}

// Several guests at once are one measurement, and native is measured with one.
func TestBenchMeasuresSeveralGuests(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	for i, e := range workingBackends(t) {
		irqs := []string{"off"}
		if i == 0 {
			irqs = []string{"off", "on"}
		}
		for _, irq := range irqs {
			rows := benchRows(t, "--engine", "native,"+e, "--guests", "1,3", "--iodepth", "2", "--irq", irq)
			if want := []string{engineNative, e, e}; !slices.Equal(engineNames(rows), want) {
				t.Fatalf("rows of %v, want %v", engineNames(rows), want)
			}
			checkRow(t, rows[0], true)
			checkRow(t, rows[1], true)
			one, all := rows[1], rows[2]
			if one.Guests != 1 || one.Memory == nil || one.Fairness != nil || one.ToOne != nil || rows[0].Memory != nil {
				t.Errorf("%s, one guest: %+v", e, one)
			}
			if all.Guests != 3 || all.Errors != 0 || all.IOs == 0 || all.Ratio != nil || all.Missing["ratio"] == "" || all.KVMExits == nil ||
				all.ToOne == nil || *all.ToOne <= 0 || all.Fairness == nil || *all.Fairness <= 0 || *all.Fairness > 1 || all.Lost != nil && *all.Lost != 0 {
				t.Errorf("%s, three guests: %+v", e, all)
			}
			// They share a process; ring owners have nothing else.
			if m := *all.Memory; m <= 0 || m > *one.Memory {
				t.Errorf("%s: %.1f MiB for each of three guests, %.1f for one", e, m, *one.Memory)
			}
		}
	}
}

// SQ threads of a benchmark's guests are as many as was asked for.
func TestBenchSharesSQThreads(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	if !slices.Contains(workingBackends(t), backendPassthrough) {
		t.Skip("this host has no passthrough")
	}
	for thread, want := range map[string]int{threadOwn: 4, threadAuto: 1, threadShared: 1} {
		b := newCommand(t, "bench", "--rounds", "1", "--runtime", "700ms", "--size", "1M", "--engine", enginePassthrough, "--guests", "4", "--iodepth", "1", "--sqpoll-thread", thread)
		if often, seen := usualSQThreads(t, b); often != want {
			t.Errorf("--sqpoll-thread %s: four guests have mostly %d SQ threads, want %d; times for each number: %v", thread, often, want, seen)
		}
	}
}

// usualSQThreads runs a command, which is to succeed, and returns how many SQ threads it
// has most of the time that it has any, and how often each number was seen. A ring that
// is made or has ended may have a thread, too, for a while.
func usualSQThreads(t *testing.T, c *command) (often int, seen map[int]int) {
	t.Helper()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	seen = map[int]int{}
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-ended:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if n := sqThreads(c.Process.Pid); n > 0 {
				seen[n]++
			}
		}
	}()
	status := c.finish()
	close(ended)
	<-watched
	if status != exitOK {
		t.Fatalf("exit status %d: %s", status, &c.stderr)
	}
	for n, times := range seen {
		if times > seen[often] {
			often = n
		}
	}
	return often, seen
}

// sqThreads is how many SQ threads a process has.
func sqThreads(pid int) (n int) {
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", pid))
	for _, name := range names {
		if comm, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(comm), "iou-sqp-") {
			n++
		}
	}
	return n
}

// A guest that fails ends the wait of the others, and all that meet see the same.
func TestGuestsMeet(t *testing.T) {
	const n = 3
	m := newMeeting(n)
	ctx, cancel := context.WithCancelCause(t.Context())
	failed := errors.New("failed")
	var all sync.WaitGroup
	var got [n]cpuTimes
	for range 50 {
		for i := range n {
			all.Go(func() {
				var err error
				if got[i], err = m.arrive(ctx, i); err != nil {
					t.Errorf("guest %d: %v", i, err)
				}
			})
		}
		all.Wait()
		if got[0].at.IsZero() || got[1] != got[0] || got[2] != got[0] || m.memory <= 0 {
			t.Fatalf("they have seen %+v", got)
		}
	}
	var errs [n]error
	for i := range n - 1 {
		all.Go(func() { _, errs[i] = m.arrive(ctx, i) })
	}
	cancel(failed)
	all.Wait()
	if !errors.Is(errs[0], failed) || !errors.Is(errs[1], failed) {
		t.Errorf("who waits for one that has failed is told %v", errs)
	}
}

// What an engine cannot do does not keep the others from being measured.
func TestBenchLeavesOutWhatCannotRun(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	c := newCommand(t, "bench", "--rounds", "1", "--runtime", "20ms", "--size", "1M", "--iodepth", "1", "--engine", "native,virtio-blk")
	c.Env = append(c.Env, "QEMU=no-such-program")
	if status := c.finish(); status != exitOK {
		t.Fatalf("exit status %d: %s", status, &c.stderr)
	}
	if s := c.stdout.String(); !strings.Contains(s, "  native") || !strings.Contains(s, "virtio-blk is left out: ") || !strings.Contains(s, "no-such-program") {
		t.Errorf("stdout:\n%s", s)
	}
	alone := newCommand(t, "bench", "--engine", "virtio-blk")
	alone.Env = append(alone.Env, "QEMU=no-such-program")
	if status := alone.finish(); status != exitFailure || alone.stdout.Len() != 0 {
		t.Errorf("alone: exit status %d, stdout %q", status, &alone.stdout)
	}
}

func TestPlotIsReadableByItself(t *testing.T) {
	r := &benchReport{
		what: "random reads of 4K, by polling", rounds: 3, common: row{KVM: "kvm-amd", Kernel: "6.12.0", RuntimeMS: 1000, CPUs: 2},
		rows: []row{
			{Engine: engineNative, Depth: 1, IOPS: 8e5, Latency: latency{1.25, 2.5, 12}, Ratio: ptr(1.0)},
			{Engine: engineRelay, Depth: 1, IOPS: 4e5, Latency: latency{2.5, 5, 1234}, Ratio: ptr(0.5)},
			{Engine: engineRelay, Depth: 32, IOPS: 3, Latency: latency{}},
		},
	}
	path := filepath.Join(t.TempDir(), "plot.svg")
	if err := r.writePlot(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for dec := xml.NewDecoder(bytes.NewReader(b)); ; {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		if text, ok := token.(xml.CharData); ok {
			words = append(words, strings.TrimSpace(string(text)))
		}
	}
	for _, want := range []string{
		"uringpv bench: random reads of 4K, by polling", "depth 1", "depth 32", "native", "relay", "I/Os per second", "latency in µs",
		"800 k", "400 k", "0.50×", "99.9 %", "1.25", "1234",
	} {
		if !slices.Contains(words, want) {
			t.Errorf("the plot does not say %q; it says %q", want, words)
		}
	}
	if err := (&benchReport{}).writePlot(path); err == nil {
		t.Error("a plot of nothing")
	}
}

func TestProcessorTimesAreOfThreads(t *testing.T) {
	var done atomic.Bool
	tid := make(chan int)
	go func() {
		runtime.LockOSThread()
		tid <- unix.Gettid()
		for !done.Load() {
		}
	}()
	spinner := <-tid
	read := func() cpuTimes {
		c, err := readCPU(os.Getpid(), func(tid int, _ string) bool { return tid == spinner })
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := read()
	for deadline := time.Now().Add(10 * time.Second); read().vcpu-before.vcpu < 20*time.Millisecond; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a thread that spins uses no processor")
		}
	}
	use := read().use(before)
	done.Store(true)
	if use.VCPU <= 0 || use.VCPU > 1.1 || use.Kernel != 0 {
		t.Errorf("%+v", use)
	}
}

func TestSystemCallsOfAProcessAreCounted(t *testing.T) {
	if err := canCountCalls(); err != nil {
		t.Skip(err) // no tracefs, or no right to it
	}
	runtime.LockOSThread()
	c, err := countCalls(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	before, err := c.read()
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		unix.Getpid()
	}
	after, err := c.read()
	if err != nil {
		t.Fatal(err)
	}
	if n := after - before; n < 1000 || n > 3000 {
		t.Errorf("%d system calls counted, some more than 1000 were made", n)
	}
}
