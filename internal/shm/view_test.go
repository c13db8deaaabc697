// SPDX-License-Identifier: Apache-2.0

package shm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/uringpv/uringpv/internal/shm"
)

const page = 4096

// guarded is n bytes, at most a page, whose end is at the end of what is mapped:
// an access behind them ends the test program. n is a multiple of eight.
func guarded(t testing.TB, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, 2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(b); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mprotect(b[page:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	return b[page-n : page : page]
}

// view is a View of b.
func view(t testing.TB, b []byte) shm.View {
	t.Helper()
	v, err := shm.Of(b)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestOfWantsEightByteAlignment(t *testing.T) {
	b := guarded(t, 64)
	for i := range 16 {
		_, err := shm.Of(b[i:])
		if (err == nil) != (i%8 == 0) {
			t.Errorf("byte %d: %v", i, err)
		}
		if err != nil && !errors.Is(err, shm.ErrUnaligned) {
			t.Errorf("byte %d: %v is not ErrUnaligned", i, err)
		}
	}
}

func TestZeroViewIsEmpty(t *testing.T) {
	var v shm.View
	if v.Len() != 0 || v.Addr() != 0 || len(v.Bytes()) != 0 {
		t.Errorf("length %d, address %#x", v.Len(), v.Addr())
	}
	if _, ok := v.Uint32(0); ok {
		t.Error("has a word")
	}
	if s, ok := v.Slice(0, 0); !ok || s.Len() != 0 {
		t.Error("has no empty slice")
	}
	if !v.CopyOut(nil, 0) || !v.CopyIn(0, nil) || v.CopyOut(make([]byte, 1), 0) {
		t.Error("copies are off")
	}
	v.Zero()
}

// sees says whether a and b are of the same length and memory.
func sees(v shm.View, b []byte) bool {
	if v.Len() != uint64(len(b)) {
		return false
	}
	if len(b) == 0 {
		return true
	}
	b[0]++
	first := v.Bytes()[0] == b[0]
	b[0]--
	return first && v.Bytes()[0] == b[0]
}

// offset draws what a guest would: near a boundary, or anything.
func offset(n uint64) *rapid.Generator[uint64] {
	return rapid.OneOf(
		rapid.Uint64Range(0, n+16),
		rapid.Map(rapid.Uint64Range(0, 80), func(back uint64) uint64 { return (n - back) &^ 3 }),
		rapid.Uint64Range(math.MaxUint64-16, math.MaxUint64),
		rapid.Uint64Range(math.MaxInt64-16, math.MaxInt64+16),
		rapid.Uint64(),
	)
}

// Whatever the offsets and lengths, an access succeeds exactly when it is
// aligned and inside, does what it does to a plain slice, and touches nothing
// else.
func TestViewIsABoundedSlice(t *testing.T) {
	memory := guarded(t, page)
	rapid.Check(t, func(t *rapid.T) {
		clear(memory)
		length := rapid.Uint64Range(0, 200).Draw(t, "length")
		// The View ends where the mapping does, or a little before.
		start := (page - length) &^ 7
		real := memory[start : start+length]
		model := make([]byte, length)
		v, err := shm.Of(real)
		if err != nil {
			t.Fatal(err)
		}
		inside := func(off, n uint64) bool { return off <= length && n <= length-off }
		at := func() uint64 { return offset(length).Draw(t, "offset") }
		t.Repeat(map[string]func(*rapid.T){
			"slice": func(t *rapid.T) {
				off, n := at(), offset(length).Draw(t, "n")
				s, ok := v.Slice(off, n)
				if want := off%8 == 0 && inside(off, n); ok != want {
					t.Fatalf("Slice(%#x, %#x) of %d bytes: %v", off, n, length, ok)
				} else if ok && !sees(s, real[off:off+n]) {
					t.Fatalf("Slice(%#x, %#x) is elsewhere", off, n)
				}
			},
			"uint32": func(t *rapid.T) {
				off, x := at(), rapid.Uint32().Draw(t, "value")
				w, ok := v.Uint32(off)
				if want := off%4 == 0 && inside(off, 4); ok != want {
					t.Fatalf("Uint32(%#x) of %d bytes: %v", off, length, ok)
				} else if ok {
					if w.Load() != binary.NativeEndian.Uint32(model[off:]) {
						t.Fatalf("Uint32(%#x) is %#x", off, w.Load())
					}
					w.Store(x)
					binary.NativeEndian.PutUint32(model[off:], x)
				}
			},
			"uint64": func(t *rapid.T) {
				off, x := at(), rapid.Uint64().Draw(t, "value")
				w, ok := v.Uint64(off)
				if want := off%8 == 0 && inside(off, 8); ok != want {
					t.Fatalf("Uint64(%#x) of %d bytes: %v", off, length, ok)
				} else if ok {
					if w.Load() != binary.NativeEndian.Uint64(model[off:]) {
						t.Fatalf("Uint64(%#x) is %#x", off, w.Load())
					}
					w.Store(x)
					binary.NativeEndian.PutUint64(model[off:], x)
				}
			},
			"load64": func(t *rapid.T) {
				off := at()
				got := [8]uint64{1, 2, 3, 4, 5, 6, 7, 8}
				want := got
				ok := off%8 == 0 && inside(off, 64)
				for i := range want {
					if ok {
						want[i] = binary.NativeEndian.Uint64(model[off+8*uint64(i):])
					}
				}
				if v.Load64(&got, off) != ok || got != want {
					t.Fatalf("Load64(%#x) of %d bytes: %x, want %x", off, length, got, want)
				}
			},
			"store128": func(t *rapid.T) {
				off, lo, hi := at(), rapid.Uint64().Draw(t, "lo"), rapid.Uint64().Draw(t, "hi")
				ok := v.Store128(off, lo, hi)
				if want := off%8 == 0 && inside(off, 16); ok != want {
					t.Fatalf("Store128(%#x) of %d bytes: %v", off, length, ok)
				} else if ok {
					binary.NativeEndian.PutUint64(model[off:], lo)
					binary.NativeEndian.PutUint64(model[off+8:], hi)
				}
			},
			"copy out": func(t *rapid.T) {
				off, n := at(), rapid.IntRange(0, int(length)+8).Draw(t, "n")
				got, want := bytes.Repeat([]byte{0xa5}, n), bytes.Repeat([]byte{0xa5}, n)
				ok := inside(off, uint64(n))
				if ok {
					copy(want, model[off:])
				}
				if v.CopyOut(got, off) != ok || !bytes.Equal(got, want) {
					t.Fatalf("CopyOut of %d bytes at %#x of %d: %x, want %x", n, off, length, got, want)
				}
			},
			"copy in": func(t *rapid.T) {
				off, src := at(), rapid.SliceOfN(rapid.Byte(), 0, int(length)+8).Draw(t, "src")
				ok := v.CopyIn(off, src)
				if want := inside(off, uint64(len(src))); ok != want {
					t.Fatalf("CopyIn of %d bytes at %#x of %d: %v", len(src), off, length, ok)
				} else if ok {
					copy(model[off:], src)
				}
			},
			"zero": func(t *rapid.T) {
				off := rapid.Uint64Range(0, length/8).Draw(t, "word") * 8
				s, ok := v.Slice(off, (length-off)/2)
				if !ok {
					t.Fatalf("no slice at %#x", off)
				}
				s.Zero()
				clear(model[off : off+s.Len()])
			},
			"": func(t *rapid.T) {
				if !bytes.Equal(real, model) {
					t.Fatalf("memory is %x, want %x", real, model)
				}
				for i, x := range memory[:start] {
					if x != 0 {
						t.Fatalf("byte %d, before the View, was written", i)
					}
				}
				for i, x := range memory[start+length:] {
					if x != 0 {
						t.Fatalf("byte %d behind the View was written", i)
					}
				}
			},
		})
	})
}

func FuzzViewNeverLeavesItsMemory(f *testing.F) {
	f.Add(uint64(0), uint64(64), uint8(64))
	f.Add(uint64(math.MaxUint64-7), uint64(8), uint8(200))
	f.Add(uint64(192), uint64(math.MaxUint64-191), uint8(200))
	memory := guarded(f, page)
	f.Fuzz(func(t *testing.T, off, n uint64, length uint8) {
		l := uint64(length)
		start := (page - l) &^ 7
		v := view(t, memory[start:start+l])
		if w, ok := v.Uint32(off); ok {
			w.Add(1)
		}
		if w, ok := v.Uint64(off); ok {
			w.Add(1)
		}
		var sqe [8]uint64
		v.Load64(&sqe, off)
		v.Store128(off, n, n)
		buf := make([]byte, n%(2*page))
		if got, want := v.CopyOut(buf, off), off <= l && uint64(len(buf)) <= l-off; got != want {
			t.Errorf("CopyOut of %d at %#x of %d: %v", len(buf), off, l, got)
		}
		v.CopyIn(off, buf)
		if s, ok := v.Slice(off, n); ok {
			s.Zero()
			if s.Len() != n || n > l {
				t.Errorf("a slice of %d bytes of %d has %d", n, l, s.Len())
			}
		}
	})
}

// A word is whole in every copy, however fast somebody else writes it; and
// copies in never undo what somebody else writes beside them.
func TestWordsDoNotTear(t *testing.T) {
	const rounds = 20000
	v := view(t, guarded(t, 128))
	word, _ := v.Uint64(64)
	neighbour, _ := v.Uint32(4)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range uint64(rounds) {
			word.Store(i<<32 | i)
		}
	})
	wg.Go(func() {
		for i := range uint32(rounds) {
			neighbour.Store(i)
			if got := neighbour.Load(); got != i {
				t.Errorf("a copy beside the word made %d of %d", got, i)
				return
			}
		}
	})
	var b [21]byte
	var sqe [8]uint64
	for range rounds {
		// Unaligned at both ends: words in part, and one whole.
		v.CopyOut(b[:], 59)
		if x := binary.NativeEndian.Uint64(b[5:]); x>>32 != x&math.MaxUint32 {
			t.Fatalf("CopyOut saw %#x", x)
		}
		v.Load64(&sqe, 64)
		if x := sqe[0]; x>>32 != x&math.MaxUint32 {
			t.Fatalf("Load64 saw %#x", x)
		}
		v.CopyIn(1, b[:3])
	}
	wg.Wait()
}

func TestAccessAllocatesNothing(t *testing.T) {
	v := view(t, guarded(t, 256))
	var sqe [8]uint64
	var b [48]byte
	if n := testing.AllocsPerRun(100, func() {
		s, _ := v.Slice(64, 128)
		w, _ := s.Uint32(4)
		w.Add(1)
		x, _ := s.Uint64(8)
		x.Add(1)
		s.Load64(&sqe, 0)
		s.Store128(16, 1, 2)
		s.CopyOut(b[:], 3)
		s.CopyIn(5, b[:])
		s.Zero()
		s.Load64(&sqe, 1<<40)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLoad64(b *testing.B) {
	v := view(b, guarded(b, page))
	var sqe [8]uint64
	for i := 0; b.Loop(); i++ {
		v.Load64(&sqe, uint64(i%64)*64)
	}
}

func BenchmarkCopyOutPage(b *testing.B) {
	v := view(b, guarded(b, page))
	dst := make([]byte, page)
	b.SetBytes(page)
	for b.Loop() {
		v.CopyOut(dst, 0)
	}
}
