// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl makes request r on fd with one structure, which the kernel has done with
// when the call returns. The error wraps the errno.
func ioctl[T any](fd int, r request, arg *T) error {
	_, err := ioctlResult(fd, r, arg)
	return err
}

// ioctlResult is ioctl for requests that answer with a number. The pointer
// becomes a number in the system call's own expression, which is what keeps the
// structure in its place (package unsafe, rule 4).
func ioctlResult[T any](fd int, r request, arg *T) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), r.op, uintptr(unsafe.Pointer(arg)))
		runtime.KeepAlive(arg)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, fmt.Errorf("%s: %w", r.name, errno)
		}
	}
}
