// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/internal/signal"
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
			if now.Sub(quiet) < r.idle || r.polling() {
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
	r.obey()
	if n := r.submit.Take(); n > 0 {
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
	moved = r.goAhead() || moved
	moved = r.take() || moved
	if r.fresh {
		moved = r.push() || moved
	}
	r.publish()
	return moved
}

// reap turns completions of the host ring into CQEs of the guest. It leaves them
// where they are while too many are held back: the host's kernel then ends requests
// that give several, as it would for a guest's own ring that is full.
func (r *Ring) reap() bool {
	if r.polling() && !r.thread && r.host.Ready() == 0 {
		// The kernel looks at the files' device when asked to.
		if _, err := r.host.Enter(0, 0, hostring.EnterGetevents); err != nil && !later(err) {
			r.fail(err)
		}
	}
	if !r.reapable() {
		return false
	}
	if r.host.Overflowed() && r.host.Ready() == 0 {
		// The kernel moves what it has kept only when asked to.
		if _, err := r.host.Enter(0, 0, hostring.EnterGetevents); err != nil && !later(err) {
			r.fail(err)
		}
	}
	n := r.host.Reap(r.cqes[:])
	for i := range r.cqes[:n] {
		r.complete(&r.cqes[i])
	}
	return n > 0
}

// polling says whether something is in flight for whose completion somebody has to look.
// It does not wait for anybody but a disk.
func (r *Ring) polling() bool { return r.iopoll && r.slots.used > 0 }

// reapable says whether there may be completions to take.
func (r *Ring) reapable() bool {
	return (r.host.Ready() > 0 || r.host.Overflowed()) && (r.held.len() < r.slots.most || r.ending)
}

// take moves SQEs from the guest's ring to the host's. It leaves those for which
// there is no room: a full host ring, or no slot for what they would complete
// as. A chain goes as a whole.
func (r *Ring) take() bool {
	limit := r.takeable()
	if limit == 0 {
		return false
	}
	n := r.ready()
	limit = min(limit, n, batch)
	room := r.entries - r.host.Pending()
	r.need = 1
	var w words
	taken, full := uint32(0), false
	for taken < limit && !full {
		ok := r.guest.next(&w)
		if !ok || w.flags()&linkFlags == 0 {
			if full = room == 0; full || r.slots.room() == 0 { // a chain has taken more than it has members
				break
			}
			r.consume(&taken)
			if ok {
				r.put(&w, false)
				room = r.entries - r.host.Pending()
			}
			continue
		}
		length := r.guest.chain(n - taken)
		need := 2 * length // a breaker for each
		if need > r.slots.room() {
			r.need = need
			break
		}
		if full = need > room; full {
			break
		}
		for k := uint32(1); ; k++ {
			r.consume(&taken)
			if !ok {
				break
			}
			last := k == length || w.flags()&linkFlags == 0
			r.put(&w, true)
			if last {
				break
			}
			ok = r.guest.next(&w)
		}
		r.endChain()
		room = r.entries - r.host.Pending()
	}
	if taken > 0 {
		r.guest.consumed()
	}
	return taken > 0 || full
}

// consume counts the SQE at the head of the guest's ring.
func (r *Ring) consume(taken *uint32) {
	r.guest.head++
	r.pending.sqes++
	*taken++
	if !r.sqpoll {
		r.owed--
	}
}

// put gives the host's ring what w stands for; there is room. A refused SQE goes
// there as well, as one that fails: its CQE comes when it is due, and drains, chains
// and timeouts count it.
func (r *Ring) put(w *words, member bool) {
	q, sqe := &r.q, &r.sqe
	q.reset(w)
	r.short = false
	no := r.translate(w, sqe, q)
	if no != 0 {
		if q.odd && q.block != 0 {
			r.arena.give(q.block)
		}
		q.odd = true
		q.reset(w)
		q.odd, q.fault = true, no
		refused(w, sqe, no)
	}
	if w.flags()&hostring.SQECQESkipSuccess != 0 {
		q.flags |= slotSkip
		q.odd = true
	}
	if member {
		r.join(w, no)
		return
	}
	r.submitSlot()
	r.moved = noFile
}

// submitSlot takes a slot for q and puts sqe on the host's ring. There is room in both.
func (r *Ring) submitSlot() (ref, *hostring.SQE) {
	q := &r.q
	if r.slots.room() == 0 {
		r.fail(errRoom) // not reached: take has counted
		return nobody, nil
	}
	if q.file != noFile {
		r.hosts[q.file].refs++
	}
	if q.op == hostring.OpAccept && q.fault == 0 && q.target != noFile {
		r.hosts[q.target].refs++
	}
	dst, ok := r.host.SQE()
	if !ok {
		r.fail(errRoom)
		return nobody, nil
	}
	_, x := r.slots.take(q)
	r.sqe.UserData = uint64(x)
	*dst = r.sqe
	if r.sqe.Flags&hostring.SQEIODrain != 0 {
		r.drained = x
	}
	if q.odd && q.flags&slotAgain != 0 {
		p := r.planned
		r.plans[x] = &p
	}
	r.fresh = true
	return x, dst
}

// errRoom says that the host's ring, or the table of slots, is not as large as it was
// made.
var errRoom = errors.New("no room for an SQE that was counted")

// join puts q as the next member of the chain.
func (r *Ring) join(w *words, no fault) {
	q, l := &r.q, &r.link
	q.odd = true
	timer := q.op == hostring.OpLinkTimeout && no == 0
	if l.short && !timer {
		r.breaker()
	}
	if no != 0 && no&onIssue == 0 {
		if h := r.slots.find(l.head); h != nil {
			h.flags &^= slotHard // the chain fails as a whole, beginning with its head
		}
	} else if w.flags()&hostring.SQEIOHardlink != 0 {
		q.flags |= slotHard
	}
	// To the kernel what it was asked is what it has done.
	short := r.short && w.flags()&hostring.SQEIOHardlink == 0
	x, dst := r.submitSlot()
	if dst == nil {
		return
	}
	l.last, l.op = dst, q.op
	if p := r.slots.find(l.prev); p != nil && timer {
		p.timer = x
	} else if p != nil {
		p.chain = x
	}
	if !timer {
		l.prev, l.short = x, short
	}
	if l.head == nobody {
		l.head = x
	}
}

// breaker puts a request of the relay's own that fails, so that the chain ends here.
func (r *Ring) breaker() {
	r.link.short = false
	q, sqe := r.q, r.sqe
	r.q = slot{hot{file: noFile, odd: true, op: hostring.OpNop}, cold{flags: slotInternal}}
	r.sqe = hostring.SQE{Opcode: hostring.OpRead, Flags: hostring.SQEFixedFile | hostring.SQEIOLink, FD: noSuchFile}
	r.submitSlot()
	r.q, r.sqe = q, sqe
}

// endChain makes the SQE put last the end of its chain, also if its flags said
// otherwise: nothing follows that the guest had submitted with it.
func (r *Ring) endChain() {
	if r.link.last != nil {
		r.link.last.Flags &^= linkFlags
	}
	r.link, r.moved = chain{}, noFile
}

// ready is how many SQEs the guest has asked to take.
func (r *Ring) ready() uint32 {
	n := r.guest.ready()
	if !r.sqpoll {
		if n == 0 {
			r.owed = 0
		}
		n = min(n, r.owed)
	}
	return n
}

// takeable is how many SQEs the guest has submitted and the ring has slots for. Of
// a guest whose CQ ring is full it takes no more than would fill it once more; but one
// as long as no CQE is held back, since that guest has no reason to ask for the rest.
func (r *Ring) takeable() uint32 {
	n := r.ready()
	if n == 0 || r.need > r.slots.room() {
		return 0
	}
	n = min(n, r.slots.room())
	held := r.held.len()
	if held == 0 && !r.guest.full() {
		return n
	}
	more := r.spec.CQEntries - min(r.spec.CQEntries, r.slots.used+held)
	if held == 0 {
		more = max(more, 1)
	}
	return min(n, more)
}

// owe notes that a doorbell or a command asks to take n SQEs more, or what there is.
func (r *Ring) owe(n uint32) { r.owed = min(r.owed+n, r.guest.ready()) }

// push gives the host's kernel what take has prepared.
func (r *Ring) push() bool {
	n, err := r.host.Submit()
	switch {
	case err == nil:
		// A thread that polls will take the rest; without one, try again.
		r.fresh = !r.thread && r.host.Pending() > 0
		return n > 0
	case later(err):
		// When completions have made room.
	default:
		r.fail(err)
	}
	return false
}

// later says whether err is the kernel's way to say that it has no room now.
func later(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOMEM)
}

// complete is a CQE of the host's ring.
func (r *Ring) complete(c *hostring.CQE) {
	x := ref(c.UserData)
	s := r.slots.find(x)
	if s == nil {
		return // not reached: the host's kernel returns what it was given
	}
	if s.odd || c.Flags&cqeMore != 0 {
		r.finish(uint32(x), s, c)
		return
	}
	r.bytes(s, c.Res)
	user, file := s.userData, s.file
	r.slots.give(uint32(x))
	r.release(file)
	r.post(user, c.Res, c.Flags)
}

// bytes counts what s has moved.
func (r *Ring) bytes(s *slot, res int32) {
	if res > 0 {
		switch s.class {
		case classRead:
			r.pending.read += uint64(res)
		case classWrite:
			r.pending.written += uint64(res)
		}
	}
}

// finish is complete for requests out of the ordinary.
func (r *Ring) finish(i uint32, s *slot, c *hostring.CQE) {
	res := c.Res
	if c.Flags&cqeMore != 0 {
		if s.op == hostring.OpAccept {
			r.another(ref(c.UserData), s, c)
			return
		}
		r.post(s.userData, res, c.Flags)
		return
	}
	if s.flags&slotAgain != 0 {
		var more bool
		if res, more = r.goOn(i, ref(c.UserData), res); more {
			return
		}
	}
	if s.fault != 0 {
		if res != -int32(unix.ECANCELED) {
			res = -int32(s.fault.errno())
		}
	} else {
		switch s.op {
		case hostring.OpRecvmsg:
			if res >= 0 {
				r.received(s)
			}
		case hostring.OpAccept:
			res = r.accepted(s, res)
			r.release(s.target)
		case hostring.OpClose:
			res = r.closed(s, res)
		case hostring.OpPollRemove:
			if p := r.slots.find(s.poll); res == 0 && s.flags&slotRename != 0 && p != nil {
				p.userData = s.rename
			}
		}
	}
	r.bytes(s, res)
	show := r.shows(s, res)
	user, file := s.userData, s.file
	if s.block != 0 {
		r.arena.give(s.block)
	}
	r.slots.give(i)
	r.release(file)
	if show {
		r.post(user, res, c.Flags)
	}
}

// shows says whether the guest gets a CQE for s with the result res. If that breaks
// a chain, it decides for the rest of it, too: a request that would not have had a
// CQE and fails has one, and then the others have none.
func (r *Ring) shows(s *slot, res int32) bool {
	switch {
	case s.flags&slotInternal != 0:
		return false
	case s.flags&(slotMuted|slotShown) != 0:
		return s.flags&slotMuted == 0
	}
	failed := s.failed(res)
	if failed && s.flags&slotHard == 0 {
		fate := slotShown
		if s.flags&slotSkip != 0 {
			fate = slotMuted
		}
		for m := r.slots.find(s.chain); m != nil; m = r.slots.find(m.chain) {
			m.flags |= fate
			if t := r.slots.find(m.timer); t != nil {
				t.flags |= fate
			}
		}
	}
	return failed || s.flags&slotSkip == 0
}

// post completes a request of the guest's. Behind CQEs that are held back it
// waits its turn.
func (r *Ring) post(user uint64, res int32, flags uint32) {
	if res < 0 {
		r.pending.errors++
	}
	c := hostring.CQE{UserData: user, Res: res, Flags: flags}
	if r.held.len() == 0 && !r.guest.full() {
		r.guest.put(c)
		r.pending.cqes++
		return
	}
	if r.ending {
		return // nobody will ask for it
	}
	first := r.held.len() == 0
	r.pending.overflows++
	r.held.push(c)
	if first {
		r.guest.setFlags(hostring.SQCQOverflow, true)
		if !r.guest.full() {
			r.flush() // room was made before the flag could be seen: nobody will ask
		}
	}
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
	if signal.Raise(r.spec.VectorFD) == nil {
		r.count.Interrupts.Add(1)
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
	r.calls++
	return signal.Take(fd, &r.event)
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
	if r.fault == nil && (r.reapable() || r.takeable() > 0 || missed) || r.attention.Load() {
		r.awake(true)
		return
	}
	if r.fault == nil && timeout < 0 && (r.fresh || len(r.stalled) > 0 || len(r.over) > 0) {
		timeout = retry // the host's kernel, or its ring, had no room for it
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

// stubborn is for how long nothing ends before the host ring is closed over what is
// in flight. Kernels before 6.16 have requests that no cancel reaches: with
// IOSQE_IO_DRAIN behind a chain that fails when it is prepared they may wait for
// ever, until the end of their ring cancels them. For a disk that is stuck nothing is
// lost: Close waits for the kernel to let go of the ring either way.
const stubborn = 300 * time.Millisecond

// drain ends what is in flight: nothing of the ring touches guest RAM when it
// returns, unless the host ring has failed. Then only the end of the ring itself
// tells, and Close waits for that.
func (r *Ring) drain() {
	r.ending = true
	r.host.DisableEventfd(false)
	used, since := r.slots.used, time.Now()
	for r.fault == nil && r.slots.used > 0 {
		if r.slots.used != used {
			used, since = r.slots.used, time.Now()
		} else if time.Since(since) > stubborn {
			r.cut = true
			return
		}
		r.goAhead()
		if r.fresh {
			r.push()
		}
		// Not for long: what cannot be cancelled completes meanwhile.
		r.calls++
		if err := r.cancelAll(time.Millisecond); hostring.Errno(err) == unix.EINVAL {
			// A kernel before 6.0. It cancels what waits when its ring is closed, and
			// Close waits for that.
			r.cut = true
			return
		}
		if !r.reap() {
			r.wait(patience)
			r.reap()
		}
		r.publish()
	}
}
