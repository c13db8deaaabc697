// SPDX-License-Identifier: Apache-2.0

package export

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
)

// What a pipe's name is followed by in the names of its two ends.
const (
	ReadEnd  = ".read"
	WriteEnd = ".write"
)

// PipeOptions are how to open a pipe.
type PipeOptions struct {
	Name  string // in the guest; a fresh pipe's two ends have ReadEnd and WriteEnd behind it
	Path  string // a named pipe; empty: a fresh pipe, both ends of which are the guest's
	Write bool   // with Path: the end that is written
}

// OpenPipe makes a pipe or opens one end of a named pipe. Errors are *Error.
func OpenPipe(o PipeOptions) (*Export, error) {
	e := &Export{}
	if o.Path != "" {
		fd, err := openFIFO(o.Path, o.Write)
		if err != nil {
			return nil, err
		}
		e.add(fd, uringpv.File{Name: o.Name, Kind: abi.FilePipe, ReadOnly: !o.Write, WriteOnly: o.Write})
		return e, nil
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, &Error{o.Name, fmt.Sprintf("make a pipe: %v", err), err}
	}
	e.add(p[0], uringpv.File{Name: o.Name + ReadEnd, Kind: abi.FilePipe, ReadOnly: true})
	e.add(p[1], uringpv.File{Name: o.Name + WriteEnd, Kind: abi.FilePipe, WriteOnly: true})
	return e, nil
}

// openFIFO opens an end of the named pipe at path and nothing else: what O_PATH
// found, not what path names by now.
func openFIFO(path string, write bool) (fd int, err error) {
	var found int
	if err := uninterrupted(func() (err error) {
		found, err = unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		return err
	}); err != nil {
		reason := err.Error()
		if err == unix.ENOENT {
			reason += "; mkfifo makes a named pipe"
		}
		return -1, &Error{path, reason, err}
	}
	defer func() { _ = unix.Close(found) }()
	var st unix.Stat_t
	if err := unix.Fstat(found, &st); err != nil {
		return -1, &Error{path, fmt.Sprintf("fstat: %v", err), err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return -1, &Error{path, "is no named pipe; mkfifo makes one", unix.EINVAL}
	}
	// To open must not wait for the other end; what comes later may.
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_WRONLY
	}
	err = uninterrupted(func() (err error) {
		fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", found), flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	switch {
	case err == unix.ENXIO && write:
		return -1, &Error{path, "nobody has it open for reading; start the reader first", err}
	case err != nil:
		return -1, &Error{path, err.Error(), err}
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return -1, &Error{path, fmt.Sprintf("make it block: %v", err), errors.Join(err, unix.Close(fd))}
	}
	return fd, nil
}
