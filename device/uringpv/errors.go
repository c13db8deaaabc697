// SPDX-License-Identifier: Apache-2.0

package uringpv

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"
)

// GuestError is something that the guest did wrong. It harms nobody but the
// guest, who gets Errno.
type GuestError struct {
	Errno  unix.Errno
	Reason string // for who writes the driver
}

func (e *GuestError) Error() string { return e.Reason + ": " + e.Errno.Error() }

// Unwrap is the Errno.
func (e *GuestError) Unwrap() error { return e.Errno }

// guestErrorf is a *GuestError with a reason.
func guestErrorf(errno unix.Errno, format string, args ...any) error {
	return &GuestError{errno, fmt.Sprintf(format, args...)}
}

// HostError is something that the host refused or got wrong: the guest's
// request was in order.
type HostError struct {
	Op  string // what the device was doing, "set up ring 3"
	Err error
}

func (e *HostError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap is the cause.
func (e *HostError) Unwrap() error { return e.Err }

// errnoOf is what the guest is told of err.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	switch {
	case err == nil:
		return 0
	case timedOut(err):
		return unix.ETIMEDOUT
	case errors.As(err, &errno) && errno > 0 && errno < maxErrno:
		return errno
	}
	return unix.EIO
}

// maxErrno is the kernel's MAX_ERRNO (linux/err.h).
const maxErrno = 4096

// timedOut says whether err means that a wait was given up.
func timedOut(err error) bool {
	return errors.Is(err, unix.ETIMEDOUT) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// collect is all the errors of a teardown in one line, or nil.
func collect(errs ...error) error {
	var all *multierror.Error
	for _, err := range errs {
		if err != nil {
			all = multierror.Append(all, err)
		}
	}
	if all != nil {
		all.ErrorFormat = func(errs []error) string {
			lines := make([]string, len(errs))
			for i, err := range errs {
				lines[i] = err.Error()
			}
			return strings.Join(lines, "; ")
		}
	}
	return all.ErrorOrNil()
}
