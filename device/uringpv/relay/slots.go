// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
)

// fewestInFlight is how many requests any ring may have in flight. Waiting ones,
// polls and timeouts, may be more than the CQ ring has entries.
const fewestInFlight = 4096

// noFile is the index of no entry of the host ring's file table.
const noFile = ^uint16(0)

// ref names a request in flight: the index of its slot and the slot's generation.
// It is the user_data on the host's ring, so that nothing that names a request
// hits another one that has the slot by then. No request is 0.
type ref uint64

// What a slot's request is, beyond its class.
const (
	slotSkip     uint16 = 1 << iota // IOSQE_CQE_SKIP_SUCCESS
	slotHard                        // IOSQE_IO_HARDLINK: a failure does not break the chain
	slotMulti                       // ACCEPT that goes on
	slotOver                        // the guest has seen its last CQE, the host's kernel not yet
	slotMuted                       // its chain is broken: no CQE
	slotShown                       // its chain is broken: a CQE in any case
	slotInternal                    // the relay's own: the guest does not know of it
	slotWaitAll                     // MSG_WAITALL: less than asked is a failure
	slotETimeOK                     // IORING_TIMEOUT_ETIME_SUCCESS
	slotRename                      // a poll's user_data changes with its success
	slotAgain                       // other requests remain to be cancelled
	slotName                        // name and length go back to the guest
	slotStream                      // SEND and the like: fewer bytes than asked are no failure
	slotAlloc                       // ACCEPT into the first empty entry
	slotAsked                       // it is among those to be cancelled
)

// slot is a request in flight on the host's ring.
type slot struct {
	hot
	cold
}

// hot is what every request needs.
type hot struct {
	userData   uint64 // the guest's
	born       uint64 // number of the request, ascending
	generation uint32
	next       uint32 // of the free list
	asked      uint32 // bytes that the guest wants to move
	file       uint16 // entry of the host ring's file table, noFile
	class      class
	op         uint8 // the guest's opcode
	busy       bool
	odd        bool // there is more: cold counts
}

// cold is what requests need that are out of the ordinary. In others it is left as it
// was.
type cold struct {
	flags  uint16
	fault  fault        // what the guest is told instead of what the host says
	target uint16       // ACCEPT: entry of the host ring's file table that is filled, noFile if the kernel chooses
	entry  uint16       // ACCEPT, CLOSE: entry of the guest's file table that changes
	block  block        // of the arena
	deny   *abi.Opcodes // ACCEPT: of what it accepts
	chain  ref          // next member of its chain, LINK_TIMEOUTs left out
	timer  ref          // LINK_TIMEOUT of this member
	poll   ref          // POLL_REMOVE: the poll to be renamed
	name   uint64       // address of the guest's sockaddr
	nameTo uint64       // address of the guest's socklen_t, or msghdr
	rename uint64       // new user_data of poll; length of name
}

// reset makes q a request of which nothing is known but its SQE.
func (q *slot) reset(w *words) {
	if q.odd {
		q.cold = cold{}
	}
	q.hot = hot{userData: w.userData(), op: w.opcode(), file: noFile}
}

// slots is the table of requests in flight, and the free ones among them. It grows
// up to most.
type slots struct {
	table []slot
	most  uint32
	free  uint32 // head of the list, len(table) at its end
	used  uint32
	born  uint64
}

func newSlots(n, most uint32) slots {
	s := slots{most: most}
	s.grow(n)
	return s
}

// grow makes the table n long; there was no free slot.
func (s *slots) grow(n uint32) {
	old := uint32(len(s.table))
	table := make([]slot, n)
	copy(table, s.table)
	for i := old; i < n; i++ {
		table[i].next, table[i].generation, table[i].file = i+1, 1, noFile
	}
	s.table, s.free = table, old
}

// room is how many requests may join those in flight.
func (s *slots) room() uint32 { return s.most - s.used }

// take gives a slot to q. There is room: the caller counts.
func (s *slots) take(q *slot) (uint32, ref) {
	i := s.free
	if i >= uint32(len(s.table)) {
		s.grow(min(2*i, s.most))
	}
	e := &s.table[i]
	s.free = e.next
	generation := e.generation
	e.hot = q.hot
	if q.odd {
		e.cold = q.cold
	}
	s.born++
	e.generation, e.born, e.busy = generation, s.born, true
	s.used++
	return i, ref(i) | ref(generation)<<32
}

// give takes slot i back.
func (s *slots) give(i uint32) {
	e := &s.table[i]
	e.busy = false
	if e.generation++; e.generation == 0 {
		e.generation = 1
	}
	e.next, s.free = s.free, i
	s.used--
}

// failed says whether res is a failure to io_uring: one that breaks a chain, and that
// has a CQE whatever the flags say.
func (s *slot) failed(res int32) bool {
	switch {
	case s.fault != 0:
		return true
	case s.op == hostring.OpLinkTimeout:
		return false
	case s.flags&slotETimeOK != 0 && res == -int32(unix.ETIME):
		return false
	case s.class == classOther || s.flags&(slotStream|slotWaitAll) == slotStream:
		return res < 0
	}
	return res != int32(s.asked)
}

// find is the request that x names, nil if that has ended.
func (s *slots) find(x ref) *slot {
	i := uint32(x)
	if i >= uint32(len(s.table)) {
		return nil
	}
	if e := &s.table[i]; e.busy && e.generation == uint32(x>>32) {
		return e
	}
	return nil
}

// backlog is the CQEs that found the guest's CQ ring full, oldest first.
type backlog struct {
	ring       []hostring.CQE // its length is a power of two
	head, tail uint32
}

func (b *backlog) len() uint32 { return b.tail - b.head }

// push keeps c. The caller bounds the number.
func (b *backlog) push(c hostring.CQE) {
	if b.len() == uint32(len(b.ring)) {
		ring := make([]hostring.CQE, 2*len(b.ring))
		for i := range b.len() {
			ring[i] = b.ring[(b.head+i)&uint32(len(b.ring)-1)]
		}
		b.ring, b.head, b.tail = ring, 0, b.len()
	}
	b.ring[b.tail&uint32(len(b.ring)-1)] = c
	b.tail++
}

// pop takes the oldest.
func (b *backlog) pop() hostring.CQE {
	c := b.ring[b.head&uint32(len(b.ring)-1)]
	b.head++
	return c
}
