// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/guest/uring"
)

func init() { programs["storm"] = (*program).storm }

// The driver's ioctls, as guest/kmod/uringpv_user.h has them.
const (
	setupSize = 64 + abi.ParamsSize

	iocSetup    = 3<<30 | setupSize<<16 | 0xb5<<8 | 1
	iocEnter    = 1<<30 | 32<<16 | 0xb5<<8 | 2
	iocRegister = 1<<30 | 16<<16 | 0xb5<<8 | 3
	iocChunk    = 3<<30 | 32<<16 | 0xb5<<8 | 4
	iocFile     = 2<<30 | abi.FileSize<<16 | 0xb5<<8 | 16
)

// A storm is several threads that do anything to a few rings which they share:
// io_uring's three calls with arguments that are nearly right, mappings of any part,
// words and SQEs of any value, fork, close, and memory that goes away meanwhile. What
// one thread does is a function of the seed; how threads meet is not.
type storm struct {
	files  []int    // descriptors of what the device exports, and of other things
	ours   int      // of which the device's are the first
	arena  []byte   // memory that the kernel may write
	hour   uint64   // address of a timespec that a thread may wait for
	odd    []uint64 // addresses at which there is none
	places [12]place
	done   [kinds]atomic.Int64 // calls that have succeeded
}

// What is counted, so that a storm in which nothing succeeds is found out.
const (
	doneMediated = iota
	doneMapped
	doneMmap
	doneSQE
	doneRegister
	doneFork
	kinds
)

// place is where a ring may be. The mutex keeps mappings while they are written to.
type place struct {
	mu     sync.RWMutex
	fd     int // -1: none
	params []byte
	maps   [][]byte
	sqes   []byte // one of the maps
}

// thread is one thread of a storm.
type thread struct {
	*storm
	*rand.Rand
	args []byte // the thread's own, for what ioctls take
}

const arenaSize = 1 << 20

// storm is the program: a seed, the number of threads, that of each one's steps, and
// "leave" to end without closing anything.
func (p *program) storm(args []string) {
	seed, err := strconv.ParseUint(args[0], 10, 64)
	p.check(err)
	threads, err := strconv.Atoi(args[1])
	p.check(err)
	steps, err := strconv.Atoi(args[2])
	p.check(err)
	before := p.pinned()

	s := p.newStorm()
	var sources []rand.Source
	for i := range threads {
		sources = append(sources, rand.NewPCG(seed, uint64(i)))
	}
	s.rage(p, sources, func(_, step int) bool { return step < steps })
	if len(args) > 3 { // the kernel closes what there is
		return
	}
	for i := range s.places {
		s.places[i].close()
	}

	for i := range s.done {
		fmt.Printf(" %d", s.done[i].Load())
		if s.done[i].Load() == 0 {
			p.errorf("seed %d: nothing of kind %d has succeeded", seed, i)
		}
	}
	fmt.Println()

	// All is as it was.
	if n := p.pinned(); n != before {
		p.errorf("seed %d: %d pages are pinned, %d before", seed, n, before)
	}
	r := p.open(uring.Config{Entries: 8})
	f := p.file("f", os.O_RDONLY)
	p.want("READ", p.do(r, uring.SQE{Opcode: uring.OpRead, FD: int32(f.Fd()), Addr: uring.Addr(s.arena[4096:]), Len: 8192}), 8192)
	p.check(r.Close())
}

// newStorm opens all files, and makes the memory.
func (p *program) newStorm() *storm {
	s := &storm{}
	names, err := filepath.Glob(uring.Directory + "/*")
	p.check(err)
	for _, name := range names {
		for _, flags := range []int{unix.O_RDWR, unix.O_RDONLY} {
			fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0)
			p.check(err)
			s.files = append(s.files, fd)
		}
	}
	s.ours = len(s.files)
	e, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	p.check(err)
	s.files = append(s.files, e, -1, 999, 1, 1<<30)

	// Behind the arena nothing is mapped for as long as a request can reach.
	const guard = 64 << 20
	m, err := unix.Mmap(-1, 0, arenaSize+guard, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	p.check(err)
	p.check(unix.Mprotect(m[:arenaSize], unix.PROT_READ|unix.PROT_WRITE))
	s.arena = m[:arenaSize]
	readOnly, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	p.check(err)
	copy(readOnly, le64(nil, 0, 2e6)) // two milliseconds
	p.check(unix.Mprotect(readOnly, unix.PROT_READ))
	s.hour = uring.Addr(readOnly)
	s.odd = []uint64{0, 1, 4096, s.hour, uring.Addr(m) + arenaSize - 1, uring.Addr(m) + arenaSize, 1<<47 - 4096, 1 << 47, ^uint64(0), ^uint64(4095), 0xffff888000000000}
	for i := range s.places {
		s.places[i].fd = -1
	}

	return s
}

// rage has a thread for each source do steps as long as more says so.
func (s *storm) rage(p *program, sources []rand.Source, more func(thread, step int) bool) {
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(len(sources) + 2)
	var all sync.WaitGroup
	for i, source := range sources {
		all.Go(func() {
			runtime.LockOSThread()
			debug.SetPanicOnFault(true)
			t := &thread{storm: s, Rand: rand.New(source), args: p.memory(1 << 16)}
			for step := 0; more(i, step); step++ {
				t.step()
			}
		})
	}
	all.Wait()
}

// close ends what is at the place.
func (pl *place) close() {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	for _, m := range pl.maps {
		_ = unix.Munmap(m)
	}
	if pl.fd >= 0 {
		_ = unix.Close(pl.fd)
	}
	pl.fd, pl.maps, pl.sqes = -1, nil, nil
}

// pick is one of a list.
func pick[T any](t *thread, of ...T) T { return of[t.IntN(len(of))] }

// any32 is any number, most often a small one.
func (t *thread) any32() uint32 {
	switch t.IntN(6) {
	case 0:
		return t.Uint32()
	case 1:
		return 1 << t.IntN(32)
	case 2:
		return ^uint32(0) - uint32(t.IntN(4))
	}
	return uint32(t.IntN(20))
}

// address is where something may be, most often in the arena. n bytes from there on
// are in it, too, if n is not 0.
func (t *thread) address(n int) uint64 {
	if t.IntN(8) == 0 {
		return pick(t, t.odd...)
	}
	off := t.IntN(arenaSize - n)
	if t.IntN(2) == 0 {
		off &^= 4095
	}
	return uring.Addr(t.arena) + uint64(off)
}

func (t *thread) fd() int {
	if t.IntN(10) == 0 {
		return t.places[t.IntN(len(t.places))].fd // of a ring; a race that does no harm
	}
	if t.IntN(10) == 0 {
		return pick(t, t.files...)
	}
	return t.files[t.IntN(t.ours)]
}

// mutate changes some bits of b.
func (t *thread) mutate(b []byte) {
	if t.IntN(5) == 0 {
		for range 1 + t.IntN(3) {
			b[t.IntN(len(b))] ^= 1 << t.IntN(8)
		}
	}
}

// put32 writes a list of words to the beginning of the thread's memory at off.
func (t *thread) put32(off int, words ...uint32) uint64 {
	b := t.args[off:]
	for i, w := range words {
		binary.LittleEndian.PutUint32(b[4*i:], w)
	}
	return uring.Addr(b)
}

func (t *thread) put64(off int, words ...uint64) uint64 {
	copy(t.args[off:], le64(nil, words...))
	return uring.Addr(t.args[off:])
}

func (t *thread) ioctl(fd int, request, arg uint64) (int, unix.Errno) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
	return int(n), errno
}

// step is one thing of many.
func (t *thread) step() {
	defer func() {
		// A doorbell's page of a ring that is dead, a mapping that was shortened.
		if e := recover(); e != nil {
			if _, ok := e.(runtime.Error); !ok {
				panic(e)
			}
		}
	}()
	pl := &t.places[t.IntN(len(t.places))]
	fd := pl.fd
	switch n := t.IntN(100); {
	case fd < 0 || n < 2:
		t.setup(pl)
	case n < 8:
		t.mmap(pl)
	case n < 35:
		t.submit(pl)
	case n < 40:
		t.scribble(pl)
	case n < 65:
		t.enter(fd)
	case n < 80:
		t.register(fd)
	case n < 83:
		t.put32(0, t.any32(), 0, 0, 0, 0, 0, 0, 0)
		_, _ = t.ioctl(fd, iocChunk, uring.Addr(t.args))
	case n < 86:
		_, _ = t.ioctl(pick(t, t.fd(), fd), pick(t, iocFile, iocSetup, iocEnter, uint64(t.Uint32())), pick(t, uring.Addr(t.args), pick(t, t.odd...)))
	case n < 89:
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: int16(t.Uint32())}}, t.IntN(3))
	case n < 92:
		t.takeAway()
	case n < 94:
		t.fork(fd)
	case n < 96:
		pl.close()
	default:
		t.reap(pl)
	}
}

// setup opens the node and makes a ring, or tries to.
func (t *thread) setup(pl *place) {
	pl.close()
	fd, err := unix.Open("/dev/uringpv0", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	mapped := t.IntN(3) == 0
	var flags, ringFlags, files uint32
	var pool, list uint64
	for _, f := range []uint32{uring.SetupCQSize, uring.SetupClamp, uring.SetupRDisabled, uring.SetupSubmitAll, uring.SetupSingleIssuer, 1 << 16} {
		if t.IntN(3) == 0 && (!mapped || f < uring.SetupRDisabled) {
			ringFlags |= f
		}
	}
	if ringFlags&uring.SetupSingleIssuer != 0 && t.IntN(2) == 0 {
		ringFlags |= uring.SetupDeferTaskrun
	}
	if t.IntN(12) == 0 {
		ringFlags |= 1 << t.IntN(32)
	}
	if ringFlags&uring.SetupSubmitAll != 0 && !mapped {
		flags = 2 // URINGPV_USER_NO_EXTRA
	}
	if mapped {
		flags, files = 1, uint32(1+t.IntN(3))
		pool = pick(t, 1<<12, 1<<16, 1<<20, 3<<20, 1<<40, t.Uint64())
		list = t.put32(4096, uint32(t.fd()), uint32(t.fd()), uint32(t.fd()))
	}
	b := t.args[:setupSize]
	clear(b)
	le := binary.LittleEndian
	le.PutUint32(b, pick(t, 1, 4, 8, 32, 33, t.any32()))
	le.PutUint32(b[4:], flags)
	le.PutUint32(b[12:], pick(t, 8, 64, t.any32())) // params.cq_entries
	le.PutUint32(b[16:], ringFlags)
	tail := b[8+abi.ParamsSize:]
	le.PutUint64(tail, pool)
	le.PutUint64(tail[8:], pick(t, list, list, list, pick(t, t.odd...)))
	le.PutUint32(tail[16:], pick(t, files, files, files, t.any32()))
	t.mutate(b)
	_, errno := t.ioctl(fd, iocSetup, uring.Addr(b))
	if errno != 0 && t.IntN(4) > 0 {
		_ = unix.Close(fd)
		return
	}
	if errno == 0 && mapped {
		t.done[doneMapped].Add(1)
	} else if errno == 0 {
		t.done[doneMediated].Add(1)
	}
	pl.mu.Lock()
	if pl.fd >= 0 { // another thread was faster
		_ = unix.Close(fd)
	} else {
		pl.fd, pl.params = fd, append([]byte(nil), b[8:8+abi.ParamsSize]...)
	}
	pl.mu.Unlock()
	for _, off := range []int64{0, 0x10000000} {
		t.mapAt(pl, off, int(pick(t, 1, 1, 2, 4))<<12, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if mapped {
		t.mapAt(pl, 0x100000000, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		t.mapAt(pl, 0x200000000, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
}

// mapAt maps a part of the ring.
func (t *thread) mapAt(pl *place, off int64, n, prot, flags int) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.fd < 0 || len(pl.maps) >= 12 {
		return
	}
	m, err := unix.Mmap(pl.fd, off, n, prot, flags)
	if err != nil {
		return
	}
	t.done[doneMmap].Add(1)
	pl.maps = append(pl.maps, m)
	if off == 0x10000000 && prot&unix.PROT_WRITE != 0 {
		pl.sqes = m
	}
}

// mmap maps anything, or unmaps something.
func (t *thread) mmap(pl *place) {
	if t.IntN(3) == 0 {
		pl.mu.Lock()
		if n := len(pl.maps); n > 0 {
			_ = unix.Munmap(pl.maps[n-1])
			pl.maps, pl.sqes = pl.maps[:n-1], nil
		}
		pl.mu.Unlock()
		return
	}
	off := pick(t, 0, 0x8000000, 0x10000000, 0x100000000, 0x200000000, 0x200001000, 4096, int64(t.Uint64N(1<<40))&^4095)
	t.mapAt(pl, off, (1+t.IntN(300))<<12, pick(t, unix.PROT_READ, unix.PROT_READ|unix.PROT_WRITE, unix.PROT_NONE), pick(t, unix.MAP_SHARED, unix.MAP_PRIVATE))
}

// iovecs writes up to n of them somewhere in the arena and returns their address.
func (t *thread) iovecs(n int) uint64 {
	at := t.IntN(arenaSize-16*n) &^ 7
	for i := range n {
		copy(t.arena[at+16*i:], le64(nil, t.address(0), pick(t, uint64(t.IntN(9000)), uint64(t.IntN(9000)), uint64(t.any32()), t.Uint64())))
	}
	return uring.Addr(t.arena) + uint64(at)
}

// sqe makes one SQE, nearly right.
func (t *thread) sqe() []byte {
	b := make([]byte, 64)
	le := binary.LittleEndian
	op := pick(t, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19, 22, 23, 22, 23, 26, 27, 34, byte(t.Uint32()))
	length := uint32(t.IntN(9000))
	addr, off, opFlags := t.address(int(length)), uint64(t.IntN(1<<20)), uint32(0)
	fd := uint32(t.fd())
	b[0] = op
	if t.IntN(3) == 0 {
		b[1] = byte(pick(t, 1, 2, 4, 8, 16, 64, 4|1, 8|2, int(t.Uint32())))
	}
	if b[1]&1 != 0 {
		fd = uint32(t.IntN(10))
	}
	switch op {
	case 1, 2:
		n := t.IntN(20)
		length, addr = uint32(n), t.iovecs(n)
	case 4, 5:
		le.PutUint16(b[40:], uint16(t.IntN(5)))
	case 6: // POLL_ADD
		addr, off, length, opFlags = 0, 0, pick(t, 0, 1, t.any32()), pick(t, 1, 4, t.Uint32())
	case 7, 12, 14: // POLL_REMOVE, TIMEOUT_REMOVE, ASYNC_CANCEL
		addr, off, length, opFlags = uint64(t.IntN(8)), pick(t, 0, t.hour), pick(t, 0, t.any32()), pick(t, 0, 1, 2, 4, 8, t.any32())
	case 9, 10:
		n := t.IntN(10)
		at := t.IntN(arenaSize-64) &^ 7
		copy(t.arena[at:], le64(nil, pick(t, 0, t.address(128)), uint64(pick(t, 0, 16, 128, t.any32())), t.iovecs(n), uint64(pick(t, uint32(n), uint32(n), t.any32())), 0, pick(t, 0, 0, t.Uint64()), 0))
		addr, length, off, opFlags = uring.Addr(t.arena)+uint64(at), 1, 0, pick(t, 0, unix.MSG_DONTWAIT, t.Uint32())
	case 11, 15:
		addr, length, off, opFlags = pick(t, t.hour, t.hour, t.address(16)), 1, uint64(t.IntN(3)), pick(t, 0, 1, 4, 8, t.any32())
	case 13: // ACCEPT
		addr, off, length = pick(t, 0, t.address(128)), t.address(4), 0
		le.PutUint32(b[44:], pick(t, uint32(1+t.IntN(8)), ^uint32(0), t.any32()))
	case 16:
		off = pick(t, 16, 110, t.Uint64())
	case 17:
		addr, length, opFlags = uint64(t.IntN(1<<20)), pick(t, 0, 3, 0x10, t.any32()), 0
	case 19:
		addr, off, length, fd = 0, 0, 0, 0
		le.PutUint32(b[44:], pick(t, uint32(1+t.IntN(8)), t.any32()))
	case 26, 27:
		off, opFlags = 0, pick(t, 0, unix.MSG_DONTWAIT, t.Uint32())
	case 34:
		addr, off, length = 0, 0, uint32(t.IntN(3))
	}
	le.PutUint32(b[4:], fd)
	le.PutUint64(b[8:], off)
	le.PutUint64(b[16:], addr)
	le.PutUint32(b[24:], length)
	le.PutUint32(b[28:], opFlags)
	le.PutUint64(b[32:], uint64(t.IntN(8)))
	if t.IntN(8) == 0 { // not of the address: it would be somebody else's memory
		i := pick(t, t.IntN(16), 24+t.IntN(40))
		b[i] ^= 1 << t.IntN(8)
	}
	return b
}

// word is a word of the ring's at the offset that params has at off.
func (pl *place) word(off int) (b []byte, ok bool) {
	if len(pl.maps) == 0 || len(pl.params) < off+4 {
		return nil, false
	}
	at := binary.LittleEndian.Uint32(pl.params[off:])
	if uint64(at)+4 > uint64(len(pl.maps[0])) {
		return nil, false
	}
	return pl.maps[0][at:][:4], true
}

// Where struct io_uring_params has sq_off.tail, sq_off.array, cq_off.head and .tail.
const (
	paramSQTail, paramSQArray, paramCQHead, paramCQTail = 44, 64, 80, 84
)

// submit writes SQEs and the tail, and mostly tells the driver.
func (t *thread) submit(pl *place) {
	n := 1 + t.IntN(6)
	func() {
		pl.mu.RLock()
		defer pl.mu.RUnlock()
		tail, ok := pl.word(paramSQTail)
		if !ok || len(pl.sqes) == 0 {
			return
		}
		le := binary.LittleEndian
		was, entries := le.Uint32(tail), uint32(len(pl.sqes)/64)
		if e := le.Uint32(pl.params); e > 0 && e < entries {
			entries = e
		}
		for i := range uint32(n) {
			k := (was + i) % entries
			copy(pl.sqes[64*k:], t.sqe())
			if at := le.Uint32(pl.params[paramSQArray:]); at > 0 && uint64(at)+4*uint64(k)+4 <= uint64(len(pl.maps[0])) {
				le.PutUint32(pl.maps[0][at+4*k:], pick(t, k, k, k, k, t.any32()))
			}
		}
		le.PutUint32(tail, was+uint32(n))
	}()
	if t.IntN(4) > 0 {
		t.put32(0, uint32(n), 0, 0, 0, 0, 0, 0, 0)
		if n, errno := t.ioctl(pl.fd, iocEnter, uring.Addr(t.args)); errno == 0 {
			t.done[doneSQE].Add(int64(n))
		}
	}
}

// scribble writes anything anywhere.
func (t *thread) scribble(pl *place) {
	pl.mu.RLock()
	defer pl.mu.RUnlock()
	if len(pl.maps) == 0 {
		return
	}
	m := pick(t, pl.maps...)
	at := t.IntN(pick(t, min(len(m), 512), len(m))) &^ 3
	binary.LittleEndian.PutUint32(m[at:], pick(t, t.any32(), t.Uint32()))
}

// enter is io_uring_enter. It waits for no longer than two milliseconds.
func (t *thread) enter(fd int) {
	flags, least, arg, size := pick(t, 0, 1, 2, 3, t.any32()&^1), uint32(0), uint64(0), uint64(0)
	if t.IntN(3) == 0 {
		flags, least, size = 1|8, t.any32(), 24
		arg = t.put64(64, 0, pick(t, 8, 0, t.Uint64()), t.hour)
	}
	b := t.args[:32]
	t.put32(0, pick(t, 0, uint32(t.IntN(10)), t.any32()), least, flags, 0)
	t.put64(16, arg, size)
	if least == 0 {
		t.mutate(b[:4])
		t.mutate(b[8:])
		b[8] &^= 1 // would it wait?
	}
	_, _ = t.ioctl(fd, iocEnter, uring.Addr(b))
}

// register is io_uring_register.
func (t *thread) register(fd int) {
	op := pick(t, 0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 6, 13, 16, t.any32())
	n := pick(t, 1, 2, 4, 8, 8, t.any32())
	const at = 4096
	var arg uint64
	list := func() uint64 {
		for i := range 8 {
			t.put32(8192+4*i, pick(t, uint32(t.fd()), uint32(t.fd()), ^uint32(0), ^uint32(1)))
		}
		return uring.Addr(t.args[8192:])
	}
	vectors := func() uint64 {
		for i := range 8 {
			t.put64(8192+16*i, pick(t, t.address(1<<16), t.address(1<<16), 0), pick(t, uint64(t.IntN(1<<16)), 4096, 0, t.Uint64()))
		}
		return uring.Addr(t.args[8192:])
	}
	switch op {
	case 0:
		arg = vectors()
	case 2:
		arg = list()
	case 1, 3, 5, 12:
		n = pick(t, 0, 0, 0, n)
	case 4, 7:
		n, arg = pick(t, 1, 1, n), t.put32(at, uint32(pick(t, t.files[t.ours], t.fd())))
	case 6:
		t.put32(at, pick(t, 0, 1, t.any32()), 0)
		arg = t.put64(at+8, list()) - 8
	case 8:
		n, arg = pick(t, 64, 256, n), uring.Addr(t.args[16384:])
		clear(t.args[16384:][:4096])
	case 11:
		arg = t.address(0)
	case 13, 15:
		t.put32(at, n, uint32(t.IntN(2)), 0, 0)
		arg = t.put64(at+16, pick(t, 0, list(), vectors()), 0) - 16
		n = pick(t, 32, 32, 32, n)
	case 14, 16:
		t.put32(at, pick(t, 0, 1, t.any32()), 0)
		t.put64(at+8, pick(t, list(), vectors()), 0)
		t.put32(at+24, n, 0)
		arg, n = uring.Addr(t.args[at:]), pick(t, 32, 32, 32, n)
	default:
		arg = pick(t, 0, t.address(0))
	}
	t.mutate(t.args[at:][:32])
	t.put32(0, op, n)
	t.put64(8, pick(t, arg, arg, arg, arg, pick(t, t.odd...)))
	if _, errno := t.ioctl(fd, iocRegister, uring.Addr(t.args)); errno == 0 {
		t.done[doneRegister].Add(1)
	}
}

// takeAway has pages of the arena replaced, whatever is read into them.
func (t *thread) takeAway() {
	n := (1 + t.IntN(16)) << 12
	off := t.IntN(arenaSize-n) &^ 4095
	_ = unix.Madvise(t.arena[off:][:n], pick(t, unix.MADV_DONTNEED, unix.MADV_NOHUGEPAGE, unix.MADV_HUGEPAGE, unix.MADV_WIPEONFORK, unix.MADV_KEEPONFORK))
}

// fork has a child submit, wait a little and register, and leaves it to exit(2) to
// close. A child of a program with threads may only make system calls.
func (t *thread) fork(fd int) {
	enter := t.put32(0, uint32(t.IntN(8)), 0, 0, 0, 0, 0, 0, 0)
	register := t.put64(64, uint64(pick(t, 1, 3, 5)), 0)
	runtime.Gosched()
	pid, _, errno := unix.RawSyscall(unix.SYS_FORK, 0, 0, 0)
	if errno != 0 {
		return
	}
	if pid == 0 {
		unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), iocEnter, uintptr(enter))
		unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), iocRegister, uintptr(register))
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(int(pid), &status, 0, nil); err != unix.EINTR {
			if status.Exited() {
				t.done[doneFork].Add(1)
			}
			return
		}
	}
}

// reap takes all CQEs.
func (t *thread) reap(pl *place) {
	pl.mu.RLock()
	defer pl.mu.RUnlock()
	head, ok1 := pl.word(paramCQHead)
	tail, ok2 := pl.word(paramCQTail)
	if ok1 && ok2 {
		copy(head, tail)
	}
}

// stormSeeds are what testdata/storm.txt lists: storms that have found something, and
// some that have not.
func stormSeeds(t *testing.T) (seeds []string) {
	t.Helper()
	b, err := os.ReadFile("testdata/storm.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if line, _, _ = strings.Cut(line, "#"); strings.TrimSpace(line) != "" {
			seeds = append(seeds, strings.TrimSpace(line))
		}
	}
	return seeds
}

// The driver's calls, with anything. URINGPV_TEST_STORM=SEED:COUNT runs COUNT storms
// from SEED on besides the committed ones.
func TestLinuxProgramsMayDoAnything(t *testing.T) {
	eachLinuxRings(t, backendRelay, []int{2}, func(t *testing.T, r linuxRun) {
		r.withProgram(t)
		seeds := stormSeeds(t)
		if more := os.Getenv("URINGPV_TEST_STORM"); more != "" {
			var first, count uint64
			if _, err := fmt.Sscanf(more, "%d:%d", &first, &count); err != nil {
				t.Fatalf("URINGPV_TEST_STORM=%s: %v", more, err)
			}
			for i := range count {
				seeds = append(seeds, strconv.FormatUint(first+i, 10))
			}
		}
		echo := echoes(t)
		r.args = []string{
			"--export-backend", r.backend, "--export-rings", "12", "--file", "name=f,path=" + image(t, 1<<20), "--pipe", "name=p", "--eventfd", "name=e",
			"--socket", "name=echo,unix=" + echo, "--socket", "name=later,unix=" + echo + ",connect=guest",
			"--socket", fmt.Sprintf("name=door,unix=@upv-storm-%d,listen=on", os.Getpid()),
		}
		r.script = `set -e
			` + pins + `
			before=$(pins)
			for seed in ` + strings.Join(seeds, " ") + `; do
				echo "seed $seed"
				/uring-guest storm $seed 3 700
				/uring-guest storm $seed 2 200 leave
			done
			cat /sys/kernel/debug/uringpv-*/programs
			test "$(pins)" = "$before"
			test $(grep -c 'mediated\|mapped' /sys/kernel/debug/uringpv-*/programs) = 0
			rmmod uringpv
			insmod /lib/modules/uringpv.ko
			/uring-guest limits 12`
		r.timeout = 3*time.Minute + time.Duration(len(seeds))*30*time.Second
		r.run(t)
	})
}
