// SPDX-License-Identifier: Apache-2.0

package memmap_test

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/uringpv/uringpv/memmap"
)

// edges are addresses and lengths where arithmetic goes wrong.
var edges = []uint64{
	0, memmap.PageSize, memmap.MinRAM, memmap.MaxBuffer, 2 * memmap.MaxBuffer,
	uint64(memmap.HoleStart), uint64(memmap.HoleEnd), uint64(memmap.HoleEnd) + memmap.MaxBuffer,
	memmap.MaxRAM, memmap.SlotSize, uint64(memmap.AddrBase),
	math.MaxUint32, math.MaxInt64, math.MaxUint64,
}

// word draws an address or a length as a guest would: anything, or near an edge.
func word() *rapid.Generator[uint64] {
	near := rapid.Custom(func(t *rapid.T) uint64 {
		return rapid.SampledFrom(edges).Draw(t, "edge") + uint64(rapid.IntRange(-9000, 9000).Draw(t, "by"))
	})
	return rapid.OneOf(near, near, rapid.Uint64Range(0, 9000), rapid.Uint64())
}

func guestRange() *rapid.Generator[memmap.Range] {
	return rapid.Custom(func(t *rapid.T) memmap.Range {
		return memmap.Range{Start: memmap.Addr(word().Draw(t, "start")), Length: word().Draw(t, "length")}
	})
}

// ends is a range's start and end as numbers that cannot overflow.
func ends(r memmap.Range) (start, end *big.Int) {
	start = new(big.Int).SetUint64(uint64(r.Start))
	return start, new(big.Int).Add(start, new(big.Int).SetUint64(r.Length))
}

func TestAddLengthTellsOfOverflow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := guestRange().Draw(t, "range")
		_, want := ends(r)
		got, ok := r.Start.AddLength(r.Length)
		if ok != want.IsUint64() || ok && uint64(got) != want.Uint64() {
			t.Fatalf("%s: %s, %v, want %#x", r, got, ok, want)
		}
		if end, endOK := r.End(); end != got || endOK != ok {
			t.Fatalf("%s ends at %s, %v", r, end, endOK)
		}
	})
}

func TestRangesCompareLikeNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, s := guestRange().Draw(t, "r"), guestRange().Draw(t, "s")
		r0, r1 := ends(r)
		s0, s1 := ends(s)
		if got, want := r.Contains(s), r0.Cmp(s0) <= 0 && s1.Cmp(r1) <= 0; got != want {
			t.Errorf("%s contains %s: %v", r, s, got)
		}
		if got, want := r.Overlaps(s), r.Length > 0 && s.Length > 0 && r0.Cmp(s1) < 0 && s0.Cmp(r1) < 0; got != want {
			t.Errorf("%s overlaps %s: %v", r, s, got)
		}
		if r.Overlaps(s) != s.Overlaps(r) {
			t.Errorf("%s and %s overlap one way only", r, s)
		}
	})
}

func TestStringsAreHexadecimal(t *testing.T) {
	r := memmap.Range{Start: 0xc000_0000, Length: 0x1000}
	if r.String() != "[0xc0000000, +0x1000)" || r.Start.String() != "0xc0000000" {
		t.Errorf("%s, %s", r, r.Start)
	}
	if !r.Start.Aligned(memmap.PageSize) || memmap.Addr(0xfff).Aligned(memmap.PageSize) || !memmap.Addr(7).Aligned(1) {
		t.Error("alignment is off")
	}
}

// ramSize draws an amount of RAM that a guest can have.
func ramSize() *rapid.Generator[uint64] {
	pages := func(lo, hi uint64) *rapid.Generator[uint64] {
		return rapid.Map(rapid.Uint64Range(lo/memmap.PageSize, hi/memmap.PageSize), func(n uint64) uint64 { return n * memmap.PageSize })
	}
	hole := uint64(memmap.HoleStart)
	return rapid.OneOf(
		pages(memmap.MinRAM, 16<<20),
		pages(hole-3*memmap.PageSize, hole+3*memmap.PageSize),
		pages(memmap.MaxBuffer-3*memmap.PageSize, memmap.MaxBuffer+3*memmap.PageSize),
		pages(memmap.MaxRAM-3*memmap.PageSize, memmap.MaxRAM),
		pages(memmap.MinRAM, memmap.MaxRAM),
	)
}

func layout(t interface{ Fatal(...any) }, ram uint64) memmap.Layout {
	l, err := memmap.NewLayout(ram)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLayoutCoversAllRAMAndNoHole(t *testing.T) {
	hole := memmap.Range{Start: memmap.HoleStart, Length: uint64(memmap.HoleEnd - memmap.HoleStart)}
	rapid.Check(t, func(t *rapid.T) {
		ram := ramSize().Draw(t, "ram")
		l, most := layout(t, ram), uint64(memmap.MaxBuffer)
		if rapid.Bool().Draw(t, "smaller buffers") {
			most = uint64(rapid.IntRange(1, memmap.MaxBuffer/memmap.PageSize).Draw(t, "pages")) * memmap.PageSize
			most = max(most, ram/1024/memmap.PageSize*memmap.PageSize)
			var err error
			if l, err = l.WithBuffers(most); err != nil {
				t.Fatal(err)
			}
		}
		if l.Size() != ram {
			t.Fatalf("%d bytes of %d", l.Size(), ram)
		}
		next, offset := memmap.Addr(0), int64(0)
		for _, r := range l.Regions() {
			if r.Length == 0 || r.Start < next || r.Overlaps(hole) || r.FileOffset != offset {
				t.Fatalf("region %s from byte %#x of the file", r, r.FileOffset)
			}
			end, ok := r.End()
			if !ok || uint64(end) > memmap.SlotSize-memmap.PageSize {
				t.Fatalf("region %s leaves no guard in its slot", r)
			}
			next, offset = end, offset+int64(r.Length)
		}
		if uint64(offset) != ram {
			t.Fatalf("regions have %#x bytes of %#x", offset, ram)
		}
		// The table covers the regions without gaps, and nothing else.
		buffers := l.Buffers()
		for _, r := range l.Regions() {
			at, end := r.Start, r.Start+memmap.Addr(r.Length)
			for at < end {
				if len(buffers) == 0 || buffers[0].Start != at || buffers[0].Length == 0 || buffers[0].Length > most {
					t.Fatalf("no buffer begins at %s: %v", at, buffers)
				}
				at += memmap.Addr(buffers[0].Length)
				buffers = buffers[1:]
			}
			if at != end {
				t.Fatalf("a buffer ends at %s, the region at %s", at, end)
			}
		}
		if len(buffers) != 0 {
			t.Fatalf("buffers without RAM: %v", buffers)
		}
	})
}

func TestContainsAndBufferOfAgreeWithTheTables(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := layout(t, ramSize().Draw(t, "ram"))
		r := guestRange().Draw(t, "range")
		in := false
		for _, region := range l.Regions() {
			in = in || region.Contains(r)
		}
		if l.Contains(r) != in {
			t.Fatalf("Contains(%s) with RAM %v: %v", r, l.Regions(), !in)
		}
		buffers := l.Buffers()
		i, ok := l.BufferOf(r)
		if ok && (!buffers[i].Contains(r) || !l.Contains(r)) {
			t.Fatalf("BufferOf(%s) is %s", r, buffers[i])
		}
		for j, b := range buffers {
			if !ok && b.Contains(r) {
				t.Fatalf("BufferOf(%s) overlooks %d, %s", r, j, b)
			}
		}
	})
}

func TestLayoutRefusesOtherSizes(t *testing.T) {
	for _, ram := range []uint64{
		0, 1, memmap.PageSize, memmap.MinRAM - memmap.PageSize, memmap.MinRAM + 1,
		memmap.MaxRAM + memmap.PageSize, memmap.SlotSize, math.MaxUint64, math.MaxUint64 &^ 4095, 1 << 63,
	} {
		if l, err := memmap.NewLayout(ram); err == nil {
			t.Errorf("%d bytes: %v", ram, l.Regions())
		}
	}
}

func TestLayoutRefusesOtherBuffers(t *testing.T) {
	l := layout(t, memmap.MinRAM)
	for _, size := range []uint64{0, 1, memmap.PageSize + 1, memmap.MaxBuffer + memmap.PageSize, math.MaxUint64} {
		if l, err := l.WithBuffers(size); err == nil {
			t.Errorf("%d bytes: %v", size, l.Buffers())
		}
	}
}

// What a Layout gives out is the caller's to change.
func TestLayoutDoesNotChange(t *testing.T) {
	l := layout(t, memmap.MinRAM)
	l.Regions()[0].Length = 1
	l.Buffers()[0].Length = 1
	if l.Regions()[0].Length != memmap.MinRAM || l.Buffers()[0].Length != memmap.MinRAM {
		t.Error("it did")
	}
}
