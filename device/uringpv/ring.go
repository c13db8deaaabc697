// SPDX-License-Identifier: Apache-2.0

package uringpv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/signal"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// ring is a ring that exists: since RING_SETUP, and until Close of the backend's
// has returned nil.
type ring struct {
	index   int
	backend Ring
	opcodes abi.Opcodes
	areas   [2]memmap.Range // in use as long as the ring exists

	// What RING_REGISTER has made of the ring since its set-up.
	slots   int      // entries of its file table
	buffers []uint64 // lengths of its buffers, at most; 0: no buffer
	vector  bool     // completions raise one

	// stopped rings take no more SQEs and no command but RING_DESTROY: their
	// Close has begun, or they have stopped by themselves.
	stopped atomic.Bool
}

// ringAt is the ring that a command on index works on.
func (d *Device) ringAt(index uint32) (*ring, error) {
	if index >= uint32(len(d.rings)) || d.rings[index] == nil {
		return nil, guestErrorf(unix.ENXIO, "ring %d: there is no such ring", index)
	}
	r := d.rings[index]
	if r.stopped.Load() {
		return nil, guestErrorf(unix.ENXIO, "ring %d: it has stopped", index)
	}
	return r, nil
}

// ringSetup is RING_SETUP.
func (d *Device) ringSetup(index uint32, payload []byte) ([]byte, error) {
	setup, err := abi.Decode[abi.RingSetup](payload)
	if err != nil {
		return nil, guestErrorf(unix.E2BIG, "%v", err)
	}
	if index >= uint32(len(d.rings)) {
		return nil, guestErrorf(unix.EINVAL, "ring %d: there are %d", index, len(d.rings))
	}
	if d.rings[index] != nil {
		return nil, guestErrorf(unix.EBUSY, "ring %d exists already", index)
	}
	want, err := d.check(&setup)
	if err != nil {
		return nil, err
	}
	r := &ring{
		index: int(index), opcodes: want.Policy.Opcodes, areas: want.areas,
		slots: want.Slots, vector: want.VectorFD >= 0,
	}
	for _, b := range want.Buffers {
		r.buffers = append(r.buffers, b.Length)
	}
	spec := &want.RingSpec
	spec.Index = r.index
	spec.DoorbellFD = d.doorbells[index]
	spec.Logger = d.log.With("ring", index)
	spec.Stopped = func(err error) { d.ringStopped(r, err) }

	for _, a := range r.areas {
		if err := d.zero(a); err != nil {
			return nil, err
		}
	}
	// What was rung while there was no ring is nobody's.
	signal.Take(spec.DoorbellFD, new([8]byte))

	if r.backend, err = d.backend.NewRing(*spec); err != nil {
		if d.waits.Err() != nil {
			return nil, guestErrorf(unix.EINTR, "ring %d is not made any more: %v", index, err)
		}
		return nil, &HostError{fmt.Sprintf("set up ring %d", index), err}
	}
	d.mu.Lock()
	d.rings[index] = r
	d.mu.Unlock()

	setup.Params = guestParams(r.backend.Params(), spec)
	return abi.Encode(&setup), nil
}

// guestParams is what the guest sees of p, the parameters of its ring.
func guestParams(p hostring.Params, spec *RingSpec) abi.Params {
	g := abi.Params{
		SQEntries: p.SQEntries,
		CQEntries: p.CQEntries,
		Flags:     spec.Flags, // those that the backend added are its own business
		Features:  p.Features,
		SQOff: abi.SQOffsets{
			Head:        p.SQOff.Head,
			Tail:        p.SQOff.Tail,
			RingMask:    p.SQOff.RingMask,
			RingEntries: p.SQOff.RingEntries,
			Flags:       p.SQOff.Flags,
			Dropped:     p.SQOff.Dropped,
			Array:       p.SQOff.Array,
		},
		CQOff: abi.CQOffsets{
			Head:        p.CQOff.Head,
			Tail:        p.CQOff.Tail,
			RingMask:    p.CQOff.RingMask,
			RingEntries: p.CQOff.RingEntries,
			Overflow:    p.CQOff.Overflow,
			CQEs:        p.CQOff.CQEs,
			Flags:       p.CQOff.Flags,
		},
	}
	if spec.Flags&hostring.SetupSQPoll != 0 {
		g.SQThreadIdle = p.SQThreadIdle
	}
	return g
}

// ringStopped is RingSpec.Stopped.
func (d *Device) ringStopped(r *ring, err error) {
	r.stopped.Store(true)
	var guest *GuestError
	if errors.As(err, &guest) {
		d.warn("ring stopped, the guest has to destroy it", "ring", r.index, "error", err)
		return
	}
	d.fail(&HostError{fmt.Sprintf("serve ring %d", r.index), err})
}

// ringEnter is RING_ENTER.
func (d *Device) ringEnter(index uint32, payload []byte) ([]byte, error) {
	r, err := d.ringAt(index)
	if err != nil {
		return nil, err
	}
	e, err := abi.Decode[abi.Enter](payload)
	if err != nil {
		return nil, guestErrorf(unix.E2BIG, "%v", err)
	}
	if e.Flags&^(hostring.EnterGetevents|hostring.EnterSQWakeup) != 0 {
		return nil, guestErrorf(unix.EINVAL, "enter flags %#x: only IORING_ENTER_GETEVENTS and IORING_ENTER_SQ_WAKEUP", e.Flags)
	}
	if e.MinComplete != 0 || e.Resv != 0 {
		return nil, guestErrorf(unix.EINVAL, "min_complete or a reserved field is not zero: the device never waits")
	}
	if err := r.backend.Enter(e.ToSubmit, e.Flags); err != nil {
		return nil, &HostError{fmt.Sprintf("enter ring %d", index), err}
	}
	return nil, nil
}

// ringStats is RING_STATS.
func (d *Device) ringStats(index uint32, _ []byte) ([]byte, error) {
	r, err := d.ringAt(index)
	if err != nil {
		return nil, err
	}
	w := r.backend.Stats().wire(d.caps.Stats)
	return abi.Encode(&w), nil
}

// ringDestroy is RING_DESTROY.
func (d *Device) ringDestroy(index uint32, _ []byte) ([]byte, error) {
	if index >= uint32(len(d.rings)) || d.rings[index] == nil {
		return nil, guestErrorf(unix.ENXIO, "ring %d: there is no such ring", index)
	}
	ctx, cancel := context.WithTimeout(d.waits, d.timeout)
	defer cancel()
	return nil, d.destroy(ctx, d.rings[index])
}

// destroy closes r and forgets it. If it cannot be closed in time it stays, with
// its areas, and may be destroyed again.
func (d *Device) destroy(ctx context.Context, r *ring) error {
	r.stopped.Store(true)
	if err := r.backend.Close(ctx); err != nil {
		err = &HostError{fmt.Sprintf("destroy ring %d", r.index), err}
		if !timedOut(err) {
			d.fail(err)
		}
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.past[r.index].add(r.backend.Stats())
	d.pastCalls += r.backend.SystemCalls()
	d.rings[r.index] = nil
	return nil
}

// destroyAll destroys every ring, all at once, so that one that is stuck does
// not take the others' time.
func (d *Device) destroyAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	errs := make([]error, len(d.rings))
	var all sync.WaitGroup
	for i, r := range slices.Clone(d.rings) { // destroy changes them
		if r != nil {
			all.Go(func() { errs[i] = d.destroy(ctx, r) })
		}
	}
	all.Wait()
	return collect(errs...)
}
