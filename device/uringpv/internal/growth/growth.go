// SPDX-License-Identifier: Apache-2.0

package growth

import (
	"errors"
	"fmt"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrConflict says that the process's one bound cannot be what was asked for,
// because of what is held already.
var ErrConflict = errors.New("the growth bound of the process is in other use")

// ConflictError is an ErrConflict with its figures.
type ConflictError struct {
	Asked uint64 // bytes that the caller's files have
	Bound uint64 // bytes of the bound in force, 0 if none is
	Need  uint64 // bytes that a file written without a bound has, 0 if there is none
}

func (e *ConflictError) Error() string {
	if e.Bound != 0 {
		return fmt.Sprintf("a writable disk of %d bytes beside one that is passed through and has %d: RLIMIT_FSIZE is one bound for the process, so both must have the same size or go through the relay", e.Asked, e.Bound)
	}
	return fmt.Sprintf("a writable disk of %d bytes to pass through beside one of %d bytes: RLIMIT_FSIZE is one bound for the process and would cut the larger one", e.Asked, e.Need)
}

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// Hold is a claim on the process's bound. Release it when nothing writes any
// more.
type Hold struct {
	once  sync.Once
	size  uint64
	bound bool
}

// process is what the one process holds.
var process struct {
	sync.Mutex
	bounds int // holds of Bound, all of one size
	bound  uint64
	needs  map[*Hold]uint64
	saved  unix.Rlimit // before the first bound
}

// Bound stops every write of this process to a regular file at size bytes, more
// than 0: a write that begins there ends in EFBIG, one that crosses it is short. The limit
// covers the kernel threads that work for the process's rings.
//
// The error is a *ConflictError if another size is bound or a file that Need
// was told of is larger, and says what is wrong if the process's own limit is
// below size already.
func Bound(size uint64) (*Hold, error) {
	process.Lock()
	defer process.Unlock()
	if process.bounds > 0 {
		if size != process.bound {
			return nil, &ConflictError{Asked: size, Bound: process.bound}
		}
		process.bounds++
		return &Hold{size: size, bound: true}, nil
	}
	for _, n := range process.needs {
		if n > size {
			return nil, &ConflictError{Asked: size, Need: n}
		}
	}
	if size == 0 || size > 1<<63-1 {
		return nil, fmt.Errorf("growth bound of %d bytes: must be between 1 and 2^63-1", size)
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		return nil, fmt.Errorf("getrlimit(RLIMIT_FSIZE): %w", err)
	}
	if was.Cur < size {
		return nil, fmt.Errorf("RLIMIT_FSIZE is %d bytes, below the disk's size of %d: raise it (ulimit -f)", was.Cur, size)
	}
	// Before the limit is in force: the default action of SIGXFSZ kills. It stays
	// ignored, as one that is under way when the last bound goes would kill too.
	signal.Ignore(unix.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: was.Max}); err != nil {
		return nil, fmt.Errorf("setrlimit(RLIMIT_FSIZE, %d): %w", size, err)
	}
	process.bounds, process.bound, process.saved = 1, size, was
	return &Hold{size: size, bound: true}, nil
}

// Need says that the process writes to a regular file of size bytes and bounds
// the offsets itself. The error is a *ConflictError if a smaller bound is in
// force.
func Need(size uint64) (*Hold, error) {
	process.Lock()
	defer process.Unlock()
	if process.bounds > 0 && size > process.bound {
		return nil, &ConflictError{Asked: size, Bound: process.bound}
	}
	h := &Hold{size: size}
	if process.needs == nil {
		process.needs = map[*Hold]uint64{}
	}
	process.needs[h] = size
	return h, nil
}

// Release gives the claim up. The last bound released puts the limit back. Further calls, and those on nil, do nothing.
func (h *Hold) Release() error {
	if h == nil {
		return nil
	}
	var err error
	h.once.Do(func() {
		process.Lock()
		defer process.Unlock()
		if !h.bound {
			delete(process.needs, h)
			return
		}
		if process.bounds--; process.bounds > 0 {
			return
		}
		if e := unix.Setrlimit(unix.RLIMIT_FSIZE, &process.saved); e != nil {
			err = fmt.Errorf("restore RLIMIT_FSIZE to %d: %w", process.saved.Cur, e)
		}
	})
	return err
}
