// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bareSetup is io_uring_setup(2), which a signal may make the kernel do twice: see
// setup. The descriptor is close-on-exec.
func bareSetup(entries uint32, p *Params) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
	if errno != 0 {
		return -1, &Error{Call: "io_uring_setup", Errno: errno}
	}
	return int(fd), nil
}

// enter is io_uring_enter(2) without a signal mask. It may sleep.
func enter(fd int, toSubmit, minComplete, flags uint32) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(toSubmit), uintptr(minComplete), uintptr(flags), 0, 0)
	return int(n), errno
}

// register is io_uring_register(2) with arg pointing at n elements.
func register(fd int, op uint8, arg unsafe.Pointer, n uint32) (int, error) {
	for {
		r, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), uintptr(op), uintptr(arg), uintptr(n), 0, 0)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
			// The runtime's preemption signal; nothing was registered.
		default:
			return 0, &Error{"io_uring_register", registerName(op), errno}
		}
	}
}

// registerSlice is register with the elements of s, which the kernel has done
// with when the call returns.
func registerSlice[T any](fd int, op uint8, s []T) (int, error) {
	r, err := register(fd, op, unsafe.Pointer(unsafe.SliceData(s)), uint32(len(s)))
	runtime.KeepAlive(s)
	return r, err
}

// registerStruct is register with one structure and a count.
func registerStruct[T any](fd int, op uint8, arg *T, n uint32) (int, error) {
	r, err := register(fd, op, unsafe.Pointer(arg), n)
	runtime.KeepAlive(arg)
	return r, err
}

// registerNil is register without an argument.
func registerNil(fd int, op uint8) error {
	_, err := register(fd, op, nil, 0)
	return err
}

// sqeAt is the i-th SQE in b, which belongs to this process alone until the
// tail passes it: plain stores are enough, the tail's store publishes them.
func sqeAt(b []byte, i uint32) *SQE {
	off := uintptr(i) * SQESize
	_ = b[off+SQESize-1]
	return (*SQE)(unsafe.Pointer(&b[off]))
}
