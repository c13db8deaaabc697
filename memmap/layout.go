// SPDX-License-Identifier: Apache-2.0

package memmap

import (
	"fmt"
	"slices"
)

// The x86 hole for devices: no RAM lies in [HoleStart, HoleEnd). RAM that does
// not fit below it goes on above it.
const (
	HoleStart Addr = 0xC000_0000
	HoleEnd   Addr = 0x1_0000_0000
)

// MaxBuffer is the most that one registered buffer may cover, in bytes
// (io_uring_register(2), IORING_REGISTER_BUFFERS).
const MaxBuffer = 1 << 30

// The amounts of RAM, in bytes, that a guest can have. The upper bound leaves
// the last page of a slot, at least, as a guard.
const (
	MinRAM = 1 << 20
	MaxRAM = SlotSize - uint64(HoleEnd)
)

// Region is a contiguous piece of guest RAM.
type Region struct {
	Range
	FileOffset int64 // where it begins in the memfd, in bytes
}

// Layout says which guest-physical addresses are RAM. It does not change.
type Layout struct {
	regions []Region
	buffers []Range
	size    uint64
}

// NewLayout lays out ram bytes, a multiple of PageSize between MinRAM and
// MaxRAM: from address 0 to HoleStart, the rest from HoleEnd.
func NewLayout(ram uint64) (Layout, error) {
	if ram < MinRAM || ram > MaxRAM || ram%PageSize != 0 {
		return Layout{}, fmt.Errorf("guest RAM of %d bytes: must be a multiple of %d between %d and %d", ram, PageSize, MinRAM, uint64(MaxRAM))
	}
	low := min(ram, uint64(HoleStart))
	l := Layout{size: ram, regions: []Region{{Range: Range{0, low}}}}
	if ram > low {
		l.regions = append(l.regions, Region{Range{HoleEnd, ram - low}, int64(low)})
	}
	return l.WithBuffers(MaxBuffer)
}

// WithBuffers is l with a buffer table of smaller pieces, of size bytes at most: whole
// pages, not more than MaxBuffer.
func (l Layout) WithBuffers(size uint64) (Layout, error) {
	if size == 0 || size > MaxBuffer || size%PageSize != 0 {
		return Layout{}, fmt.Errorf("buffers of %d bytes: must be a multiple of %d up to %d", size, PageSize, MaxBuffer)
	}
	l.buffers = nil
	for _, r := range l.regions {
		for off := uint64(0); off < r.Length; off += size {
			l.buffers = append(l.buffers, Range{r.Start + Addr(off), min(r.Length-off, size)})
		}
	}
	return l, nil
}

// Size is the amount of RAM in bytes.
func (l Layout) Size() uint64 { return l.size }

// Regions is the RAM in ascending order.
func (l Layout) Regions() []Region { return slices.Clone(l.regions) }

// Buffers is the registered-buffer table: all RAM, in ascending order, in
// pieces of at most MaxBuffer bytes, or what WithBuffers had, that stay inside a region.
func (l Layout) Buffers() []Range { return slices.Clone(l.buffers) }

// region is the index of the region that holds all of r.
func (l Layout) region(r Range) (int, bool) {
	for i := range l.regions {
		if l.regions[i].Contains(r) {
			return i, true
		}
	}
	return 0, false
}

// Contains says whether all of r lies inside one region.
func (l Layout) Contains(r Range) bool {
	_, ok := l.region(r)
	return ok
}

// BufferOf is the entry of the buffer table that holds all of r. It says false
// if r is not in RAM or straddles two entries.
func (l Layout) BufferOf(r Range) (int, bool) {
	for i := range l.buffers {
		if l.buffers[i].Contains(r) {
			return i, true
		}
	}
	return 0, false
}
