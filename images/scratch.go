// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Fill says what a scratch image holds at first.
type Fill int

const (
	// Zeros is an image that reads as zeros. Its space is reserved where the
	// file system can do that, so a guest's writes do not run into a full disk.
	Zeros Fill = iota
	// Random is an image of pseudo-random bytes, the same ones every time. Its
	// pages are in the page cache when NewScratch returns.
	Random
)

// Scratch is a disk image for one run. It has no name in any directory, so the
// kernel removes it when its last descriptor is closed: also when the process is
// killed.
type Scratch struct {
	f    *os.File
	size int64

	close    sync.Once
	closeErr error
}

// NewScratch makes an image of size bytes, at least 1, on the file system of dir;
// an empty dir means os.TempDir.
//
// The error is an *os.PathError that names dir, and wraps ENOSPC where the file
// system has no room for it.
func NewScratch(dir string, size int64, fill Fill) (*Scratch, error) {
	if size < 1 {
		return nil, fmt.Errorf("a scratch image of %d bytes: at least 1 is needed", size)
	}
	if dir == "" {
		dir = os.TempDir()
	}
	f, err := unnamed(dir)
	if err != nil {
		return nil, scratchError(dir, err)
	}
	keepAccessTime(f)
	s := &Scratch{f: f, size: size}
	if err := s.fill(fill); err != nil {
		return nil, scratchError(dir, errors.Join(err, s.Close()))
	}
	return s, nil
}

func scratchError(dir string, err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err // the path in it says nothing: the file has no name
	}
	return &os.PathError{Op: "make a scratch image in", Path: dir, Err: err}
}

// unnamed opens a new file on dir's file system that no directory lists.
func unnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), "scratch image"), nil
	case !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR):
		return nil, err
	}
	// Some file systems (older overlayfs, NFS, FUSE) have no O_TMPFILE.
	f, err := os.CreateTemp(dir, "uringpv-scratch-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// keepAccessTime has the file system take no note of when f is read, where it can:
// nobody asks, and each read is faster (FS_NOATIME_FL, ioctl_iflags(2)).
func keepAccessTime(f *os.File) {
	const noAtime = 0x80
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|noAtime))
	}
}

func (s *Scratch) fill(fill Fill) error {
	switch fill {
	case Zeros:
		err := unix.Fallocate(int(s.f.Fd()), 0, 0, s.size)
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = s.f.Truncate(s.size)
		}
		return err
	case Random:
		src := rand.NewChaCha8([32]byte{})
		buf := make([]byte, min(s.size, 1<<20))
		for left := s.size; left > 0; {
			n := min(left, int64(len(buf)))
			src.Read(buf[:n]) // never fails, see its documentation
			if _, err := s.f.Write(buf[:n]); err != nil {
				return err
			}
			left -= n
		}
		return nil
	default:
		return fmt.Errorf("unknown fill %d", fill)
	}
}

// Path is a path that opens the image anew, with its own flags and position, in
// this process, until Close.
func (s *Scratch) Path() string { return fmt.Sprintf("/proc/self/fd/%d", s.f.Fd()) }

// File is the image, open for reading and writing. It belongs to the Scratch.
func (s *Scratch) File() *os.File { return s.f }

// Size is the image's size in bytes.
func (s *Scratch) Size() int64 { return s.size }

// Close lets go of the image. The file itself lives on while others have it
// open, and no longer. A second Close does nothing and returns the same.
func (s *Scratch) Close() error {
	s.close.Do(func() { s.closeErr = s.f.Close() })
	return s.closeErr
}
