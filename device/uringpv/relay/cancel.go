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
// after the other.
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
	if p.all || res == -int32(unix.ENOENT) {
		at := p.next
		if next := r.seek(&p.search, &p.next, p.born); next != nobody {
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
	}
	delete(r.plans, x)
	if p.all {
		return p.count, false
	}
	return res, false
}

// goAhead puts on the host's ring what the relay has to ask for by itself, as far as
// there is room.
func (r *Ring) goAhead() {
	if len(r.stalled) > 0 {
		r.resume()
	}
	for len(r.over) > 0 {
		if r.slots.find(r.over[0]) != nil {
			sqe, ok := r.host.SQE()
			if !ok {
				return
			}
			*sqe = hostring.SQE{Opcode: hostring.OpAsyncCancel, Addr: uint64(r.over[0]), UserData: uint64(nobody)}
			r.fresh = true
		}
		r.over = r.over[1:]
	}
	r.over = nil
}

// resume goes on with what found the host's ring full.
func (r *Ring) resume() {
	stalled := r.stalled
	r.stalled = nil
	for _, x := range stalled {
		if s := r.slots.find(x); s != nil {
			r.finish(uint32(x), s, &hostring.CQE{UserData: uint64(x), Res: -int32(unix.ENOENT)})
		}
	}
}
