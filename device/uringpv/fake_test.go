// SPDX-License-Identifier: Apache-2.0

package uringpv_test

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/devicetest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

// fake is a backend that does no I/O. It holds the device to its promises, and
// does as it is told.
type fake struct {
	caps   uringpv.Capabilities
	memory *memmap.Memory

	// What the next calls answer; nil: success.
	newRing   func(uringpv.RingSpec) error
	interrupt func()
	enter     func(toSubmit, flags uint32) error
	close     func(ctx context.Context, ring int) error
	// Of the updates of "files" and "buffers", half of which are done if it fails,
	// and of the "vector", which is as before then.
	register func(what string) error
	closing  error // of Close

	mu     sync.Mutex // guards what follows
	broken []string   // promises
	live   map[int]*fakeRing
	specs  []uringpv.RingSpec // of all rings ever
	closed int
}

func fakeCaps() uringpv.Capabilities {
	return uringpv.Capabilities{
		Policy: uringpv.Policy{
			Opcodes:          abi.OpcodesOf(hostring.OpNop, hostring.OpFsync, hostring.OpReadFixed, hostring.OpWriteFixed),
			SQEFlags:         hostring.SQEFixedFile | hostring.SQEAsync,
			SQEFlagsRequired: hostring.SQEFixedFile,
			SetupFlags:       hostring.SetupSQPoll | hostring.SetupIOPoll | hostring.SetupCQSize | hostring.SetupClamp | hostring.SetupNoSQArray,
		},
		Extra:      abi.OpcodesOf(hostring.OpFallocate),
		Features:   hostring.FeatSingleMmap | hostring.FeatNodrop,
		MaxEntries: 4096,
		MaxFiles:   8,
		MaxBuffers: 16,
		Stats:      abi.StatSQEs | abi.StatCQEs | abi.StatDoorbells,
	}
}

func newFake(m *memmap.Memory) *fake {
	return &fake{caps: fakeCaps(), memory: m, live: map[int]*fakeRing{}}
}

func (f *fake) Kind() abi.Backend                  { return abi.BackendRelay }
func (f *fake) Capabilities() uringpv.Capabilities { return f.caps }

// breakf notes a broken promise.
func (f *fake) breakf(format string, args ...any) {
	f.broken = append(f.broken, fmt.Sprintf(format, args...))
}

// check fails the test if the device has broken a promise.
func (f *fake) check(t interface {
	Helper()
	Fatalf(string, ...any)
}) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.broken) > 0 {
		t.Fatalf("the device breaks %d promises: %q", len(f.broken), f.broken)
	}
}

func (f *fake) Interrupt() {
	if f.interrupt != nil {
		f.interrupt()
	}
}

func (f *fake) NewRing(s uringpv.RingSpec) (uringpv.Ring, error) {
	f.mu.Lock()
	f.checkSpec(&s)
	f.mu.Unlock()
	if f.newRing != nil {
		if err := f.newRing(s); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &fakeRing{f: f, spec: s, files: make([]string, s.Slots), buffers: slices.Clone(s.Buffers), vector: s.VectorFD}
	for i := range s.Files {
		r.files[i] = s.Files[i].Name
	}
	// As a backend does, and so that areas that are not zeroed again are noticed.
	for _, off := range []uint64{0, s.Rings.Len() - 8} {
		w, _ := s.Rings.Uint64(off)
		w.Store(^uint64(0))
	}
	w, _ := s.SQEs.Uint64(s.SQEs.Len() - 8)
	w.Store(^uint64(0))
	f.live[s.Index] = r
	f.specs = append(f.specs, s)
	return r, nil
}

// gpa is where in guest RAM a host address lies.
func (f *fake) gpa(addr uintptr) memmap.Addr { return memmap.Addr(addr - f.memory.Base()) }

func powerOfTwo(n uint32) bool { return bits.OnesCount32(n) == 1 }

// checkSpec is RingSpec's documentation, sentence by sentence.
func (f *fake) checkSpec(s *uringpv.RingSpec) {
	layout := f.memory.Layout()
	if s.Index < 0 || s.Index >= uringpv.MaxRings || f.live[s.Index] != nil {
		f.breakf("ring %d exists or is none", s.Index)
	}
	if !powerOfTwo(s.SQEntries) || !powerOfTwo(s.CQEntries) || s.SQEntries > f.caps.MaxEntries || s.CQEntries < s.SQEntries || s.CQEntries > 2*f.caps.MaxEntries {
		f.breakf("%d SQ entries, %d CQ entries", s.SQEntries, s.CQEntries)
	}
	all := f.caps.Opcodes.Union(&f.caps.Extra)
	if s.Policy.Opcodes.Empty() || !s.Policy.Opcodes.SubsetOf(&all) || s.Policy.SQEFlags&^f.caps.SQEFlags != 0 ||
		f.caps.SQEFlagsRequired&^s.Policy.SQEFlagsRequired != 0 || s.Policy.SetupFlags&^f.caps.SetupFlags != 0 || s.Flags&^s.Policy.SetupFlags != 0 {
		f.breakf("flags %#x, policy %+v", s.Flags, s.Policy)
	}
	if s.Rings.Len() != abi.RingsSize(s.SQEntries, s.CQEntries) || s.SQEs.Len() != (64*uint64(s.SQEntries)+4095)&^4095 {
		f.breakf("areas of %d and %d bytes for %d and %d entries", s.Rings.Len(), s.SQEs.Len(), s.SQEntries, s.CQEntries)
	}
	ours := []memmap.Range{{Start: f.gpa(s.Rings.Addr()), Length: s.Rings.Len()}, {Start: f.gpa(s.SQEs.Addr()), Length: s.SQEs.Len()}}
	if ours[0].Overlaps(ours[1]) {
		f.breakf("areas %v overlap", ours)
	}
	for _, a := range ours {
		if _, ok := layout.BufferOf(a); !ok || !a.Start.Aligned(4096) {
			f.breakf("area %v is unaligned or not inside an entry of the buffer table", a)
			return
		}
		b := make([]byte, a.Length)
		if err := f.memory.ReadAt(b, a.Start); err != nil {
			f.breakf("%v", err)
		}
		for i, c := range b {
			if c != 0 {
				f.breakf("area %v is not zeroed: byte %d is %#x", a, i, c)
				break
			}
		}
		for i, r := range f.live {
			for _, theirs := range r.areas() {
				if a.Overlaps(theirs) {
					f.breakf("area %v overlaps %v of ring %d", a, theirs, i)
				}
			}
		}
	}
	if len(s.Files) > s.Slots || s.Slots > f.caps.MaxFiles {
		f.breakf("%d files, %d slots", len(s.Files), s.Slots)
	}
	if len(s.Buffers) < 1 || len(s.Buffers) > f.caps.MaxBuffers {
		f.breakf("%d buffers", len(s.Buffers))
	}
	var sum uint64
	for _, b := range s.Buffers {
		if _, ok := layout.BufferOf(b); !ok || b.Length == 0 || b.Length > memmap.MaxBuffer || b.Length%4096 != 0 || !b.Start.Aligned(4096) {
			f.breakf("buffer %v", b)
		}
		sum += b.Length
	}
	if sum > layout.Size() || s.WholeRAM && sum != layout.Size() {
		f.breakf("buffers of %d bytes together (whole RAM: %v), guest RAM has %d", sum, s.WholeRAM, layout.Size())
	}
	if s.Flags&hostring.SetupSQPoll == 0 && (s.SQThreadIdle != 0 || s.SQThreadCPU != -1) ||
		s.SQThreadIdle < 0 || s.SQThreadIdle%time.Millisecond != 0 || s.SQThreadIdle > time.Minute || s.SQThreadCPU < -1 {
		f.breakf("polls for %v on CPU %d with flags %#x", s.SQThreadIdle, s.SQThreadCPU, s.Flags)
	}
	if s.Memory != f.memory || s.Logger == nil || s.Stopped == nil || s.DoorbellFD < 0 || s.VectorFD < -1 {
		f.breakf("incomplete: %+v", s)
	}
	if n, err := unix.Read(s.DoorbellFD, make([]byte, 8)); err != unix.EAGAIN {
		f.breakf("the doorbell is not drained: %d, %v", n, err)
	}
}

func (f *fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
	if len(f.live) != 0 || f.closed != 1 {
		f.breakf("closed %d times, with %d rings", f.closed, len(f.live))
	}
	return f.closing
}

// ring is the live ring at index.
func (f *fake) ring(index int) *fakeRing {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.live[index]
}

type fakeRing struct {
	f    *fake
	spec uringpv.RingSpec
	uringpv.Counters
	gone atomic.Bool

	// What RING_REGISTER has made of it, guarded by f.mu.
	files   []string // by slot; empty: no file
	buffers []memmap.Range
	vector  int
}

func (r *fakeRing) areas() []memmap.Range {
	return []memmap.Range{
		{Start: r.f.gpa(r.spec.Rings.Addr()), Length: r.spec.Rings.Len()},
		{Start: r.f.gpa(r.spec.SQEs.Addr()), Length: r.spec.SQEs.Len()},
	}
}

// Params has something in every word, also in those that are not for guests.
func (r *fakeRing) Params() hostring.Params {
	return hostring.Params{
		SQEntries: r.spec.SQEntries, CQEntries: r.spec.CQEntries, Flags: r.spec.Flags | hostring.SetupNoMmap | hostring.SetupSQAff,
		SQThreadCPU: 3, SQThreadIdle: uint32(r.spec.SQThreadIdle / time.Millisecond), Features: r.f.caps.Features, WQFD: 77, Resv: [3]uint32{1, 2, 3},
		SQOff: hostring.SQOffsets{Head: 0, Tail: 4, RingMask: 16, RingEntries: 24, Flags: 36, Dropped: 32, Array: 64 + 16*r.spec.CQEntries, Resv1: 9, UserAddr: 0x7fff_0000_0000},
		CQOff: hostring.CQOffsets{Head: 8, Tail: 12, RingMask: 20, RingEntries: 28, Overflow: 44, CQEs: 64, Flags: 40, Resv1: 9, UserAddr: 0x7fff_0000_1000},
	}
}

func (r *fakeRing) Enter(toSubmit, flags uint32) error {
	if r.gone.Load() {
		r.f.mu.Lock()
		r.f.breakf("Enter after Close")
		r.f.mu.Unlock()
	}
	if flags&^(hostring.EnterGetevents|hostring.EnterSQWakeup) != 0 {
		r.f.mu.Lock()
		r.f.breakf("Enter with flags %#x", flags)
		r.f.mu.Unlock()
	}
	r.SQEs.Add(uint64(toSubmit))
	if r.f.enter != nil {
		return r.f.enter(toSubmit, flags)
	}
	return nil
}

// update does n entries of a table, or half of them if the host is to fail. The
// device has to have checked that they are within it.
func (r *fakeRing) update(what string, first, n, size int, one func(i int)) error {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	if r.gone.Load() || first < 0 || n == 0 || first+n > size {
		r.f.breakf("%s %d to %d of a table of %d", what, first, first+n, size)
		return nil
	}
	err := error(nil)
	if r.f.register != nil {
		err = r.f.register(what)
	}
	for i := range n {
		if err != nil && i >= n/2 {
			break
		}
		one(i)
	}
	return err
}

func (r *fakeRing) UpdateFiles(slot int, files []*uringpv.File) error {
	return r.update("files", slot, len(files), r.spec.Slots, func(i int) {
		switch f := files[i]; f {
		case nil:
		case uringpv.NoFile:
			r.files[slot+i] = ""
		default:
			r.files[slot+i] = f.Name
		}
	})
}

func (r *fakeRing) UpdateBuffers(index int, ranges []memmap.Range) error {
	err := r.update("buffers", index, len(ranges), len(r.spec.Buffers), func(i int) { r.buffers[index+i] = ranges[i] })
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	var sum uint64
	for i, b := range r.buffers {
		if _, ok := r.f.memory.Layout().BufferOf(b); b != (memmap.Range{}) &&
			(!ok || b.Length == 0 || b.Length%4096 != 0 || !b.Start.Aligned(4096)) {
			r.f.breakf("buffer %d of %v", i, b)
		}
		sum += b.Length
	}
	if sum > r.f.memory.Layout().Size() {
		r.f.breakf("buffers of %d bytes together", sum)
	}
	return err
}

func (r *fakeRing) SetVector(fd int) error {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	if fd < -1 || r.gone.Load() {
		r.f.breakf("vector %d", fd)
	}
	if r.f.register != nil {
		if err := r.f.register("vector"); err != nil {
			return err
		}
	}
	r.vector = fd
	return nil
}

func (r *fakeRing) Stats() uringpv.RingStats { return r.Counters.Stats() }
func (r *fakeRing) SystemCalls() uint64      { return r.Counters.SystemCalls.Load() }

func (r *fakeRing) Close(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		r.f.mu.Lock()
		r.f.breakf("Close without a deadline")
		r.f.mu.Unlock()
	}
	if r.f.close != nil {
		if err := r.f.close(ctx, r.spec.Index); err != nil {
			return err
		}
	}
	r.gone.Store(true)
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	delete(r.f.live, r.spec.Index)
	return nil
}

// stuck is a Close that waits in vain.
func stuck(ctx context.Context, _ int) error {
	<-ctx.Done()
	return fmt.Errorf("requests in flight: %w", unix.ETIMEDOUT)
}

var errFlames = errors.New("the host is in flames")

// testFile is a file that exists in name only.
func testFile(name string, size int64) uringpv.File {
	return uringpv.File{FD: -1, Kind: abi.FileDisk, Name: name, Serial: "s-" + name, Size: func() (int64, error) { return size, nil }, BlockSize: 512, DIOMemAlign: 1, DIOOffsetAlign: 1}
}

// newGuest is a guest with 4 rings and 3 files on a fake backend.
func newGuest(t testing.TB, ram uint64, change ...func(*uringpv.Config, *fake)) (*devicetest.Guest, *fake) {
	t.Helper()
	testutil.NoLeaks(t)
	m := devicetest.Memory(t, ram)
	f := newFake(m)
	c := uringpv.Config{
		Name:        "disk0",
		Rings:       4,
		MaxEntries:  256,
		Files:       []uringpv.File{testFile("a", 4096), testFile("b", 1<<20), testFile("c", 17)},
		Memory:      m,
		Backend:     f,
		SQPoll:      true,
		SQThreadCPU: 1,
	}
	for _, ch := range change {
		ch(&c, f)
	}
	d, err := uringpv.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.close = nil
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		f.check(t)
		if f.closed != 1 {
			t.Errorf("the backend is closed %d times", f.closed)
		}
	})
	return &devicetest.Guest{T: t, Device: d, Memory: m}, f
}
