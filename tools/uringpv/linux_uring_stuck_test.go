// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/guest/uring"
)

// Mediated rings whose processes do not call, may not lock memory, or are held up: they
// harm nobody else. Programs of the guest's first.

// locked is the process's pinned memory as the kernel counts it against RLIMIT_MEMLOCK.
func (p *program) locked() string {
	b, err := os.ReadFile("/proc/self/status")
	p.check(err)
	m := regexp.MustCompile(`(?m)^VmPin:\s*(.*)$`).FindSubmatch(b)
	if m == nil {
		p.check(errors.New("/proc/self/status has no VmPin"))
	}
	return string(m[1])
}

// spent is a process that does not call after its request has ended: pages are let go
// of all the same.
func (p *program) spent(args []string) {
	before := p.pinned()
	f, m := p.file(args[0], os.O_RDONLY), p.memory(256<<10)
	r := p.open(uring.Config{Entries: 8})
	sqe, _ := r.SQE()
	*sqe = uring.SQE{Opcode: uring.OpRead, FD: int32(f.Fd()), Addr: uring.Addr(m), Len: uint32(len(m))}
	_, err := r.Submit()
	p.check(err)
	deadline := time.Now().Add(10 * time.Second)
	for r.Ready() == 0 || p.pinned() != before {
		if time.Now().After(deadline) {
			p.errorf("%d CQEs, and %d pages are pinned", r.Ready(), p.pinned()-before)
			break
		}
		time.Sleep(time.Millisecond)
	}
	p.check(r.Close())
}

// limited is a process that may lock 64 KiB: what may be pinned for ever counts.
func (p *program) limited(args []string) {
	before := p.pinned()
	disk, pipe, m := p.file(args[0], os.O_RDONLY), p.file(args[1], os.O_RDONLY), p.memory(1<<20)
	r := p.open(uring.Config{Entries: 8})
	wait := func(off int, user uint64) {
		sqe, _ := r.SQE()
		*sqe = uring.SQE{Opcode: uring.OpRead, FD: int32(pipe.Fd()), Off: ^uint64(0), Addr: uring.Addr(m[off:]), Len: 32 << 10, UserData: user}
		_, err := r.Submit()
		p.check(err)
	}
	wait(0, 1)
	if got := p.locked(); got != "32 kB" {
		p.errorf("a read of a pipe of 32 KiB counts as %s", got)
	}

	runtime.LockOSThread()
	p.check(unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 64 << 10, Max: 64 << 10}))
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	p.check(unix.Capget(&header, &all[0]))
	less := all
	less[0].Effective &^= 1 << unix.CAP_IPC_LOCK
	p.check(unix.Capset(&header, &less[0]))
	if err := r.RegisterBuffers([][]byte{m[:128<<10]}); !errors.Is(err, unix.ENOMEM) {
		p.errorf("a buffer over the limit: %v, want ENOMEM", err)
	}
	p.check(r.RegisterBuffers([][]byte{m[512<<10:][:16<<10]}))
	wait(64<<10, 2)
	p.check(r.Wait(1))
	var cq [8]uring.CQE
	if n := r.Reap(cq[:]); n != 1 || cq[0].UserData != 2 || cq[0].Res != -int32(unix.ENOMEM) {
		p.errorf("a read of a pipe over the limit: %d CQEs, %+v; want -ENOMEM", n, cq[0])
	}
	// A disk's I/O ends by itself.
	p.want("a read of a disk", p.do(r, uring.SQE{Opcode: uring.OpRead, FD: int32(disk.Fd()), Addr: uring.Addr(m[256<<10:]), Len: 256 << 10}), 256<<10)
	p.check(unix.Capset(&header, &all[0]))
	runtime.UnlockOSThread()

	p.check(r.Close())
	if got := p.locked(); got != "0 kB" {
		p.errorf("%s are counted in the end", got)
	}
	if n := p.pinned() - before; n != 0 {
		p.errorf("%d pages are pinned in the end", n)
	}
}

// words is memory for an ioctl's argument.
func (p *program) words(v ...uint64) []byte {
	b := p.memory(4096)
	for i, w := range v {
		binary.NativeEndian.PutUint64(b[8*i:], w)
	}
	return b
}

func (p *program) ioctl(fd uintptr, request uintptr, arg []byte) {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(uring.Addr(arg))); e != 0 {
		p.check(e)
	}
}

// ioctls of userfaultfd(2) (linux/userfaultfd.h).
const (
	uffdAPI      = 0xc018aa3f
	uffdRegister = 0xc020aa00
	uffdCopy     = 0xc028aa03
)

// heldup has one ring whose process waits for a page of its memory, in a call, while
// the device is reset, and while the driver is unbound: the other ring's is told.
func (p *program) heldup(args []string) {
	before := p.pinned()
	dev, f := args[1], p.file(args[0], os.O_RDONLY)
	for _, how := range []string{"reset", "unbind"} {
		page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		p.check(err)
		faults, _, e := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
		if e != 0 {
			p.check(e)
		}
		p.ioctl(faults, uffdAPI, p.words(0xaa))
		p.ioctl(faults, uffdRegister, p.words(uring.Addr(page), 4096, 1))

		a, b := p.open(uring.Config{Entries: 8}), p.open(uring.Config{Entries: 8})
		held := make(chan error, 1)
		sqe, _ := a.SQE()
		*sqe = uring.SQE{Opcode: uring.OpReadv, FD: int32(f.Fd()), Addr: uring.Addr(page), Len: 1}
		go func() { _, err := a.Submit(); held <- err }()
		p.check(p.awaitFault(int(faults)))

		done := make(chan error, 1)
		go func() {
			if how == "reset" {
				done <- os.WriteFile("/sys/bus/pci/drivers/uringpv/"+dev+"/uringpv/reset", []byte("1"), 0)
			} else {
				done <- os.WriteFile("/sys/bus/pci/drivers/uringpv/unbind", []byte(dev), 0)
			}
		}()
		if got := p.poll(b.FD(), 0, 20_000); got&unix.POLLHUP == 0 {
			p.errorf("%s: the other ring is not told: %#x", how, got)
		}
		if how == "reset" {
			p.check(<-done)
			c := p.open(uring.Config{Entries: 8}) // of after the reset: it lives
			for range 10 {
				p.want("NOP", p.do(c, deviceNop), 0)
				time.Sleep(50 * time.Millisecond)
			}
			p.check(c.Close())
		}
		p.ioctl(faults, uffdCopy, p.words(uring.Addr(page), uring.Addr(p.memory(4096)), 4096))
		<-held
		if how == "unbind" {
			p.check(<-done)
		}
		if got := p.poll(a.FD(), 0, 20_000); got&unix.POLLHUP == 0 {
			p.errorf("%s: the ring that was held up is not told: %#x", how, got)
		}
		p.check(a.Close())
		p.check(b.Close())
		p.check(unix.Close(int(faults)))
	}
	if n := p.pinned() - before; n != 0 {
		p.errorf("%d pages are pinned in the end", n)
	}
}

// awaitFault waits until somebody is held up by a fault.
func (p *program) awaitFault(fd int) error {
	if got := p.poll(fd, unix.POLLIN, 20_000); got&unix.POLLIN == 0 {
		return fmt.Errorf("nobody waits for the page: poll gives %#x", got)
	}
	return nil
}

// stuck writes to a disk whose host hangs, and has a ring beside that does nothing:
// both are told when the device is reset. It ends by being killed.
func (p *program) stuck(args []string) {
	r, f, m := p.open(uring.Config{Entries: 8}), p.file(args[0], os.O_RDWR), p.memory(256<<10)
	p.check(r.RegisterBuffers([][]byte{m[128<<10:]}))
	fd := int32(f.Fd())
	for _, s := range []uring.SQE{
		{Opcode: uring.OpWrite, FD: fd, Addr: uring.Addr(m), Len: 64 << 10},
		{Opcode: uring.OpWrite, FD: fd, Off: 1 << 20, Addr: uring.Addr(m), Len: 64 << 10},
		{Opcode: uring.OpWriteFixed, FD: fd, Off: 4 << 20, Addr: uring.Addr(m[128<<10:]), Len: 64 << 10},
		{Opcode: uring.OpFsync, FD: fd},
	} {
		sqe, _ := r.SQE()
		*sqe = s
	}
	_, err := r.Submit()
	p.check(err)
	idle := p.open(uring.Config{Entries: 8})
	p.want("NOP", p.do(idle, deviceNop), 0)
	for name, ring := range map[string]*uring.Ring{"idle": idle, "stuck": r} {
		if got := p.poll(ring.FD(), 0, 60_000); got&unix.POLLHUP == 0 {
			p.errorf("the %s ring is not told: %#x", name, got)
		}
	}
	if p.failed == 0 {
		p.check(os.WriteFile("/tmp/told", nil, 0o600))
	}
	time.Sleep(time.Hour)
}

func TestLinuxProgramsHarmNobodyElse(t *testing.T) {
	eachLinuxRings(t, backendRelay, []int{2}, func(t *testing.T, r linuxRun) {
		r.withProgram(t)
		r.args = []string{"--export-backend", r.backend, "--export-rings", "12", "--file", "name=f,path=" + image(t, 1<<20), "--pipe", "name=p"}
		r.script = `set -e
			dev=$(basename /sys/bus/pci/drivers/uringpv/0*)
			/uring-guest spent f
			/uring-guest limited f p.read
			/uring-guest heldup f $dev
			echo $dev >/sys/bus/pci/drivers/uringpv/bind
			/uring-guest limits 12
			rmmod uringpv
			insmod /lib/modules/uringpv.ko
			/uring-guest limits 12`
		r.timeout = 4 * time.Minute
		r.run(t)
	})
}

// The host's file system hangs, a reset cannot end, the process is killed and the
// driver unbound meanwhile: all of it ends when the host goes on.
func TestLinuxUnbindsWhileTheHostIsStuck(t *testing.T) {
	inMachine(t)
	eachLinuxOn(t, backendPassthrough, []int{2}, func(t *testing.T, r linuxRun) {
		r.withProgram(t)
		programRings(&r)
		dir := freezable(t, 96<<20)
		path := imageIn(t, dir, 64<<20)
		r.disks = []string{path}
		r.script = `
			dev=$(basename /sys/bus/pci/drivers/uringpv/0*)
			` + pins + `
			before=$(pins)
			echo 1500 >/sys/block/upv0/queue/io_timeout
			exec 3<&0
			echo "READY."; read x <&3
			/uring-guest stuck disk0 & p=$!
			sleep 1
			dd if=/dev/zero of=/dev/upv0 bs=4k count=1 seek=1000 oflag=direct & d=$!
			until [ -e /tmp/told ]; do sleep 0.2; done
			kill -9 $p; wait $p
			echo $dev >/sys/bus/pci/drivers/uringpv/unbind & b=$!
			sleep 12
			echo "UNBINDING."; read x <&3
			wait $b; wait $d
			status=0
			[ "$(pins)" = "$before" ] || { echo "$(pins) pages are pinned, before it were $before"; status=1; }
			rmmod uringpv || status=1
			insmod /lib/modules/uringpv.ko
			/uring-guest limits 8 || status=1
			exit $status`
		r.timeout = 4 * time.Minute
		s := r.startSession(t)
		s.expect("READY.")
		thaw := freeze(t, dir)
		s.send("go")
		s.expect("UNBINDING.")
		thaw()
		s.send("go")
		status, console := s.end()
		if status != 0 || !strings.Contains(console, "init: run: exit 0") {
			t.Errorf("exit status %d\n%s\n%s", status, console, &s.stderr)
		}
	})
}
