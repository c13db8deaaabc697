// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
)

// Options are how to open a disk.
type Options struct {
	// ID is the disk's name in the guest; its serial number is derived from it.
	// If empty, it is the last element of the path.
	ID string

	ReadOnly bool // open for reading only, and share with other readers
	Direct   bool // O_DIRECT: bypass the host's page cache
	Regular  bool // shown to the guest as a regular file, not as a disk
}

// noun is what errors call it.
func (o Options) noun() string {
	if o.Regular {
		return "file"
	}
	return "disk"
}

// Disk is an open disk and a lock on it: exclusive if it can be written, shared
// if not. Its methods may be called from any goroutine, except that Close may
// not run at the same time as another.
type Disk struct {
	path     string
	id       string
	fd       int // what I/O goes to
	lock     int // refers to the open file that holds the lock; equal to fd or a duplicate
	options  Options
	readOnly bool
	direct   bool
	poll     bool // I/O with IORING_SETUP_IOPOLL works
	block    bool

	blockSize, memAlign, offsetAlign uint32
}

// defaultBlock is the logical block size of an image in a regular file, in
// bytes, and what direct I/O is aligned to where nobody says anything better.
const (
	defaultBlock = 512
	defaultAlign = 4096
)

// OpenDisk opens the regular file or block device at path and locks it. It
// follows symbolic links. Errors are *Error.
//
// A disk opened for reading only keeps its times too where the kernel permits
// that (open(2), O_NOATIME: to the file's owner and with CAP_FOWNER).
func OpenDisk(path string, o Options) (_ *Disk, err error) {
	// O_PATH opens nothing: no pipe blocks, no tape rewinds, no terminal becomes
	// ours. What it found is then opened, not what path names by now.
	found, err := openat(path, unix.O_PATH)
	if err != nil {
		return nil, openError(path, o, err)
	}
	defer func() { _ = unix.Close(found) }()
	d := &Disk{path: path, id: o.ID, fd: -1, lock: -1, options: o, readOnly: o.ReadOnly, direct: o.Direct}
	if d.id == "" {
		d.id = filepath.Base(path)
	}
	if d.block, err = kind(path, o, found); err != nil {
		return nil, err
	}
	if d.fd, err = d.reopen(found); err != nil {
		if err == unix.ENOENT { // path itself was found
			return nil, &Error{path, "cannot be opened through /proc/self/fd: /proc has to be mounted", err}
		}
		return nil, openError(path, o, err)
	}
	d.lock = d.fd
	defer func() {
		if err != nil {
			_ = d.Close()
		}
	}()
	if err := d.takeLock(); err != nil {
		return nil, err
	}
	if err := d.measure(); err != nil {
		return nil, err
	}
	if d.direct {
		d.poll = polls(d.fd, int(max(d.blockSize, d.offsetAlign)))
	}
	size, err := d.Size()
	switch {
	case err != nil:
		return nil, err
	case size == 0 && d.block:
		return nil, &Error{path, "is an empty block device, a drive without a medium perhaps: a " + o.noun() + " has at least one byte", ErrNotDisk}
	case size == 0:
		return nil, &Error{path, "is empty: a " + o.noun() + " has at least one byte (truncate -s 1G makes one of 1 GiB)", ErrNotDisk}
	}
	return d, nil
}

// openat is open(2), without the interruptions of Go's runtime.
func openat(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// kind says whether fd is a block device, or why it is no disk.
func kind(path string, o Options, fd int) (block bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, &Error{path, fmt.Sprintf("fstat: %v", err), err}
	}
	what := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return false, nil
	case unix.S_IFBLK:
		return true, nil
	case unix.S_IFDIR:
		what = "a directory"
	case unix.S_IFIFO:
		what = "a named pipe"
	case unix.S_IFSOCK:
		what = "a socket"
	case unix.S_IFCHR:
		what = "a character device"
	default:
		what = "a file of an unknown type"
	}
	return false, &Error{path, "is " + what + ": a " + o.noun() + " is a regular file or a block device", ErrNotDisk}
}

// reopen opens the file that fd refers to in d's way.
func (d *Disk) reopen(fd int) (int, error) {
	flags := unix.O_RDWR
	if d.readOnly {
		flags = unix.O_RDONLY
	}
	if d.direct {
		flags |= unix.O_DIRECT
	}
	if d.block && !d.readOnly {
		flags |= unix.O_EXCL // not one that the host has mounted (open(2))
	}
	link := fmt.Sprintf("/proc/self/fd/%d", fd)
	if d.readOnly {
		n, err := openat(link, flags|unix.O_NOATIME)
		if err != unix.EPERM {
			return n, err
		}
		// Not ours, so its access time is not for us to keep.
	}
	return openat(link, flags)
}

// openError is what err, from opening path, means to a user.
func openError(path string, o Options, err error) error {
	reason := err.Error()
	switch {
	case errors.Is(err, unix.EACCES) && !o.ReadOnly:
		reason += " to read and write it (readonly=on needs less)"
	case errors.Is(err, unix.EACCES):
		reason += " to read it"
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EPERM) && !o.ReadOnly:
		reason += ": cannot be written, use readonly=on"
	case errors.Is(err, unix.ETXTBSY):
		reason += ": is being executed, use readonly=on"
	case errors.Is(err, unix.EBUSY):
		return &Error{path, o.noun() + " in use: the host has mounted it or a part of it; unmount it or use readonly=on", ErrInUse}
	case errors.Is(err, unix.EINVAL) && o.Direct:
		return &Error{path, "its file system cannot do direct I/O (O_DIRECT): leave out direct=on", ErrNoDirect}
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENOMEDIUM):
		reason += ": no drive or no medium behind this block device"
	}
	return &Error{path, reason, err}
}

// takeLock takes an open file description lock on all of the disk (fcntl(2),
// F_OFD_SETLK). It belongs to the open file, not to the process: two disks of one
// process exclude each other as well.
func (d *Disk) takeLock() error {
	want := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if d.readOnly {
		want.Type = unix.F_RDLCK
	}
	for {
		err := unix.FcntlFlock(uintptr(d.fd), unix.F_OFD_SETLK, &want)
		switch {
		case err == nil:
			return nil
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN || err == unix.EACCES:
			return &Error{d.path, d.whoHasIt(want), ErrInUse}
		}
		return &Error{d.path, fmt.Sprintf("cannot be locked: %v; the %s has to be on a file system with file locks", err, d.options.noun()), err}
	}
}

// whoHasIt says who keeps d from taking the lock want.
func (d *Disk) whoHasIt(want unix.Flock_t) string {
	held := want
	if err := unix.FcntlFlock(uintptr(d.fd), unix.F_OFD_GETLK, &held); err == nil && held.Type == unix.F_RDLCK {
		return d.options.noun() + " in use: somebody reads it, so it must not be written; use readonly=on or another copy"
	}
	if d.readOnly {
		return d.options.noun() + " in use: somebody writes it, so it cannot be read safely; use another copy"
	}
	return d.options.noun() + " in use: somebody else writes it; use another copy"
}

// measure learns block size and alignment.
func (d *Disk) measure() error {
	d.blockSize, d.memAlign, d.offsetAlign = defaultBlock, 1, 1
	if d.block {
		n, err := unix.IoctlGetInt(d.fd, unix.BLKSSZGET)
		if err != nil || n < defaultBlock || n&(n-1) != 0 {
			return &Error{d.path, fmt.Sprintf("logical block size %d (BLKSSZGET): %v", n, err), errors.Join(ErrNotDisk, err)}
		}
		d.blockSize = uint32(n)
	}
	if !d.direct {
		return nil
	}
	var st unix.Statx_t
	err := unix.Statx(d.fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	known := err == nil && st.Mask&unix.STATX_DIOALIGN != 0
	switch {
	case known && (st.Dio_mem_align == 0 || st.Dio_offset_align == 0):
		return &Error{d.path, "its file system cannot do direct I/O on this file: leave out direct=on", ErrNoDirect}
	case known:
		d.memAlign, d.offsetAlign = st.Dio_mem_align, st.Dio_offset_align
	case d.block: // before Linux 6.1: the rule of open(2)
		d.memAlign, d.offsetAlign = d.blockSize, d.blockSize
	default: // a file system that does not say, or before Linux 6.1
		d.memAlign, d.offsetAlign = defaultAlign, defaultAlign
	}
	d.blockSize = max(d.blockSize, d.offsetAlign)
	return nil
}

// Size is the disk's size in bytes at this moment. The error is an *Error.
func (d *Disk) Size() (int64, error) {
	if d.block {
		n, err := blockSize64(d.fd)
		if err != nil {
			return 0, &Error{d.path, fmt.Sprintf("size (BLKGETSIZE64): %v", err), err}
		}
		return int64(n), nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return 0, &Error{d.path, fmt.Sprintf("size: %v", err), err}
	}
	return st.Size, nil
}

// Path is what OpenDisk was given.
func (d *Disk) Path() string { return d.path }

// ID is the disk's name in the guest.
func (d *Disk) ID() string { return d.id }

// FD is the descriptor for I/O. It stays the Disk's and is valid until Close.
func (d *Disk) FD() int { return d.fd }

// ReadOnly says whether the descriptor is open for reading only.
func (d *Disk) ReadOnly() bool { return d.readOnly }

// BlockDevice says whether the disk is a block device.
func (d *Disk) BlockDevice() bool { return d.block }

// File is the disk as a device shows it to a guest. It is valid until Close.
func (d *Disk) File() uringpv.File {
	kind := abi.FileDisk
	if d.options.Regular {
		kind = abi.FileRegular
	}
	return uringpv.File{
		FD:             d.fd,
		Kind:           kind,
		Name:           d.id,
		Serial:         serial(d.id),
		Size:           d.Size,
		ReadOnly:       d.readOnly,
		Direct:         d.direct,
		Poll:           d.poll,
		BlockDevice:    d.block,
		BlockSize:      d.blockSize,
		DIOMemAlign:    d.memAlign,
		DIOOffsetAlign: d.offsetAlign,
	}
}

// maxSerial is the most that a serial number has, in bytes (struct uringpv_file).
const maxSerial = 31

// serial is a serial number for id: id itself if it is plain ASCII and short,
// else as much of it as is, and a checksum that keeps different ids apart.
func serial(id string) string {
	plain := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, id)
	if plain == id && len(id) <= maxSerial {
		return id
	}
	h := fnv.New32a()
	_, _ = io.WriteString(h, id)
	return fmt.Sprintf("%.*s-%08x", maxSerial-9, plain, h.Sum32())
}

// ReadOnlyTwin opens the same disk once more, for reading only and under d's
// lock, which is held until both are closed: so that a device can have one disk
// as two files. An empty id means d's with "-ro" appended. Errors are *Error.
func (d *Disk) ReadOnlyTwin(id string) (_ *Disk, err error) {
	if id == "" {
		id = d.id + "-ro"
	}
	t := *d
	t.id, t.readOnly, t.fd, t.lock = id, true, -1, -1
	if t.fd, err = t.reopen(d.fd); err != nil {
		return nil, openError(d.path, Options{ReadOnly: true, Direct: d.direct, Regular: d.options.Regular}, err)
	}
	if t.lock, err = unix.FcntlInt(uintptr(d.lock), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		_ = unix.Close(t.fd)
		return nil, &Error{d.path, fmt.Sprintf("duplicate its lock: %v", err), err}
	}
	return &t, nil
}

// Close lets go of the disk and, after its twins, of the lock. Requests that a
// ring still has in flight keep both until they end. Further calls do nothing.
func (d *Disk) Close() error {
	if d.fd < 0 {
		return nil
	}
	err := unix.Close(d.fd)
	if d.lock != d.fd && d.lock >= 0 {
		err = errors.Join(err, unix.Close(d.lock))
	}
	d.fd, d.lock = -1, -1
	if err != nil {
		return &Error{d.path, fmt.Sprintf("close: %v", err), err}
	}
	return nil
}
