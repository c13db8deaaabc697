// SPDX-License-Identifier: Apache-2.0

package testutil

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sqPollRing makes an io_uring whose SQ ring the kernel polls, by hand: this
// package is below hostring.
func sqPollRing() (fd int, err error) {
	const setupSQPoll = 1 << 1
	params := [30]uint32{2: setupSQPoll} // struct io_uring_params, 120 bytes; word 2 is flags
	// The conversion stands in the call, which keeps params alive; the kernel
	// uses it during the call only.
	r, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}
