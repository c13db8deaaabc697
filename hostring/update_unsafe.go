// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"runtime"
	"structs"
	"unsafe"
)

// filesUpdate is struct io_uring_files_update.
type filesUpdate struct {
	_      structs.HostLayout
	offset uint32
	resv   uint32
	fds    uint64 // address of an array of int32
}

// UpdateFiles replaces entries of the file table from off on; -1 empties one.
func (r *Ring) UpdateFiles(off uint32, fds []int32) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	first := unsafe.SliceData(fds)
	if first != nil {
		pin.Pin(first) // its address travels as a number
	}
	arg := filesUpdate{offset: off, fds: uint64(uintptr(unsafe.Pointer(first)))}
	_, err := registerStruct(r.fd, RegisterFilesUpdate, &arg, uint32(len(fds)))
	return err
}
