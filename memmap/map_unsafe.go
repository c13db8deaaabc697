// SPDX-License-Identifier: Apache-2.0

package memmap

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// at is addr as a pointer. The address is one of a slot's, far from the Go
// heap, so the garbage collector has no business with it.
func at(addr uintptr) unsafe.Pointer { return unsafe.Add(nil, addr) }

// reserve takes n bytes of address space at addr, with no access and no memory
// behind it. It fails with EEXIST if something is mapped there already.
func reserve(addr uintptr, n uintptr) error {
	p, err := unix.MmapPtr(-1, 0, at(addr), n, unix.PROT_NONE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE|unix.MAP_FIXED_NOREPLACE)
	if err != nil {
		return err
	}
	if uintptr(p) != addr { // a kernel before 4.17 takes the address for a hint
		_ = unix.MunmapPtr(p, n)
		return unix.EEXIST
	}
	return nil
}

// mapFixed maps n bytes of fd from off, shared and writable, over what is
// reserved at addr.
func mapFixed(addr uintptr, n uint64, fd int, off int64) ([]byte, error) {
	p, err := unix.MmapPtr(fd, off, at(addr), uintptr(n), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_FIXED)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(p), n), nil
}

// release unmaps n bytes at addr.
func release(addr uintptr, n uintptr) error {
	return unix.MunmapPtr(at(addr), n)
}
