// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Handler serves accesses. off is relative to the claim's start; off+len(p) may
// go past its end when an access straddles it. Several vCPUs may call at once.
type Handler interface {
	Read(off uint64, p []byte)  // fills p
	Write(off uint64, p []byte) // does not keep p
}

// claim is [start, end), the handler's.
type claim struct {
	start, end uint64
	handler    Handler
}

// Bus is an address space. The zero Bus is empty and ready for use.
type Bus struct {
	mu     sync.Mutex // held to change claims
	claims atomic.Pointer[[]claim]
}

// list is the claims, in ascending order.
func (b *Bus) list() []claim {
	if p := b.claims.Load(); p != nil {
		return *p
	}
	return nil
}

// Claim gives the n addresses from start to h. The error says which claim is in
// the way.
func (b *Bus) Claim(start, n uint64, h Handler) error {
	end := start + n
	if n == 0 || end < start {
		return fmt.Errorf("claim of %#x bytes at %#x: empty or past the end of the address space", n, start)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.list()
	i, _ := slices.BinarySearchFunc(old, start, func(c claim, a uint64) int {
		if c.end <= a {
			return -1
		}
		return 1
	})
	if i < len(old) && old[i].start < end {
		return fmt.Errorf("claim of %#x bytes at %#x: overlaps [%#x, %#x)", n, start, old[i].start, old[i].end)
	}
	next := slices.Insert(slices.Clone(old), i, claim{start, end, h})
	b.claims.Store(&next)
	return nil
}

// Release ends the claim that begins at start, if there is one. An access that
// another vCPU began before may still be with the handler.
func (b *Bus) Release(start uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(b.list()), func(c claim) bool { return c.start == start })
	b.claims.Store(&next)
}

// find is the claim that holds addr.
func (b *Bus) find(addr uint64) *claim {
	l := b.list()
	lo, hi := 0, len(l)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if l[mid].end <= addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(l) && l[lo].start <= addr {
		return &l[lo]
	}
	return nil
}

// Read fills p from addr. What nobody has claimed reads as all ones, as on a
// PC. It says whether somebody has.
func (b *Bus) Read(addr uint64, p []byte) bool {
	c := b.find(addr)
	if c == nil {
		for i := range p {
			p[i] = 0xff
		}
		return false
	}
	c.handler.Read(addr-c.start, p)
	return true
}

// Write writes p to addr. It says whether somebody has claimed that.
func (b *Bus) Write(addr uint64, p []byte) bool {
	c := b.find(addr)
	if c == nil {
		return false
	}
	c.handler.Write(addr-c.start, p)
	return true
}
