// SPDX-License-Identifier: Apache-2.0

package uring

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Error is a failed call to the driver. errors.Is finds its errno.
type Error struct {
	Call  string // the ioctl, or "mmap"
	Errno unix.Errno
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Call, e.Errno) }

// Unwrap is the errno.
func (e *Error) Unwrap() error { return e.Errno }

// ErrBadOffsets says that the driver returned ring offsets that lie outside the
// ring's memory.
var ErrBadOffsets = errors.New("the driver's ring offsets lie outside the ring's memory")

// errnoOf is the errno that a system call's error is.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	errors.As(err, &errno)
	return errno
}
