// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"context"
	"io"
	"time"
)

const (
	outletSize  = 4096        // bytes that a guest may be ahead of the reader
	outletGrace = time.Second // how long the end of a run that was called off waits for the reader
)

// outlet is between COM1 and its reader. A reader that is slow holds the guest up, but
// one that does not read at all must not hold up the end of the run, as a vCPU would
// that is in write(2).
type outlet struct {
	w       io.Writer
	stopped <-chan struct{} // the run has ended: nothing waits for room any more

	bytes chan byte
	done  chan struct{} // all has been written
}

func newOutlet(w io.Writer, stopped <-chan struct{}) *outlet {
	return &outlet{w: w, stopped: stopped, bytes: make(chan byte, outletSize), done: make(chan struct{})}
}

// Write takes p as there is room for it. What has none when the run ends is lost. It may
// be called from any goroutine.
func (o *outlet) Write(p []byte) (int, error) {
	for i, c := range p {
		select {
		case o.bytes <- c:
			continue
		default:
		}
		select {
		case o.bytes <- c:
		case <-o.stopped:
			return i, io.ErrShortWrite
		}
	}
	return len(p), nil
}

// run writes what Write takes, as much at a time as there is, until close.
func (o *outlet) run() {
	defer close(o.done)
	b := make([]byte, 0, outletSize)
	for c := range o.bytes {
		b = append(b[:0], c)
		for n := len(o.bytes); n > 0 && len(b) < cap(b); n-- {
			b = append(b, <-o.bytes) // nobody else takes any
		}
		_, _ = o.w.Write(b) // a reader that went away is not the guest's fault
	}
}

// close waits until all has been written; if ctx has ended, or ends, not for long: who
// does not read is not told that there was more. Write is called no more.
func (o *outlet) close(ctx context.Context) {
	close(o.bytes)
	select {
	case <-o.done:
		return
	case <-ctx.Done():
	}
	select {
	case <-o.done:
	case <-time.After(outletGrace):
	}
}
