// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"encoding/binary"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
)

const (
	// batch is the most SQEs to take before they are submitted and completions
	// are looked at.
	batch = 64

	// spins is how many times to look in vain between two looks at the clock,
	// the doorbell and other goroutines.
	spins = 64

	// retry is when to try again what the host had no memory for.
	retry = time.Millisecond

	// patience is how long to wait for requests to end before cancelling again:
	// one that was on its way into the kernel has escaped the cancellation.
	patience = 10 * time.Millisecond
)

// run is the ring's goroutine. It keeps its OS thread to the end, and the thread
// ends with it: requests belong to the thread that submitted them.
func (r *Ring) run() {
	runtime.LockOSThread()
	defer close(r.done)
	if !r.thread {
		if err := r.limitWorkers(); err != nil {
			r.fail(err)
		}
	}
	r.awake(true)
	r.serve()
	r.drain()
	r.tally()
}

// serve does the ring's work until it is to be closed or cannot go on.
func (r *Ring) serve() {
	var quiet time.Time // when the work ended; zero while there is some
	for empty := 0; ; {
		if r.attention.Load() && !r.attend() {
			return
		}
		if r.fault != nil {
			r.sleep(-1)
			continue
		}
		if r.pass() {
			empty, quiet = 0, time.Time{}
			continue
		}
		if r.sqpoll {
			if empty++; empty%spins != 0 {
				continue
			}
			if r.held.len() > 0 {
				r.doorbell() // asks for what is held back, also while the ring polls
			}
			// The scheduler counts this goroutine as busy. Let others on.
			runtime.Gosched()
			now := time.Now()
			if quiet.IsZero() {
				quiet = now
			}
			if now.Sub(quiet) < r.idle {
				continue
			}
		}
		r.sleep(-1)
		empty, quiet = 0, time.Time{}
	}
}

// attend does what Enter and Close ask for. It says false to close.
func (r *Ring) attend() bool {
	r.attention.Store(false)
	if r.closing.Load() {
		return false
	}
	if n := r.submit.Swap(0); n > 0 {
		r.owe(n)
	}
	if r.getEvents.Swap(false) {
		r.flush()
	}
	return true
}

// pass moves what there is to move, once, and says whether there was anything.
func (r *Ring) pass() bool {
	moved := r.reap()
	moved = r.take() || moved
	if r.fresh {
		moved = r.push() || moved
	}
	r.publish()
	return moved
}

// reap turns completions of the host ring into CQEs of the guest.
func (r *Ring) reap() bool {
	n := r.host.Reap(r.cqes[:])
	for i := range r.cqes[:n] {
		c := &r.cqes[i]
		if c.UserData >= uint64(len(r.slots.table)) {
			continue // not reached: the host's kernel returns what it was given
		}
		user, class := r.slots.give(uint32(c.UserData))
		if c.Res > 0 {
			switch class {
			case classRead:
				r.pending.read += uint64(c.Res)
			case classWrite:
				r.pending.written += uint64(c.Res)
			}
		}
		r.post(user, c.Res)
	}
	return n > 0
}

// take moves SQEs from the guest's ring to the host's. It leaves those for which
// there is no room: a full host ring, or no slot for what they would complete
// as.
func (r *Ring) take() bool {
	n := r.takeable()
	if n == 0 {
		return false
	}
	room := r.params.SQEntries - r.host.Pending()
	var w words
	var sqe hostring.SQE
	for range min(n, room, batch) {
		ok := r.guest.next(&w)
		r.guest.head++
		r.pending.sqes++
		if !r.sqpoll {
			r.owed--
		}
		if !ok {
			continue
		}
		class, errno := r.translate(&w, &sqe)
		if errno != 0 {
			r.post(w.userData(), -int32(errno))
			continue
		}
		dst, ok := r.host.SQE()
		if !ok {
			r.post(w.userData(), -int32(unix.EAGAIN)) // not reached: there was room
			continue
		}
		sqe.UserData = uint64(r.slots.take(w.userData(), class))
		*dst = sqe
		r.fresh = true
	}
	r.guest.consumed()
	return true
}

// takeable is how many SQEs the guest has submitted and the ring has slots for.
func (r *Ring) takeable() uint32 {
	n := r.guest.ready()
	if !r.sqpoll {
		if n == 0 {
			r.owed = 0
		}
		n = min(n, r.owed)
	}
	return min(n, uint32(len(r.slots.table))-r.slots.used-r.held.len())
}

// owe notes that a doorbell asks to take n SQEs, or what there is.
func (r *Ring) owe(n uint32) { r.owed = max(r.owed, min(n, r.guest.ready())) }

// push gives the host's kernel what take has prepared.
func (r *Ring) push() bool {
	n, err := r.host.Submit()
	switch {
	case err == nil:
		// A thread that polls will take the rest; without one, try again.
		r.fresh = !r.thread && r.host.Pending() > 0
		return n > 0
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOMEM):
		// Later, when completions have made room.
	default:
		r.fail(err)
	}
	return false
}

// post completes a request of the guest's. Behind CQEs that are held back it
// waits its turn.
func (r *Ring) post(user uint64, res int32) {
	if res < 0 {
		r.pending.errors++
	}
	c := hostring.CQE{UserData: user, Res: res}
	if r.held.len() == 0 && !r.guest.full() {
		r.guest.put(c)
		r.pending.cqes++
		return
	}
	if r.held.len() == 0 {
		r.guest.setFlags(hostring.SQCQOverflow, true)
	}
	r.pending.overflows++
	r.held.push(c)
}

// flush moves CQEs that are held back into the guest's ring, as far as there is
// room.
func (r *Ring) flush() {
	for r.held.len() > 0 && !r.guest.full() {
		r.guest.put(r.held.pop())
		r.pending.cqes++
	}
	empty := r.held.len() == 0 && r.guest.flags&hostring.SQCQOverflow != 0
	r.publish()
	if empty {
		// Not before the CQEs can be seen: a guest that finds neither would wait.
		r.guest.setFlags(hostring.SQCQOverflow, false)
	}
}

// publish shows the guest its CQEs, counted, and signals once for all of them.
func (r *Ring) publish() {
	r.tally()
	if !r.guest.publish() || r.spec.VectorFD < 0 || !r.guest.wantsSignal() {
		return
	}
	r.calls++
	if _, err := unix.Write(r.spec.VectorFD, one[:]); err == nil || errors.Is(err, unix.EAGAIN) {
		r.count.Interrupts.Add(1) // EAGAIN: the counter is full, so it is signalled
	}
}

// tally publishes the counts.
func (r *Ring) tally() {
	if p := &r.pending; *p != (tally{}) {
		add(&r.count.SQEs, p.sqes)
		add(&r.count.CQEs, p.cqes)
		add(&r.count.Errors, p.errors)
		add(&r.count.BytesRead, p.read)
		add(&r.count.BytesWritten, p.written)
		add(&r.count.Overflows, p.overflows)
		*p = tally{}
	}
	if n := r.calls + r.host.EnterCalls(); n != r.count.SystemCalls.Load() {
		r.count.SystemCalls.Store(n)
	}
}

// add spares the locked addition of nothing.
func add(to *atomic.Uint64, n uint64) {
	if n != 0 {
		to.Add(n)
	}
}

// doorbell serves the doorbell, if it was rung.
func (r *Ring) doorbell() {
	n := r.read(r.spec.DoorbellFD)
	if n == 0 {
		return
	}
	r.count.Doorbells.Add(n)
	r.flush()
	if !r.sqpoll {
		r.owe(r.params.SQEntries)
	}
}

// read empties an eventfd and returns its count.
func (r *Ring) read(fd int) uint64 {
	for {
		r.calls++
		n, err := unix.Read(fd, r.event[:])
		switch {
		case err == nil && n == len(r.event):
			return binary.NativeEndian.Uint64(r.event[:])
		case !errors.Is(err, unix.EINTR):
			return 0 // EAGAIN: nobody has signalled
		}
	}
}

// awake tells the guest, and the host ring, whether the ring polls.
func (r *Ring) awake(yes bool) {
	r.host.DisableEventfd(yes)
	if r.sqpoll {
		r.guest.setFlags(hostring.SQNeedWakeup, !yes)
	}
}

// sleep waits for a doorbell, a completion or attention, for at most timeout if
// that is not negative.
//
//	guest                          ring
//	store sq.tail                  set NEED_WAKEUP (host: unmask the eventfd)
//	full barrier                   full barrier
//	load sq.flags: ring doorbell   load sq.tail: work came
//
// Whoever comes second sees the other's store. The same goes for the host ring:
// its SQ thread may have gone to sleep on an SQE that push left to it.
func (r *Ring) sleep(timeout time.Duration) {
	r.awake(false)
	missed := r.thread && !r.fresh && r.host.Pending() > 0 && r.host.NeedWakeup()
	r.fresh = r.fresh || missed
	if r.fault == nil && (r.host.Ready() > 0 || r.takeable() > 0 || missed) || r.attention.Load() {
		r.awake(true)
		return
	}
	if r.fault == nil && r.fresh && timeout < 0 {
		timeout = retry // the host's kernel had no room for it
	}
	r.wait(timeout)
	r.awake(true)
}

// wait is the system calls of sleep.
func (r *Ring) wait(timeout time.Duration) {
	fds := r.polls[:]
	fds[0] = unix.PollFd{Fd: int32(r.wake), Events: unix.POLLIN}
	fds[1] = unix.PollFd{Fd: int32(r.spec.DoorbellFD), Events: unix.POLLIN}
	ms := -1
	if timeout >= 0 {
		ms = int(timeout.Milliseconds())
	}
	r.calls++
	r.tally() // a guest that sleeps now may look
	if n, err := unix.Poll(fds, ms); err != nil || n == 0 {
		return // EINTR: look again
	}
	if fds[0].Revents != 0 {
		r.read(r.wake)
	}
	if fds[1].Revents != 0 {
		r.doorbell()
	}
}

// fail stops the ring for a fault of the host's.
func (r *Ring) fail(err error) {
	if r.fault != nil {
		return
	}
	r.fault = err
	r.failed.Store(true)
	r.spec.Stopped(err)
}

// drain ends what is in flight: nothing of the ring touches guest RAM when it
// returns, unless the host ring has failed. Then only the end of the ring itself
// tells, and Close waits for that.
func (r *Ring) drain() {
	r.host.DisableEventfd(false)
	for r.fault == nil && r.slots.used > 0 {
		if r.fresh {
			r.push()
		}
		// Not for long: what cannot be cancelled completes meanwhile. Kernels
		// before 6.0 cannot cancel all at once, there the wait is all.
		r.calls++
		_ = r.host.SyncCancelAll(time.Millisecond)
		if !r.reap() {
			r.wait(patience)
			r.reap()
		}
		r.publish()
	}
}
