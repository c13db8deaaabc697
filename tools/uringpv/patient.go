// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
)

// patientWriter keeps what its writer refuses for its length, and writes it
// later.
//
// While a disk is passed through, RLIMIT_FSIZE of this process is the disk's
// size, and applies to a file that stdout or stderr is redirected to as well:
// one that is longer than the disk cannot be appended to until the disk is let go.
// A guest may write without end: the newest of it is kept, up to maxKept.
type patientWriter struct {
	w io.Writer
	// gone is called when nobody reads any more what is written; nil: it is an error
	// like others.
	gone func()

	// mu guards kept: logs come from several goroutines.
	mu      sync.Mutex
	kept    []byte
	dropped int // bytes that were older
}

// maxKept is the most that a patientWriter keeps, in bytes.
const maxKept = 1 << 20

// Write writes p after what has been kept. It keeps what is refused with EFBIG.
func (p *patientWriter) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.kept) > 0 {
		p.keep(b)
		return len(b), p.flushLocked()
	}
	n, err := p.write(b)
	if errors.Is(err, syscall.EFBIG) {
		p.keep(b[n:])
		return len(b), nil
	}
	return n, err
}

// keep keeps b. When there is too much, the older half goes at once, so that a byte
// costs no more than another.
func (p *patientWriter) keep(b []byte) {
	p.kept = append(p.kept, b...)
	if over := len(p.kept) - maxKept; over > 0 {
		over = max(over, min(len(p.kept), maxKept/2))
		p.kept = append(p.kept[:0], p.kept[over:]...)
		p.dropped += over
	}
}

// Flush writes what has been kept. What is refused again stays kept, which is no
// error; and nothing has been kept while nobody reads what Write writes.
func (p *patientWriter) Flush() error {
	if !p.mu.TryLock() {
		return nil
	}
	defer p.mu.Unlock()
	return p.flushLocked()
}

func (p *patientWriter) flushLocked() error {
	if len(p.kept) == 0 {
		return nil
	}
	if p.dropped > 0 {
		_, err := p.write(fmt.Appendf(nil, "\n[uringpv: %d bytes are left out here: the file could not grow]\n", p.dropped))
		if errors.Is(err, syscall.EFBIG) {
			return nil
		}
		p.dropped = 0
	}
	n, err := p.write(p.kept)
	if n > 0 {
		p.kept = append(p.kept[:0], p.kept[n:]...)
	}
	if errors.Is(err, syscall.EFBIG) {
		return nil
	}
	return err
}

func (p *patientWriter) write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	if errors.Is(err, syscall.EPIPE) && p.gone != nil {
		p.gone()
	}
	return n, err
}

// Kept is the number of bytes that could not be written yet.
func (p *patientWriter) Kept() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.kept)
}
