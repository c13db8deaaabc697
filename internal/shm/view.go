// SPDX-License-Identifier: Apache-2.0

package shm

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
)

// ErrUnaligned says that the memory given to Of does not begin at a multiple
// of eight.
var ErrUnaligned = errors.New("shared memory must begin at a multiple of 8 bytes")

// View is a window on memory that others may write at any time. The zero View
// is empty. Views are values; copies and slices share the memory.
//
// The memory must lie outside the Go heap (mmap) or be kept alive by the
// caller, and must stay mapped while any View of it is in use.
type View struct {
	b []byte
}

// Of makes a View of b, whose first byte must be at a multiple of eight.
func Of(b []byte) (View, error) {
	v := View{b: b}
	if v.Addr()%8 != 0 {
		return View{}, ErrUnaligned
	}
	return v, nil
}

// Len is the View's length in bytes.
func (v View) Len() uint64 { return uint64(len(v.b)) }

// Bytes is the memory itself, for parts that by protocol belong to this process
// alone while it writes them, such as a free SQE.
func (v View) Bytes() []byte { return v.b }

// inside says whether [off, off+n) lies in the View.
func (v View) inside(off, n uint64) bool {
	l := uint64(len(v.b))
	return off <= l && n <= l-off
}

// Slice is the part of v that begins at off, a multiple of eight, and has n
// bytes. It says false if that is not inside v.
func (v View) Slice(off, n uint64) (View, bool) {
	if off%8 != 0 || !v.inside(off, n) {
		return View{}, false
	}
	return View{b: v.b[off : off+n : off+n]}, true
}

// Uint32 is the word at off, a multiple of four. It says false if the word is
// not inside v.
func (v View) Uint32(off uint64) (*atomic.Uint32, bool) {
	if off%4 != 0 || !v.inside(off, 4) {
		return nil, false
	}
	return v.word32(off), true
}

// Uint64 is the word at off, a multiple of eight. It says false if the word is
// not inside v.
func (v View) Uint64(off uint64) (*atomic.Uint64, bool) {
	if off%8 != 0 || !v.inside(off, 8) {
		return nil, false
	}
	return v.word64(off), true
}

// Load64 copies the 64 bytes at off, a multiple of eight, by eight atomic
// loads: one SQE, each word of which is read exactly once. It says false, and
// leaves dst alone, if they are not inside v.
func (v View) Load64(dst *[8]uint64, off uint64) bool {
	if off%8 != 0 || !v.inside(off, 64) {
		return false
	}
	for i := range dst {
		dst[i] = v.word64(off + uint64(i)*8).Load()
	}
	return true
}

// Store128 writes two words, one CQE, at off, a multiple of eight, for a reader
// that looks when an atomic store or swap behind it has published them. It says
// false if they are not inside v.
func (v View) Store128(off, lo, hi uint64) bool {
	if off%8 != 0 || !v.inside(off, 16) {
		return false
	}
	v.plain128(off, lo, hi)
	return true
}

// CopyOut copies len(dst) bytes from off into private memory. Each word is
// read once, atomically; bytes behind the View's last whole word one by one. It
// says false, and leaves dst alone, if they are not inside v.
func (v View) CopyOut(dst []byte, off uint64) bool {
	if !v.inside(off, uint64(len(dst))) {
		return false
	}
	for len(dst) > 0 {
		if off%8 == 0 && len(dst) >= 8 {
			binary.NativeEndian.PutUint64(dst, v.word64(off).Load())
			off, dst = off+8, dst[8:]
			continue
		}
		// An end that is no whole word: part of the word that it lies in.
		word := v.bytes(off &^ 7)
		n := copy(dst, word[off%8:])
		off, dst = off+uint64(n), dst[n:]
	}
	return true
}

// bytes is the up to eight bytes at base, a multiple of eight inside v, read
// atomically. Bytes past the end of v are zero.
func (v View) bytes(base uint64) (b [8]byte) {
	if v.inside(base, 8) {
		binary.NativeEndian.PutUint64(b[:], v.word64(base).Load())
		return b
	}
	i := uint64(0)
	if v.inside(base, 4) {
		binary.NativeEndian.PutUint32(b[:], v.word32(base).Load())
		i = 4
	}
	for ; v.inside(base+i, 1); i++ {
		b[i] = v.b[base+i]
	}
	return b
}

// CopyIn copies src to off. Whole words are stored atomically; bytes at
// unaligned ends one by one, so that their neighbours, which somebody else may
// be writing, are never written back. It says false, and writes nothing, if they
// are not inside v.
func (v View) CopyIn(off uint64, src []byte) bool {
	if !v.inside(off, uint64(len(src))) {
		return false
	}
	for len(src) > 0 {
		if off%8 == 0 && len(src) >= 8 {
			v.word64(off).Store(binary.NativeEndian.Uint64(src))
			off, src = off+8, src[8:]
			continue
		}
		if off%4 == 0 && len(src) >= 4 {
			v.word32(off).Store(binary.NativeEndian.Uint32(src))
			off, src = off+4, src[4:]
			continue
		}
		v.b[off] = src[0]
		off, src = off+1, src[1:]
	}
	return true
}

// Zero stores zeros over all of v.
func (v View) Zero() {
	off := uint64(0)
	for ; v.inside(off, 8); off += 8 {
		v.word64(off).Store(0)
	}
	for ; off < v.Len(); off++ {
		v.b[off] = 0
	}
}
