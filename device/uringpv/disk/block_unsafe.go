// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// blockSize64 is the size in bytes of the block device fd (ioctl BLKGETSIZE64,
// linux/fs.h, which stores a u64: x/sys has no wrapper for that).
func blockSize64(fd int) (uint64, error) {
	var n uint64
	// The pointer is converted in the call's arguments, so n stays where it is.
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return 0, errno
	}
	return n, nil
}
