// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/buffers"
	"github.com/uringpv/uringpv/device/uringpv/internal/quiesce"
	"github.com/uringpv/uringpv/device/uringpv/internal/signal"
	"github.com/uringpv/uringpv/hostring"
)

// DefaultIdle is how long a ring with IORING_SETUP_SQPOLL polls without work if
// its guest does not say. To wake it costs less than a hundredth of that.
const DefaultIdle = 10 * time.Millisecond

// unboundWorkers bounds the kernel's worker threads of a ring for requests on
// sockets, pipes and the like. None of them waits in a worker: what such a file has
// not got yet, the kernel waits for by polling it, without a thread, also with
// IOSQE_ASYNC. So a few are enough, and a guest cannot make it many threads.
const unboundWorkers = 4

// Ring is a guest's ring and the host ring behind it.
type Ring struct {
	params hostring.Params
	spec   uringpv.RingSpec
	count  uringpv.Counters

	// To the ring's goroutine.
	attention atomic.Bool         // look at what follows
	wake      int                 // eventfd that ends its sleep
	closing   atomic.Bool         // end the ring
	failed    atomic.Bool         // set by the goroutine: the host ring is of no use
	getEvents atomic.Bool         // flush CQEs held back
	submit    uringpv.Submissions // SQEs to take on a ring without SQPOLL
	orders    chan order          // changes of its tables

	done    chan struct{} // closed when the goroutine has ended
	backend *Backend

	loop
}

// buffer is one of a ring's buffers, by the addresses that SQEs use.
type buffer struct{ start, end uint64 }

// noBuffer is an entry without a buffer: it holds nothing, not even nothing.
var noBuffer = buffer{1, 0}

// known is a host ring's buffers as the relay knows them.
func known(host []hostring.Buffer) []buffer {
	v := make([]buffer, len(host))
	for i, h := range host {
		if v[i] = noBuffer; h.Length > 0 {
			v[i] = buffer{uint64(h.Addr), uint64(h.Addr) + h.Length}
		}
	}
	return v
}

// holds says whether [addr, addr+n) lies in the buffer.
func (b buffer) holds(addr, n uint64) bool {
	return addr >= b.start && addr <= b.end && n <= b.end-addr
}

// loop is what belongs to the ring's goroutine.
type loop struct {
	guest  guestRings
	host   *hostring.Ring
	end    *quiesce.Sentinel // of host
	sqpoll bool              // the guest's ring has IORING_SETUP_SQPOLL
	thread bool              // and the host ring, too: a kernel thread submits
	iopoll bool              // both have IORING_SETUP_IOPOLL: somebody has to look for completions
	idle   time.Duration

	files      []file     // the guest's table
	hosts      []hostFile // the host ring's, without the sentinel's entry
	pool       uint16     // first entry of hosts that the kernel fills by itself
	void       uint16     // entry of hosts that is always empty, behind the pool
	multishot  bool       // an ACCEPT may go on
	choosy     bool       // some file has, or had, denied opcodes of its own
	buffers    []buffer
	memory     []buffer // what the buffers cover, in order, without gaps that are none
	last       int      // buffer that a READ or WRITE was in most recently
	registered bool     // host has the buffers
	replaced   uint64   // bytes of them that were replaced since request number since
	since      uint64
	arena      arena

	slots   slots
	held    backlog
	entries uint32 // SQEs that host has room for
	need    uint32 // slots that the next SQEs want at once, at least 1
	skipped bool   // an SQE had IOSQE_CQE_SKIP_SUCCESS
	drained ref    // the last SQE that had IOSQE_IO_DRAIN
	plans   map[ref]*again
	stalled []ref  // of plans: the host's ring was full, or the batch
	over    []ref  // with slotAsked: to be cancelled
	asked   uint32 // cancels of this pass that were no SQEs
	ending  bool   // CQEs that have no room are dropped
	cut     bool   // requests may be left when the goroutine ends

	synchronous bool // the kernel cancels by a call, too

	cancelAll func(time.Duration) error // host's SyncCancelAll; a test's may reach nothing

	// Of the SQE that is translated.
	q         slot
	sqe       hostring.SQE
	short     bool  // less than asked for is to be moved
	planned   again // with slotAgain
	moved     uint16
	movedTo   uint16       // an ACCEPT of this chain fills that entry of hosts for entry moved
	movedDeny *abi.Opcodes // with a socket that is denied these
	link      chain

	owed    uint32 // without SQPOLL: SQEs that doorbells have asked to take
	fresh   bool   // SQEs were put on the host ring that its kernel may not know of
	fault   error  // why the host ring cannot be used any more
	calls   uint64 // system calls, but for the host ring's
	pending tally

	cqes  [64]hostring.CQE // what the loop would otherwise allocate
	polls [2]unix.PollFd
	event [8]byte
}

// chain is what is known of the chain that is being taken.
type chain struct {
	head, prev ref
	op         uint8         // the last member's
	last       *hostring.SQE // on the host's ring
	short      bool          // a member moves less than asked, which has to break the chain
}

// tally is counts that the goroutine has not published yet.
type tally struct{ sqes, cqes, errors, read, written, overflows uint64 }

// NewRing makes a ring and starts its goroutine.
func (b *Backend) NewRing(s uringpv.RingSpec) (_ uringpv.Ring, err error) {
	r := &Ring{spec: s, wake: -1, done: make(chan struct{}), backend: b, orders: make(chan order, 1)}
	if r.guest, r.params, err = newGuestRings(&r.spec); err != nil {
		return nil, err
	}
	r.sqpoll = s.Flags&hostring.SetupSQPoll != 0
	if r.sqpoll {
		if r.idle = s.SQThreadIdle; r.idle <= 0 {
			r.idle = DefaultIdle
		}
		r.params.SQThreadIdle = uint32(r.idle.Milliseconds())
	}
	if err := r.tables(); err != nil {
		return nil, err
	}
	host, err := buffers.Of(s.Memory, s.Buffers)
	if err != nil {
		return nil, err
	}
	r.buffers = known(host)
	r.sortBuffers()
	// A chain takes up to two slots for each SQE, and must fit.
	most := max(s.CQEntries, 2*s.SQEntries, fewestInFlight)
	r.slots = newSlots(min(s.CQEntries, fewestInFlight), most)
	r.arena.most = most
	r.held.ring = make([]hostring.CQE, s.CQEntries)
	r.need, r.moved, r.plans = 1, noFile, make(map[ref]*again)

	defer func() {
		if err != nil {
			if e := r.discard(context.Background()); e != nil {
				err = multierror.Append(err, e)
			}
		}
	}()
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		r.wake = -1
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := r.openHost(b); err != nil {
		return nil, err
	}
	if r.sqpoll {
		// A guest need not ring for its first SQE, but it may look before there is a
		// thread: say asleep, as the kernel does, and let the thread clear it.
		r.guest.setFlags(hostring.SQNeedWakeup, true)
	}
	go r.run()
	return r, nil
}

// tables makes the tables of files. Entry i of the guest's is entry i of the host
// ring's, until it is replaced.
func (r *Ring) tables() error {
	n := max(r.spec.Slots, len(r.spec.Files))
	r.files = make([]file, n)
	pool := 0
	if r.spec.Policy.Opcodes.Has(hostring.OpAccept) {
		pool = 2 * n
	}
	r.layHosts(pool)
	for i := range r.files {
		if i < len(r.spec.Files) {
			var err error
			if r.files[i], err = newFile(&r.spec.Files[i], &r.calls); err != nil {
				return err
			}
		}
		r.choosy = r.choosy || r.files[i].deny != nil
		r.files[i].host = uint16(i)
		r.hosts[i] = hostFile{bound: true, filled: r.files[i].present}
	}
	return nil
}

// layHosts makes the host's table of files for the guest's, with so many entries that
// the kernel fills.
func (r *Ring) layHosts(pool int) {
	n := 2 * len(r.files)
	r.hosts = make([]hostFile, n+pool+1)
	r.pool, r.void = uint16(n), uint16(n+pool)
}

// maxHostEntries is the largest SQ ring of a kernel, IORING_MAX_ENTRIES.
const maxHostEntries = 32768

// openHost makes the host ring. It has room for a whole chain with what the relay
// adds to it. When its CQ ring is full, the kernel keeps further CQEs; they are no
// more than requests are in flight, as one that gives several ends then.
func (r *Ring) openHost(b *Backend) (err error) {
	s := &r.spec
	r.entries = 2 * s.SQEntries
	c := hostring.Config{
		Entries:   r.entries,
		CQEntries: max(s.CQEntries, r.entries),
		Flags:     hostring.SetupCQSize | hostring.SetupSubmitAll | s.Flags&hostring.SetupIOPoll,
	}
	r.iopoll = s.Flags&hostring.SetupIOPoll != 0
	r.thread = r.sqpoll && !b.inline
	if r.thread {
		c.Flags |= hostring.SetupSQPoll
		c.SQThreadIdle = max(r.idle, time.Millisecond)
		if s.SQThreadCPU >= 0 {
			c.Flags |= hostring.SetupSQAff
			c.SQThreadCPU = uint32(s.SQThreadCPU)
		}
	}
	if r.host, err = hostring.New(c); err != nil {
		return err
	}
	r.cancelAll, r.synchronous = r.host.SyncCancelAll, b.synchronous
	if r.end, err = quiesce.New(); err != nil {
		return err
	}
	// The sentinel's entry comes last and translate lets no SQE name it.
	fds := make([]int32, len(r.hosts), len(r.hosts)+1)
	for i := range fds {
		fds[i] = -1
		if i < len(s.Files) {
			fds[i] = int32(s.Files[i].FD)
		}
	}
	if err := r.host.RegisterFiles(append(fds, int32(r.end.File()))); err != nil {
		return err
	}
	r.end.Handed()
	if n := r.void - r.pool; n > 0 {
		switch err := r.host.RegisterFileAllocRange(uint32(r.pool), uint32(n)); hostring.Errno(err) {
		case 0:
			r.multishot = b.multishot && r.synchronous
		case unix.EINVAL: // a kernel before 6.0
		default:
			return err
		}
	}
	if err := r.host.RegisterEventfd(r.wake); err != nil {
		return err
	}
	r.host.DisableEventfd(true)
	if r.registered, err = b.register(r.host, s.Buffers); err != nil {
		return err
	}
	if r.thread { // else the workers are the goroutine's thread's
		return r.limitWorkers()
	}
	return nil
}

// limitWorkers bounds the kernel's worker threads. Kernels before 5.15 cannot.
func (r *Ring) limitWorkers() error {
	err := r.host.RegisterIOWQMaxWorkers(0, unboundWorkers)
	if hostring.Errno(err) == unix.EINVAL {
		return nil
	}
	return err
}

// discard releases what the ring holds, once nothing runs on it any more.
func (r *Ring) discard(ctx context.Context) error {
	var all *multierror.Error
	if r.host != nil {
		if err := r.host.Close(); err != nil {
			all = multierror.Append(all, err)
		}
	}
	if r.end != nil {
		if err := r.end.Wait(ctx); err != nil {
			return fmt.Errorf("ring %d: the host's kernel still holds its ring: %w", r.spec.Index, err)
		}
		r.end = nil
	}
	if r.wake >= 0 {
		if err := unix.Close(r.wake); err != nil {
			all = multierror.Append(all, fmt.Errorf("close eventfd: %w", err))
		}
		r.wake = -1
	}
	if err := r.arena.close(); err != nil {
		all = multierror.Append(all, err)
	}
	return all.ErrorOrNil()
}

// sortBuffers finds out what the buffers cover together.
func (r *Ring) sortBuffers() {
	r.last = 0
	all := slices.DeleteFunc(slices.Clone(r.buffers), func(b buffer) bool { return b.start >= b.end })
	slices.SortFunc(all, func(a, b buffer) int { return cmp.Compare(a.start, b.start) })
	r.memory = r.memory[:0]
	for _, b := range all {
		if n := len(r.memory); n > 0 && b.start <= r.memory[n-1].end {
			r.memory[n-1].end = max(r.memory[n-1].end, b.end)
			continue
		}
		r.memory = append(r.memory, b)
	}
}

// covers says whether [addr, addr+n) lies in the ring's buffers, in one or in
// several that adjoin.
func (r *Ring) covers(addr, n uint64) bool {
	i, j := 0, len(r.memory) // the last that begins at or before addr is before i
	for i < j {
		if m := (i + j) / 2; r.memory[m].start <= addr {
			i = m + 1
		} else {
			j = m
		}
	}
	return i > 0 && r.memory[i-1].holds(addr, n)
}

// bufferOf is the buffer that holds [addr, addr+n).
func (r *Ring) bufferOf(addr, n uint64) (uint16, bool) {
	if r.last < len(r.buffers) && r.buffers[r.last].holds(addr, n) {
		return uint16(r.last), true
	}
	for i := range r.buffers {
		if r.buffers[i].holds(addr, n) {
			r.last = i
			return uint16(i), true
		}
	}
	return 0, false
}

// Params are the guest's ring's.
func (r *Ring) Params() hostring.Params { return r.params }

// Stats are the counters. What a CQE counts for is counted before the guest can
// see the CQE.
func (r *Ring) Stats() uringpv.RingStats { return r.count.Stats() }

// SystemCalls counts the system calls made to serve the ring.
func (r *Ring) SystemCalls() uint64 { return r.count.SystemCalls.Load() }

// Enter leaves the work to the ring's thread, like a doorbell. ENXIO: the ring
// has stopped.
func (r *Ring) Enter(toSubmit, flags uint32) error {
	if r.closing.Load() {
		return fmt.Errorf("enter ring %d, which is being destroyed: %w", r.spec.Index, unix.ENXIO)
	}
	if r.failed.Load() {
		return fmt.Errorf("enter ring %d, which has stopped: %w", r.spec.Index, unix.ENXIO)
	}
	if !r.sqpoll && toSubmit > 0 {
		r.submit.Add(toSubmit, r.params.SQEntries)
	}
	if flags&hostring.EnterGetevents != 0 {
		r.getEvents.Store(true)
	}
	return r.notify()
}

// notify makes the goroutine look at what others want of it.
func (r *Ring) notify() error {
	r.attention.Store(true)
	if err := signal.Raise(r.wake); err != nil {
		return fmt.Errorf("wake ring %d: %w", r.spec.Index, err)
	}
	return nil
}

// Close ends the ring as uringpv.Ring says.
func (r *Ring) Close(ctx context.Context) error {
	select {
	case <-r.done:
	default:
		if !r.closing.Swap(true) {
			if err := r.notify(); err != nil {
				r.closing.Store(false)
				return err
			}
		}
		select {
		case <-r.done:
		case <-ctx.Done():
			return fmt.Errorf("ring %d: requests are still in flight on the host: %w", r.spec.Index, unix.ETIMEDOUT)
		}
	}
	if r.fault == nil && !r.cut && r.end != nil {
		// Every request has completed. What is left, the kernel's hold on the
		// files, is for the backend's end to wait for.
		r.backend.linger(r.end)
		r.end = nil
	}
	return r.discard(ctx)
}
