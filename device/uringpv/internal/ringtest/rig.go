// SPDX-License-Identifier: Apache-2.0

package ringtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/direct"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

// Make makes the backend under test for guest RAM and files.
type Make func(testing.TB, *memmap.Memory, []uringpv.File) uringpv.Backend

// The guest's memory in the tests: each ring has its areas in a MiB of its own,
// then come the data.
const (
	ram      = 32 << 20
	areaSize = 1 << 20
	areas    = 8
	dataBase = memmap.Addr(areas * areaSize)
	dataSize = ram - areas*areaSize
)

// closeTime is how long a ring may take to end.
const closeTime = 10 * time.Second

// Rig is guest RAM, files and a backend: what a device has.
type Rig struct {
	Memory  *memmap.Memory
	Backend uringpv.Backend
	Files   []uringpv.File
	Data    []byte // guest RAM from dataBase on, for the test's own use

	used [areas]bool
}

// Disk makes a scratch file of size bytes as a disk, read-only or not.
func Disk(t testing.TB, size int64, readOnly bool) uringpv.File {
	t.Helper()
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(testutil.ScratchFile(t, size), flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	fd := int(f.Fd())
	return uringpv.File{
		FD: fd, Name: "scratch", ReadOnly: readOnly, BlockSize: 512, DIOMemAlign: 1, DIOOffsetAlign: 1,
		Size: func() (int64, error) {
			var st unix.Stat_t
			err := unix.Fstat(fd, &st)
			return st.Size, err
		},
	}
}

// Pipe makes the read end of a pipe a disk: reads of it wait until something
// comes, which is never.
func Pipe(t testing.TB) uringpv.File {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return uringpv.File{
		FD: p[0], Name: "pipe", ReadOnly: true, BlockSize: 512, DIOMemAlign: 1, DIOOffsetAlign: 1,
		Size: func() (int64, error) { return 0, nil },
	}
}

// Need skips the test on a host that cannot share rings with guests, and fails it for
// any other error.
func Need(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, direct.ErrUnsupported) && os.Getenv("REQUIRE_IO_URING") != "1" {
		t.Skipf("SKIPPED, NOT TESTED: %v (REQUIRE_IO_URING=1 makes this a failure)", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Memory is guest RAM of size bytes that goes with the test, for tests without a rig.
func Memory(t testing.TB, size uint64) *memmap.Memory {
	t.Helper()
	l, err := memmap.NewLayout(size)
	if err != nil {
		t.Fatal(err)
	}
	m, err := memmap.New(l, memmap.Options{Name: "ringtest"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// NewRig makes a rig that goes with the test.
func NewRig(t testing.TB, make Make, files ...uringpv.File) *Rig {
	t.Helper()
	testutil.NeedIOUring(t)
	m := Memory(t, ram)
	data, err := m.Bytes(memmap.Range{Start: dataBase, Length: dataSize})
	if err != nil {
		t.Fatal(err)
	}
	b := make(t, m, files)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close the backend: %v", err)
		}
	})
	return &Rig{Memory: m, Backend: b, Files: files, Data: data}
}

// Addr is what an SQE says for the byte at off of Data.
func (g *Rig) Addr(off uint64) uint64 { return uint64(g.Memory.Base()) + uint64(dataBase) + off }

// Config says what ring to set up.
type Config struct {
	SQ, CQ  uint32 // entries, powers of two; CQ 0: twice the SQ
	Flags   uint32 // IORING_SETUP_*
	Idle    time.Duration
	Vector  bool           // completions signal
	Opcodes []uint8        // nil: all of the backend's
	Files   []uringpv.File // nil: all of the rig's
	Slots   int            // entries of the file table; 0: as many as files
	Buffers []memmap.Range // nil: the buffer table
}

// Modes are the kinds of ring that the same traffic has to pass through.
var Modes = []struct {
	Name  string
	Flags uint32
}{
	{"SQPOLL", hostring.SetupSQPoll},
	{"SQPOLL,NO_SQARRAY", hostring.SetupSQPoll | hostring.SetupNoSQArray},
	{"doorbell", 0},
	{"doorbell,NO_SQARRAY", hostring.SetupNoSQArray},
}

// Setup sets up a ring and returns its driver. The ring ends with the test, if
// the test has not ended it.
func (g *Rig) Setup(t testing.TB, c Config) *Guest {
	t.Helper()
	d, err := g.TrySetup(t, c)
	if err != nil {
		t.Fatalf("set up a ring: %v", err)
	}
	t.Cleanup(func() { d.Destroy(t) })
	return d
}

// TrySetup is Setup without a claim to succeed. The caller ends the ring.
func (g *Rig) TrySetup(t testing.TB, c Config) (_ *Guest, err error) {
	t.Helper()
	slot := -1
	for i := range g.used {
		if !g.used[i] {
			slot = i
			break
		}
	}
	if slot < 0 {
		t.Fatal("the rig has no room for another ring")
	}
	if c.CQ == 0 {
		c.CQ = 2 * c.SQ
	}
	d := &Guest{rig: g, slot: slot, vector: -1, stopped: make(chan error, 1)}
	defer func() {
		if err != nil {
			d.free()
		}
	}()
	if d.doorbell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	if c.Vector {
		if d.vector, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			t.Fatal(err)
		}
	}
	caps := g.Backend.Capabilities()
	policy, ok := caps.Policy.Narrow(abi.OpcodesOf(c.Opcodes...), caps.Extra)
	if !ok {
		t.Fatalf("opcodes %v are not all in %v", c.Opcodes, caps.Opcodes.List())
	}
	if extra := c.Flags &^ caps.SetupFlags; extra != 0 {
		t.Skipf("SKIPPED, NOT TESTED: the host has no IORING_SETUP flags %#x", extra)
	}
	spec := uringpv.RingSpec{
		Index: slot, SQEntries: c.SQ, CQEntries: c.CQ, Flags: c.Flags,
		SQThreadIdle: c.Idle, SQThreadCPU: -1,
		Memory: g.Memory, Files: c.Files, Buffers: c.Buffers, Policy: policy,
		DoorbellFD: d.doorbell, VectorFD: d.vector,
		Stopped: func(err error) { d.stopped <- err },
		Logger:  slog.New(slog.DiscardHandler),
	}
	if spec.Files == nil {
		spec.Files = g.Files
	}
	spec.Slots = max(c.Slots, len(spec.Files))
	if spec.Buffers == nil {
		spec.Buffers = g.Memory.Layout().Buffers()
	}
	sqes := (uint64(c.SQ)*hostring.SQESize + memmap.PageSize - 1) &^ (memmap.PageSize - 1)
	rings := abi.RingsSize(c.SQ, c.CQ)
	if rings+sqes > areaSize {
		t.Fatalf("a ring of %d and %d entries does not fit the rig", c.SQ, c.CQ)
	}
	start := memmap.Addr(slot * areaSize)
	if spec.Rings, err = g.Memory.View(memmap.Range{Start: start, Length: rings}); err != nil {
		t.Fatal(err)
	}
	if spec.SQEs, err = g.Memory.View(memmap.Range{Start: start + memmap.Addr(rings), Length: sqes}); err != nil {
		t.Fatal(err)
	}
	spec.Rings.Zero()
	spec.SQEs.Zero()
	if d.Ring, err = g.Backend.NewRing(spec); err != nil {
		return nil, err
	}
	g.used[slot] = true
	d.locate(t, &spec)
	return d, nil
}

// Destroy ends the ring and frees what the driver holds. Further calls do
// nothing.
func (d *Guest) Destroy(t testing.TB) {
	t.Helper()
	d.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		if err := d.Ring.Close(ctx); err != nil {
			t.Errorf("destroy the ring: %v", err)
			return
		}
		d.free()
	})
}

// free gives back what belongs to the driver.
func (d *Guest) free() {
	d.rig.used[d.slot] = false
	unix.Close(d.doorbell)
	if d.vector >= 0 {
		unix.Close(d.vector)
	}
}

// within waits until ok, and fails the test if that takes longer than d.
func within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(d); !ok(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// name is a case's name from its parts.
func name(parts ...any) string { return fmt.Sprint(parts...) }
