// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/internal/buffers"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// order is something for the ring's goroutine to do between two passes: its tables
// are its own.
type order struct {
	run  func() error
	done chan error // has room for the answer
}

// inLoop has the ring's goroutine run f. ENXIO: it does nothing any more.
func (r *Ring) inLoop(f func() error) error {
	o := order{f, make(chan error, 1)}
	gone := fmt.Errorf("ring %d, which has stopped: %w", r.spec.Index, unix.ENXIO)
	if r.failed.Load() || r.closing.Load() {
		return gone
	}
	select {
	case r.orders <- o:
	case <-r.done:
		return gone
	}
	if err := r.notify(); err != nil {
		return err
	}
	select {
	case err := <-o.done:
		return err
	case <-r.done:
	}
	select {
	case err := <-o.done: // just before its end
		return err
	default:
		return gone
	}
}

// obey runs what inLoop asks for.
func (r *Ring) obey() {
	for {
		select {
		case o := <-r.orders:
			if r.fault != nil {
				o.done <- fmt.Errorf("ring %d has stopped: %w", r.spec.Index, unix.ENXIO)
				continue
			}
			o.done <- o.run()
		default:
			return
		}
	}
}

// UpdateFiles replaces files as uringpv.Ring says. EBUSY: so many files that
// requests in flight still use were replaced already that there is no entry left.
func (r *Ring) UpdateFiles(slot int, in []*uringpv.File) error {
	files := make([]file, len(in))
	var calls uint64
	for i, f := range in {
		if f == nil || f.FD < 0 {
			continue
		}
		var err error
		if files[i], err = newFile(f, &calls); err != nil {
			return err
		}
		files[i].calls = &r.calls
	}
	return r.inLoop(func() error {
		r.calls += calls
		return r.updateFiles(slot, in, files)
	})
}

// updateFiles is UpdateFiles in the goroutine. Either every entry changes or none:
// the new files go to entries of the host's table that the guest does not know yet.
func (r *Ring) updateFiles(slot int, in []*uringpv.File, files []file) error {
	taken := 0
	undo := func(err error) error {
		for i := range taken {
			if in[i] != nil {
				r.hosts[files[i].host].bound = false
				r.sweep(files[i].host)
			}
		}
		return err
	}
	for ; taken < len(in); taken++ {
		if in[taken] == nil {
			continue
		}
		f := &files[taken]
		host, ok := r.spare()
		if !ok {
			return undo(fmt.Errorf("file %d of ring %d: files that were replaced are still in use: %w", slot+taken, r.spec.Index, unix.EBUSY))
		}
		f.host = host
		if f.present {
			r.calls++
			if err := r.host.UpdateFiles(uint32(host), []int32{f.fd}); err != nil {
				return undo(err)
			}
		}
		r.hosts[host].bound, r.hosts[host].filled = true, f.present
	}
	for i := range in {
		if in[i] != nil {
			files[i].reserved = r.files[slot+i].reserved
			r.choosy = r.choosy || files[i].deny != nil
			r.bind(uint16(slot+i), files[i])
		}
	}
	return nil
}

// UpdateBuffers replaces buffers as uringpv.Ring says.
func (r *Ring) UpdateBuffers(index int, ranges []memmap.Range) error {
	host, err := buffers.Of(r.spec.Memory, ranges)
	if err != nil {
		return err
	}
	return r.inLoop(func() error { return r.updateBuffers(index, host) })
}

// replacedMost is how many times the length of guest RAM may be replaced in buffers
// while requests are in flight that may keep what was replaced: to kernels before 6.13
// any may, as they let go of files and buffers in the order of their requests. The
// kernel's account of a buffer takes 1/256 of its length.
const replacedMost = 4

// replace takes note of buffers that are replaced, and says whether the host's kernel may
// go on to have them.
func (r *Ring) replace(old []buffer) bool {
	for _, b := range old {
		if b.start < b.end {
			r.replaced += b.end - b.start
		}
	}
	if r.replaced <= replacedMost*r.spec.Memory.Layout().Size() {
		return true
	}
	for i := range r.slots.table {
		if s := &r.slots.table[i]; s.busy && s.born <= r.since {
			return false
		}
	}
	r.replaced, r.since = 0, r.slots.born
	return true
}

// taking is how long the host's kernel has to take the SQEs that it was given.
const taking = 100 * time.Millisecond

// allTaken waits until the host's kernel has taken every SQE. From 6.15 on it looks a
// buffer up when it issues a request, and those that came before an update mean what was
// there then.
func (r *Ring) allTaken() error {
	for start := time.Now(); r.host.Pending() > 0; {
		if r.push(); r.fault != nil {
			return r.fault
		}
		if r.host.Pending() == 0 {
			break
		}
		if time.Since(start) > taking {
			return fmt.Errorf("ring %d: the host's kernel has not taken what was submitted before: %w", r.spec.Index, unix.EBUSY)
		}
		r.reap() // makes room
		time.Sleep(taking / 1000)
	}
	return nil
}

// updateBuffers is UpdateBuffers in the goroutine. Where the host's kernel cannot
// change its table, or requests that wait keep too much of what was in it, the relay
// goes on without it: it has checked every address.
func (r *Ring) updateBuffers(index int, host []hostring.Buffer) error {
	if r.registered {
		if err := r.allTaken(); err != nil {
			return err
		}
	}
	r.registered = r.registered && r.replace(r.buffers[index:index+len(host)])
	if r.registered {
		r.calls++
		switch err := r.host.UpdateBuffers(uint32(index), host); hostring.Errno(err) {
		case 0:
		case unix.EINVAL, unix.ENOMEM: // a kernel before 5.13; RLIMIT_MEMLOCK is used up
			r.registered = false
		default:
			return err
		}
	}
	copy(r.buffers[index:], known(host))
	r.sortBuffers()
	return nil
}

// SetVector changes the eventfd that completions signal.
func (r *Ring) SetVector(fd int) error {
	return r.inLoop(func() error {
		r.spec.VectorFD = fd
		return nil
	})
}
