// SPDX-License-Identifier: Apache-2.0

package quiesce

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Sentinel watches one ring. Its methods may be called from any goroutine; one
// Wait at a time.
type Sentinel struct {
	mu    sync.Mutex // guards what follows
	read  int        // until Handed; else -1
	write int        // until Close; else -1
	gone  bool
}

// New makes the pipe. Register the descriptor that File returns as a file of
// the ring, then call Handed.
func New() (*Sentinel, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("pipe2 for a ring's sentinel: %w", err)
	}
	return &Sentinel{read: p[0], write: p[1]}, nil
}

// File is the descriptor to register, -1 after Handed. Reads of it find nothing
// and writes to it fail with EBADF.
func (s *Sentinel) File() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read
}

// Handed says that the ring now holds the file, or that no ring ever will, and
// gives up the Sentinel's own reference.
func (s *Sentinel) Handed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read >= 0 {
		_ = unix.Close(s.read) // of a pipe: nothing to fail
		s.read = -1
	}
}

// Wait returns nil when the kernel has freed the ring, whose descriptor the
// caller has closed, and ctx's error if that comes first. It may be called
// again. The Sentinel's descriptors are closed when it returns nil.
func (s *Sentinel) Wait(ctx context.Context) error {
	s.Handed()
	// The wake-up of this very call: poll has no other way to end early.
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd to wait for a ring's end: %w", err)
	}
	defer unix.Close(wake)
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-fired // it uses the descriptor
		}
	}()

	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.gone {
		fds := []unix.PollFd{{Fd: int32(s.write)}, {Fd: int32(wake), Events: unix.POLLIN}}
		if err := s.poll(fds, -1); err != nil {
			return err
		}
		if !s.gone && fds[1].Revents != 0 {
			return ctx.Err()
		}
	}
	return nil
}

// Gone says whether Wait would return nil at once. It closes the descriptors if
// so.
func (s *Sentinel) Gone() bool {
	s.Handed()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		_ = s.poll([]unix.PollFd{{Fd: int32(s.write)}}, 0) // an error: not known to be gone
	}
	return s.gone
}

// poll looks at the write end, which is fds' first, and takes note. The caller
// holds mu.
func (s *Sentinel) poll(fds []unix.PollFd, timeout int) error {
	if _, err := unix.Poll(fds, timeout); err != nil {
		if errors.Is(err, unix.EINTR) {
			return nil
		}
		return fmt.Errorf("poll for a ring's end: %w", err)
	}
	if fds[0].Revents&unix.POLLERR != 0 {
		_ = unix.Close(s.write) // of a pipe: nothing to fail
		s.write, s.gone = -1, true
	}
	return nil
}
