// SPDX-License-Identifier: Apache-2.0

package uringpv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/signal"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// MaxRings is the most rings that a device can have.
const MaxRings = 64

// quiesceTimeout is how long RING_DESTROY and RESET wait for what is in flight.
// A vCPU stands still meanwhile.
const quiesceTimeout = 5 * time.Second

// maxSQThreadIdle bounds what a guest may ask for where Config does not say: it
// is io_uring's own default (io_uring_setup(2), sq_thread_idle).
const maxSQThreadIdle = time.Second

// Config is how to make a Device.
type Config struct {
	Name       string         // UTF-8, shown to the guest, cut to 31 bytes
	Rings      int            // rings, doorbells and vectors, 1 to MaxRings
	MaxEntries uint32         // of an SQ ring, a power of two; cut to what the backend can
	Files      []File         // at most ReservedFile, less if the backend can do with less
	Deny       abi.Opcodes    // opcodes that the device does not offer, although the backend could
	DenyFlags  uint8          // IOSQE_* likewise; not those that every SQE must carry
	Memory     *memmap.Memory // guest RAM; stays the caller's and must outlive the Device

	// Backend serves the rings. It is the Device's once New has succeeded.
	Backend Backend

	SQPoll       bool          // whether guests may have the host poll their rings
	SQThreadIdle time.Duration // default and maximum of the polling without work, whole milliseconds; 0: the backend's default, at most one second
	SQThreadCPU  int           // the host's CPU to poll on, -1 for any

	// SQThreadShared says that one thread may poll the rings of all devices of this
	// process that say so, where the backend's rings are the process's.
	SQThreadShared bool

	Logger *slog.Logger // nil: no log
}

// Device is one uringpv device. Its methods may be called from any goroutine,
// those of registers from several vCPUs at once.
type Device struct {
	name       string
	memory     *memmap.Memory
	buffers    []memmap.Range // the buffer table
	files      []File
	backend    Backend
	caps       Capabilities
	policy     Policy // the backend's, within what Config allows
	maxEntries uint32
	idle       time.Duration // Config.SQThreadIdle
	cpu        int
	shared     bool          // Config.SQThreadShared
	timeout    time.Duration // quiesceTimeout
	log        *slog.Logger

	doorbells []int // eventfds, by ring
	vectors   []int // eventfds, by vector

	status     atomic.Uint32 // abi.Status*
	adminAddr  atomic.Uint64
	adminError atomic.Int32

	commands    atomic.Uint64 // executed
	systemCalls atomic.Uint64 // made by the Device itself to serve rings
	warnings    throttle      // a guest may repeat what causes one

	// Waits of commands end when this context does.
	waits     context.Context
	interrupt context.CancelFunc

	// executing is held while an admin command, Reset or Close is executed: one
	// at a time. It guards closed and released.
	executing sync.Mutex
	closed    bool // no more commands
	released  bool // nothing is held any more

	// mu is held for moments, never during a call to the backend that may wait.
	// It guards rings, past and pastCalls. Who changes rings holds executing too,
	// so that commands may read it without mu.
	mu        sync.Mutex
	rings     []*ring     // nil: there is no such ring
	past      []RingStats // of rings that are gone, by index
	pastCalls uint64      // system calls of rings that are gone
}

// New makes a device without rings. A Config that makes no sense is refused with
// what would be right.
func New(c Config) (_ *Device, err error) {
	if c.Memory == nil || c.Backend == nil {
		return nil, errors.New("a uringpv device needs guest memory and a backend")
	}
	if c.Rings < 1 || c.Rings > MaxRings {
		return nil, fmt.Errorf("%d rings: must be 1 to %d", c.Rings, MaxRings)
	}
	if bits.OnesCount32(c.MaxEntries) != 1 {
		return nil, fmt.Errorf("%d ring entries: must be a power of two", c.MaxEntries)
	}
	if c.SQThreadIdle < 0 || c.SQThreadIdle%time.Millisecond != 0 || c.SQThreadIdle/time.Millisecond > 1<<32-1 {
		return nil, fmt.Errorf("polling for %v without work: must be whole milliseconds, less than %d of them", c.SQThreadIdle, uint64(1<<32))
	}
	caps := c.Backend.Capabilities()
	if err := caps.check(); err != nil {
		return nil, fmt.Errorf("backend %s: %w", c.Backend.Kind(), err)
	}
	if len(c.Files) > caps.MaxFiles {
		return nil, fmt.Errorf("%d files: backend %s can have %d at most", len(c.Files), c.Backend.Kind(), caps.MaxFiles)
	}
	for i := range c.Files {
		if err := c.Files[i].check(); err != nil {
			return nil, fmt.Errorf("file %d, %q: %w", i, c.Files[i].Name, err)
		}
		if !c.Files[i].Deny.Empty() && !caps.FilePolicy {
			return nil, fmt.Errorf("file %d, %q, with denied opcodes of its own: backend %s looks at no SQE, and cannot deny what only some files may do; relay can", i, c.Files[i].Name, c.Backend.Kind())
		}
	}
	if bad := c.DenyFlags & caps.SQEFlagsRequired; bad != 0 {
		return nil, fmt.Errorf("backend %s: SQE flags %#x are denied, and every SQE must carry them", c.Backend.Kind(), bad)
	}
	caps.SQEFlags &^= c.DenyFlags
	caps.Opcodes, caps.Extra = caps.Opcodes.Without(&c.Deny), caps.Extra.Without(&c.Deny)
	if caps.Opcodes.Empty() {
		return nil, fmt.Errorf("backend %s: all opcodes that its rings have are denied", c.Backend.Kind())
	}
	d := &Device{
		name:       c.Name,
		memory:     c.Memory,
		buffers:    c.Memory.Layout().Buffers(),
		files:      append([]File(nil), c.Files...),
		backend:    c.Backend,
		caps:       caps,
		policy:     caps.Policy,
		maxEntries: min(c.MaxEntries, caps.MaxEntries),
		idle:       c.SQThreadIdle,
		cpu:        max(c.SQThreadCPU, -1),
		shared:     c.SQThreadShared,
		timeout:    quiesceTimeout,
		log:        c.Logger,
		rings:      make([]*ring, c.Rings),
		past:       make([]RingStats, c.Rings),
	}
	if len(d.buffers) > caps.MaxBuffers {
		return nil, fmt.Errorf("guest RAM of %d MiB takes %d buffers: backend %s can have %d at most",
			c.Memory.Layout().Size()>>20, len(d.buffers), c.Backend.Kind(), caps.MaxBuffers)
	}
	if !c.SQPoll {
		d.policy.SetupFlags &^= hostring.SetupSQPoll | hostring.SetupIOPoll
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.log = d.log.With("device", c.Name)
	d.waits, d.interrupt = context.WithCancel(context.Background())

	defer func() {
		if err != nil {
			_ = d.release()
		}
	}()
	for range c.Rings {
		for _, fds := range []*[]int{&d.doorbells, &d.vectors} {
			fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
			if err != nil {
				return nil, &HostError{"eventfd for a doorbell or a vector", err}
			}
			*fds = append(*fds, fd)
		}
	}
	d.status.Store(abi.StatusReady)
	return d, nil
}

// check says what is wrong with capabilities that a backend claims.
func (c *Capabilities) check() error {
	switch {
	case c.Opcodes.Empty():
		return errors.New("allows no opcode")
	case c.SQEFlagsRequired&^c.SQEFlags != 0:
		return fmt.Errorf("requires SQE flags %#x that it does not allow", c.SQEFlagsRequired&^c.SQEFlags)
	case bits.OnesCount32(c.MaxEntries) != 1 || c.MaxEntries > 1<<30:
		return fmt.Errorf("has rings of %d entries: must be a power of two", c.MaxEntries)
	case c.MaxFiles < 1 || c.MaxFiles > ReservedFile:
		return fmt.Errorf("has %d files for a ring: must be 1 to %d", c.MaxFiles, ReservedFile)
	case c.MaxBuffers < 1:
		return fmt.Errorf("has %d buffers for a ring: must be 1 at least", c.MaxBuffers)
	}
	return nil
}

// Rings is the number of rings, doorbells and vectors.
func (d *Device) Rings() int { return len(d.rings) }

// Backend is the kind of backend that serves the rings.
func (d *Device) Backend() abi.Backend { return d.backend.Kind() }

// DoorbellFD is the eventfd behind the doorbell of ring, 0 to Rings()-1, for an
// ioeventfd. It stays the Device's and is valid until Close.
func (d *Device) DoorbellFD(ring int) int { return d.doorbells[ring] }

// VectorFD is the eventfd that becomes readable when vector v, 0 to Rings()-1,
// is to be raised, for an irqfd. It stays the Device's and is valid until Close.
func (d *Device) VectorFD(v int) int { return d.vectors[v] }

// Doorbell rings the doorbell of ring, as a write to DoorbellFD does: for a
// monitor that has no ioeventfd there. A ring that the device does not have is
// ignored. It may not run at the same time as Close.
func (d *Device) Doorbell(ring int) {
	if ring < 0 || ring >= len(d.doorbells) {
		return
	}
	d.systemCalls.Add(1)
	_ = signal.Raise(d.doorbells[ring]) // of an open eventfd: nothing to fail
}

// Interrupt makes the waits of commands in progress, and those of later ones,
// end at once with -ETIMEDOUT. A monitor calls it before it stops its vCPUs.
func (d *Device) Interrupt() {
	d.interrupt()
	Interrupt(d.backend)
}

// Reset is the machine's reset: it ends all rings as the command RESET does,
// clears STATUS.FAILED, and sets the registers to what they were after New. It
// returns nil when nothing of the device touches guest RAM any more, and waits
// five seconds for that; with an error the device stays usable, and Reset may be
// called again.
func (d *Device) Reset() error {
	d.executing.Lock()
	defer d.executing.Unlock()
	if d.closed {
		return nil
	}
	if err := d.reset(context.Background()); err != nil {
		return err
	}
	d.adminAddr.Store(0)
	d.adminError.Store(0)
	return nil
}

// Close ends the device: all rings as Reset does, then the backend, then the
// eventfds. It returns nil when nothing of the device touches guest RAM any
// more. With an error that wraps unix.ETIMEDOUT guest RAM must stay mapped and
// files open; Close may be called again to go on waiting. After nil further
// calls return nil.
func (d *Device) Close() error {
	d.interrupt() // else a guest's command could hold us up
	d.executing.Lock()
	defer d.executing.Unlock()
	d.closed = true
	d.status.Store(0)
	if d.released {
		return nil
	}
	if err := d.destroyAll(context.Background()); err != nil {
		return err
	}
	d.released = true
	err := d.backend.Close()
	if err != nil {
		err = &HostError{"close backend " + d.backend.Kind().String(), err}
	}
	return collect(err, d.release())
}

// release closes the eventfds.
func (d *Device) release() error {
	d.interrupt()
	var errs []error
	for _, fd := range slices.Concat(d.doorbells, d.vectors) {
		if err := unix.Close(fd); err != nil {
			errs = append(errs, &HostError{"close an eventfd", err})
		}
	}
	d.doorbells, d.vectors = nil, nil
	return collect(errs...)
}

// Stats is what has happened since New. It may make system calls.
func (d *Device) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Stats{
		Valid:       d.caps.Stats,
		Rings:       append([]RingStats(nil), d.past...),
		Commands:    d.commands.Load(),
		SystemCalls: d.systemCallsLocked(),
	}
	for i, r := range d.rings {
		if r != nil {
			s.Rings[i].add(r.backend.Stats())
		}
		s.Total.add(s.Rings[i])
	}
	return s
}

// SystemCalls counts the system calls that the VMM made to serve rings since
// New. It makes none itself.
func (d *Device) SystemCalls() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.systemCallsLocked()
}

// systemCallsLocked is SystemCalls for who holds mu.
func (d *Device) systemCallsLocked() uint64 {
	n := d.systemCalls.Load() + d.pastCalls
	for _, r := range d.rings {
		if r != nil {
			n += r.backend.SystemCalls()
		}
	}
	return n
}

// fail marks the device as failed: a host fault, which the guest may try to mend
// by RESET.
func (d *Device) fail(err error) {
	if d.status.Load()&abi.StatusReady != 0 {
		d.status.Or(abi.StatusFailed)
	}
	d.warn("host fault, the device has failed until it is reset", "error", err)
}

// warn logs what a guest may be able to repeat at will: once a second at most.
func (d *Device) warn(msg string, args ...any) {
	if dropped, ok := d.warnings.pass(time.Now()); ok {
		if dropped > 0 {
			args = append(args, "warnings_dropped", dropped)
		}
		d.log.Warn(msg, args...)
	}
}

// throttle lets one event a second pass.
type throttle struct {
	next    atomic.Int64 // no event before this time, in Unix nanoseconds
	dropped atomic.Uint64
}

// pass says whether this event may pass, and how many did not since the last
// one that did.
func (t *throttle) pass(now time.Time) (dropped uint64, ok bool) {
	next := t.next.Load()
	if now.UnixNano() < next || !t.next.CompareAndSwap(next, now.Add(time.Second).UnixNano()) {
		t.dropped.Add(1)
		return 0, false
	}
	return t.dropped.Swap(0), true
}
