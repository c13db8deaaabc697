// SPDX-License-Identifier: Apache-2.0

package export

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/disk"
)

// Export is something that is open for guests, as one file of a device or two.
type Export struct {
	files []uringpv.File
	ends  []func() error // what Close does, the last one first
}

// Files are the export's files as a device shows them to a guest. They are valid
// until Close.
func (e *Export) Files() []uringpv.File { return e.files }

// Close lets go of everything, and removes what was made on the host. Requests
// that a ring still has in flight keep their file until they end. Further calls
// do nothing.
func (e *Export) Close() error {
	var errs []error
	for _, end := range slices.Backward(e.ends) {
		errs = append(errs, end())
	}
	e.ends, e.files = nil, nil
	return errors.Join(errs...)
}

// closeFD is a function for Export.ends.
func closeFD(what string, fd int) func() error {
	return func() error {
		if err := unix.Close(fd); err != nil {
			return &Error{what, fmt.Sprintf("close: %v", err), err}
		}
		return nil
	}
}

// add puts fd, which is the Export's from now on, among its files.
func (e *Export) add(fd int, f uringpv.File) {
	f.FD, f.BlockSize, f.DIOMemAlign, f.DIOOffsetAlign = fd, 1, 1, 1
	e.files = append(e.files, f)
	e.ends = append(e.ends, closeFD(f.Name, fd))
}

// Error is something that cannot be exported.
type Error struct {
	What   string // as the user named it: a path, an address, an interface
	Reason string // what is wrong, and what would be right
	Err    error  // the cause; its text is in Reason
}

// Error is one line.
func (e *Error) Error() string { return printable(e.What) + ": " + e.Reason }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// printable is s in one line.
func printable(s string) string {
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}

// uninterrupted repeats call as long as a signal to Go's runtime interrupts it.
func uninterrupted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// FileOptions are how to open a regular file or a block device.
type FileOptions struct {
	Name     string // in the guest
	Path     string
	ReadOnly bool   // open for reading only, and share with other readers
	Direct   bool   // O_DIRECT
	Twin     string // unless empty: a second file of this name, the same for reading only
}

// OpenFile opens and locks a file as disk.OpenDisk does. Errors are *disk.Error.
func OpenFile(o FileOptions) (*Export, error) {
	d, err := disk.OpenDisk(o.Path, disk.Options{ID: o.Name, ReadOnly: o.ReadOnly, Direct: o.Direct, Regular: true})
	if err != nil {
		return nil, err
	}
	e := &Export{files: []uringpv.File{d.File()}, ends: []func() error{d.Close}}
	if o.Twin != "" {
		t, err := d.ReadOnlyTwin(o.Twin)
		if err != nil {
			return nil, errors.Join(err, e.Close())
		}
		e.files = append(e.files, t.File())
		e.ends = append(e.ends, t.Close)
	}
	return e, nil
}

// OpenEventfd makes an eventfd of the value 0.
func OpenEventfd(name string) (*Export, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, &Error{name, fmt.Sprintf("make an eventfd: %v", err), err}
	}
	e := &Export{}
	e.add(fd, uringpv.File{Name: name, Kind: abi.FileEventfd})
	return e, nil
}
