// SPDX-License-Identifier: Apache-2.0

package shm

import (
	"sync/atomic"
	"unsafe"
)

// Addr is the host's address of the View's first byte, 0 for the zero View. It
// is for the kernel; it keeps nothing alive. That of an empty slice of a View
// names no byte.
func (v View) Addr() uintptr {
	// A slice's data pointer, without indexing, so that empty Views have one too.
	return uintptr(unsafe.Pointer(unsafe.SliceData(v.b)))
}

// word32 is the word at off, which the caller has checked.
func (v View) word32(off uint64) *atomic.Uint32 {
	// Aligned: the View begins at a multiple of 8 and off is one of 4.
	return (*atomic.Uint32)(unsafe.Pointer(&v.b[off]))
}

// word64 is the word at off, which the caller has checked.
func (v View) word64(off uint64) *atomic.Uint64 {
	// In bounds: &v.b[off] panics past the end, and the caller checked off+8.
	return (*atomic.Uint64)(unsafe.Pointer(&v.b[off]))
}

// plain128 stores two words at off, which the caller has checked, without the
// locked exchange that an atomic store is on x86-64. There an aligned word is
// stored whole, and stores are seen in their order (Intel SDM 3A, 9.2.2; AMD64 APM
// 2, 7.2), so the atomic one that publishes them comes after them.
func (v View) plain128(off, lo, hi uint64) {
	// In bounds: the last byte's index panics past the end, and the caller checked it.
	_ = v.b[off+15]
	p := (*[2]uint64)(unsafe.Pointer(&v.b[off]))
	p[0], p[1] = lo, hi
}
