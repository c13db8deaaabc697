// SPDX-License-Identifier: Apache-2.0

package uring

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/internal/shm"
)

// Directory holds a file for each thing that the host exports. One that is open
// is named in SQEs by its descriptor, as with io_uring.
const Directory = "/dev/uringpv"

// Info says what a file from Directory is. The error wraps ENOTTY for a file from
// elsewhere and ENODEV for one whose device has gone.
func Info(f *os.File) (abi.File, error) { return fileInfo(f) }

// Config says what mediated ring to make.
type Config struct {
	Entries   uint32 // of the SQ ring; rounded up to a power of two
	CQEntries uint32 // with SetupCQSize
	Flags     uint32 // Setup*

	// NoExtra leaves out the opcodes for which another backend than the device's
	// would serve the ring. Probe says what is left. The error wraps EOPNOTSUPP if
	// that is too little for a mediated ring, as with passthrough.
	NoExtra bool
}

// Ring is a ring of a device's. One goroutine at a time may submit, and one may
// complete; registration may come from any.
type Ring struct {
	fd     int
	mapped bool
	params abi.Params
	maps   [][]byte

	// The submission side's words and its private copy of the tail.
	sqHead, sqTail, sqFlags *atomic.Uint32
	sqMask, sqEntries       uint32
	sqeTail                 uint32 // of SQEs handed out
	sqes                    []byte
	doorbell                []byte // of a mapped ring

	// The completion side's words.
	cqHead, cqTail, cqFlags *atomic.Uint32
	cqMask                  uint32
	cqes                    shm.View

	enters atomic.Uint64

	once sync.Once
	err  error // of Close
}

// Open makes a mediated ring of the device whose node path is, /dev/uringpv0 for
// the first one. The error wraps EBUSY if all rings that the device has for
// programs are in use, ENODEV if the device has gone, EINVAL for a configuration
// that io_uring would refuse as well.
func Open(path string, c Config) (_ *Ring, err error) {
	s := userSetup{Entries: c.Entries, Params: abi.Params{CQEntries: c.CQEntries, Flags: c.Flags}}
	if c.NoExtra {
		s.Flags = userNoExtra
	}
	r := &Ring{}
	if err := r.setup(path, &s); err != nil {
		return nil, err
	}
	return r, nil
}

// setup opens the node and makes a ring of it.
func (r *Ring) setup(path string, s *userSetup) (err error) {
	if r.fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if _, errno := ioctl(r.fd, iocSetup, s); errno != 0 {
		return &Error{Call: "URINGPV_IOC_SETUP", Errno: errno}
	}
	r.params = s.Params
	return r.locate()
}

// mmap maps n bytes of the ring at off.
func (r *Ring) mmap(off int64, n uint64) ([]byte, error) {
	b, err := unix.Mmap(r.fd, off, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, &Error{Call: "mmap", Errno: errnoOf(err)}
	}
	r.maps = append(r.maps, b)
	return b, nil
}

// locate maps the ring, and finds its words at the offsets that the driver
// returned.
func (r *Ring) locate() error {
	p := &r.params
	b, err := r.mmap(offSQRing, max(uint64(p.SQOff.Array)+uint64(p.SQEntries)*4, uint64(p.CQOff.CQEs)+uint64(p.CQEntries)*cqeSize))
	if err != nil {
		return err
	}
	rings, err := shm.Of(b)
	if err != nil {
		return err
	}
	for _, w := range []struct {
		to  **atomic.Uint32
		off uint32
	}{
		{&r.sqHead, p.SQOff.Head}, {&r.sqTail, p.SQOff.Tail}, {&r.sqFlags, p.SQOff.Flags},
		{&r.cqHead, p.CQOff.Head}, {&r.cqTail, p.CQOff.Tail}, {&r.cqFlags, p.CQOff.Flags},
	} {
		word, ok := rings.Uint32(uint64(w.off))
		if !ok {
			return ErrBadOffsets
		}
		*w.to = word
	}
	var ok bool
	if r.cqes, ok = rings.Slice(uint64(p.CQOff.CQEs), uint64(p.CQEntries)*cqeSize); !ok {
		return ErrBadOffsets
	}
	// Entry i of the index array names SQE i, for good.
	for i := range p.SQEntries {
		if p.Flags&setupNoSQArray != 0 {
			break
		}
		w, ok := rings.Uint32(uint64(p.SQOff.Array) + uint64(i)*4)
		if !ok {
			return ErrBadOffsets
		}
		w.Store(i)
	}
	if r.sqes, err = r.mmap(offSQEs, uint64(p.SQEntries)*sqeSize); err != nil {
		return err
	}
	r.sqMask, r.sqEntries, r.cqMask = p.SQEntries-1, p.SQEntries, p.CQEntries-1
	return nil
}

// FD is the ring's descriptor, which may be polled. It stays the Ring's.
func (r *Ring) FD() int { return r.fd }

// Entries is how many entries the SQ ring and the CQ ring have.
func (r *Ring) Entries() (sq, cq uint32) { return r.params.SQEntries, r.params.CQEntries }

// Flags are the SetupX of the ring.
func (r *Ring) Flags() uint32 { return r.params.Flags }

// Close closes the ring: requests in flight are cancelled or waited for, and when
// it returns the device touches no memory of theirs, unless the host is stuck;
// then the driver keeps the memory pinned as long as that takes. Further calls do
// nothing and return the same error.
func (r *Ring) Close() error {
	r.once.Do(func() {
		var all []error
		for _, m := range r.maps {
			if err := unix.Munmap(m); err != nil {
				all = append(all, fmt.Errorf("unmap ring: %w", err))
			}
		}
		if err := unix.Close(r.fd); err != nil {
			all = append(all, fmt.Errorf("close ring: %w", err))
		}
		r.err = errors.Join(all...)
	})
	return r.err
}

// SQE is the next free SQE, zeroed, to fill in. It says false if the SQ ring is
// full. The device sees it after Submit.
//
// SQE, Submit and Reap are nosplit, so that a loop of them on a mapped ring makes
// no system calls by way of the runtime's scheduler, which takes a thread's turn
// away at calls.
//
//go:nosplit
func (r *Ring) SQE() (*SQE, bool) {
	if r.sqeTail-r.sqHead.Load() >= r.sqEntries {
		return nil, false
	}
	sqe := sqeAt(r.sqes, r.sqeTail&r.sqMask)
	*sqe = SQE{}
	r.sqeTail++
	return sqe, true
}

// Submit gives the device the SQEs handed out and returns how many it took or
// will take. On a mediated ring that is one system call. On a mapped ring it is
// none, and a write to the doorbell if the host does not look at the ring by
// itself.
//
//go:nosplit
func (r *Ring) Submit() (int, error) {
	n := r.sqeTail - r.sqTail.Load()
	r.sqTail.Store(r.sqeTail) // a full barrier, for the load of the flags below
	switch {
	case !r.mapped:
		if n = r.sqeTail - r.sqHead.Load(); n == 0 {
			return 0, nil
		}
		return r.Enter(n, 0, 0)
	case n > 0 && r.params.Flags&setupSQPoll == 0, n > 0 && r.sqFlags.Load()&sqNeedWakeup != 0:
		ring(r.doorbell)
	}
	return int(n), nil
}

// Enter is io_uring_enter(2). Interrupted by a signal it starts again. EBUSY and
// EAGAIN mean: reap CQEs, then try again; ENODEV: the device was reset or has
// gone, and the ring is dead.
func (r *Ring) Enter(toSubmit, minComplete, flags uint32) (int, error) {
	e := userEnter{ToSubmit: toSubmit, MinComplete: minComplete, Flags: flags}
	for {
		r.enters.Add(1)
		n, errno := ioctl(r.fd, iocEnter, &e)
		switch errno {
		case 0:
			return n, nil
		case unix.EINTR:
		default:
			return 0, &Error{Call: "URINGPV_IOC_ENTER", Errno: errno}
		}
	}
}

// EnterCalls is the number of calls that Enter has made so far.
func (r *Ring) EnterCalls() uint64 { return r.enters.Load() }

// Ready is the number of CQEs in the ring.
func (r *Ring) Ready() uint32 { return r.cqTail.Load() - r.cqHead.Load() }

// Wait waits until there are at least n CQEs. n is at most the CQ ring's size.
func (r *Ring) Wait(n uint32) error {
	for r.Ready() < n {
		if _, err := r.Enter(0, n, EnterGetevents); err != nil {
			return err
		}
	}
	return nil
}

// Reap takes CQEs, oldest first, until dst is full or the ring is empty, and
// returns their number.
//
//go:nosplit
func (r *Ring) Reap(dst []CQE) int {
	head, tail := r.cqHead.Load(), r.cqTail.Load()
	n := 0
	for ; head != tail && n < len(dst); head, n = head+1, n+1 {
		off := uint64(head&r.cqMask) * cqeSize
		lo, ok1 := r.cqes.Uint64(off)
		hi, ok2 := r.cqes.Uint64(off + 8)
		if !ok1 || !ok2 {
			break // cannot be: the ring was measured at set-up
		}
		w := hi.Load()
		dst[n] = CQE{UserData: lo.Load(), Res: int32(uint32(w)), Flags: uint32(w >> 32)}
	}
	if n > 0 {
		r.cqHead.Store(head) // after the loads above: the entries may be reused
	}
	return n
}

// Overflowed says whether there are CQEs that found the CQ ring full; Enter with
// EnterGetevents moves them into it.
func (r *Ring) Overflowed() bool { return r.sqFlags.Load()&sqCQOverflow != 0 }

// Quiet masks (or unmasks) interrupts and the eventfd of completions. With a
// mapped ring that is polled it saves the guest its interrupts; Wait needs them.
// After unmasking look at the CQ ring once more.
func (r *Ring) Quiet(mask bool) {
	if mask {
		r.cqFlags.Or(cqEventfdDisabled)
	} else {
		r.cqFlags.And(^cqEventfdDisabled)
	}
}
