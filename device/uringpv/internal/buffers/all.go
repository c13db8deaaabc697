// SPDX-License-Identifier: Apache-2.0

package buffers

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// ErrClosed says that the pinning was given up.
var ErrClosed = errors.New("closed before all guest RAM was pinned")

// All is all guest RAM as registered buffers, for rings of this process to share. It
// is pinned while the guest boots, when it has been populated, which takes longer.
type All struct {
	memory *memmap.Memory
	ring   *hostring.Ring // has the buffers, once ready is closed
	keep   bool           // Share is possible
	ready  chan struct{}  // closed when pinned or failed
	err    error          // likewise: of pinning
	stop   chan struct{}  // closed by Interrupt
	end    sync.Once      // of stop
	once   sync.Once
	closed error
}

// PinAll begins to pin m. What it pins counts against RLIMIT_MEMLOCK, and a ring's own
// buffers count once more: where the kernel cannot share (before Linux 6.12), nothing
// stays pinned, but the pages are there.
func PinAll(m *memmap.Memory) (*All, error) {
	f, _ := hostring.ProbeFeature(hostring.FeatureClone)
	return pinAll(m, f.Result != hostring.No)
}

// FaultIn is PinAll for those who cannot share, because their rings are not this
// process's.
func FaultIn(m *memmap.Memory) (*All, error) { return pinAll(m, false) }

func pinAll(m *memmap.Memory, keep bool) (*All, error) {
	ring, err := hostring.New(hostring.Config{Entries: 1})
	if err != nil {
		return nil, fmt.Errorf("the host's io_uring: %w", err)
	}
	a := &All{memory: m, ring: ring, keep: keep, ready: make(chan struct{}), stop: make(chan struct{})}
	go func() {
		defer close(a.ready)
		if a.err = a.pin(); a.err == nil && !keep {
			a.err = ring.UnregisterBuffers()
		}
	}()
	return a, nil
}

// pin registers RAM when it is there.
func (a *All) pin() error {
	select {
	case <-a.memory.Populate():
	case <-a.stop:
	}
	select {
	case <-a.stop:
		return ErrClosed
	default:
		return Pin(a.ring, a.memory, a.memory.Layout().Buffers())
	}
}

// Wait waits until all guest RAM is pinned and returns why it is not: an error of
// hostring's, with ENOMEM if RLIMIT_MEMLOCK does not allow it.
func (a *All) Wait() error {
	<-a.ready
	return a.err
}

// Share gives r, which has no buffers yet, all guest RAM, as Layout().Buffers() has
// it. EINVAL: the kernel cannot. Other errors are those of Wait.
func (a *All) Share(r *hostring.Ring) error {
	if !a.keep {
		return unix.EINVAL
	}
	if err := a.Wait(); err != nil {
		return err
	}
	return r.CloneBuffers(a.ring)
}

// Interrupt gives pinning up, if it is not done: Wait does not wait any more.
func (a *All) Interrupt() { a.end.Do(func() { close(a.stop) }) }

// Close unpins what no ring shares any more. Further calls do nothing and return the
// same error.
func (a *All) Close() error {
	a.once.Do(func() {
		a.Interrupt()
		<-a.ready
		a.closed = a.ring.Close()
	})
	return a.closed
}
