// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/guest/uring"
)

func init() { programs["orphaned"] = (*program).orphaned }

// Rings whose owners are killed on the host: the device has failed then, and says so to
// nobody. The driver notices, and all is as after a reset.

// orphaned has rings of each kind when that happens. With "waits" it waits to be told,
// with "closes" it closes them at once: the device refuses to end them.
func (p *program) orphaned(args []string) {
	before := p.pinned()
	f, pipe := p.file("f", os.O_RDWR), p.file("p.read", os.O_RDONLY)
	m, err := uring.OpenMapped("/dev/uringpv0", uring.MappedConfig{Entries: 8, Pool: 1 << 16, Files: []*os.File{f}})
	p.check(err)
	own, relayed := p.open(uring.Config{Entries: 8, NoExtra: true}), p.open(uring.Config{Entries: 8})
	mediated := map[string]*uring.Ring{"own": own, "relayed": relayed}
	b := p.memory(64 << 10)
	for name, r := range mediated {
		p.check(r.RegisterBuffers([][]byte{b}))
		p.want("NOP on the ring "+name, p.do(r, deviceNop), 0)
		p.put(r, 1, uring.SQE{Opcode: uring.OpRead, FD: int32(pipe.Fd()), Off: ^uint64(0), Addr: uring.Addr(b), Len: 4096})
	}
	waited := make(chan error, 1)
	go func() { // for more than will ever come
		_, err := m.Enter(0, 8, uring.EnterGetevents)
		waited <- err
	}()
	fmt.Println("orphaned: the owners may go")

	if args[0] == "closes" {
		_, err := os.Stdin.Read(make([]byte, 1)) // they have gone; it may be that the driver does not know
		p.check(err)
	} else {
		if err := <-waited; !errors.Is(err, unix.ENODEV) {
			p.errorf("who waited was told %v", err)
		}
		for name, r := range map[string]*uring.Ring{"own": own, "relayed": relayed, "mapped": &m.Ring} {
			if got := p.poll(r.FD(), 0, 20_000); got&unix.POLLHUP == 0 {
				p.errorf("the ring %s is not told: %#x", name, got)
			}
			if _, err := r.Enter(0, 0, 0); !errors.Is(err, unix.ENODEV) {
				p.errorf("the ring %s, which is dead: %v", name, err)
			}
		}
		for name, r := range mediated {
			if c := p.take(r, 1); c[0].UserData != 1 || c[0].Res != ecanceled {
				p.errorf("a read on the ring %s ended in %+v", name, c[0])
			}
		}
	}
	m.Pool()[0] = 1 // still the process's memory
	for _, r := range []*uring.Ring{own, relayed, &m.Ring} {
		p.check(r.Close())
	}

	// Until the driver has reset the device there are no new rings.
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		r, err := uring.Open("/dev/uringpv0", uring.Config{Entries: 1, NoExtra: true})
		if err == nil {
			p.want("NOP on a new ring", p.do(r, deviceNop), 0)
			p.check(r.Close())
			break
		}
		if !errors.Is(err, unix.EIO) || time.Now().After(end) {
			p.check(err)
		}
	}
	for end := time.Now().Add(20 * time.Second); p.pinned() != before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			p.errorf("%d pages are pinned at the end, %d before", p.pinned(), before)
			break
		}
	}
}

// owners are the processes that own rings of the monitor pid.
func owners(t *testing.T, pid int) (pids []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(lists) == 0 {
		t.Fatalf("process %d tells no children: %v", pid, err)
	}
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			continue // a thread that has ended
		}
		for _, child := range strings.Fields(string(b)) {
			name, _ := os.ReadFile("/proc/" + child + "/comm")
			if n, err := strconv.Atoi(child); err == nil && string(name) == "uringpv-ring\n" {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// eachLinuxIsolated runs f for every guest kernel on isolated, outside the whole matrix
// for one of them.
func eachLinuxIsolated(t *testing.T, cpus []int, f func(t *testing.T, r linuxRun)) {
	t.Helper()
	guests := linuxGuests(t)
	if !slices.Contains(workingBackends(t), backendIsolated) {
		t.Skip("NOT TESTED: the host cannot give a ring to a process of its own")
	}
	each(t, guests, []string{backendIsolated}, cpus, f)
}

func TestLinuxProgramsOutliveTheirRingsOwners(t *testing.T) {
	eachLinuxIsolated(t, []int{2}, func(t *testing.T, r linuxRun) {
		r.withProgram(t)
		r.args = []string{"--export-backend", r.backend, "--export-rings", "8", "--file", "name=f,path=" + image(t, 1<<20), "--pipe", "name=p"}
		r.script = `set -e
			gone() { ! grep 'mediated\|mapped' /sys/kernel/debug/uringpv-*/programs; }
			for how in waits closes; do
				/uring-guest orphaned $how
				for i in $(seq 50); do gone && break; sleep 0.2; done
				/uring-guest limits 8
			done
			echo "resets $(cat /sys/bus/pci/drivers/uringpv/0*/uringpv/resets)"
			gone
			rmmod uringpv
			insmod /lib/modules/uringpv.ko
			/uring-guest limits 8`
		s := r.startSession(t)
		for _, how := range []string{"waits", "closes"} {
			s.expect("orphaned: the owners may go")
			pids := owners(t, s.Process.Pid)
			if len(pids) != 2 { // the mapped ring's, and that of the mediated one without extra opcodes
				t.Errorf("the rings have %d owners, want 2: %s", len(pids), &s.stderr)
			}
			for _, pid := range pids {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Error(err)
				}
			}
			if how == "closes" {
				time.Sleep(100 * time.Millisecond) // the monitor has noticed, the driver has hardly
				s.send("")
			}
		}
		status, console := s.end()
		if status != 0 || !strings.Contains(console, "init: run: exit 0") || !strings.Contains(console, "resets 2\r\n") {
			t.Errorf("exit status %d\n%s\n%s", status, console, &s.stderr)
		}
	})
}

// A disk whose rings' owners are killed, and killed again while the driver makes new
// rings: it tries until it has some, and no I/O fails.
func TestLinuxDiskOutlivesItsRingsOwners(t *testing.T) {
	eachLinuxIsolated(t, []int{2}, func(t *testing.T, r linuxRun) {
		r.fio = true
		r.disks = []string{image(t, 64<<20)}
		r.script = `
			echo "the owners may go"
			for n in $(seq 100); do
				fio --name=v --filename=/dev/upv0 --rw=randwrite --bs=4k --verify=crc32c --verify_fatal=1 --ioengine=io_uring --direct=1 \
					--iodepth=16 --size=4M --randseed=$n >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
				if dmesg | grep -q 'requests go on' && [ $n -gt 2 ]; then break; fi
			done
			dmesg | grep 'offline\|I/O error\|error, dev upv0' && exit 1
			echo "failed starts $(dmesg | grep -c 'RING_SETUP: error')"`
		s := r.startSession(t)
		s.expect("the owners may go")
		killed := 0
		for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
			for _, pid := range owners(t, s.Process.Pid) {
				if err := unix.Kill(pid, unix.SIGKILL); err == nil {
					killed++
				}
			}
		}
		status, console := s.end()
		if status != 0 || !strings.Contains(console, "init: run: exit 0") {
			t.Errorf("exit status %d\n%s\n%s", status, console, &s.stderr)
		}
		if strings.Contains(console, "failed starts 0\r\n") {
			t.Errorf("%d owners were killed, and every start succeeded\n%s", killed, console)
		}
		t.Logf("%d owners were killed", killed)
	})
}
