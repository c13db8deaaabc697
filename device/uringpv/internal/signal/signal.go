// SPDX-License-Identifier: Apache-2.0

package signal

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// one is what Raise writes: in memory for good, since a system call's argument on the
// stack would move to the heap.
var one = [8]byte{1}

// Raise adds one to the non-blocking eventfd fd. If its counter is full it is signalled
// already (eventfd(2)), and that is no error. Others are unix.Errno.
func Raise(fd int) error {
	for {
		switch _, err := unix.Write(fd, one[:]); err {
		case nil, unix.EAGAIN:
			return nil
		case unix.EINTR:
		default:
			return err
		}
	}
}

// Take sets the non-blocking eventfd fd to zero and returns what it was: 0 if nobody has
// signalled, or if it cannot be read. buf is where the kernel writes it.
func Take(fd int, buf *[8]byte) uint64 {
	for {
		n, err := unix.Read(fd, buf[:])
		switch {
		case err == nil && n == len(buf):
			return binary.NativeEndian.Uint64(buf[:])
		case err != unix.EINTR:
			return 0
		}
	}
}
