// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
)

// search says which requests in flight an SQE means.
type search struct {
	userData uint64
	any      bool  // whatever their user_data
	op       int16 // the guest's opcode, -1: any
	hasOp    bool
	polls    bool // POLL_ADD only
	timeouts bool // TIMEOUT only
	timers   bool // LINK_TIMEOUT only
}

// again is an SQE that means several requests: the host's kernel is asked for one
// after the other, for the first by the SQE itself.
type again struct {
	sqe    hostring.SQE
	search search
	born   uint64 // only requests that are older
	next   uint32 // first slot not yet asked for
	ran    bool   // the host has answered once
	all    bool   // not only the first that can be found
	count  int32  // with all: those that were found
}

// nobody names no request.
const nobody = ref(0)

// matches says whether s means e.
func (s *search) matches(e *slot) bool {
	if !e.busy || e.odd && e.flags&slotInternal != 0 {
		return false
	}
	switch {
	case s.polls:
		if e.op != hostring.OpPollAdd {
			return false
		}
	case s.timeouts:
		if e.op != hostring.OpTimeout {
			return false
		}
	case s.timers:
		if e.op != hostring.OpLinkTimeout {
			return false
		}
	case s.hasOp:
		if int16(e.op) != s.op {
			return false
		}
	}
	return s.any || e.userData == s.userData
}

// seek is the first request from slot i on that s means and that is older than
// born; i is then behind it.
func (r *Ring) seek(s *search, i *uint32, born uint64) ref {
	for ; *i < uint32(len(r.slots.table)); *i++ {
		if e := &r.slots.table[*i]; s.matches(e) && e.born < born {
			x := ref(*i) | ref(e.generation)<<32
			*i++
			return x
		}
	}
	return nobody
}

// search names in dst the request that s means. If there are several, q will ask
// for the others one by one.
func (r *Ring) search(dst *hostring.SQE, q *slot, s search) {
	i := uint32(0)
	born := r.slots.born + 1
	dst.Addr = uint64(r.seek(&s, &i, born))
	q.odd, q.poll = true, ref(dst.Addr)
	rest := i
	if r.seek(&s, &rest, born) == nobody {
		return
	}
	q.flags |= slotAgain
	r.planned = again{sqe: *dst, search: s, born: born, next: i}
}

// asyncCancel translates ASYNC_CANCEL.
func (r *Ring) asyncCancel(w *words, dst *hostring.SQE, q *slot) fault {
	const known = cancelAll | cancelFD | cancelAny | cancelFDFixed | cancelUserData | cancelOp
	flags := w.opFlags()
	if w.off() != 0 || w.spliceFDIn() != 0 || flags&^known != 0 || flags&cancelAny != 0 && flags&(cancelFD|cancelOp) != 0 {
		return atPrep(unix.EINVAL)
	}
	*dst = hostring.SQE{Opcode: hostring.OpAsyncCancel, Flags: w.bare(), OpFlags: flags &^ (cancelOp | cancelFDFixed)}
	if flags&cancelFD != 0 {
		if _, no := r.fileOf(w, q); no != 0 {
			return no
		}
		dst.FD = int32(q.file)
		dst.Flags = w.full()
		dst.OpFlags |= cancelFDFixed
		if flags&(cancelUserData|cancelOp) == 0 {
			return 0 // the kernel knows whose file it is
		}
	}
	if flags&cancelAny != 0 {
		dst.OpFlags = flags
		return 0 // everything on the host's ring is this guest's
	}
	s := search{userData: w.addr()}
	if flags&cancelOp != 0 {
		s.hasOp, s.op = true, int16(uint8(w.len()))
		s.any = flags&cancelUserData == 0
	}
	if flags&cancelFD != 0 {
		dst.OpFlags |= cancelUserData
	} else {
		dst.OpFlags &^= cancelUserData // it is the rule then; older kernels do not know the flag
	}
	r.search(dst, q, s)
	if q.flags&slotAgain != 0 && flags&cancelAll != 0 {
		r.planned.all = true
	}
	return 0
}

// goOn asks for the next of the requests that the one in slot i means, after the
// answer res for the last. It returns false with the final answer when there is
// none left to ask for.
func (r *Ring) goOn(i uint32, x ref, res int32) (int32, bool) {
	p := r.plans[x]
	if p == nil {
		return res, false
	}
	switch {
	case res == -int32(unix.ECANCELED) && !p.ran:
		delete(r.plans, x) // its chain was broken before
		return res, false
	case p.all && (res > 0 || res == -int32(unix.EALREADY)):
		p.count++
	}
	p.ran = true
	for p.all || res == -int32(unix.ENOENT) {
		at := p.next
		next := r.seek(&p.search, &p.next, p.born)
		if next == nobody {
			break
		}
		if r.synchronous && p.cancels() {
			if r.asked >= batch {
				p.next = at
				r.stalled = append(r.stalled, x)
				return 0, true
			}
			if res = r.ask(next, &p.sqe); p.all && (res == 0 || res == -int32(unix.EALREADY)) {
				p.count++
			}
			continue
		}
		sqe, ok := r.host.SQE()
		if !ok {
			p.next = at
			r.stalled = append(r.stalled, x)
			return 0, true
		}
		*sqe = p.sqe
		sqe.UserData, sqe.Addr = uint64(x), uint64(next)
		sqe.Flags &^= linkFlags | hostring.SQEIODrain
		if s := &r.slots.table[i]; s.flags&slotRename != 0 {
			s.poll, sqe.Off = next, uint64(next)
		}
		r.fresh = true
		return 0, true
	}
	delete(r.plans, x)
	if p.all {
		return p.count, false
	}
	return res, false
}

// cancels says whether p ends what it finds. What only changes it, events of a poll and
// the like, can be said in an SQE alone.
func (p *again) cancels() bool {
	return p.sqe.Opcode == hostring.OpAsyncCancel || p.sqe.Len == 0 && p.sqe.OpFlags == 0
}

// ask cancels the request x at once, if it is one that sqe means, and returns what that
// would say for one request. An SQE that comes now would wait behind a drain of the
// guest's, and that drain perhaps for x.
func (r *Ring) ask(x ref, sqe *hostring.SQE) int32 {
	flags := uint32(0)
	if sqe.Opcode == hostring.OpAsyncCancel {
		flags = sqe.OpFlags &^ cancelAll
	}
	r.asked++
	r.calls++
	errno := hostring.Errno(r.host.SyncCancel(uint64(x), sqe.FD, flags, 0))
	if errno == unix.ETIME {
		errno = unix.EALREADY // a worker has it, and knows
	}
	return -int32(errno)
}

// goAhead asks for what the relay has to ask for by itself, as far as there is room and
// for at most a batch, and says whether that has led to anything.
func (r *Ring) goAhead() bool {
	r.asked = 0
	if len(r.stalled) > 0 {
		r.resume()
	}
	moved := r.asked > 0
	rest := r.over[:0]
	for i, x := range r.over {
		if r.asked >= batch {
			rest = append(rest, r.over[i:]...)
			break
		}
		s := r.slots.find(x)
		if s == nil {
			continue
		}
		if r.ask(x, &hostring.SQE{Opcode: hostring.OpAsyncCancel}) == -int32(unix.EALREADY) {
			rest = append(rest, x) // a worker may let it wait for the next connection all the same
			continue
		}
		s.flags &^= slotAsked
		moved = true
	}
	r.over = rest
	return moved
}

// resume goes on with what found the host's ring full, or came after a batch.
func (r *Ring) resume() {
	stalled := r.stalled
	r.stalled = nil
	for i, x := range stalled {
		if r.asked >= batch || r.host.Pending() >= r.entries {
			r.stalled = append(r.stalled, stalled[i:]...)
			return
		}
		if s := r.slots.find(x); s != nil {
			r.finish(uint32(x), s, &hostring.CQE{UserData: uint64(x), Res: -int32(unix.ENOENT)})
		}
	}
}
