// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Error is a failed io_uring system call. errors.Is finds its errno.
type Error struct {
	Call  string // "io_uring_setup", "io_uring_enter", "io_uring_register", "mmap"
	Op    string // of io_uring_register: the opcode's name; else empty
	Errno unix.Errno
}

func (e *Error) Error() string {
	if e.Op != "" {
		return fmt.Sprintf("%s(%s): %v", e.Call, e.Op, e.Errno)
	}
	return fmt.Sprintf("%s: %v", e.Call, e.Errno)
}

// Unwrap is the errno.
func (e *Error) Unwrap() error { return e.Errno }

// ErrBadOffsets says that the kernel returned ring offsets that lie outside the
// ring's memory.
var ErrBadOffsets = errors.New("the kernel's ring offsets lie outside the ring's memory")

// ErrClosed says that the ring is closed.
var ErrClosed = errors.New("the ring is closed")

// Errno is the errno inside err, or 0 if there is none.
func Errno(err error) unix.Errno {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return 0
}
