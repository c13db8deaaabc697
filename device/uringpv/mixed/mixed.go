// SPDX-License-Identifier: Apache-2.0

package mixed

import (
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
)

// Backend is a fast backend with a second one behind it.
type Backend struct {
	fast, second uringpv.Backend
	has          abi.Opcodes // the fast one's
	hasSecond    abi.Opcodes // the second one's
	caps         uringpv.Capabilities
	flags        uint8     // IOSQE_* that the second one allows
	setup        uint32    // IORING_SETUP_* that it honours
	told         sync.Once // that a ring is served by the second one
}

// New makes a backend of two for the same device; both are its own from here on.
// What the second one offers beyond the first is Capabilities.Extra.
func New(fast, second uringpv.Backend) *Backend {
	b := &Backend{fast: fast, second: second, caps: fast.Capabilities()}
	c := second.Capabilities()
	b.has, b.hasSecond, b.flags = b.caps.Opcodes, c.Opcodes, c.SQEFlags
	b.caps.Extra = c.Opcodes.Without(&b.has)
	b.caps.SetupFlags &= c.SetupFlags | hostring.SetupIOPoll
	b.setup = c.SetupFlags &^ hostring.SetupIOPoll // of rings that only move data
	b.caps.MaxEntries = min(b.caps.MaxEntries, c.MaxEntries)
	b.caps.MaxFiles = min(b.caps.MaxFiles, c.MaxFiles)
	b.caps.MaxBuffers = min(b.caps.MaxBuffers, c.MaxBuffers)
	b.caps.Stats &= c.Stats
	return b
}

// Kind is the fast backend's.
func (b *Backend) Kind() abi.Backend { return b.fast.Kind() }

// Capabilities are the fast backend's, as far as both have them, and as Extra the
// second one's further opcodes.
func (b *Backend) Capabilities() uringpv.Capabilities { return b.caps }

// NewRing makes a ring of the fast backend, or of the second one if the fast one
// lacks an opcode of it, or says that another may serve it and the second one can.
func (b *Backend) NewRing(s uringpv.RingSpec) (uringpv.Ring, error) {
	if !s.Policy.Opcodes.SubsetOf(&b.has) {
		return b.slow(s)
	}
	r, err := b.fast.NewRing(s)
	if err == nil || !errors.Is(err, uringpv.ErrElsewhere) || !s.Policy.Opcodes.SubsetOf(&b.hasSecond) {
		return r, err
	}
	// As NewRing was given them: the fast one may have begun.
	s.Rings.Zero()
	s.SQEs.Zero()
	second, e := b.slow(s)
	if e != nil {
		return nil, errors.Join(err, e)
	}
	if s.Logger != nil {
		b.told.Do(func() { // a guest makes rings as often as it likes
			s.Logger.Warn("a ring is served by the slower backend", "fast", b.fast.Kind(), "slower", b.second.Kind(), "error", err)
		})
	}
	return second, nil
}

// Interrupt interrupts both.
func (b *Backend) Interrupt() {
	uringpv.Interrupt(b.fast)
	uringpv.Interrupt(b.second)
}

// slow makes a ring of the second backend.
func (b *Backend) slow(s uringpv.RingSpec) (uringpv.Ring, error) {
	if bad := s.Flags &^ b.setup; bad != 0 {
		return nil, fmt.Errorf("setup flags %#x, for a ring that %s serves: %w", bad, b.second.Kind(), unix.EINVAL)
	}
	s.Policy.SQEFlags &= b.flags
	return b.second.NewRing(s)
}

// Close releases both.
func (b *Backend) Close() error {
	var all *multierror.Error
	for _, one := range []uringpv.Backend{b.fast, b.second} {
		if err := one.Close(); err != nil {
			all = multierror.Append(all, err)
		}
	}
	return all.ErrorOrNil()
}
