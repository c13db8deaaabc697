// SPDX-License-Identifier: Apache-2.0

package ringtest

import (
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/shm"
)

// patience is how long a completion may take. It is below the 10 seconds that the
// fuzzing engine gives a call.
const patience = 5 * time.Second

// Guest is the driver of one ring. One goroutine at a time may use it.
type Guest struct {
	Ring   uringpv.Ring
	Params hostring.Params

	rig      *Rig
	slot     int
	doorbell int
	vector   int        // -1: none
	stopped  chan error // what the backend said when the ring stopped by itself
	once     sync.Once  // Destroy

	rings, sqes                      shm.View
	sqHead, sqTail, sqFlags, dropped *atomic.Uint32
	cqHead, cqTail, cqFlags          *atomic.Uint32
	array                            shm.View // empty with NO_SQARRAY
	cqes                             shm.View
	sqpoll                           bool

	tail, head uint32 // own positions
	rung       uint64 // doorbells
	sqe        [hostring.SQESize]byte
}

// locate finds the ring's words where the device says that they are.
func (d *Guest) locate(t testing.TB, s *uringpv.RingSpec) {
	t.Helper()
	p := d.Ring.Params()
	d.Params, d.rings, d.sqes = p, s.Rings, s.SQEs
	d.sqpoll = s.Flags&hostring.SetupSQPoll != 0
	if p.SQEntries != s.SQEntries || p.CQEntries != s.CQEntries {
		t.Fatalf("the ring has %d and %d entries, want %d and %d", p.SQEntries, p.CQEntries, s.SQEntries, s.CQEntries)
	}
	word := func(off uint32) *atomic.Uint32 {
		w, ok := s.Rings.Uint32(uint64(off))
		if !ok {
			t.Fatalf("a word at %d is outside the ring's area", off)
		}
		return w
	}
	d.sqHead, d.sqTail, d.sqFlags, d.dropped = word(p.SQOff.Head), word(p.SQOff.Tail), word(p.SQOff.Flags), word(p.SQOff.Dropped)
	d.cqHead, d.cqTail, d.cqFlags = word(p.CQOff.Head), word(p.CQOff.Tail), word(p.CQOff.Flags)
	for _, c := range []struct {
		name       string
		have, want uint32
	}{
		{"sq.ring_mask", word(p.SQOff.RingMask).Load(), p.SQEntries - 1},
		{"sq.ring_entries", word(p.SQOff.RingEntries).Load(), p.SQEntries},
		{"cq.ring_mask", word(p.CQOff.RingMask).Load(), p.CQEntries - 1},
		{"cq.ring_entries", word(p.CQOff.RingEntries).Load(), p.CQEntries},
		{"cq.overflow", word(p.CQOff.Overflow).Load(), 0},
	} {
		if c.have != c.want {
			t.Errorf("%s is %d, want %d", c.name, c.have, c.want)
		}
	}
	var ok bool
	if d.cqes, ok = s.Rings.Slice(uint64(p.CQOff.CQEs), uint64(p.CQEntries)*hostring.CQESize); !ok {
		t.Fatal("the CQEs are outside the ring's area")
	}
	if s.Flags&hostring.SetupNoSQArray == 0 {
		if d.array, ok = s.Rings.Slice(uint64(p.SQOff.Array), uint64(p.SQEntries)*4); !ok {
			t.Fatal("the SQ array is outside the ring's area")
		}
	}
}

// room is how many SQEs fit into the SQ ring.
func (d *Guest) room() uint32 { return d.Params.SQEntries - (d.tail - d.sqHead.Load()) }

// Put writes an SQE, which the device sees after Submit. It says false if the SQ
// ring is full.
func (d *Guest) Put(s *hostring.SQE) bool {
	if d.room() == 0 {
		return false
	}
	b := d.sqe[:]
	b[0], b[1] = s.Opcode, s.Flags
	binary.LittleEndian.PutUint16(b[2:], s.IOPrio)
	binary.LittleEndian.PutUint32(b[4:], uint32(s.FD))
	binary.LittleEndian.PutUint64(b[8:], s.Off)
	binary.LittleEndian.PutUint64(b[16:], s.Addr)
	binary.LittleEndian.PutUint32(b[24:], s.Len)
	binary.LittleEndian.PutUint32(b[28:], s.OpFlags)
	binary.LittleEndian.PutUint64(b[32:], s.UserData)
	binary.LittleEndian.PutUint16(b[40:], s.BufIndex)
	binary.LittleEndian.PutUint16(b[42:], s.Personality)
	binary.LittleEndian.PutUint32(b[44:], uint32(s.SpliceFDIn))
	binary.LittleEndian.PutUint64(b[48:], s.Addr3)
	binary.LittleEndian.PutUint64(b[56:], s.Pad2)
	return d.putRaw(b)
}

// putRaw writes 64 bytes as an SQE.
func (d *Guest) putRaw(b []byte) bool {
	if d.room() == 0 {
		return false
	}
	// Entry i of the array need not be SQE i: use them backwards.
	i := d.tail & (d.Params.SQEntries - 1)
	if d.array.Len() > 0 {
		w, _ := d.array.Uint32(4 * uint64(i))
		i = d.Params.SQEntries - 1 - i
		w.Store(i)
	}
	d.sqes.CopyIn(uint64(i)*hostring.SQESize, b)
	d.tail++
	return true
}

// Submit shows the device what Put wrote and notifies it as the protocol says.
func (d *Guest) Submit() {
	// The store and the load below are in that order for everybody. A Store would
	// do, but not under the race detector, which makes a release store of it.
	d.sqTail.Swap(d.tail)
	if !d.sqpoll || d.sqFlags.Load()&hostring.SQNeedWakeup != 0 {
		d.Doorbell()
	}
}

// one is what a doorbell adds to its eventfd.
var one = [8]byte{1}

// Doorbell rings the doorbell.
func (d *Guest) Doorbell() {
	d.rung++
	for {
		if _, err := unix.Write(d.doorbell, one[:]); err != unix.EINTR {
			return
		}
	}
}

// Reap takes one CQE, if there is any.
func (d *Guest) Reap() (hostring.CQE, bool) {
	if d.cqTail.Load() == d.head {
		return hostring.CQE{}, false
	}
	off := hostring.CQESize * uint64(d.head&(d.Params.CQEntries-1))
	lo, _ := d.cqes.Uint64(off)
	hi, _ := d.cqes.Uint64(off + 8)
	w := hi.Load()
	c := hostring.CQE{UserData: lo.Load(), Res: int32(uint32(w)), Flags: uint32(w >> 32)}
	d.head++
	d.cqHead.Store(d.head)
	return c, true
}

// Wait takes one CQE, by polling. It asks for CQEs held back as the protocol
// says.
func (d *Guest) Wait(t testing.TB) hostring.CQE {
	t.Helper()
	c, ok := d.wait(patience)
	if !ok {
		t.Fatalf("no completion within %v: sq head %d of %d, flags %#x, cq tail %d, taken %d",
			patience, d.sqHead.Load(), d.tail, d.sqFlags.Load(), d.cqTail.Load(), d.head)
	}
	return c
}

// wait is Wait without a test to fail.
func (d *Guest) wait(patience time.Duration) (hostring.CQE, bool) {
	var deadline time.Time
	for n := 1; ; n++ {
		if c, ok := d.Reap(); ok {
			return c, true
		}
		if n%1024 != 0 {
			continue
		}
		runtime.Gosched()
		if d.sqFlags.Load()&hostring.SQCQOverflow != 0 {
			d.Doorbell()
		}
		now := time.Now()
		if deadline.IsZero() {
			deadline = now.Add(patience)
		}
		if now.After(deadline) {
			return hostring.CQE{}, false
		}
	}
}

// MustPut is Put with a wait for room: a kernel shows CQEs before it shows that
// it has consumed their SQEs.
func (d *Guest) MustPut(t testing.TB, s *hostring.SQE) {
	t.Helper()
	for start := time.Now(); !d.Put(s); runtime.Gosched() {
		if time.Since(start) > patience {
			t.Fatalf("the SQ ring stays full: head %d, tail %d", d.sqHead.Load(), d.tail)
		}
	}
}

// Do executes one SQE and returns its result.
func (d *Guest) Do(t testing.TB, s hostring.SQE) int32 {
	t.Helper()
	d.MustPut(t, &s)
	d.Submit()
	c := d.Wait(t)
	if c.UserData != s.UserData {
		t.Fatalf("a completion of %#x, want %#x", c.UserData, s.UserData)
	}
	return c.Res
}

// NOP is a NOP that the policy allows.
func NOP(user uint64) hostring.SQE {
	return hostring.SQE{Opcode: hostring.OpNop, Flags: hostring.SQEFixedFile, UserData: user}
}

// rw is a read or write of file 0.
func (g *Rig) rw(op uint8, off, data uint64, n uint32, user uint64) hostring.SQE {
	return hostring.SQE{Opcode: op, Flags: hostring.SQEFixedFile, Off: off, Addr: g.Addr(data), Len: n, UserData: user}
}

// Move reads or writes like a driver: it goes on after a short result until n
// bytes are moved, nothing more moves, or an error comes. It returns the bytes
// moved and the errno that ended it, or 0.
func (d *Guest) Move(t testing.TB, s hostring.SQE) (uint32, unix.Errno) {
	t.Helper()
	var moved uint32
	for {
		res := d.Do(t, s)
		if res < 0 {
			return moved, unix.Errno(-res)
		}
		if res == 0 || uint32(res) >= s.Len {
			return moved + uint32(res), 0
		}
		n := uint32(res)
		moved, s.Len, s.Addr, s.Off = moved+n, s.Len-n, s.Addr+uint64(n), s.Off+uint64(n)
	}
}

// answers fails the test if the ring does not answer a NOP.
func (d *Guest) answers(t testing.TB) {
	t.Helper()
	if res := d.Do(t, NOP(0xa11)); res != 0 {
		t.Fatalf("a NOP gives %d", res)
	}
}

// signals empties the vector's eventfd and returns its count.
func (d *Guest) signals() uint64 {
	var b [8]byte
	if n, err := unix.Read(d.vector, b[:]); err != nil || n != 8 {
		return 0
	}
	return binary.NativeEndian.Uint64(b[:])
}

// waitSignal sleeps until the vector is signalled, and takes the signal.
func (d *Guest) waitSignal(t testing.TB) uint64 {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(d.vector), Events: unix.POLLIN}}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if n, err := unix.Poll(fds, 100); n > 0 && err == nil {
			return d.signals()
		}
	}
	t.Fatalf("no interrupt within %v", patience)
	return 0
}

// Flood submits NOPs and takes no CQE, as fast as it can, until the ring stops
// by itself or the time is up. It returns what the backend said, nil for nothing.
func (d *Guest) Flood(limit time.Duration) error { return d.FloodWith(NOP(1), limit) }

// FloodWith is Flood with another SQE than a NOP.
func (d *Guest) FloodWith(s hostring.SQE, limit time.Duration) error {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		for range 1000 {
			for d.Put(&s) {
			}
			d.Submit()
		}
		select {
		case err := <-d.stopped:
			return err
		default:
		}
	}
	return nil
}

// FloodSilently is Flood without a doorbell: it goes on as long as the SQ thread is
// awake for other reasons.
func (d *Guest) FloodSilently(limit time.Duration) error {
	s := NOP(1)
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		for range 1000 {
			for d.Put(&s) {
			}
			d.sqTail.Swap(d.tail)
		}
		select {
		case err := <-d.stopped:
			return err
		default:
		}
	}
	return nil
}

// Stopped waits until the ring stops by itself and returns why.
func (d *Guest) Stopped(t testing.TB) error {
	t.Helper()
	select {
	case err := <-d.stopped:
		return err
	case <-time.After(patience):
		t.Fatalf("the ring has not stopped within %v", patience)
		return nil
	}
}
