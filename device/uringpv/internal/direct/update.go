// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/internal/buffers"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// registered calls f with the host ring, which is not closed meanwhile. ENXIO:
// the ring has stopped.
func (r *Ring) registered(f func(*hostring.Ring) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host == nil || r.alarm.rang.Load() {
		return fmt.Errorf("register with ring %d, which has stopped: %w", r.spec.Index, unix.ENXIO)
	}
	r.count.SystemCalls.Add(1)
	return f(r.host)
}

// UpdateFiles replaces entries of the host ring's table.
func (r *Ring) UpdateFiles(slot int, files []*uringpv.File) error {
	fds := make([]int32, len(files))
	for i, f := range files {
		fds[i] = hostring.KeepFile
		if f != nil {
			fds[i] = int32(f.FD)
		}
	}
	return r.registered(func(h *hostring.Ring) error { return h.UpdateFiles(uint32(slot), fds) })
}

// UpdateBuffers replaces the host ring's buffers.
func (r *Ring) UpdateBuffers(index int, ranges []memmap.Range) error {
	b, err := buffers.Of(r.spec.Memory, ranges)
	if err != nil {
		return err
	}
	return r.registered(func(h *hostring.Ring) error { return h.UpdateBuffers(uint32(index), b) })
}

// SetVector replaces the ring's eventfd.
func (r *Ring) SetVector(fd int) error {
	return r.registered(func(h *hostring.Ring) error {
		if err := h.UnregisterEventfd(); err != nil && hostring.Errno(err) != unix.ENXIO {
			return err
		}
		was := r.vector
		if r.vector = fd; fd < 0 {
			return nil
		}
		r.count.SystemCalls.Add(1)
		err := h.RegisterEventfd(fd)
		if err != nil && was >= 0 && h.RegisterEventfd(was) == nil {
			r.vector = was
		}
		return err
	})
}
