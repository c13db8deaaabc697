// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/shm"
)

// Offsets that name the areas to mmap(2), IORING_OFF_*.
const (
	offSQRing = 0
	offCQRing = 0x8000000
	offSQEs   = 0x10000000
)

// Config says what io_uring instance to make.
type Config struct {
	Entries      uint32        // of the SQ ring; the kernel rounds up to a power of two
	CQEntries    uint32        // with SetupCQSize
	Flags        uint32        // Setup*
	SQThreadIdle time.Duration // with SetupSQPoll: whole milliseconds; 0 is the kernel's second
	SQThreadCPU  uint32        // with SetupSQAff
	WQFD         int           // with SetupAttachWQ

	// With SetupNoMmap: the caller's memory for the rings and for the SQEs, page
	// aligned and zeroed. It must stay mapped until the ring is gone, which is
	// later than Close.
	Rings, SQEs shm.View

	// External says that the application is somebody else who shares the caller's
	// memory: this process owns the descriptor but leaves the ring's words alone.
	External bool
}

// Ring is an io_uring instance. One goroutine at a time may submit, and one may
// complete; registration may come from any.
type Ring struct {
	fd     int
	params Params
	maps   [][]byte // kernel-mapped memory, to unmap

	// The submission side's words and its private copy of the tail.
	sqHead, sqTail, sqFlags *atomic.Uint32
	sqDropped               *atomic.Uint32
	sqMask, sqEntries       uint32
	sqeTail                 uint32 // of SQEs handed out
	sqes                    []byte

	// The completion side's words.
	cqHead, cqTail, cqFlags *atomic.Uint32
	cqOverflow              *atomic.Uint32
	cqMask                  uint32
	cqes                    shm.View

	enters atomic.Uint64

	info     *os.File // of Info, once it was called
	infoText []byte
	heldText []byte // of Held, likewise

	once sync.Once
	err  error // of Close
}

// Params is what c asks of io_uring_setup(2).
func (c *Config) Params() (Params, error) {
	p := Params{
		CQEntries:    c.CQEntries,
		Flags:        c.Flags,
		SQThreadCPU:  c.SQThreadCPU,
		SQThreadIdle: uint32(c.SQThreadIdle.Milliseconds()),
		WQFD:         uint32(c.WQFD),
	}
	if c.Flags&SetupNoMmap != 0 {
		if c.Rings.Len() == 0 || c.SQEs.Len() == 0 {
			return p, fmt.Errorf("io_uring in caller memory: no memory given: %w", unix.EINVAL)
		}
		p.CQOff.UserAddr = uint64(c.Rings.Addr())
		p.SQOff.UserAddr = uint64(c.SQEs.Addr())
	}
	return p, nil
}

// Adopt makes a Ring of an io_uring instance that another process has made as c
// says, with SetupNoMmap, in memory that this process shares at the same
// addresses. p is what io_uring_setup(2) returned there. fd becomes the Ring's,
// also if there is an error.
//
// The other process's memory is what the ring's requests read and write as long as
// its SQ thread submits them: this one must not submit.
func Adopt(fd int, p Params, c Config) (_ *Ring, err error) {
	r := &Ring{fd: fd, params: p}
	if err := r.locate(c.Rings, c.SQEs, c.External); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// New makes an io_uring instance. The error is an *Error for a failed system
// call.
func New(c Config) (_ *Ring, err error) {
	p, err := c.Params()
	if err != nil {
		return nil, err
	}
	r := &Ring{fd: -1}
	if r.fd, err = setup(c.Entries, &p); err != nil {
		return nil, err
	}
	r.params = p
	defer func() {
		if err != nil {
			_ = r.Close()
		}
	}()

	rings, sqes := c.Rings, c.SQEs
	if c.Flags&SetupNoMmap == 0 {
		if rings, sqes, err = r.mmap(); err != nil {
			return nil, err
		}
	}
	if err := r.locate(rings, sqes, c.External); err != nil {
		return nil, err
	}
	return r, nil
}

// mmap maps the kernel's rings and SQEs.
func (r *Ring) mmap() (rings, sqes shm.View, err error) {
	p := &r.params
	sqLen := uint64(p.SQOff.Array) + uint64(p.SQEntries)*4
	cqLen := uint64(p.CQOff.CQEs) + uint64(p.CQEntries)*CQESize
	if p.Flags&SetupCQE32 != 0 {
		cqLen += uint64(p.CQEntries) * CQESize
	}
	if p.Features&FeatSingleMmap == 0 {
		// Before Linux 5.4 there are two mappings. No host that can run the rest of
		// this program is that old.
		return rings, sqes, fmt.Errorf("io_uring without IORING_FEAT_SINGLE_MMAP (Linux 5.4): %w", unix.EOPNOTSUPP)
	}
	if rings, err = r.mapArea(offSQRing, max(sqLen, cqLen)); err != nil {
		return rings, sqes, err
	}
	size := uint64(SQESize)
	if p.Flags&SetupSQE128 != 0 {
		size *= 2
	}
	sqes, err = r.mapArea(offSQEs, uint64(p.SQEntries)*size)
	return rings, sqes, err
}

// mapArea maps n bytes of the ring at off.
func (r *Ring) mapArea(off int64, n uint64) (shm.View, error) {
	b, err := unix.Mmap(r.fd, off, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return shm.View{}, &Error{Call: "mmap", Errno: Errno(err)}
	}
	r.maps = append(r.maps, b)
	return shm.Of(b)
}

// locate finds the ring's words at the offsets that the kernel returned, and
// checks that all of them lie in the ring's memory.
func (r *Ring) locate(rings, sqes shm.View, external bool) error {
	p := &r.params
	for _, w := range []struct {
		to  **atomic.Uint32
		off uint32
	}{
		{&r.sqHead, p.SQOff.Head}, {&r.sqTail, p.SQOff.Tail}, {&r.sqFlags, p.SQOff.Flags}, {&r.sqDropped, p.SQOff.Dropped},
		{&r.cqHead, p.CQOff.Head}, {&r.cqTail, p.CQOff.Tail}, {&r.cqFlags, p.CQOff.Flags}, {&r.cqOverflow, p.CQOff.Overflow},
	} {
		word, ok := rings.Uint32(uint64(w.off))
		if !ok {
			return ErrBadOffsets
		}
		*w.to = word
	}
	var ok bool
	if r.cqes, ok = rings.Slice(uint64(p.CQOff.CQEs), uint64(p.CQEntries)*CQESize); !ok {
		return ErrBadOffsets
	}
	if sqes.Len() < uint64(p.SQEntries)*SQESize {
		return ErrBadOffsets
	}
	r.sqMask, r.sqEntries, r.cqMask = p.SQEntries-1, p.SQEntries, p.CQEntries-1
	r.sqes = sqes.Bytes()

	// Entry i of the index array names SQE i, for good.
	if p.Flags&SetupNoSQArray == 0 && !external {
		array, ok := rings.Slice(uint64(p.SQOff.Array)&^7, uint64(p.SQOff.Array)%8+uint64(p.SQEntries)*4)
		if !ok {
			return ErrBadOffsets
		}
		for i := range p.SQEntries {
			w, ok := array.Uint32(uint64(p.SQOff.Array)%8 + uint64(i)*4)
			if !ok {
				return ErrBadOffsets
			}
			w.Store(i)
		}
	}
	return nil
}

// FD is the ring's descriptor. It stays the Ring's.
func (r *Ring) FD() int { return r.fd }

// Params is what io_uring_setup(2) returned.
func (r *Ring) Params() Params { return r.params }

// Detach lets go of the io_uring instance, which the kernel then ends as after Close, by
// putting another file under the ring's descriptor. Unlike Close it may be called while
// other methods run, also to end an Info or a Held that does not come back, because the
// account grows faster than the kernel can write it down. They and all later calls fail;
// Close has to be called still.
func (r *Ring) Detach() error {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if err := unix.Dup3(fd, r.fd, unix.O_CLOEXEC); err != nil {
		return errors.Join(fmt.Errorf("replace the ring's descriptor: %w", err), unix.Close(fd))
	}
	return unix.Close(fd)
}

// Close closes the ring and unmaps the kernel's memory. The kernel cancels what
// can be cancelled; requests in flight, and the kernel's hold on buffers, files
// and caller memory, may outlast the call. Further calls do nothing and return
// the same error.
func (r *Ring) Close() error {
	r.once.Do(func() {
		var all *multierror.Error
		for _, m := range r.maps {
			if err := unix.Munmap(m); err != nil {
				all = multierror.Append(all, fmt.Errorf("unmap ring: %w", err))
			}
		}
		if r.info != nil {
			if err := r.info.Close(); err != nil {
				all = multierror.Append(all, fmt.Errorf("close the ring's account: %w", err))
			}
		}
		if r.fd >= 0 {
			if err := unix.Close(r.fd); err != nil {
				all = multierror.Append(all, fmt.Errorf("close ring: %w", err))
			}
		}
		r.err = all.ErrorOrNil()
	})
	return r.err
}
