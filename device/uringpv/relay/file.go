// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
)

// refresh is the least time between two looks at a file's size. It keeps a
// guest that writes past the end from making a system call for each attempt.
const refresh = time.Millisecond

// file is one of a ring's files, with its size as it was last seen. It belongs
// to the ring's goroutine.
type file struct {
	readOnly bool
	block    bool
	look     func() (int64, error)
	size     uint64
	looked   time.Time
	calls    *uint64 // system calls of the ring
}

// files looks at the size of each of a ring's files.
func files(in []uringpv.File, calls *uint64) ([]file, error) {
	out := make([]file, len(in))
	for i := range in {
		f := file{readOnly: in[i].ReadOnly, block: in[i].BlockDevice, look: in[i].Size, calls: calls}
		n, err := f.look()
		if err != nil {
			return nil, err
		}
		f.size = uint64(max(n, 0))
		*calls++
		out[i] = f
	}
	return out, nil
}

// within says whether [off, off+n) lies in the file; off+n does not overflow. It
// looks at the size again only if it does not.
func (f *file) within(off, n uint64) bool {
	return off+n <= f.size || f.again() && off+n <= f.size
}

// room is how many of the n bytes to be written at off lie inside the file. At
// and past the end it is io_uring's error: EFBIG as under RLIMIT_FSIZE, ENOSPC
// as from a block device.
func (f *file) room(off, n uint64) (uint64, unix.Errno) {
	switch {
	case f.within(off, n):
		return n, 0
	case off < f.size:
		return f.size - off, 0
	case f.block:
		return 0, unix.ENOSPC
	}
	return 0, unix.EFBIG
}

// again looks at the size, unless it did a moment ago. The file may have grown
// at the hands of its owner.
func (f *file) again() bool {
	now := time.Now()
	if now.Sub(f.looked) < refresh {
		return false
	}
	f.looked = now
	*f.calls++
	n, err := f.look()
	if err != nil || n < 0 {
		return false // the size seen last still bounds
	}
	f.size = uint64(n)
	return true
}
