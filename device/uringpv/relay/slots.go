// SPDX-License-Identifier: Apache-2.0

package relay

import "github.com/uringpv/uringpv/hostring"

// slot is a request in flight on the host's ring, whose user_data is the slot's
// index.
type slot struct {
	userData uint64 // the guest's
	class    class
	next     uint32 // of the free list
}

// slots is the table of requests in flight, and the free ones among them.
type slots struct {
	table []slot
	free  uint32 // head of the list, len(table) at its end
	used  uint32
}

func newSlots(n uint32) slots {
	s := slots{table: make([]slot, n)}
	for i := range s.table {
		s.table[i].next = uint32(i) + 1
	}
	return s
}

// take gives a slot to a request. There is a free one: the caller counts.
func (s *slots) take(userData uint64, c class) uint32 {
	i := s.free
	s.free = s.table[i].next
	s.table[i].userData, s.table[i].class = userData, c
	s.used++
	return i
}

// give takes slot i back and returns what it held.
func (s *slots) give(i uint32) (userData uint64, c class) {
	e := &s.table[i]
	e.next, s.free = s.free, i
	s.used--
	return e.userData, e.class
}

// backlog is the CQEs that found the guest's CQ ring full, oldest first.
type backlog struct {
	ring       []hostring.CQE // its length is a power of two
	head, tail uint32
}

func (b *backlog) len() uint32 { return b.tail - b.head }

// push keeps c. There is room: the caller counts.
func (b *backlog) push(c hostring.CQE) {
	b.ring[b.tail&uint32(len(b.ring)-1)] = c
	b.tail++
}

// pop takes the oldest.
func (b *backlog) pop() hostring.CQE {
	c := b.ring[b.head&uint32(len(b.ring)-1)]
	b.head++
	return c
}
