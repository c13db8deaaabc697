// SPDX-License-Identifier: Apache-2.0

package isolated

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/internal/buffers"
	"github.com/uringpv/uringpv/device/uringpv/internal/direct"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// unboundWorkers bounds the kernel's worker threads of a ring for requests that
// may wait for ever: what a guest sends to them with IOSQE_ASYNC.
const unboundWorkers = 32

// Ring is a ring that belongs to a process of its own.
type Ring struct {
	*direct.Ring
	host  *host
	files bool // a writable regular file is, or was, in the table
}

// NewRing starts an owner and makes a ring in it.
//
// An error that wraps uringpv.ErrElsewhere says that another backend may serve the
// ring: its files are not of one size, or guest RAM cannot be pinned once more.
func (b *Backend) NewRing(s uringpv.RingSpec) (uringpv.Ring, error) {
	files := make([]*uringpv.File, len(s.Files))
	for i := range s.Files {
		files[i] = &s.Files[i]
	}
	bound, any, err := boundOf(0, false, files)
	if err != nil {
		return nil, err
	}
	h := &host{b: b, bound: bound}
	r, err := direct.New(direct.Config{Spec: s, Host: h, Polled: true, Inexact: true, Exact: true, UnboundWorkers: unboundWorkers})
	if err != nil {
		return nil, err
	}
	return &Ring{Ring: r, host: h, files: any}, nil
}

// UpdateFiles replaces entries of the ring's table. A writable regular file must
// have the size of those that the ring has or had: requests for these may be in
// flight, and the bound is one for all.
func (r *Ring) UpdateFiles(slot int, files []*uringpv.File) error {
	bound, any, err := boundOf(r.host.bound, r.files, files)
	if err != nil {
		return err
	}
	if any && !r.files {
		if err := r.host.owner.limit(bound); err != nil {
			return err
		}
		r.host.bound, r.files = bound, true
	}
	return r.Ring.UpdateFiles(slot, files)
}

// boundOf is the bound of a ring's files: the size of the writable regular ones,
// which are all of one size, and whether there are any. bound and any are what
// holds without files, in which nil stands for none.
func boundOf(bound uint64, any bool, files []*uringpv.File) (uint64, bool, error) {
	for _, f := range files {
		if f == nil || f.FD < 0 || f.ReadOnly || f.BlockDevice || f.Kind != 0 && !f.Seekable() {
			continue
		}
		n, err := f.Size()
		if err != nil {
			return 0, false, fmt.Errorf("size of %q: %w", f.Name, err)
		}
		if n < 0 || any && uint64(n) != bound {
			return 0, false, fmt.Errorf("%w: %q has %d bytes, and RLIMIT_FSIZE is %d for the ring's owner: %w: %w",
				ErrGrowth, f.Name, n, bound, uringpv.ErrElsewhere, unix.EINVAL)
		}
		bound, any = uint64(n), true
	}
	return bound, any, nil
}

// host makes a ring in an owner.
type host struct {
	b     *Backend
	bound uint64
	owner *owner
}

// Make starts the owner, which makes the ring. If it cannot be in namespaces of
// its own it has the monitor's.
func (h *host) Make(c hostring.Config) (*hostring.Ring, error) {
	m := start{FSize: h.bound}
	for i, r := range h.b.memory.Layout().Regions() {
		m.Regions[i] = region{Addr: uint64(h.b.memory.Base()) + uint64(r.Start), Length: r.Length, Offset: uint64(r.FileOffset)}
	}
	if h.b.plain.Load() {
		m.Flags |= noUserNamespace
	}
	o, ring, err := h.b.start(&m, c)
	if err != nil && m.Flags == 0 && !errors.Is(err, unix.ENOMEM) {
		m.Flags |= noUserNamespace
		var again error
		if o, ring, again = h.b.start(&m, c); again == nil {
			h.b.plain.Store(true)
			h.b.log.Warn("rings' owners have no user namespace of their own", "error", err)
			err = nil
		}
	}
	if err != nil {
		return nil, memlock(err)
	}
	h.owner = o
	return ring, nil
}

// memlock is err, with what would help if guest RAM cannot be pinned.
func memlock(err error) error {
	if hostring.Errno(err) != unix.ENOMEM {
		return err
	}
	return fmt.Errorf("%w: each ring with an owner of its own pins its buffers anew, which RLIMIT_MEMLOCK (ulimit -l) must allow, or the process needs CAP_IPC_LOCK: %w: %w",
		ErrMemlock, uringpv.ErrElsewhere, err)
}

// Buffers pins ranges of guest RAM. The kernel shares the pages of no other ring,
// as these are of another process.
func (h *host) Buffers(r *hostring.Ring, ranges []memmap.Range) error {
	if err := h.b.ram.Wait(); err != nil {
		return memlock(err)
	}
	return memlock(buffers.Pin(r, h.b.memory, ranges))
}

// Ready waits until the owner has unmapped all but guest RAM: not before can a
// request run.
func (h *host) Ready() error { return h.owner.alone() }

// Lost becomes readable when the owner ends.
func (h *host) Lost() int {
	if h.owner == nil {
		return -1
	}
	return h.owner.pidfd
}

// Fate is how the owner has ended.
func (h *host) Fate() error {
	if ended, err := h.owner.wait(patience); err != nil || !ended {
		return errors.Join(ErrOwner, err)
	}
	return h.owner.fate()
}

// Discard ends a ring that has no requests.
func (h *host) Discard(_ *hostring.Ring, shut func()) error {
	shut()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return h.End(ctx)
}

// End ends the owner. The sentinel, which a guest may have thrown out of its entry
// by an ACCEPT into it, only says that the kernel has freed the ring; this says
// that no request is left.
func (h *host) End(ctx context.Context) error {
	if h.owner == nil {
		return nil
	}

	return h.owner.end(ctx)
}
