// SPDX-License-Identifier: Apache-2.0

package passthrough

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/internal/quiesce"
	"github.com/uringpv/uringpv/hostring"
)

// DefaultIdle is how long a ring with IORING_SETUP_SQPOLL polls without work if
// its guest does not say. To wake it costs less than a hundredth of that.
const DefaultIdle = 10 * time.Millisecond

// unboundWorkers bounds the kernel's worker threads of a ring for requests that
// may wait for ever, of which there are none on disks: only a guest that names
// the reserved file makes some.
const unboundWorkers = 1

// Ring is a ring that the guest and the kernel share.
type Ring struct {
	params hostring.Params // as the guest is to see them
	spec   uringpv.RingSpec
	count  uringpv.Counters
	sqpoll bool
	idle   time.Duration

	// To the ring's goroutine.
	wake    int // eventfd that ends its sleep
	closing atomic.Bool
	enter   atomic.Bool   // Enter was called
	submit  atomic.Uint32 // and wants so many SQEs taken

	done chan struct{} // closed when the goroutine has ended and the descriptor is closed
	end  *quiesce.Sentinel

	mu      sync.Mutex     // guards what follows
	host    *hostring.Ring // nil when its descriptor is closed
	account account

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

// NewRing makes a ring in the guest's areas and starts the thread that serves
// its doorbell. That thread makes the ring, too: the ring's requests have its
// credentials.
func (b *Backend) NewRing(s uringpv.RingSpec) (_ uringpv.Ring, err error) {
	r := &Ring{spec: s, wake: -1, done: make(chan struct{})}
	r.sqpoll = s.Flags&hostring.SetupSQPoll != 0
	if r.sqpoll {
		if r.idle = s.SQThreadIdle.Truncate(time.Millisecond); r.idle <= 0 {
			r.idle = DefaultIdle
		}
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
		err := r.make(b)
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
func (r *Ring) make(b *Backend) error {
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
		if s.SQThreadCPU >= 0 {
			c.Flags |= hostring.SetupSQAff
			c.SQThreadCPU = uint32(s.SQThreadCPU)
		}
	}
	host, err := setup(c)
	if err != nil {
		return err
	}
	r.host = host
	p := host.Params()
	p.Flags = s.Flags
	p.Features &= features
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
	table := make([]int32, tableSize)
	for i := range table {
		table[i] = -1
	}
	for i := range s.Files {
		table[i] = int32(s.Files[i].FD)
	}
	table[uringpv.ReservedFile] = int32(r.end.File())
	if err := host.RegisterFiles(table); err != nil {
		return errors.Join(err, r.unwatched())
	}
	r.end.Handed()
	if err := b.register(host, s.Buffers); err != nil {
		return err
	}
	if s.VectorFD >= 0 {
		if err := host.RegisterEventfd(s.VectorFD); err != nil {
			return err
		}
	}
	if err := host.RegisterIOWQMaxWorkers(0, unboundWorkers); err != nil {
		return err
	}
	if err := host.RegisterRestrictions(hostring.Restrictions{
		// Some kernels need a list for each side to lock it. The guest has no
		// descriptor, and so no register call; we need none any more.
		RegisterOps:      []uint8{hostring.RegisterProbe},
		SQEOps:           s.Policy.Opcodes.List(),
		SQEFlagsAllowed:  s.Policy.SQEFlags,
		SQEFlagsRequired: s.Policy.SQEFlagsRequired,
	}); err != nil {
		return err
	}
	return host.Enable()
}

// setup makes a ring with as few capabilities as the host allows.
func setup(c hostring.Config) (*hostring.Ring, error) {
	own, err := threadCapabilities()
	if err != nil {
		return nil, err
	}
	if err := own.unprivileged().apply(); err != nil {
		return nil, err
	}
	r, err := hostring.New(c)
	if hostring.Errno(err) != unix.EPERM {
		return r, err
	}
	// kernel.io_uring_disabled=1 allows io_uring to CAP_SYS_ADMIN only.
	if e := own.apply(); e != nil {
		return nil, errors.Join(err, e)
	}
	return hostring.New(c)
}

// unwatched closes a ring whose end the sentinel does not see. It was never
// enabled, so it has no requests; only its SQ thread could write to the guest's
// areas, and has gone when this returns nil.
func (r *Ring) unwatched() error {
	info, err := r.host.Info()
	if err != nil {
		return err
	}
	// The kernel names an SQ thread for the thread that made the ring, which is
	// this one and made no other; until it has begun, Info tells that id as well. In
	// a PID namespace it is another than ours here. Some name must be seen while
	// the thread is there, or its absence says nothing.
	names := []string{fmt.Sprintf("iou-sqp-%d", unix.Gettid()), fmt.Sprintf("iou-sqp-%d", info.SQThread)}
	seen := !r.sqpoll
	for deadline := time.Now().Add(time.Second); !seen && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if seen, err = hasThread(names); err != nil {
			break
		}
	}
	r.shut()
	if !r.sqpoll || err != nil {
		return err
	}
	for deadline := time.Now().Add(5 * time.Second); seen && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if there, err := hasThread(names); err != nil || !there {
			return err
		}
	}
	return fmt.Errorf("whether the SQ thread %s of a closed ring has ended is not known: %w", names[0], unix.ETIMEDOUT)
}

// hasThread says whether this process has a thread of one of those names.
func hasThread(names []string) (bool, error) {
	const tasks = "/proc/self/task/"
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return false, err
	}
	for _, e := range threads {
		comm, err := os.ReadFile(tasks + e.Name() + "/comm")
		if err == nil && slices.Contains(names, strings.TrimSpace(string(comm))) {
			return true, nil
		}
	}
	return false, nil
}

// shut closes the ring's descriptor. The kernel begins to end the ring.
func (r *Ring) shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host == nil {
		return
	}
	r.look()
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
	var all *multierror.Error
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
	r.submit.Store(min(toSubmit, r.params.SQEntries))
	r.enter.Store(true)
	return r.notify()
}

// notify makes the goroutine look at what others want of it.
func (r *Ring) notify() error {
	for {
		// EAGAIN: the counter is full, so it is signalled.
		_, err := unix.Write(r.wake, one[:])
		switch {
		case err == nil || errors.Is(err, unix.EAGAIN):
			return nil
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wake ring %d: %w", r.spec.Index, err)
		}
	}
}

// one is what a signal adds to an eventfd.
var one = [8]byte{1}

// Stats are the kernel's counters and the doorbells. SQEs that the kernel
// dropped count as consumed.
func (r *Ring) Stats() uringpv.RingStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host != nil {
		r.look()
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
