// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl makes request r on fd with one structure, which the kernel has done with
// when the call returns. The pointer becomes a number in the system call's own
// expression, which is what keeps the structure in its place (package unsafe,
// rule 4). The error wraps the errno.
func ioctl[T any](fd int, r request, arg *T) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), r.op, uintptr(unsafe.Pointer(arg)))
		runtime.KeepAlive(arg)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("%s: %w", r.name, errno)
		}
	}
}
