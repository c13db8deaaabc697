// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/guest/uring"
	"github.com/uringpv/uringpv/memmap"
)

// guestProgram is the name under which this test binary is a program in the guest.
const guestProgram = "uring-guest"

// init is the program's main: it runs before the testing package looks at its
// arguments.
func init() {
	if filepath.Base(os.Args[0]) != guestProgram {
		return
	}
	p := &program{own: os.Getenv("RING") == "own"}
	defer time.AfterFunc(hung, p.hangs).Stop()
	if f := programs[os.Args[1]]; f != nil {
		f(p, os.Args[2:])
	} else {
		p.check(fmt.Errorf("there is no %q", os.Args[1]))
	}
	if p.failed > 0 {
		os.Exit(1)
	}
	fmt.Printf("%s: pass\n", os.Args[1])
	os.Exit(0)
}

// programs are what the guest's script calls.
var programs = map[string]func(*program, []string){
	"mediated": (*program).mediated,
	"limits":   (*program).limits,
	"mapped":   (*program).mapped,
	"lend":     (*program).lend,
	"stretch":  (*program).stretch,
	"hang":     (*program).hang,
	"fork":     (*program).fork,
	"exec":     (*program).exec,
	"refused":  (*program).refused,
	"reset":    (*program).reset,
	"spent":    (*program).spent,
	"limited":  (*program).limited,
	"heldup":   (*program).heldup,
	"stuck":    (*program).stuck,
}

// program is a run in the guest.
type program struct {
	failed int
	own    bool // RING=own: mediated rings are the device's own backend's
}

// hung is how long a program may take: some twenty times as long as any does.
const hung = 2 * time.Minute

// hangs ends a program that does not end, with what is known of where it stands:
// its goroutines, its rings as driver and device see them, the kernel's tasks.
func (p *program) hangs() {
	stacks := make([]byte, 1<<16)
	fmt.Printf("uring-guest: hangs\n%s\n", stacks[:runtime.Stack(stacks, true)])
	files, _ := filepath.Glob("/sys/kernel/debug/uringpv-*/*")
	for _, name := range append(files, "/proc/interrupts") {
		b, err := os.ReadFile(name)
		fmt.Printf("%s: %v\n%s", name, err, b)
	}
	for _, key := range []string{"w", "l"} { // blocked tasks, what the CPUs do
		_ = os.WriteFile("/proc/sysrq-trigger", []byte(key), 0)
	}
	time.Sleep(time.Second)
	os.Exit(1)
}

func (p *program) errorf(format string, args ...any) {
	p.failed++
	_, _, line, _ := runtime.Caller(1)
	fmt.Printf("uring-guest:%d: %s\n", line, fmt.Sprintf(format, args...))
}

// check ends the program for an error that nothing can follow.
func (p *program) check(err error) {
	if err != nil {
		_, _, line, _ := runtime.Caller(1)
		fmt.Printf("uring-guest:%d: %v\n", line, err)
		os.Exit(1)
	}
}

// memory is n bytes that stay where they are, in the manner of malloc, on pages
// that are apart from each other in the machine's RAM.
func (p *program) memory(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	p.check(err)
	p.check(unix.Madvise(b, unix.MADV_NOHUGEPAGE))
	for _, i := range rand.Perm(n / 4096) {
		b[i*4096] = 1
	}
	return b
}

func (p *program) open(c uring.Config) *uring.Ring {
	c.NoExtra = c.NoExtra || p.own
	r, err := uring.Open("/dev/uringpv0", c)
	p.check(err)
	return r
}

func (p *program) file(name string, flags int) *os.File {
	f, err := os.OpenFile(filepath.Join(uring.Directory, name), flags, 0)
	p.check(err)
	return f
}

// do submits one SQE and waits for its CQE.
func (p *program) do(r *uring.Ring, sqe uring.SQE) int32 {
	sqe.UserData = rand.Uint64()
	e, ok := r.SQE()
	if !ok {
		p.check(errors.New("the SQ ring is full"))
	}
	*e = sqe
	n, err := r.Submit()
	p.check(err)
	if n != 1 {
		p.errorf("Submit() = %d", n)
	}
	p.check(r.Wait(1))
	var cqes [2]uring.CQE
	if n := r.Reap(cqes[:]); n != 1 || cqes[0].UserData != sqe.UserData {
		p.errorf("opcode %d: %d CQEs, %+v", sqe.Opcode, n, cqes)
	}
	return cqes[0].Res
}

func (p *program) want(what string, got, want int32) {
	if got != want {
		p.failed++
		_, _, line, _ := runtime.Caller(1)
		fmt.Printf("uring-guest:%d: %s: %d, want %d\n", line, what, got, want)
	}
}

// backend is the device's, as its driver has it.
func (p *program) backend() string {
	names, err := filepath.Glob("/sys/bus/pci/drivers/uringpv/*/uringpv/backend")
	p.check(err)
	if len(names) != 1 {
		p.check(fmt.Errorf("%d devices", len(names)))
	}
	b, err := os.ReadFile(names[0])
	p.check(err)
	return strings.TrimSpace(string(b))
}

// lacks says whether p's mediated rings are without the opcode: what isolated lacks, a
// ring of its own does.
func (p *program) lacks(op uint8) bool {
	if !p.own || p.backend() != backendIsolated {
		return false
	}
	switch op {
	case uring.OpConnect, uring.OpFallocate, uring.OpClose, uring.OpTimeoutRemove:
		return true
	case uring.OpShutdown:
		_, err := os.Stat(filepath.Join(uring.Directory, "door")) // of a device with a listener
		return err == nil
	}
	return false
}

// mediatedOpcodes are all that a mediated ring may have.
var mediatedOpcodes = []uint8{
	uring.OpNop, uring.OpReadv, uring.OpWritev, uring.OpFsync, uring.OpReadFixed, uring.OpWriteFixed, uring.OpPollAdd, uring.OpPollRemove,
	uring.OpSyncFileRange, uring.OpSendmsg, uring.OpRecvmsg, uring.OpTimeout, uring.OpTimeoutRemove, uring.OpAccept, uring.OpAsyncCancel,
	uring.OpLinkTimeout, uring.OpConnect, uring.OpFallocate, uring.OpClose, uring.OpRead, uring.OpWrite, uring.OpSend, uring.OpRecv,
	uring.OpRemoveBuffers, uring.OpShutdown,
}

// probed compares what a mediated ring says that it may do with what it may do: that,
// and nothing else.
func (p *program) probed(r *uring.Ring) {
	want := slices.DeleteFunc(slices.Clone(mediatedOpcodes), p.lacks)
	p.offers(r, want)
	for op := range 256 {
		if !slices.Contains(want, uint8(op)) {
			p.want(fmt.Sprintf("opcode %d", op), p.do(r, uring.SQE{Opcode: uint8(op)}), -int32(unix.EINVAL))
		}
	}
}

// offers compares what a ring's probe says with want.
func (p *program) offers(r *uring.Ring, want []uint8) {
	ops, err := r.Probe()
	p.check(err)
	if got := slices.Sorted(maps.Keys(ops)); !slices.Equal(got, want) {
		p.errorf("probe says that there are the opcodes %d, want %d", got, want)
	}
}

// deviceNop is a NOP that the driver leaves to the device.
var deviceNop = uring.SQE{Opcode: uring.OpNop, Flags: uring.SQEAsync}

// overflow makes more CQEs than the ring has room for, with NOPs.
func (p *program) overflow(r *uring.Ring, nop uring.SQE) {
	_, entries := r.Entries()
	total := int(entries) + 20
	for i := range total {
		sqe, ok := r.SQE()
		if !ok {
			p.check(errors.New("the SQ ring is full though each SQE was submitted"))
		}
		*sqe = nop
		sqe.UserData = uint64(i)
		_, err := r.Submit()
		p.check(err)
	}
	p.check(r.Wait(entries))
	seen := map[uint64]bool{}
	var cqe [1]uring.CQE
	for end := time.Now().Add(10 * time.Second); len(seen) < total && time.Now().Before(end); {
		if r.Reap(cqe[:]) == 0 {
			_, err := r.Enter(0, 0, uring.EnterGetevents)
			p.check(err)
			continue
		}
		if n := cqe[0].UserData; seen[n] || n >= uint64(total) || nop.Flags == 0 && n != uint64(len(seen)) {
			p.errorf("CQE %d is that of NOP %d", len(seen), n)
		}
		seen[cqe[0].UserData] = true
	}
	if len(seen) != total {
		p.errorf("%d CQEs of %d", len(seen), total)
	}
}

// pinned is how many pages are pinned in the guest's kernel.
func (p *program) pinned() int {
	_, err := os.ReadFile("/proc/sys/vm/stat_refresh") // each CPU's own counts go into the sums
	p.check(err)
	b, err := os.ReadFile("/proc/vmstat")
	p.check(err)
	n := 0
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		v, _ := strconv.Atoi(value)
		switch name {
		case "nr_foll_pin_acquired":
			n += v
		case "nr_foll_pin_released":
			n -= v
		}
	}
	return n
}

// poll is poll(2) for fd, of which it returns what is there of events. Signals of the
// runtime's do not end it.
func (p *program) poll(fd int, events int16, ms int) int16 {
	for end := time.Now().Add(time.Duration(ms) * time.Millisecond); ; {
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		_, err := unix.Poll(fds, max(0, int(time.Until(end).Milliseconds())))
		if err == nil {
			return fds[0].Revents
		}
		if !errors.Is(err, unix.EINTR) {
			p.check(err)
		}
	}
}

// random fills b.
func random(b []byte) {
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
}

// iovecs is an array of struct iovec for parts of memory.
func iovecs(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = le64(b, uring.Addr(p), uint64(len(p)))
	}
	return b
}

func le64(b []byte, words ...uint64) []byte {
	for _, w := range words {
		for i := range 8 {
			b = append(b, byte(w>>(8*i)))
		}
	}
	return b
}

// mediated reads and writes a disk in every way.
func (p *program) mediated(args []string) {
	before := p.pinned()
	r := p.open(uring.Config{Entries: 8})
	f := p.file(args[0], os.O_RDWR)
	info, err := uring.Info(f)
	p.check(err)
	if info.Size == 0 {
		p.errorf("%s has no size: %+v", args[0], info)
	}
	fd := int32(f.Fd())

	const size = 48 << 10
	data, back := p.memory(size), p.memory(size+4096)
	random(data)
	same := func(what string, b []byte) {
		if !bytes.Equal(b, data) {
			p.errorf("%s: other bytes", what)
		}
		clear(b)
	}
	p.want("NOP", p.do(r, deviceNop), 0)
	p.want("WRITE", p.do(r, uring.SQE{Opcode: uring.OpWrite, FD: fd, Off: 8192, Addr: uring.Addr(data), Len: size}), size)
	p.want("FSYNC", p.do(r, uring.SQE{Opcode: uring.OpFsync, FD: fd}), 0)
	p.want("READ", p.do(r, uring.SQE{Opcode: uring.OpRead, FD: fd, Off: 8192, Addr: uring.Addr(back), Len: size}), size)
	same("READ", back[:size])
	p.want("READ at no page's start", p.do(r, uring.SQE{Opcode: uring.OpRead, FD: fd, Off: 8192, Addr: uring.Addr(back[100:]), Len: size}), size)
	same("READ at no page's start", back[100:100+size])

	var pin runtime.Pinner
	defer pin.Unpin()
	v := iovecs(data[:100], data[100:5000], data[5000:])
	pin.Pin(&v[0])
	p.want("WRITEV", p.do(r, uring.SQE{Opcode: uring.OpWritev, FD: fd, Off: 1 << 20, Addr: uring.Addr(v), Len: 3}), size)
	v = iovecs(back[:7000], back[7000:7001], nil, back[7001:size])
	pin.Pin(&v[0])
	p.want("READV", p.do(r, uring.SQE{Opcode: uring.OpReadv, FD: fd, Off: 1 << 20, Addr: uring.Addr(v), Len: 4}), size)
	same("READV", back[:size])

	// Registered buffers and files.
	random(data)
	p.check(r.RegisterBuffers([][]byte{data, nil, back}))
	p.check(r.RegisterFiles([]*os.File{nil, f}))
	p.want("WRITE_FIXED", p.do(r, uring.SQE{Opcode: uring.OpWriteFixed, Flags: uring.SQEFixedFile, FD: 1, Off: 3 << 20, Addr: uring.Addr(data), Len: size}), size)
	p.want("READ_FIXED", p.do(r, uring.SQE{Opcode: uring.OpReadFixed, FD: fd, Off: 3 << 20, Addr: uring.Addr(back[17:]), Len: size, BufIndex: 2}), size)
	same("READ_FIXED", back[17:17+size])
	p.want("READ_FIXED of no buffer", p.do(r, uring.SQE{Opcode: uring.OpReadFixed, FD: fd, Addr: uring.Addr(back), Len: 512, BufIndex: 1}), -int32(unix.EFAULT))
	p.want("READ_FIXED past a buffer", p.do(r, uring.SQE{Opcode: uring.OpReadFixed, FD: fd, Addr: uring.Addr(back[512:]), Len: size + 4096, BufIndex: 2}), -int32(unix.EFAULT))
	p.want("an empty place", p.do(r, uring.SQE{Opcode: uring.OpFsync, Flags: uring.SQEFixedFile}), -int32(unix.EBADF))
	if n, err := r.UpdateFiles(0, []*os.File{f, nil}); n != 2 || err != nil {
		p.errorf("UpdateFiles: %d, %v", n, err)
	}
	p.want("a place that was filled", p.do(r, uring.SQE{Opcode: uring.OpFsync, Flags: uring.SQEFixedFile}), 0)
	p.want("a place that was emptied", p.do(r, uring.SQE{Opcode: uring.OpFsync, Flags: uring.SQEFixedFile, FD: 1}), -int32(unix.EBADF))
	if p.pinned() < before+2*size/4096 {
		p.errorf("%d pages are pinned with buffers registered, %d before", p.pinned(), before)
	}
	p.check(r.UnregisterFiles())
	p.check(r.UnregisterBuffers())
	if n := p.pinned(); n != before {
		p.errorf("%d pages are pinned, %d before", n, before)
	}
	if err := r.UnregisterBuffers(); !errors.Is(err, unix.ENXIO) {
		p.errorf("UnregisterBuffers again: %v", err)
	}

	// An eventfd, and poll.
	e, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	p.check(err)
	p.check(r.RegisterEventfd(e))
	p.do(r, deviceNop)
	var count [8]byte
	// The CQE is there a moment before the signal, as with io_uring.
	if got := p.poll(e, unix.POLLIN, 10000); got != unix.POLLIN {
		p.errorf("eventfd: %#x", got)
	}
	if n, err := unix.Read(e, count[:]); n != 8 || count[0] == 0 {
		p.errorf("eventfd: %d, %v, %v", n, count, err)
	}
	p.check(r.UnregisterEventfd())
	poll := func(events int16, timeout int) int16 { return p.poll(r.FD(), events, timeout) }
	if got := poll(unix.POLLIN|unix.POLLOUT, 0); got != unix.POLLOUT {
		p.errorf("poll of an idle ring: %#x", got)
	}
	sqe, _ := r.SQE()
	*sqe = deviceNop
	_, err = r.Submit()
	p.check(err)
	if got := poll(unix.POLLIN, 10000); got != unix.POLLIN {
		p.errorf("poll for a NOP's CQE: %#x", got)
	}
	var cqe [1]uring.CQE
	r.Reap(cqe[:])

	// Bad requests end in a CQE, and the ring lives.
	p.want("READ into nothing", p.do(r, uring.SQE{Opcode: uring.OpRead, FD: fd, Addr: 4096, Len: 512}), -int32(unix.EFAULT))
	p.want("a file of the guest's own", p.do(r, uring.SQE{Opcode: uring.OpRead, FD: 0, Addr: uring.Addr(back), Len: 512}), -int32(unix.EBADF))
	p.want("a file that never was", p.do(r, uring.SQE{Opcode: uring.OpRead, FD: 999, Addr: uring.Addr(back), Len: 512}), -int32(unix.EBADF))
	p.closes(r, args[0])
	p.want("an unknown opcode", p.do(r, uring.SQE{Opcode: 200}), -int32(unix.EINVAL))
	p.want("a personality", p.do(r, uring.SQE{Opcode: uring.OpNop, Personality: 1}), -int32(unix.EINVAL))
	ro := p.file(args[0], os.O_RDONLY)
	p.want("WRITE to what is open for reading", p.do(r, uring.SQE{Opcode: uring.OpWrite, FD: int32(ro.Fd()), Addr: uring.Addr(data), Len: 512}), -int32(unix.EBADF))
	p.want("READ of it", p.do(r, uring.SQE{Opcode: uring.OpRead, FD: int32(ro.Fd()), Addr: uring.Addr(back), Len: 512}), 512)
	p.want("NOP", p.do(r, deviceNop), 0)
	p.probed(r)

	// More CQEs than the ring has room for: none is lost. Those that the driver makes
	// come in order.
	for _, nop := range []uring.SQE{{Opcode: uring.OpNop}, deviceNop} {
		p.overflow(r, nop)
	}
	p.check(r.Close())
	if n := p.pinned(); n != before {
		p.errorf("%d pages are pinned at the end, %d before", n, before)
	}
}

// closes closes a file that reads are in flight of, and that is registered.
func (p *program) closes(r *uring.Ring, name string) {
	f, m := p.file(name, os.O_RDONLY), p.memory(256<<10)
	p.check(r.RegisterFiles([]*os.File{f}))
	read := uring.SQE{Opcode: uring.OpRead, FD: int32(f.Fd()), Addr: uring.Addr(m), Len: uint32(len(m))}
	p.put(r, 0, slices.Repeat([]uring.SQE{read}, 8)...)
	p.check(f.Close())
	for _, c := range p.take(r, 8) {
		p.want("a read in flight of a file that is closed", c.Res, int32(len(m)))
	}
	p.want("a closed file", p.do(r, read), -int32(unix.EBADF))
	read.Flags, read.FD = uring.SQEFixedFile, 0
	p.want("a registered file that was closed", p.do(r, read), int32(len(m)))
	p.check(r.UnregisterFiles())
	p.want("one that is not registered any more", p.do(r, read), -int32(unix.EBADF))
}

// limits: the device's rings are shared out, and come back.
func (p *program) limits(args []string) {
	want, err := strconv.Atoi(args[0])
	p.check(err)
	for range 3 {
		var rings []*uring.Ring
		for {
			r, err := uring.Open("/dev/uringpv0", uring.Config{Entries: 1})
			if err != nil {
				if !errors.Is(err, unix.EBUSY) {
					p.errorf("no ring: %v", err)
				}
				break
			}
			rings = append(rings, r)
		}
		if len(rings) != want {
			p.errorf("%d rings, want %d", len(rings), want)
		}
		for _, r := range rings {
			p.want("NOP", p.do(r, deviceNop), 0)
			p.check(r.Close())
		}
	}
	for _, c := range []uring.Config{
		{}, {Entries: 1 << 20}, {Entries: 8, CQEntries: 4, Flags: uring.SetupCQSize}, {Entries: 8, Flags: 1 << 30},
		{Entries: 8, Flags: uring.SetupDeferTaskrun}, {Entries: 8, Flags: uring.SetupTaskrunFlag},
	} {
		if r, err := uring.Open("/dev/uringpv0", c); !errors.Is(err, unix.EINVAL) {
			p.errorf("%+v: %v, %v", c, r, err)
		}
	}
	p.issuer()
}

// issuer finds that a ring with SetupSingleIssuer is one thread's, as io_uring's is.
func (p *program) issuer() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	elsewhere := func(f func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // for ever: the thread ends with it
			f()
		}()
		<-done
	}
	refused := func(what string, err error) {
		if !errors.Is(err, unix.EEXIST) {
			p.errorf("%s by another thread: %v", what, err)
		}
	}
	fine := func(what string, err error) {
		if err != nil {
			p.errorf("%s by another thread: %v", what, err)
		}
	}
	r := p.open(uring.Config{Entries: 8, Flags: uring.SetupSingleIssuer | uring.SetupDeferTaskrun | uring.SetupTaskrunFlag})
	p.want("NOP", p.do(r, deviceNop), 0)
	elsewhere(func() {
		_, err := r.Enter(1, 0, 0)
		refused("Submission", err)
		_, err = r.Enter(0, 0, uring.EnterGetevents)
		refused("Waiting", err)
		_, err = r.Enter(0, 0, 0)
		fine("A call for nothing", err)
		refused("Registration", r.RegisterFilesSparse(4))
	})
	p.check(r.RegisterFilesSparse(4))
	p.want("NOP", p.do(r, deviceNop), 0)
	p.check(r.Close())

	r = p.open(uring.Config{Entries: 8, Flags: uring.SetupSingleIssuer | uring.SetupRDisabled})
	p.check(r.RegisterFilesSparse(4)) // whoever enables the ring has it
	elsewhere(func() {
		fine("Enabling", r.EnableRings())
		fine("Registration", r.UnregisterFiles())
		p.want("NOP of another thread", p.do(r, deviceNop), 0)
	})
	_, err := r.Enter(1, 0, 0)
	refused("Submission to the ring of", err)
	_, err = r.Enter(0, 0, uring.EnterGetevents)
	fine("Waiting without SetupDeferTaskrun", err)
	refused("Registration of the ring of", r.RegisterFilesSparse(4))
	p.check(r.Close())

	r = p.open(uring.Config{Entries: 8})
	elsewhere(func() { p.want("NOP of another thread", p.do(r, deviceNop), 0) })
	p.check(r.Close())
}

// lent is where lend says its pool's address.
const lent = "/tmp/lent"

// lend has a mapped ring whose pool another process tries to reach, until it takes the
// file away that says where the pool is.
func (p *program) lend(args []string) {
	f := p.file(args[0], os.O_RDONLY)
	m, err := uring.OpenMapped("/dev/uringpv0", uring.MappedConfig{Entries: 4, Pool: 1 << 20, Files: []*os.File{f}})
	p.check(err)
	const mine = 0x5a
	for i := range m.Pool() {
		m.Pool()[i] = mine
	}
	addr, index, _ := m.Locate(0, 64<<10)
	p.check(os.WriteFile(lent+".new", strconv.AppendUint(nil, addr, 10), 0o600))
	p.check(os.Rename(lent+".new", lent))
	for err == nil {
		time.Sleep(50 * time.Millisecond)
		_, err = os.Stat(lent)
	}
	if i := slices.IndexFunc(m.Pool(), func(b byte) bool { return b != mine }); i >= 0 {
		p.errorf("somebody has written to byte %d of the pool", i)
	}
	p.want("READ_FIXED", p.do(&m.Ring, uring.SQE{Opcode: uring.OpReadFixed, Flags: uring.SQEFixedFile, Addr: addr, Len: 4096, BufIndex: index}), 4096)
	p.check(m.Close())
}

// mapped uses a ring of its own, and finds that it reaches nothing else.
func (p *program) mapped(args []string) {
	f := p.file(args[0], os.O_RDWR)
	m, err := uring.OpenMapped("/dev/uringpv0", uring.MappedConfig{Entries: 16, Pool: 6 << 20, Files: []*os.File{f}})
	p.check(err)
	other, err := uring.OpenMapped("/dev/uringpv0", uring.MappedConfig{Entries: 4, Pool: 1 << 16, Files: []*os.File{f}})
	p.check(err)
	p.offers(&m.Ring, []uint8{uring.OpNop, uring.OpFsync, uring.OpReadFixed, uring.OpWriteFixed})
	pool := m.Pool()
	fmt.Printf("pool of %d bytes in chunks of %d\n", len(pool), m.Chunk())
	at := func(off, n uint64) (sqe uring.SQE) {
		var ok bool
		if sqe.Addr, sqe.BufIndex, ok = m.Locate(off, n); !ok {
			p.errorf("%d bytes at %d are not in one chunk", n, off)
		}
		sqe.Flags, sqe.Len = uring.SQEFixedFile, uint32(n)
		return sqe
	}
	const size = 16 << 10
	last := uint64(len(pool) - size)
	random(pool[:size])
	w, rd := at(0, size), at(last, size)
	w.Opcode, w.Off = uring.OpWriteFixed, 5<<20
	rd.Opcode, rd.Off = uring.OpReadFixed, 5<<20
	p.want("WRITE_FIXED", p.do(&m.Ring, w), size)
	p.want("FSYNC", p.do(&m.Ring, uring.SQE{Opcode: uring.OpFsync, Flags: uring.SQEFixedFile}), 0)
	p.want("READ_FIXED", p.do(&m.Ring, rd), size)
	if !bytes.Equal(pool[:size], pool[last:]) {
		p.errorf("other bytes came back")
	}

	// Everything else is refused, and the ring lives.
	outside := rd
	outside.Addr += size // past the last chunk
	p.want("past the pool", p.do(&m.Ring, outside), -int32(unix.EFAULT))
	stolen := rd
	stolen.Addr, _, _ = other.Locate(0, size)
	p.want("another ring's pool", p.do(&m.Ring, stolen), -int32(unix.EFAULT))
	stolen.Addr, err = strconv.ParseUint(args[1], 10, 64)
	p.check(err)
	for _, op := range []uint8{uring.OpReadFixed, uring.OpWriteFixed} {
		for stolen.BufIndex = range 4 {
			stolen.Opcode = op
			p.want(fmt.Sprintf("another process's pool, as buffer %d", stolen.BufIndex), p.do(&m.Ring, stolen), -int32(unix.EFAULT))
		}
	}
	for gpa := uint64(0); gpa < 64<<20; gpa += 16 << 20 {
		kernel := rd
		kernel.Addr = uint64(memmap.AddrBase) + gpa
		p.want(fmt.Sprintf("the kernel's memory at %#x", gpa), p.do(&m.Ring, kernel), -int32(unix.EFAULT))
	}
	none := rd
	none.BufIndex = 999
	p.want("an unknown buffer", p.do(&m.Ring, none), -int32(unix.EFAULT))
	file := rd
	file.FD = 1
	p.want("an unknown file", p.do(&m.Ring, file), -int32(unix.EBADF))
	raw := rd
	raw.Opcode, raw.BufIndex = uring.OpRead, 0
	if res := p.do(&m.Ring, raw); res != -int32(unix.EACCES) {
		p.errorf("READ: %d", res)
	}
	p.want("READ_FIXED", p.do(&m.Ring, rd), size)

	// What is open for reading is only read.
	ro := p.file(args[0], os.O_RDONLY)
	reader, err := uring.OpenMapped("/dev/uringpv0", uring.MappedConfig{Entries: 4, Pool: 1 << 16, Files: []*os.File{ro}})
	p.check(err)
	p.offers(&reader.Ring, []uint8{uring.OpNop, uring.OpReadFixed})
	addr, index, _ := reader.Locate(0, 512)
	p.want("WRITE_FIXED", p.do(&reader.Ring, uring.SQE{Opcode: uring.OpWriteFixed, Flags: uring.SQEFixedFile, Addr: addr, Len: 512, BufIndex: index}), -int32(unix.EACCES))
	p.want("READ_FIXED", p.do(&reader.Ring, uring.SQE{Opcode: uring.OpReadFixed, Flags: uring.SQEFixedFile, Addr: addr, Len: 512, BufIndex: index}), 512)
	for _, r := range []*uring.Mapped{reader, other, m} {
		p.check(r.Close())
	}
	if _, err := uring.OpenMapped("/dev/uringpv0", uring.MappedConfig{Entries: 4, Pool: 1 << 40, Files: []*os.File{f}}); !errors.Is(err, unix.ENOMEM) {
		p.errorf("a pool of a TiB: %v", err)
	}
}

// stretch does reads on a mapped ring, with calls that a trace shows around them.
func (p *program) stretch(args []string) {
	reads, err := strconv.Atoi(args[1])
	p.check(err)
	m, addr, index := p.undisturbed(args[0])
	left, bad := loop(m, reads, addr, index)
	if left != 0 || bad != 0 {
		p.errorf("%d reads were not done, %d failed", left, bad)
	}
	p.check(m.Close())
}

// undisturbed is a mapped ring to read a file with, the place of 4096 bytes of its
// pool, and a thread that the runtime leaves alone.
func (p *program) undisturbed(file string) (m *uring.Mapped, addr uint64, index uint16) {
	f := p.file(file, os.O_RDONLY)
	m, err := uring.OpenMapped("/dev/uringpv0", uring.MappedConfig{Entries: 32, Pool: 1 << 20, Files: []*os.File{f}})
	p.check(err)
	m.Quiet(true)
	addr, index, _ = m.Locate(0, 4096)
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	return m, addr, index
}

// loop does n reads of 4096 bytes each and polls for them, sixteen at a time,
// between a getpgrp(2) and a getppid(2). In between it calls nothing at which the
// runtime's scheduler could take its thread's turn away.
func loop(m *uring.Mapped, n int, addr uint64, index uint16) (left, bad int) {
	var cqes [16]uring.CQE
	unix.RawSyscall(unix.SYS_GETPGRP, 0, 0, 0)
	for left = n; left > 0; {
		batch := min(left, len(cqes))
		for range batch {
			sqe, ok := m.SQE()
			if !ok {
				return left, bad
			}
			sqe.Opcode, sqe.Flags, sqe.Len, sqe.Addr, sqe.BufIndex = uring.OpReadFixed, uring.SQEFixedFile, 4096, addr, index
		}
		if _, err := m.Submit(); err != nil {
			return left, bad
		}
		for got := 0; got < batch; {
			k := m.Reap(cqes[:])
			for _, c := range cqes[:k] {
				if c.Res != 4096 {
					bad++
				}
			}
			got += k
		}
		left -= batch
	}
	unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
	return 0, bad
}

// largePool is what a leak of a mapped ring's pool would be: one that stands out.
const largePool = 8 << 20

// hang keeps requests of both kinds of rings in flight until it is killed.
func (p *program) hang(args []string) {
	f := p.file(args[0], os.O_RDWR)
	r := p.open(uring.Config{Entries: 64})
	m, err := uring.OpenMapped("/dev/uringpv0", uring.MappedConfig{Entries: 64, Pool: largePool, Files: []*os.File{f}})
	p.check(err)
	b := p.memory(1 << 20)
	p.check(r.RegisterBuffers([][]byte{b}))
	addr, index, _ := m.Locate(0, 64<<10)
	p.check(os.WriteFile("/tmp/hangs", nil, 0o600))
	var cqes [64]uring.CQE
	for {
		for {
			sqe, ok := r.SQE()
			if !ok {
				break
			}
			*sqe = uring.SQE{Opcode: uring.OpRead, FD: int32(f.Fd()), Addr: uring.Addr(b), Len: 64 << 10}
			if _, err := r.Submit(); err != nil {
				break
			}
		}
		for {
			sqe, ok := m.SQE()
			if !ok {
				break
			}
			*sqe = uring.SQE{Opcode: uring.OpReadFixed, Flags: uring.SQEFixedFile, Addr: addr, Len: 64 << 10, BufIndex: index}
		}
		_, err := m.Submit()
		p.check(err)
		r.Reap(cqes[:])
		m.Reap(cqes[:])
		_, _ = r.Enter(0, 0, uring.EnterGetevents)
	}
}

// fork has a child that has inherited the descriptors and the mappings do what it
// can, and exec.
func (p *program) fork(args []string) {
	f := p.file(args[0], os.O_RDWR)
	r := p.open(uring.Config{Entries: 8})
	m, err := uring.OpenMapped("/dev/uringpv0", uring.MappedConfig{Entries: 8, Pool: largePool, Files: []*os.File{f}})
	p.check(err)
	b := p.memory(8192)
	pid, _, errno := unix.RawSyscall(unix.SYS_FORK, 0, 0, 0)
	if errno != 0 {
		p.check(errno)
	}
	if pid == 0 {
		// A child may only make system calls. The pool is not there: a write to
		// memory from it ends in EFAULT.
		_, _, errno := unix.RawSyscall(unix.SYS_GETRANDOM, uintptr(uring.Addr(m.Pool())), 1, 0)
		code := uintptr(0)
		if errno != unix.EFAULT {
			code = 1
		}
		unix.RawSyscall(unix.SYS_EXIT_GROUP, code, 0, 0)
	}
	var status unix.WaitStatus
	_, err = unix.Wait4(int(pid), &status, 0, nil)
	p.check(err)
	if !status.Exited() || status.ExitStatus() != 0 {
		p.errorf("the child ended with %#x: a mapped ring's pool is to be its process's only", uint32(status))
	}
	p.want("READ", p.do(r, uring.SQE{Opcode: uring.OpRead, FD: int32(f.Fd()), Addr: uring.Addr(b), Len: 8192}), 8192)
	addr, index, _ := m.Locate(0, 4096)
	p.want("READ_FIXED", p.do(&m.Ring, uring.SQE{Opcode: uring.OpReadFixed, Flags: uring.SQEFixedFile, Addr: addr, Len: 4096, BufIndex: index}), 4096)
	p.becomes("fork")
}

// becomes ends the program in another, which has no descriptor of the device's.
func (p *program) becomes(name string) {
	p.check(unix.Exec("/bin/sh", []string{"sh", "-c", "ls -l /proc/self/fd >/tmp/fds; ! grep -q uringpv /tmp/fds && echo " + name + ": pass"}, os.Environ()))
}

// exec has eight reads in flight on a ring of each kind when it executes another program.
func (p *program) exec(args []string) {
	f := p.file(args[0], os.O_RDONLY)
	info, err := uring.Info(f)
	p.check(err)
	off := uint64(0)
	if info.Size == 0 { // of a pipe, for example, which never ends them
		off = ^uint64(0)
	}
	r := p.open(uring.Config{Entries: 8})
	m, err := uring.OpenMapped("/dev/uringpv0", uring.MappedConfig{Entries: 8, Pool: largePool, Files: []*os.File{f}})
	p.check(err)
	b := p.memory(1 << 20)
	p.check(r.RegisterBuffers([][]byte{p.memory(1 << 20)}))
	addr, index, _ := m.Locate(0, 1<<20)
	read := uring.SQE{Opcode: uring.OpRead, FD: int32(f.Fd()), Off: off, Addr: uring.Addr(b), Len: uint32(len(b))}
	fixed := uring.SQE{Opcode: uring.OpReadFixed, Flags: uring.SQEFixedFile, Off: off, Addr: addr, Len: 1 << 20, BufIndex: index}
	p.put(r, 0, slices.Repeat([]uring.SQE{read}, 8)...)
	p.put(&m.Ring, 0, slices.Repeat([]uring.SQE{fixed}, 8)...)
	p.becomes("exec")
}

// refused tells that there is no device for programs.
func (p *program) refused(args []string) {
	if r, err := uring.Open(args[0], uring.Config{Entries: 1}); err == nil {
		p.errorf("%s: there is a ring: %v", args[0], r)
	}
}

// reset finds its rings dead when the device has been reset or has gone, and new
// ones alive after a reset.
func (p *program) reset(args []string) {
	before := p.pinned()
	f := p.file(args[0], os.O_RDWR)
	r := p.open(uring.Config{Entries: 8})
	m, err := uring.OpenMapped("/dev/uringpv0", uring.MappedConfig{Entries: 8, Pool: largePool, Files: []*os.File{f}})
	p.check(err)
	b := p.memory(64 << 10)
	p.check(r.RegisterBuffers([][]byte{b}))
	p.want("NOP", p.do(r, deviceNop), 0)
	for range 8 {
		sqe, _ := r.SQE()
		*sqe = uring.SQE{Opcode: uring.OpRead, FD: int32(f.Fd()), Addr: uring.Addr(b), Len: 64 << 10}
	}
	_, err = r.Submit()
	p.check(err)
	waited := make(chan error)
	go func() { // for more than will ever come
		_, err := m.Enter(0, 8, uring.EnterGetevents)
		waited <- err
	}()
	time.Sleep(100 * time.Millisecond)
	p.check(os.WriteFile(args[1], []byte(args[2]), 0))
	if err := <-waited; !errors.Is(err, unix.ENODEV) {
		p.errorf("who waited was told %v", err)
	}
	// One after another of the rings learns of it.
	if got := p.poll(r.FD(), 0, 10000); got&unix.POLLHUP == 0 {
		p.errorf("poll of a ring that is to die: %#x", got)
	}
	var cqes [16]uring.CQE
	if n := r.Reap(cqes[:]); n != 8 {
		p.errorf("%d CQEs of 8", n)
	}
	for _, c := range cqes[:8] {
		if c.Res != 64<<10 && c.Res != -int32(unix.ECANCELED) {
			p.errorf("a read ended in %d", c.Res)
		}
	}
	if _, err := r.Enter(0, 0, 0); !errors.Is(err, unix.ENODEV) {
		p.errorf("a dead ring: %v", err)
	}
	m.Pool()[0] = 1 // still the process's memory
	p.check(r.Close())
	p.check(m.Close())
	if n := p.pinned(); n != before {
		p.errorf("%d pages are pinned at the end, %d before", n, before)
	}
	// The dead rings have given their places back when they are closed.
	n, err := uring.Open("/dev/uringpv0", uring.Config{Entries: 1})
	if len(args) > 3 && args[3] == "gone" {
		if err == nil {
			p.errorf("there is a ring on a device that has gone")
		}
		if _, err := uring.Info(f); !errors.Is(err, unix.ENODEV) {
			p.errorf("a file of it: %v", err)
		}
		return
	}
	p.check(err)
	p.want("NOP on a new ring", p.do(n, deviceNop), 0)
}

// repeat is how often a program runs in a guest that looks for what is rare:
// URINGPV_TEST_REPEAT, else once.
var repeat = max(1, func() int { n, _ := strconv.Atoi(os.Getenv("URINGPV_TEST_REPEAT")); return n }())

// withProgram has the guest run the program.
func (r *linuxRun) withProgram(t testing.TB) {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	r.files = map[string]string{guestProgram: string(self)}
	r.memory = "512M"
}

// eachLinuxRings is eachLinuxOn for rings of programs: in the whole matrix they are
// tried on every backend.
func eachLinuxRings(t *testing.T, backend string, cpus []int, f func(t *testing.T, r linuxRun)) {
	if !full() {
		eachLinuxOn(t, backend, cpus, f)
		return
	}
	each(t, linuxGuests(t), workingBackends(t), cpus, f)
}

// programRings are the rings of a guest with n vCPUs that leave eight to programs.
func programRings(r *linuxRun) { r.options = "rings=" + strconv.Itoa(r.cpus+1+8) }

// pins is a function of scripts' that says how many pages are pinned.
const pins = `
	pins() { cat /proc/sys/vm/stat_refresh; awk '/nr_foll_pin_acquired/ {n += $2} /nr_foll_pin_released/ {n -= $2} END {print n}' /proc/vmstat; }
`

func TestLinuxProgramsUseMediatedRings(t *testing.T) {
	eachLinuxRings(t, backendPassthrough, []int{2}, func(t *testing.T, r linuxRun) {
		r.withProgram(t)
		programRings(&r)
		r.disks = []string{image(t, 64<<20)}
		r.script = `set -e
			ls -l /dev/uringpv0 /dev/uringpv/
			for i in $(seq ` + strconv.Itoa(repeat) + `); do
				/uring-guest mediated disk0
				/uring-guest limits 8
			done
			/uring-guest guide
			cat /sys/kernel/debug/uringpv-*/programs`
		r.timeout = 3*time.Minute + time.Duration(repeat)*5*time.Second
		if console := r.run(t); !strings.Contains(console, "request 1 read 65536 bytes") {
			t.Errorf("the guide's program has not read:\n%s", console)
		}
	})
}

func TestLinuxProgramsUseMappedRings(t *testing.T) {
	eachLinuxRings(t, backendPassthrough, []int{2}, func(t *testing.T, r linuxRun) {
		r.withProgram(t)
		programRings(&r)
		r.disks = []string{image(t, 64<<20)}
		r.script = `set -e
			` + pins + `
			before=$(pins)
			/uring-guest lend disk0 & lender=$!
			until [ -e ` + lent + ` ]; do sleep 0.1; done
			/uring-guest mapped disk0 $(cat ` + lent + `)
			rm ` + lent + `
			wait $lender
			GODEBUG=asyncpreemptoff=1 strace -f -o /tmp/trace /uring-guest stretch disk0 100000
			awk '/getpgrp/ {thread = $1; calls = 0; next}
				/getppid/ && $1 == thread {print calls " system calls in the stretch"; ended = 1; exit calls != 0}
				$1 == thread {calls++; print}
				END {if (!ended) exit 1}' /tmp/trace
			/uring-guest fork disk0
			test "$(pins)" = "$before"
			/uring-guest limits 8`
		r.run(t)
	})
}

func TestLinuxRingsOutliveNothing(t *testing.T) {
	eachLinuxRings(t, backendPassthrough, []int{2}, func(t *testing.T, r linuxRun) {
		r.withProgram(t)
		programRings(&r)
		r.disks = []string{image(t, 64<<20)}
		r.script = `set -e
			dev=$(basename /sys/bus/pci/drivers/uringpv/0*)
			` + pins + `
			# Free memory and slabs that cannot be given back, in KiB.
			memory() { sync; echo 3 >/proc/sys/vm/drop_caches; cat /proc/sys/vm/stat_refresh; awk '/^(MemFree|SUnreclaim):/ {print $2}' /proc/meminfo; }
			before=$(pins)
			for i in 1 2 3; do
				rm -f /tmp/hangs
				/uring-guest hang disk0 &
				until [ -e /tmp/hangs ]; do sleep 0.1; done
				rmmod uringpv && exit 1
				kill -9 $!
				wait $! || true
				test "$(pins)" = "$before"
				/uring-guest exec disk0
				test "$(pins)" = "$before"
				/uring-guest fork disk0
				test "$(pins)" = "$before"
				/uring-guest reset disk0 /sys/bus/pci/drivers/uringpv/$dev/uringpv/reset 1
				test "$(pins)" = "$before"
				/uring-guest limits 8
				set -- $(memory)
				echo "round $i: $1 KiB are free, $2 KiB of slabs"
				[ $i != 1 ] || { free=$1; slabs=$2; } # the first time some things stay
			done
			test $((free - $1)) -lt 6000
			test $(($2 - slabs)) -lt 1000
			/uring-guest reset disk0 /sys/bus/pci/drivers/uringpv/unbind $dev gone
			test -e /dev/uringpv0 && exit 1
			echo $dev >/sys/bus/pci/drivers/uringpv/bind
			/uring-guest limits 8
			rmmod uringpv
			/uring-guest refused /dev/uringpv0
			insmod /lib/modules/uringpv.ko user_rings=3
			/uring-guest limits 3
			test "$(pins)" = "$before"`
		r.run(t)
	})
}
