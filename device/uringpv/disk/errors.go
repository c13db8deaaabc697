// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"strconv"
)

// Kinds of refusal, for errors.Is.
var (
	ErrNotDisk  = errors.New("not a disk")         // a directory, a pipe, an empty file, ...
	ErrInUse    = errors.New("in use")             // locked or mounted by somebody else
	ErrNoDirect = errors.New("no direct I/O here") // the file system cannot do O_DIRECT
)

// Error is a disk that cannot be used.
type Error struct {
	Path   string // as the user gave it
	Reason string // what is wrong, and what would be right
	Err    error  // one of the kinds above or a unix.Errno; its text is in Reason
}

// Error is one line, whatever the path.
func (e *Error) Error() string {
	path := e.Path
	for _, r := range path {
		if !strconv.IsPrint(r) {
			path = strconv.Quote(path)
			break
		}
	}
	return path + ": " + e.Reason
}

// Unwrap is the kind of refusal.
func (e *Error) Unwrap() error { return e.Err }
