// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
)

func TestAsyncCancel(t *testing.T) {
	same(t, files(pipe, eventfd, disks(4096)), func(b *bench) {
		read := func(user uint64) hostring.SQE { return b.rw(hostring.OpRead, fixed, user, 0, 0, 0, 8) }
		poll := func(user uint64) hostring.SQE {
			s := sqe(hostring.OpPollAdd, fixed, user)
			s.FD, s.OpFlags = 2, unix.POLLIN
			return s
		}
		timer := func(user uint64) hostring.SQE {
			s := sqe(hostring.OpTimeout, fixed, user)
			s.Addr, s.Len = b.timespec(512, 20*time.Second), 1
			return s
		}
		cancel := func(user, what uint64, flags uint32) hostring.SQE {
			s := sqe(hostring.OpAsyncCancel, fixed, user)
			s.Addr, s.OpFlags = what, flags
			return s
		}
		wait := func(sqes ...hostring.SQE) {
			b.submit(sqes)
			b.none()
		}
		// By user_data, of every kind.
		wait(read(1), poll(2), timer(3))
		b.do(1, cancel(10, 99, 0))
		b.do(2, cancel(11, 1, 0))
		b.do(2, cancel(12, 2, 0))
		b.do(2, cancel(13, 3, 0))
		b.do(1, cancel(14, 1, 0))
		// One of several, until none is left; all of several; none.
		wait(read(1), read(1), poll(1), timer(1), poll(2))
		b.do(1, cancel(20, 5, cancelAll))
		wait()
		for range 2 {
			b.do(2, cancel(21, 1, 0))
		}
		b.do(3, cancel(22, 1, cancelAll))
		b.do(1, cancel(23, 1, 0))
		b.do(1, cancel(23, 1, cancelAll))
		b.do(2, cancel(24, 2, cancelAll))
		// All there is.
		wait(read(1), poll(2), timer(3), timer(4))
		b.do(5, cancel(30, 0, cancelAny))
		b.do(1, cancel(31, 0, cancelAny))
		// By file.
		wait(read(1), read(1), poll(2), timer(3))
		f := cancel(40, 0, cancelFD|cancelFDFixed)
		f.FD = 2
		b.do(2, f)
		f.FD, f.OpFlags = 0, cancelFD|cancelAll
		b.do(3, f)
		f.FD = 0
		b.do(1, f)
		f.FD = 99
		b.do(1, f)
		b.do(2, cancel(41, 3, 0))
		// What is wrong.
		b.do(1, cancel(50, 0, 1<<10))
		b.do(1, cancel(51, 0, cancelAny|cancelFD))
		f = cancel(52, 1, 0)
		f.Off = 1
		b.do(1, f)
		// In a chain; its result decides.
		wait(read(1), read(1))
		c := cancel(60, 1, cancelAll)
		c.Flags = link
		b.do(4, c, sqe(hostring.OpNop, fixed, 61))
		b.do(2, c, sqe(hostring.OpNop, fixed, 61))
		c = cancel(62, 1, 0)
		c.Flags = link
		b.do(2, c, sqe(hostring.OpNop, fixed, 63))
		b.do(2, b.rw(hostring.OpRead, link, 64, 99, 0, 0, 8), cancel(65, 1, 0))
	})
}

// TestCancelByOpcode needs Linux 6.6 natively; the relay looks by itself.
func TestCancelByOpcode(t *testing.T) {
	same(t, files(pipe, eventfd), func(b *bench) {
		read := b.rw(hostring.OpRead, fixed, 1, 0, 0, 0, 8)
		poll := sqe(hostring.OpPollAdd, fixed, 1)
		poll.FD, poll.OpFlags = 2, unix.POLLIN
		b.submit([]hostring.SQE{read, poll, read})
		b.none()
		c := sqe(hostring.OpAsyncCancel, fixed, 5)
		c.OpFlags, c.Len = cancelOp, uint32(hostring.OpPollAdd)
		b.do(2, c)
		b.do(1, c)
		c.OpFlags, c.Len, c.Addr = cancelOp|cancelUserData|cancelAll, uint32(hostring.OpRead), 2
		b.do(1, c)
		c.Addr = 1
		b.do(3, c)
	})
}

// TestCancelSparesLaterRequests: a name that is used again means the new request.
func TestCancelSparesLaterRequests(t *testing.T) {
	b := relayBench(t, "thread", pipe(t))
	read := b.rw(hostring.OpRead, fixed, 1, 0, 0, 0, 8)
	c := sqe(hostring.OpAsyncCancel, fixed, 2)
	c.Addr, c.OpFlags = 1, cancelAll
	for range 200 {
		b.submit([]hostring.SQE{read, read, read, c, read})
		for range 4 {
			if q := b.wait(); q.UserData == 2 && q.Res != 3 || q.UserData == 1 && q.Res != -int32(unix.ECANCELED) {
				t.Fatalf("%s", text(q))
			}
		}
		if q, ok := b.reap(); ok {
			t.Fatalf("the later request ended: %s", text(q))
		}
		b.submit([]hostring.SQE{c})
		b.wait()
		b.wait()
	}
}

// TestCancelBeforeADrain: a cancel of several, and behind it a drain that waits for them
// all. What comes of the drain is that what was asked for must not wait behind it.
func TestCancelBeforeADrain(t *testing.T) {
	for _, n := range []int{2, 5} { // on a ring each: the kernel begins late with what comes first after a drain
		same(t, eventfd, func(b *bench) {
			poll := sqe(hostring.OpPollAdd, fixed, 5)
			poll.OpFlags = unix.POLLIN
			b.do(n+2, append(slices.Repeat([]hostring.SQE{poll}, n), cancelOf(6, 5, cancelAll), sqe(hostring.OpNop, drain, 7))...)
		})
	}
}

// TestCancelOfManyIsDoneInParts: no pass asks for more than a batch, and other requests
// go on meanwhile.
func TestCancelOfManyIsDoneInParts(t *testing.T) {
	const many = 3*batch + 10
	for _, synchronous := range []bool{true, false} {
		for _, mode := range modes {
			b := relayBench(t, mode, eventfd(t))
			r := b.ring.(*Ring)
			if err := r.inLoop(func() error {
				r.synchronous = r.synchronous && synchronous
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			poll := sqe(hostring.OpPollAdd, fixed, 5)
			poll.OpFlags = unix.POLLIN
			b.submit(slices.Repeat([]hostring.SQE{poll}, many))
			b.inFlight(many)
			if err := r.inLoop(func() error {
				r.asked = 0
				cancelFive(t, r)
				if r.synchronous && (r.asked != batch || len(r.stalled) != 1) {
					t.Errorf("%s: %d were asked for at once, %d wait; want %d, 1", mode, r.asked, len(r.stalled), batch)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			cancelled := 0 // the first is left, as its SQE was not submitted
			for done := false; !done; {
				switch c := b.wait(); {
				case c.UserData == 5 && c.Res == -int32(unix.ECANCELED):
					cancelled++
				case c.UserData == 6 && c.Res == many-1:
					done = true
				default:
					t.Fatalf("%s: %s", mode, text(c))
				}
			}
			for ; cancelled < many-1; cancelled++ {
				b.wait()
			}
			b.inFlight(1)
			if err := r.inLoop(func() error {
				if len(r.stalled) > 0 || len(r.plans) > 0 {
					t.Errorf("%s: %d wait, %d have a plan", mode, len(r.stalled), len(r.plans))
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// inFlight waits until so many requests are in flight on the relay's ring.
func (b *bench) inFlight(n uint32) {
	b.Helper()
	for deadline := time.Now().Add(late); ; time.Sleep(time.Millisecond) {
		used, r := uint32(0), b.ring.(*Ring)
		if err := r.inLoop(func() error {
			if used = r.slots.used; r.host.Pending() > 0 {
				used = 0
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		if used == n {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%d requests are in flight, want %d", used, n)
		}
	}
}

// cancelFive is the moment in which the host has found none for the SQE of a cancel of
// all that 5 names, of user_data 6, in the ring's goroutine.
func cancelFive(t testing.TB, r *Ring) {
	w := words{uint64(hostring.OpAsyncCancel) | uint64(fixed)<<8, 0, 5, uint64(cancelAll) << 32, 6}
	r.q.reset(&w)
	if no := r.translate(&w, &r.sqe, &r.q); no != 0 {
		t.Errorf("the cancel is refused: %v", no)
	}
	i, x := r.slots.take(&r.q)
	p := r.planned
	r.plans[x] = &p
	r.finish(i, &r.slots.table[i], &hostring.CQE{UserData: uint64(x), Res: -int32(unix.ENOENT)})
}

// TestWhatFoundTheHostRingFullGoesOn: nothing wakes the ring when there is room again,
// as what was taken from the host's ring does not complete.
func TestWhatFoundTheHostRingFullGoesOn(t *testing.T) {
	for _, mode := range []string{"polling", "doorbell"} {
		t.Run(mode, func(t *testing.T) {
			b := relayBench(t, mode, files(eventfd, pipe)(t))
			r := b.ring.(*Ring)
			poll := sqe(hostring.OpPollAdd, fixed, 5)
			poll.OpFlags = unix.POLLIN
			b.submit([]hostring.SQE{poll, poll})
			b.inFlight(2)
			runtime.LockOSThread() // which the polls below are of
			defer runtime.UnlockOSThread()
			full := uint32(0)
			if err := r.inLoop(func() error {
				r.synchronous = false // the kernel's before 6.0: by SQE
				for {
					s, ok := r.host.SQE()
					if !ok {
						break
					}
					*s = hostring.SQE{Opcode: hostring.OpPollAdd, Flags: fixed, FD: 1, OpFlags: unix.POLLIN, UserData: 1 << 63}
				}
				full = r.host.Flush()
				cancelFive(t, r)
				if len(r.stalled) != 1 || r.fresh {
					t.Errorf("%d wait for room, fresh %v; want 1, false", len(r.stalled), r.fresh)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(settle) // the ring sleeps
			if n, err := r.host.Enter(full, 0, 0); n != int(full) || err != nil {
				t.Fatalf("the host's kernel took %d SQEs of %d: %v", n, full, err)
			}
			for range 2 {
				if c := b.wait(); c.UserData == 5 && c.Res != -int32(unix.ECANCELED) || c.UserData == 6 && c.Res != 1 {
					t.Errorf("%s", text(c))
				}
			}
		})
	}
}

// TestCloseEndsAThousandPolls: more requests wait than the CQ ring has entries, and Close ends them.
func TestCloseEndsAThousandPolls(t *testing.T) {
	testutil.NoLeaks(t)
	for _, m := range ringtest.Modes {
		for _, inline := range []bool{true, false} {
			g := ringtest.NewRig(t, newSlotted, files(eventfd, pipe)(t)...)
			g.Backend.(slotted).inline = inline
			d := g.Setup(t, ringtest.Config{SQ: 64, CQ: 64, Flags: m.Flags})
			for i := range uint64(1501) { // the last has no link
				s := sqe(hostring.OpPollAdd, fixed, i)
				s.OpFlags = unix.POLLIN
				switch i % 5 {
				case 1:
					s.Len = pollAddMulti
				case 2:
					s = hostring.SQE{Opcode: hostring.OpRead, Flags: fixed, FD: 1, Addr: g.Addr(0), Len: 8}
				case 3:
					s = hostring.SQE{Opcode: hostring.OpTimeout, Flags: hard, Addr: g.Addr(4096), Len: 1}
					g.Data[4096] = 100
				case 4:
					s.Flags = hard
				}
				d.MustPut(t, &s)
				d.Submit()
			}
			if res := d.Do(t, ringtest.NOP(9999)); res != 0 {
				t.Errorf("%s: a NOP gives %d while polls wait", m.Name, res)
			}
			start := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			if err := d.Ring.Close(ctx); err != nil {
				t.Errorf("%s: Close: %v", m.Name, err)
			}
			cancel()
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("%s: Close took %v", m.Name, took)
			}
			d.Destroy(t)
		}
	}
}

// TestMultishotFloodIsBounded: a guest that never takes a CQE of a poll that fires
// for ever.
func TestMultishotFloodIsBounded(t *testing.T) {
	testutil.NoLeaks(t)
	for _, m := range ringtest.Modes {
		g := ringtest.NewRig(t, newSlotted, eventfd(t)...)
		d := g.Setup(t, ringtest.Config{SQ: 8, CQ: 8, Flags: m.Flags})
		s := sqe(hostring.OpPollAdd, fixed, 1)
		s.OpFlags, s.Len = unix.POLLIN, pollAddMulti
		d.MustPut(t, &s)
		d.Submit()
		time.Sleep(5 * time.Millisecond)
		one := []byte{1, 0, 0, 0, 0, 0, 0, 0}
		for range 20000 {
			if _, err := unix.Write(g.Files[0].FD, one); err != nil {
				t.Fatal(err)
			}
		}
		// The poll goes on, or has ended because nobody took its CQEs. None is lost.
		var last hostring.CQE
		n := 0
		for quiet := time.Now(); time.Since(quiet) < 300*time.Millisecond; {
			c, ok := d.Reap()
			if !ok {
				d.Doorbell() // for what is held back
				time.Sleep(100 * time.Microsecond)
				continue
			}
			if c.UserData != 1 || c.Res != unix.POLLIN || n > 0 && last.Flags&cqeMore == 0 {
				t.Fatalf("%s: CQE %d: %+v after %+v", m.Name, n, c, last)
			}
			last, quiet = c, time.Now()
			n++
		}
		if n == 0 {
			t.Fatalf("%s: no CQE", m.Name)
		}
		if limit := d.Ring.(*Ring).slots.most + 64; uint32(n) > limit {
			t.Errorf("%s: %d CQEs were kept, want at most %d", m.Name, n, limit)
		}
		if res := d.Do(t, ringtest.NOP(7)); res != 0 {
			t.Errorf("%s: a NOP gives %d", m.Name, res)
		}
		d.Destroy(t)
	}
}
