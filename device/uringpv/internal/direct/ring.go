// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/internal/quiesce"
	"github.com/uringpv/uringpv/device/uringpv/internal/signal"
	"github.com/uringpv/uringpv/device/uringpv/internal/sqthread"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// DefaultIdle is how long a ring with IORING_SETUP_SQPOLL polls without work if
// its guest does not say. To wake it costs less than a hundredth of that.
const DefaultIdle = 10 * time.Millisecond

// hiddenIdle is how long a ring polls without work whose guest has not asked for
// polling: the least that the kernel offers.
const hiddenIdle = time.Millisecond

// TableSize is the largest number of entries in a ring's file table: the guest's,
// and the reserved one at the end.
const TableSize = uringpv.ReservedFile + 1

// Features are the IORING_FEAT_* that mean something to a guest, as far as the
// host's kernel has them.
const Features = hostring.FeatSingleMmap | hostring.FeatNodrop | hostring.FeatSubmitStable

// Host is how a backend makes one ring, and ends what the ring rests on. All
// methods but End run on the ring's thread.
type Host interface {
	// Make makes the host ring that c describes, disabled.
	Make(c hostring.Config) (*hostring.Ring, error)

	// Buffers registers ranges of guest RAM with the ring.
	Buffers(*hostring.Ring, []memmap.Range) error

	// Ready returns nil when the ring may be enabled.
	Ready() error

	// Lost is a descriptor that becomes readable when the ring is lost, -1 for a
	// ring that cannot be.
	Lost() int

	// Fate is why it is lost.
	Fate() error

	// Discard ends a ring whose end the sentinel does not see. It was never
	// enabled, so it has no requests. It closes the ring by shut, and returns nil
	// when nothing can write to the guest's areas any more.
	Discard(r *hostring.Ring, shut func()) error

	// End ends what the ring rested on, when the kernel has let go of the ring. It
	// returns an error that wraps unix.ETIMEDOUT or ctx's when that takes too
	// long, and may then be called again.
	End(ctx context.Context) error
}

// Config says what ring to make.
type Config struct {
	Spec uringpv.RingSpec
	Host Host

	// Polled makes an SQ thread take the SQEs of every ring: this process must
	// not. A guest that has not asked for that wakes it by its doorbell.
	Polled bool

	// Inexact says that guests may have requests without a CQE, or with several:
	// the watchdog then counts what the kernel lists.
	Inexact bool

	// Exact makes the host ring's table of files as long as the guest's, for rings
	// whose SQEs can put files into entries (ACCEPT): into those, and no others. The
	// sentinel then comes into the table when the ring ends, in place of a file, and
	// a guest may throw it out again: End must say by itself that no request is left.
	Exact bool

	// Shareable says that the SQ thread may be one that polls other rings of this
	// process, too, if the device's owner allows that (RingSpec.SQThreadShared).
	Shareable bool

	// UnboundWorkers bounds the kernel's worker threads of the ring for requests
	// that may wait for ever.
	UnboundWorkers uint32
}

// Ring is a ring that the guest and the kernel share.
type Ring struct {
	params  hostring.Params // as the guest is to see them
	spec    uringpv.RingSpec
	back    Host
	inexact bool
	exact   bool
	skips   bool // an SQE may have no CQE
	workers uint32
	count   uringpv.Counters
	sqpoll  bool
	idle    time.Duration
	thread  *sqthread.Hold // nil: the ring's own

	// To the ring's goroutine.
	wake    int // eventfd that ends its sleep
	closing atomic.Bool
	enter   atomic.Bool         // Enter was called
	submit  uringpv.Submissions // and wants so many SQEs taken

	done chan struct{} // closed when the goroutine has ended and the descriptor is closed
	end  *quiesce.Sentinel

	mu      sync.Mutex     // guards what follows
	host    *hostring.Ring // nil when its descriptor is closed
	account account
	vector  int // eventfd that completions signal, -1 for none

	alarm alarm

	loop
}

// account adds the kernel's 32-bit counters up.
type account struct {
	last       hostring.Info
	sqes, cqes uint64
}

// add takes note of a reading. Readings are less than 2^32 SQEs apart: the
// watchdog looks while the ring is active.
func (a *account) add(i hostring.Info) {
	a.sqes += uint64(i.CachedSQHead - a.last.CachedSQHead)
	a.cqes += uint64(i.CachedCQTail - a.last.CachedCQTail)
	a.last = i
}

// New makes a ring in the guest's areas and starts the thread that serves its
// doorbell. That thread makes the ring, too: what it makes has its credentials.
func New(c Config) (_ *Ring, err error) {
	s := &c.Spec
	skips := s.Policy.SQEFlags&hostring.SQECQESkipSuccess != 0
	r := &Ring{
		spec: c.Spec, back: c.Host, inexact: c.Inexact, exact: c.Exact, skips: skips, workers: c.UnboundWorkers,
		wake: -1, done: make(chan struct{}),
	}
	switch {
	case s.Flags&hostring.SetupSQPoll != 0:
		r.sqpoll = true
		if r.idle = s.SQThreadIdle.Truncate(time.Millisecond); r.idle <= 0 {
			r.idle = DefaultIdle
		}
	case c.Polled:
		r.sqpoll, r.idle = true, hiddenIdle
	}
	if r.sqpoll && c.Shareable && s.SQThreadShared {
		if r.thread, err = sqthread.Get(s.SQThreadCPU); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, r.thread.Release())
			}
		}()
	}
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if r.end, err = quiesce.New(); err != nil {
		_ = unix.Close(r.wake)
		return nil, err
	}
	made := make(chan error)
	go func() {
		// Never unlocked: the thread, with its credentials, ends here. A ring's
		// requests that it entered are cancelled with it.
		runtime.LockOSThread()
		defer close(r.done)
		err := r.make()
		made <- err
		if err == nil {
			r.serve()
		}
		r.shut()
	}()
	if err := <-made; err != nil {
		// Nothing is in flight on a ring that no SQE has reached, so the wait is
		// short.
		<-r.done
		return nil, errors.Join(err, r.release(context.Background()))
	}
	return r, nil
}

// make makes the host ring in the guest's areas. It runs on the ring's thread.
func (r *Ring) make() error {
	s := &r.spec
	c := hostring.Config{
		Entries:   s.SQEntries,
		CQEntries: s.CQEntries,
		Flags: hostring.SetupNoMmap | hostring.SetupRDisabled | hostring.SetupCQSize | hostring.SetupSubmitAll |
			s.Flags&(hostring.SetupNoSQArray|hostring.SetupIOPoll),
		Rings: s.Rings,
		SQEs:  s.SQEs,
	}
	if r.sqpoll {
		c.Flags |= hostring.SetupSQPoll
		c.SQThreadIdle = r.idle
		switch {
		case r.thread != nil:
			c.Flags |= hostring.SetupAttachWQ
			c.WQFD = r.thread.FD()
		case s.SQThreadCPU >= 0:
			c.Flags |= hostring.SetupSQAff
			c.SQThreadCPU = uint32(s.SQThreadCPU)
		}
	}
	host, err := r.back.Make(c)
	if err != nil {
		return err
	}
	r.host = host
	p := host.Params()
	p.Flags = s.Flags
	p.Features &= Features
	p.SQThreadCPU, p.WQFD = 0, 0
	p.SQOff.UserAddr, p.CQOff.UserAddr = 0, 0
	r.params = p

	var inside [3]bool
	r.words.head, inside[0] = s.Rings.Uint32(uint64(p.SQOff.Head))
	r.words.tail, inside[1] = s.Rings.Uint32(uint64(p.SQOff.Tail))
	r.words.flags, inside[2] = s.Rings.Uint32(uint64(p.SQOff.Flags))
	if inside != [3]bool{true, true, true} {
		return hostring.ErrBadOffsets // not reached: hostring has looked
	}

	// The file table first: with the sentinel in it, a failure of what follows
	// can wait for the ring's end.
	// The guest's entries are below Slots; it is told of no others.
	size := TableSize
	if r.exact {
		size = max(s.Slots, 1)
	}
	table := slices.Repeat([]int32{-1}, size)
	for i := range s.Files {
		table[i] = int32(s.Files[i].FD)
	}
	if !r.exact {
		table[uringpv.ReservedFile] = int32(r.end.File())
	}
	if err := host.RegisterFiles(table); err != nil {
		if !r.exact && host.RegisterFiles([]int32{int32(r.end.File())}) == nil {
			r.end.Handed() // a table of the sentinel alone tells of the end as well
			return err
		}
		return errors.Join(err, r.back.Discard(host, r.shut))
	}
	if !r.exact {
		r.end.Handed()
	}
	if s.Policy.Opcodes.Has(hostring.OpAccept) && s.Slots > 0 {
		// Where the kernel chooses an entry it is one that the guest knows of.
		if err := host.RegisterFileAllocRange(0, uint32(s.Slots)); err != nil {
			return err
		}
	}
	if err := r.back.Buffers(host, s.Buffers); err != nil {
		return err
	}
	r.vector = s.VectorFD
	if s.VectorFD >= 0 {
		if err := host.RegisterEventfd(s.VectorFD); err != nil {
			return err
		}
	}
	if err := host.RegisterIOWQMaxWorkers(0, r.workers); err != nil {
		return err
	}
	if err := host.RegisterRestrictions(hostring.Restrictions{
		// Some kernels need a list for each side to lock it. The guest has no
		// descriptor, and so no register call; these are ours.
		RegisterOps: []uint8{
			hostring.RegisterFilesUpdate, hostring.RegisterBuffersUpdate, hostring.RegisterEventfd, hostring.UnregisterEventfd,
		},
		SQEOps:           s.Policy.Opcodes.List(),
		SQEFlagsAllowed:  s.Policy.SQEFlags,
		SQEFlagsRequired: s.Policy.SQEFlagsRequired,
	}); err != nil {
		return err
	}
	if err := r.back.Ready(); err != nil {
		return err
	}
	return host.Enable()
}

// shut closes the ring's descriptor. The kernel begins to end the ring.
func (r *Ring) shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host == nil {
		return
	}
	if !r.alarm.rang.Load() {
		r.look(infoTries)
	}
	if r.exact {
		// Without it the end waits for End alone, and files may be let go of later.
		if err := r.host.UpdateFiles(0, []int32{int32(r.end.File())}); err != nil {
			r.spec.Logger.Debug("a ring ends without a sentinel", "error", err)
		}
		r.end.Handed()
	}
	if err := r.host.Close(); err != nil {
		r.spec.Logger.Error("close ring", "error", err)
	}
	r.host = nil
}

// release waits for the ring's end and closes what is left.
func (r *Ring) release(ctx context.Context) error {
	if err := r.end.Wait(ctx); err != nil {
		return fmt.Errorf("ring %d: requests are still in flight on the host (%w): %w", r.spec.Index, err, unix.ETIMEDOUT)
	}
	if err := r.back.End(ctx); err != nil {
		return fmt.Errorf("ring %d: %w", r.spec.Index, err)
	}
	var all *multierror.Error
	if r.thread != nil {
		if err := r.thread.Release(); err != nil {
			all = multierror.Append(all, err)
		}
	}
	if r.wake >= 0 {
		if err := unix.Close(r.wake); err != nil {
			all = multierror.Append(all, fmt.Errorf("close eventfd: %w", err))
		}
		r.wake = -1
	}
	return all.ErrorOrNil()
}

// Params are those that io_uring_setup(2) returned, without what is the host's
// business.
func (r *Ring) Params() hostring.Params { return r.params }

// Enter leaves the work to the ring's thread, like a doorbell. ENXIO: the ring
// has stopped.
func (r *Ring) Enter(toSubmit, _ uint32) error {
	select {
	case <-r.done:
		return fmt.Errorf("enter ring %d, which has stopped: %w", r.spec.Index, unix.ENXIO)
	default:
	}
	r.submit.Add(toSubmit, r.params.SQEntries)
	r.enter.Store(true)
	return r.notify()
}

// notify makes the goroutine look at what others want of it.
func (r *Ring) notify() error {
	if err := signal.Raise(r.wake); err != nil {
		return fmt.Errorf("wake ring %d: %w", r.spec.Index, err)
	}
	return nil
}

// Stats are the kernel's counters and the doorbells. SQEs that the kernel
// dropped count as consumed.
func (r *Ring) Stats() uringpv.RingStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host != nil && !r.alarm.rang.Load() {
		r.look(infoTries)
		if r.alarm.rang.Load() {
			_ = r.notify() // its thread stops it
		}
	}
	s := r.count.Stats()
	s.SQEs, s.CQEs = r.account.sqes, r.account.cqes
	return s
}

// SystemCalls counts the system calls made to serve the ring.
func (r *Ring) SystemCalls() uint64 { return r.count.SystemCalls.Load() }

// Close ends the ring as uringpv.Ring says.
func (r *Ring) Close(ctx context.Context) error {
	if r.wake < 0 {
		return nil
	}
	if !r.closing.Swap(true) {
		if err := r.notify(); err != nil {
			r.closing.Store(false)
			return err
		}
	}
	select {
	case <-r.done:
	default:
		select {
		case <-r.done:
		case <-ctx.Done():
			return fmt.Errorf("ring %d: its thread is still in the kernel: %w", r.spec.Index, unix.ETIMEDOUT)
		}
	}
	return r.release(ctx)
}
