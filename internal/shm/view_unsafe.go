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
