// SPDX-License-Identifier: Apache-2.0

package memmap

import "fmt"

// PageSize is the size of a page in bytes, the granularity of everything that
// is mapped or pinned.
const PageSize = 4096

// Addr is a guest-physical address (GPA).
type Addr uint64

// AddLength is the address n bytes after a. It says false if there is none:
// the sum does not fit.
func (a Addr) AddLength(n uint64) (end Addr, ok bool) {
	end = a + Addr(n)
	return end, end >= a
}

// Aligned says whether a is a multiple of n, a power of two.
func (a Addr) Aligned(n uint64) bool { return uint64(a)&(n-1) == 0 }

// String is the address in hexadecimal.
func (a Addr) String() string { return fmt.Sprintf("%#x", uint64(a)) }

// Range is Length bytes of guest-physical address space from Start. It may
// come from a guest: nothing says that it is RAM or that it ends.
type Range struct {
	Start  Addr
	Length uint64
}

// End is the first address behind the range. It says false if there is none:
// the range goes up to, or past, the end of the 64-bit address space.
func (r Range) End() (Addr, bool) { return r.Start.AddLength(r.Length) }

// Contains says whether all of s lies in r. An empty s does if it begins in r or
// right behind it.
func (r Range) Contains(s Range) bool {
	if s.Start < r.Start {
		return false
	}
	off := uint64(s.Start - r.Start)
	return off <= r.Length && s.Length <= r.Length-off
}

// Overlaps says whether r and s have a byte in common.
func (r Range) Overlaps(s Range) bool {
	if r.Length == 0 || s.Length == 0 {
		return false
	}
	if r.Start <= s.Start {
		return uint64(s.Start-r.Start) < r.Length
	}
	return uint64(r.Start-s.Start) < s.Length
}

// String is the range as [start, +length), in hexadecimal.
func (r Range) String() string {
	return fmt.Sprintf("[%#x, +%#x)", uint64(r.Start), r.Length)
}
