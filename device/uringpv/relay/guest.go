// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"sync/atomic"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/shm"
)

// Where the words of a guest's rings are, in bytes. Those that the device
// writes and those that the driver writes lie in cache lines of their own, and
// the two ends of each ring, too.
const (
	offSQHead    = 0 // device
	offSQFlags   = 4
	offSQDropped = 8

	offSQTail = 64 // driver

	offCQHead  = 128 // driver
	offCQFlags = 132

	offCQTail     = 192 // device
	offCQOverflow = 196

	offSQMask    = 256 // constant, informative
	offSQEntries = 260
	offCQMask    = 264
	offCQEntries = 268

	offCQEs = 320
)

// errArea says that the areas are smaller than a RingSpec promises.
var errArea = errors.New("the ring's areas are too small")

// guestRings is the guest's SQ and CQ ring, seen as the kernel of an io_uring
// sees its own: positions are private, and the words that the guest can write
// are read for what they are worth.
type guestRings struct {
	sqEntries, cqEntries uint32
	array                bool // there is an SQ array

	sqTail, cqHead, cqFlags *atomic.Uint32 // the guest's
	sqHead, sqFlags         *atomic.Uint32 // ours
	sqDropped, cqTail       *atomic.Uint32 // ours
	indices, cqes, sqes     shm.View

	head    uint32 // SQEs consumed
	dropped uint32
	flags   uint32 // of the SQ ring: what it should be, whatever the guest made of it

	tail    uint32 // CQEs written
	visible uint32 // CQEs that the guest has been shown
	seen    uint32 // cq.head, as last read
}

// newGuestRings initialises the areas of s as io_uring_setup(2) does.
func newGuestRings(s *uringpv.RingSpec) (g guestRings, p hostring.Params, err error) {
	g = guestRings{sqEntries: s.SQEntries, cqEntries: s.CQEntries, array: s.Flags&hostring.SetupNoSQArray == 0}
	arrayOff := uint64(offCQEs) + 16*uint64(s.CQEntries)
	ok := true
	word := func(off uint64) *atomic.Uint32 {
		w, inside := s.Rings.Uint32(off)
		ok = ok && inside
		return w
	}
	g.sqTail, g.cqHead, g.cqFlags = word(offSQTail), word(offCQHead), word(offCQFlags)
	g.sqHead, g.sqFlags = word(offSQHead), word(offSQFlags)
	g.sqDropped, g.cqTail = word(offSQDropped), word(offCQTail)
	slice := func(v shm.View, off, n uint64) shm.View {
		part, inside := v.Slice(off, n)
		ok = ok && inside
		return part
	}
	g.cqes = slice(s.Rings, offCQEs, 16*uint64(s.CQEntries))
	g.sqes = slice(s.SQEs, 0, hostring.SQESize*uint64(s.SQEntries))
	if g.array {
		g.indices = slice(s.Rings, arrayOff, 4*uint64(s.SQEntries))
	}
	for _, c := range []struct {
		off   uint64
		value uint32
	}{
		{offSQMask, s.SQEntries - 1}, {offSQEntries, s.SQEntries}, {offCQMask, s.CQEntries - 1}, {offCQEntries, s.CQEntries},
	} {
		if w := word(c.off); w != nil {
			w.Store(c.value)
		}
	}
	if !ok {
		return g, p, errArea
	}
	p = hostring.Params{
		SQEntries: s.SQEntries,
		CQEntries: s.CQEntries,
		Flags:     s.Flags,
		Features:  features,
		SQOff: hostring.SQOffsets{
			Head: offSQHead, Tail: offSQTail, RingMask: offSQMask, RingEntries: offSQEntries,
			Flags: offSQFlags, Dropped: offSQDropped,
		},
		CQOff: hostring.CQOffsets{
			Head: offCQHead, Tail: offCQTail, RingMask: offCQMask, RingEntries: offCQEntries,
			Overflow: offCQOverflow, CQEs: offCQEs, Flags: offCQFlags,
		},
	}
	if g.array {
		p.SQOff.Array = uint32(arrayOff)
	}
	return g, p, nil
}

// ready is the number of SQEs to take. A tail that is further ahead than the
// ring is long counts as a full ring, as in the kernel (io_sqring_entries).
func (g *guestRings) ready() uint32 { return min(g.sqTail.Load()-g.head, g.sqEntries) }

// next copies the SQE at the head, without consuming it. It says false if the
// SQ array names none; that is then counted as dropped.
func (g *guestRings) next(w *words) bool {
	i := g.head & (g.sqEntries - 1)
	if g.array {
		index, ok := g.indices.Uint32(4 * uint64(i))
		if !ok {
			return false
		}
		if i = index.Load(); i >= g.sqEntries {
			g.dropped++
			g.sqDropped.Store(g.dropped)
			return false
		}
	}
	return g.sqes.Load64((*[8]uint64)(w), hostring.SQESize*uint64(i))
}

// chain is how many of the n SQEs at the head, at least one, are a chain, as their
// flags say now. It is a hint: they are read again when they are taken.
func (g *guestRings) chain(n uint32) uint32 {
	for k := range n {
		i := (g.head + k) & (g.sqEntries - 1)
		if g.array {
			index, ok := g.indices.Uint32(4 * uint64(i))
			if !ok {
				return max(k, 1)
			}
			if i = index.Load(); i >= g.sqEntries {
				return max(k, 1)
			}
		}
		first, ok := g.sqes.Uint64(hostring.SQESize * uint64(i))
		if !ok {
			return max(k, 1)
		}
		if w := (words{first.Load()}); w.flags()&linkFlags == 0 {
			return k + 1
		}
	}
	return n
}

// consumed shows the guest which SQEs it may write again.
func (g *guestRings) consumed() { g.sqHead.Store(g.head) }

// full says whether the CQ ring has no room. A head that is ahead of the tail,
// or further behind than the ring is long, counts as a full ring, as in the
// kernel (io_cqe_cache_refill).
func (g *guestRings) full() bool {
	if g.tail-g.seen < g.cqEntries {
		return false
	}
	g.seen = g.cqHead.Load()
	return g.tail-g.seen >= g.cqEntries
}

// put writes a CQE. There is room: the caller has looked.
func (g *guestRings) put(c hostring.CQE) {
	off := hostring.CQESize * uint64(g.tail&(g.cqEntries-1))
	g.cqes.Store128(off, c.UserData, uint64(uint32(c.Res))|uint64(c.Flags)<<32)
	g.tail++
}

// publish shows the guest the CQEs written, and says whether there were any.
func (g *guestRings) publish() bool {
	if g.tail == g.visible {
		return false
	}
	// Before the load of cq.flags, in everybody's eyes. A Store would do, but not
	// under the race detector, which makes release stores of them.
	g.cqTail.Swap(g.tail)
	g.visible = g.tail
	return true
}

// setFlags makes the bits of mask in the SQ ring's flags on or off.
func (g *guestRings) setFlags(mask uint32, on bool) {
	if on {
		g.flags |= mask
	} else {
		g.flags &^= mask
	}
	g.sqFlags.Swap(g.flags) // as in publish: a load of sq.tail may follow
}

// wantsSignal says whether the guest has its interrupt unmasked.
func (g *guestRings) wantsSignal() bool {
	return g.cqFlags.Load()&hostring.CQEventfdDisabled == 0
}
