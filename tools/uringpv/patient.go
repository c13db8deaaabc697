// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
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
type patientWriter struct {
	w io.Writer
	// gone is called when nobody reads any more what is written; nil: it is an error
	// like others.
	gone func()

	// mu guards kept: logs come from several goroutines.
	mu   sync.Mutex
	kept []byte
}

// Write writes p after what has been kept. It keeps what is refused with EFBIG.
func (p *patientWriter) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.kept) > 0 {
		p.kept = append(p.kept, b...)
		return len(b), p.flushLocked()
	}
	n, err := p.write(b)
	if errors.Is(err, syscall.EFBIG) {
		p.kept = append(p.kept, b[n:]...)
		return len(b), nil
	}
	return n, err
}

// Flush writes what has been kept. What is refused again stays kept, which is no
// error.
func (p *patientWriter) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flushLocked()
}

func (p *patientWriter) flushLocked() error {
	if len(p.kept) == 0 {
		return nil
	}
	n, err := p.write(p.kept)
	p.kept = append(p.kept[:0], p.kept[n:]...)
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
