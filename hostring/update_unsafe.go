// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"runtime"
	"structs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// filesUpdate is struct io_uring_files_update.
type filesUpdate struct {
	_      structs.HostLayout
	offset uint32
	resv   uint32
	fds    uint64 // address of an array of int32
}

// KeepFile, in UpdateFiles, leaves an entry as it is (IORING_REGISTER_FILES_SKIP,
// Linux 5.12).
const KeepFile = -2

// UpdateFiles replaces entries of the file table from off on; -1 empties one.
// With an error some of them may have been replaced.
func (r *Ring) UpdateFiles(off uint32, fds []int32) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	first := unsafe.SliceData(fds)
	if first != nil {
		pin.Pin(first) // its address travels as a number
	}
	base := uint64(uintptr(unsafe.Pointer(first)))
	return inParts(uint32(len(fds)), func(done, n uint32) (int, error) {
		arg := filesUpdate{offset: off + done, fds: base + uint64(done)*uint64(unsafe.Sizeof(fds[0]))}
		return registerStruct(r.fd, RegisterFilesUpdate, &arg, n)
	})
}

// inParts updates n entries: the kernel says how many it has done where it could
// not do the next one, and why it could not only when that is the first.
func inParts(n uint32, update func(done, n uint32) (int, error)) error {
	for done := uint32(0); ; {
		k, err := update(done, n-done)
		if err != nil {
			return err
		}
		if k <= 0 {
			return unix.EIO // no kernel does nothing and calls it success
		}
		if done += uint32(k); done >= n {
			return nil
		}
	}
}

// rsrcUpdate2 is struct io_uring_rsrc_update2.
type rsrcUpdate2 struct {
	_      structs.HostLayout
	offset uint32
	resv   uint32
	data   uint64 // address of an array of iovec
	tags   uint64
	nr     uint32
	resv2  uint32
}

// UpdateBuffers replaces registered buffers from off on (Linux 5.13); one of
// length 0 empties an entry. EINVAL: the table has no such entry; ENXIO: there is
// no table. With an error some of them may have been replaced.
func (r *Ring) UpdateBuffers(off uint32, b []Buffer) error {
	v := make([]iovec, len(b))
	for i := range b {
		if b[i].Length != 0 {
			v[i] = iovec{base: uint64(b[i].Addr), len: b[i].Length}
		}
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	first := unsafe.SliceData(v)
	if first != nil {
		pin.Pin(first)
	}
	base := uint64(uintptr(unsafe.Pointer(first)))
	return inParts(uint32(len(v)), func(done, n uint32) (int, error) {
		arg := rsrcUpdate2{offset: off + done, data: base + uint64(done)*uint64(unsafe.Sizeof(v[0])), nr: n}
		return registerStruct(r.fd, RegisterBuffersUpdate, &arg, uint32(unsafe.Sizeof(arg)))
	})
}
