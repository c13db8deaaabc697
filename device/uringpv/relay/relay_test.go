// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/internal/growth"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

// newBackend is the backend under test, for ringtest.
func newBackend(t testing.TB, m *memmap.Memory, files []uringpv.File) uringpv.Backend {
	t.Helper()
	b, err := New(Config{Memory: m, Files: files, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRelay(t *testing.T) { ringtest.Run(t, newBackend) }

func TestNetwork(t *testing.T) { ringtest.Network(t, newBackend, true) }

// TestWorksWithoutLockableMemory: a user's RLIMIT_MEMLOCK is 8 MiB and guests are
// larger.
func TestWorksWithoutLockableMemory(t *testing.T) {
	testutil.NoLeaks(t)
	var log bytes.Buffer
	g := ringtest.NewRig(t, func(t testing.TB, m *memmap.Memory, files []uringpv.File) uringpv.Backend {
		b, err := New(Config{Memory: m, Files: files, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}, ringtest.Disk(t, 1<<20, false))
	for _, m := range ringtest.Modes[:3] {
		var d *ringtest.Guest
		var err error
		ringtest.Unprivileged(t, 1<<20, func() {
			d, err = g.TrySetup(t, ringtest.Config{SQ: 8, Flags: m.Flags})
		})
		if err != nil {
			t.Fatalf("set up with 1 MiB of lockable memory: %v", err)
		}
		if d.Ring.(*Ring).registered {
			t.Fatal("32 MiB of guest RAM were registered with 1 MiB of lockable memory")
		}
		for i := range g.Data[:4096] {
			g.Data[i] = byte(i)
		}
		want := bytes.Clone(g.Data[:4096])
		s := hostring.SQE{Opcode: hostring.OpWriteFixed, Flags: hostring.SQEFixedFile, Off: 8192, Addr: g.Addr(0), Len: 4096}
		if res := d.Do(t, s); res != 4096 {
			t.Fatalf("write: %d", res)
		}
		clear(g.Data[:4096])
		s.Opcode = hostring.OpReadFixed
		if res := d.Do(t, s); res != 4096 || !bytes.Equal(g.Data[:4096], want) {
			t.Errorf("read: %d, bytes equal: %v", res, bytes.Equal(g.Data[:4096], want))
		}
		s.Addr = g.Addr(uint64(len(g.Data)) - 1)
		if res := d.Do(t, s); res != -int32(unix.EFAULT) {
			t.Errorf("a read across the end of RAM: %d, want -EFAULT", res)
		}
		d.Destroy(t)
	}
	if n := strings.Count(log.String(), "RLIMIT_MEMLOCK"); n != 1 {
		t.Errorf("it was logged %d times, want once:\n%s", n, log.String())
	}
}

// TestChainsAndOthersShareTheSlots: a chain takes more slots than it has members if a
// write in it is cut short, and what comes behind it in one look at the ring has the
// rest.
func TestChainsAndOthersShareTheSlots(t *testing.T) {
	testutil.NoLeaks(t)
	const size = 1 << 20
	g := ringtest.NewRig(t, newBackend, ringtest.Disk(t, size, false))
	for _, m := range ringtest.Modes[1:3] {
		d := g.Setup(t, ringtest.Config{SQ: 64, Flags: m.Flags, Idle: 2 * time.Millisecond})
		binary.LittleEndian.PutUint64(g.Data, 60) // seconds
		binary.LittleEndian.PutUint64(g.Data[8:], 0)
		waits := hostring.SQE{Opcode: hostring.OpTimeout, Flags: hostring.SQEFixedFile, Addr: g.Addr(0), Len: 1, UserData: 9}
		for range fewestInFlight - 4 {
			d.MustPut(t, &waits)
			d.Submit()
		}
		for d.Ring.Stats().SQEs < fewestInFlight-4 {
			time.Sleep(time.Millisecond)
		}
		cut := hostring.SQE{
			Opcode: hostring.OpWriteFixed, Flags: hostring.SQEFixedFile | hostring.SQEIOLink,
			Off: size - 512, Addr: g.Addr(4096), Len: 1024, UserData: 1,
		}
		want := map[uint64]int32{1: 512, 2: -int32(unix.ECANCELED), 3: 0, 4: 0}
		d.Put(&cut)
		for i := range uint64(3) {
			s := ringtest.NOP(2 + i)
			d.Put(&s)
		}
		d.Submit()
		for range want {
			if c := d.Wait(t); c.Res != want[c.UserData] || c.UserData == 9 {
				t.Errorf("%s: %+v, want %d", m.Name, c, want[c.UserData])
			}
		}
		d.Destroy(t)
	}
}

// TestFullRingTakesOneMore: with the CQ ring full and as many requests waiting as it
// has entries, one more SQE is taken: its CQE is held back, and so the guest learns
// that it is to ask.
func TestFullRingTakesOneMore(t *testing.T) {
	testutil.NoLeaks(t)
	g := ringtest.NewRig(t, newBackend, ringtest.Pipe(t))
	d := g.Setup(t, ringtest.Config{SQ: 1, CQ: 2, Flags: hostring.SetupSQPoll, Idle: time.Millisecond})
	for range 2 {
		d.MustPut(t, &hostring.SQE{Opcode: hostring.OpPollAdd, Flags: hostring.SQEFixedFile, OpFlags: unix.POLLIN, UserData: 9})
		d.Submit()
	}
	for i := range uint64(3) {
		s := ringtest.NOP(i)
		d.MustPut(t, &s)
		d.Submit()
	}
	time.Sleep(20 * time.Millisecond) // it sleeps
	for want := range uint64(3) {
		if c := d.Wait(t); c.UserData != want || c.Res != 0 {
			t.Errorf("%+v, want that of NOP %d", c, want)
		}
	}
}

// TestFloodIsHeldBack: a guest that takes no CQE gets no more of the host's
// memory than its slots, and its ring goes on when it comes to its senses.
func TestFloodIsHeldBack(t *testing.T) {
	testutil.NoLeaks(t)
	g := ringtest.NewRig(t, newBackend, ringtest.Disk(t, 1<<20, false))
	for _, m := range ringtest.Modes {
		d := g.Setup(t, ringtest.Config{SQ: 32, CQ: 64, Flags: m.Flags, Idle: 2 * time.Millisecond})
		if err := d.Flood(100 * time.Millisecond); err != nil {
			t.Errorf("%s: the ring stopped: %v", m.Name, err)
		}
		if n := d.Ring.Stats().SQEs; n > 2*64 {
			t.Errorf("%s: %d SQEs were taken with 64 CQEs' room and 64 slots", m.Name, n)
		}
		for range 2*64 + 32 { // in the CQ ring, in slots, and in the SQ ring
			if c := d.Wait(t); c.Res != 0 {
				t.Fatalf("%s: %+v", m.Name, c)
			}
			d.Submit() // there may be SQEs that wait for a doorbell
		}
		if res := d.Do(t, ringtest.NOP(5)); res != 0 {
			t.Errorf("%s: a NOP gives %d", m.Name, res)
		}
		d.Destroy(t)
	}
}

// TestHostFaultStopsTheRingAndOnlyThat takes the host ring away under the relay.
func TestHostFaultStopsTheRingAndOnlyThat(t *testing.T) {
	testutil.NoLeaks(t)
	g := ringtest.NewRig(t, newBackend, ringtest.Disk(t, 1<<20, false))
	d := g.Setup(t, ringtest.Config{SQ: 8})
	other := g.Setup(t, ringtest.Config{SQ: 8})
	d.Do(t, ringtest.NOP(1))
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	if err := unix.Dup3(null, d.Ring.(*Ring).host.FD(), unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	s := ringtest.NOP(2)
	d.MustPut(t, &s)
	d.Submit()
	if err := d.Stopped(t); hostring.Errno(err) == 0 {
		t.Errorf("the ring stopped with %v, want an errno of the host's", err)
	}
	if err := d.Ring.Enter(1, 0); !errors.Is(err, unix.ENXIO) {
		t.Errorf("ENTER of a ring that has failed: %v, want ENXIO", err)
	}
	if res := other.Do(t, ringtest.NOP(3)); res != 0 {
		t.Errorf("another ring's NOP gives %d", res)
	}
	d.Destroy(t)
}

// TestFileThatGrowsIsSeen: its owner makes a disk larger while a guest runs.
func TestFileThatGrowsIsSeen(t *testing.T) {
	g := ringtest.NewRig(t, newBackend, ringtest.Disk(t, 8192, false))
	d := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll})
	s := hostring.SQE{Opcode: hostring.OpWriteFixed, Flags: hostring.SQEFixedFile, Off: 8192, Addr: g.Addr(0), Len: 4096}
	if res := d.Do(t, s); res != -int32(unix.EFBIG) {
		t.Fatalf("a write past the end: %d", res)
	}
	if err := unix.Ftruncate(g.Files[0].FD, 16384); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * refresh)
	if res := d.Do(t, s); res != 4096 {
		t.Errorf("a write after the file has grown: %d", res)
	}
}

func TestNeedsARegularDiskWithinTheGrowthBound(t *testing.T) {
	h, err := growth.Bound(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Release()
	m := ringtest.Memory(t, memmap.MinRAM)
	large := ringtest.Disk(t, 1<<20, false)
	large.Size = func() (int64, error) { return 1<<30 + 1, nil }
	if b, err := New(Config{Memory: m, Files: []uringpv.File{large}}); !errors.Is(err, growth.ErrConflict) {
		t.Errorf("a disk above the bound: %v, want a conflict", err)
		if err == nil {
			b.Close()
		}
	}
	b, err := New(Config{Memory: m, Files: []uringpv.File{ringtest.Disk(t, 1<<20, false)}})
	if err != nil {
		t.Fatalf("a disk within the bound: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
