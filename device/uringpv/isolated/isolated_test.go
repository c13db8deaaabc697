// SPDX-License-Identifier: Apache-2.0

package isolated

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/devicetest"
	"github.com/uringpv/uringpv/device/uringpv/internal/direct"
	"github.com/uringpv/uringpv/device/uringpv/internal/growth"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/shm"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

// newTestBackend is the backend under test, for ringtest.
func newTestBackend(t testing.TB, m *memmap.Memory, files []uringpv.File) uringpv.Backend {
	t.Helper()
	b, err := New(Config{Memory: m, Files: files, Logger: slog.New(slog.DiscardHandler)})
	ringtest.Need(t, err)
	return b
}

func TestIsolated(t *testing.T) { ringtest.Run(t, newTestBackend) }

func TestNetwork(t *testing.T) { ringtest.Network(t, newTestBackend, false) }

// ownerOf is the owner of a ring's driver.
func ownerOf(t testing.TB, d *ringtest.Guest) *owner {
	t.Helper()
	r, ok := d.Ring.(*Ring)
	if !ok {
		t.Fatalf("the ring is a %T", d.Ring)
	}
	return r.host.owner
}

// proc is a file of the owner's in /proc.
func (o *owner) proc(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", o.pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// mapping is a line of /proc/PID/maps.
type mapping struct {
	start, end uint64
	perms      string
	name       string
}

// mappings is what a process has mapped. The vsyscall page is the kernel's, in
// every process, and only its entry points can be called.
func (o *owner) mappings(t testing.TB) []mapping {
	t.Helper()
	var all []mapping
	for line := range strings.Lines(o.proc(t, "maps")) {
		f := strings.Fields(line)
		var m mapping
		if _, err := fmt.Sscanf(f[0], "%x-%x", &m.start, &m.end); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		m.perms = f[1]
		if len(f) > 5 {
			m.name = f[5]
		}
		if m.name == "[vsyscall]" && !strings.Contains(m.perms, "w") {
			continue
		}
		all = append(all, m)
	}
	return all
}

// TestOwnerHasNothingElse reads what the kernel says of a ring's owner.
func TestOwnerHasNothingElse(t *testing.T) {
	testutil.NoLeaks(t)
	g := ringtest.NewRig(t, newTestBackend, ringtest.Disk(t, 1<<20, false))
	for _, m := range ringtest.Modes[:3] {
		d := g.Setup(t, ringtest.Config{SQ: 8, Flags: m.Flags})
		d.Do(t, ringtest.NOP(1))
		o := ownerOf(t, d)
		page := 0
		for _, m := range o.mappings(t) {
			base := uint64(g.Memory.Base())
			switch {
			case m.start == base && m.end == base+g.Memory.Layout().Size() && m.perms == "rw-s":
			case m.end-m.start == memmap.PageSize && m.perms == "--xp":
				page++
			default:
				t.Errorf("it has mapped %x-%x %s %q", m.start, m.end, m.perms, m.name)
			}
		}
		if page != 1 {
			t.Errorf("%d executable pages, want one", page)
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", o.pid))
		if err != nil || len(fds) != 0 {
			t.Errorf("%d descriptors, %v; want none", len(fds), err)
		}
		alone(t, o, 1<<20)
		d.Destroy(t)
		if err := unix.Kill(o.pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("after the ring's end its owner is there: %v", err)
		}
	}
	noChildren(t)
}

// alone checks that an owner has given up what it can.
func alone(t testing.TB, o *owner, fsize uint64) {
	t.Helper()
	status := o.proc(t, "status")
	for _, want := range []string{
		"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000",
		"NoNewPrivs:\t1", "SigBlk:\tfffffffffffbfeff",
	} {
		if !strings.Contains(status, want+"\n") {
			t.Errorf("its status has no line %q:\n%s", want, status)
		}
	}
	if os.Geteuid() == 0 && !strings.Contains(status, "CapBnd:\t0000000000000000\n") {
		t.Errorf("root's owner has a bounding set:\n%s", status)
	}
	limits := strings.Join(strings.Fields(o.proc(t, "limits")), " ")
	for _, want := range []string{fmt.Sprintf("Max file size %d ", fsize), "Max core file size 0 0", "Max open files 0 0"} {
		if !strings.Contains(limits, want) {
			t.Errorf("its limits have no %q: %s", want, limits)
		}
	}
	if all := apartMount | apartNet | apartIPC | apartUTS | apartCgroup | apartRoot; os.Geteuid() == 0 && os.Getenv("REQUIRE_IO_URING") == "1" && o.apart&all != all {
		t.Errorf("root's owner is apart by %#x, want at least %#x", uint32(o.apart), uint32(all))
	}
	for ns, bit := range map[string]apart{
		"user": apartUser, "mnt": apartMount, "net": apartNet, "ipc": apartIPC, "uts": apartUTS, "cgroup": apartCgroup,
	} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", o.pid, ns))
		if err != nil {
			t.Fatal(err)
		}
		ours, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if (theirs != ours) != (o.apart&bit != 0) {
			t.Errorf("%s namespaces: %s and %s, it says %#x", ns, theirs, ours, o.apart)
		}
	}
	if filtered := strings.Contains(status, "\nSeccomp:\t2\n"); !filtered && (o.apart&apartFilter != 0 || os.Getenv("REQUIRE_IO_URING") == "1") {
		t.Errorf("its system calls are not filtered, it says %#x:\n%s", o.apart, status)
	}
	if o.apart&apartRoot != 0 {
		if all, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", o.pid)); err != nil || len(all) != 0 {
			t.Errorf("its root directory has %d entries, %v; want none", len(all), err)
		}
	}
	var theirs, ours unix.Stat_t
	if err := errors.Join(unix.Stat(fmt.Sprintf("/proc/%d/root", o.pid), &theirs), unix.Stat("/", &ours)); err != nil {
		t.Error(err)
	} else if other := theirs.Dev != ours.Dev || theirs.Ino != ours.Ino; other != (o.apart&apartRoot != 0) {
		t.Errorf("its root directory is another one: %v, it says %#x", other, o.apart)
	}
	t.Logf("it is apart from the monitor by %#x", uint32(o.apart))
}

// noChildren fails the test if this process has a child, alive or a zombie.
func noChildren(t testing.TB) {
	t.Helper()
	if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("this process has children (%v)", err)
	}
}

// Where the test keeps things in guest RAM: offsets in Rig.Data.
const (
	atVec  = 0x1000
	atMsg  = 0x2000
	atTime = 0x3000
	atData = 0x10000
)

// le is binary.LittleEndian.
var le = binary.LittleEndian

// vec writes an iovec.
func vec(g *ringtest.Rig, base uint64, n int) uint64 {
	le.PutUint64(g.Data[atVec:], base)
	le.PutUint64(g.Data[atVec+8:], uint64(n))
	return g.Addr(atVec)
}

// msg writes a msghdr.
func msg(g *ringtest.Rig, name uint64, nameLen uint32, iov, control, controlLen uint64) uint64 {
	m := g.Data[atMsg : atMsg+56]
	clear(m)
	le.PutUint64(m, name)
	le.PutUint32(m[8:], nameLen)
	le.PutUint64(m[16:], iov)
	le.PutUint64(m[24:], 1)
	le.PutUint64(m[32:], control)
	le.PutUint64(m[40:], controlLen)
	return g.Addr(atMsg)
}

// stream makes both ends of a stream socket: one for the guest, one for the test.
func stream(t testing.TB) (uringpv.File, int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return uringpv.File{FD: p[0], Kind: abi.FileStream, Name: "socket", BlockSize: 1, DIOMemAlign: 1, DIOOffsetAlign: 1}, p[1]
}

// sink is where a request puts what it reads from memory.
type sink int

const (
	nowhere sink = iota // it writes memory
	toFile
	toSocket
)

// op is an SQE for file 1 of a rig, the socket.
func op(code uint8, addr uint64, n uint32) hostring.SQE {
	return hostring.SQE{Opcode: code, Flags: hostring.SQEFixedFile, FD: 1, Addr: addr, Len: n, UserData: uint64(code)}
}

// hasProtectionKeys says whether this host can map code that cannot be read.
func hasProtectionKeys(t testing.TB) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(strings.Fields(string(b)), "ospke")
}

// ownersPage is the page that stays, as the program has it.
func ownersPage(t testing.TB, addr uint64) []byte {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Vaddr == addr && p.Filesz == memmap.PageSize {
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	t.Fatalf("the program has no page at %#x", addr)
	return nil
}

// TestPointersReachGuestRAMOnly: the very requests that work with guest RAM end in
// -EFAULT with any other memory, and the ring lives on. Where the host's CPU has no
// protection keys the owner's page can be read, of which everybody has a copy.
func TestPointersReachGuestRAMOnly(t *testing.T) {
	testutil.NoLeaks(t)
	keys := hasProtectionKeys(t)
	t.Logf("the owner's page can be read: %v", !keys)
	socket, other := stream(t)
	g := ringtest.NewRig(t, newTestBackend, ringtest.Disk(t, 1<<20, false), socket)
	secret := make([]byte, 64) // the monitor's heap
	for i := range secret {
		secret[i] = 0x5a
	}
	var pin runtime.Pinner
	pin.Pin(&secret[0])
	defer pin.Unpin()
	file := []byte("what is in the file, sixty-four bytes of it, and then no more...")
	for _, m := range ringtest.Modes {
		t.Run(m.Name, func(t *testing.T) {
			d := g.Setup(t, ringtest.Config{SQ: 16, Flags: m.Flags, Idle: 5 * time.Millisecond})
			var page uint64
			for _, m := range ownerOf(t, d).mappings(t) {
				if strings.Contains(m.perms, "x") {
					page = m.start
				}
			}
			places := []struct {
				name string
				addr uint64
				ok   bool // it can be read and written
				read bool // it can be read
			}{
				{"guest RAM", g.Addr(atData), true, true},
				{"the monitor's heap", ringtest.AddrOf(secret), false, false},
				{"the owner's page", page, false, !keys},
				{"behind the owner's page", page + memmap.PageSize, false, false},
				{"address 0", 0, false, false},
				{"below guest RAM", uint64(g.Memory.Base()) - 4096, false, false},
				{"behind guest RAM", uint64(g.Memory.Base()) + g.Memory.Layout().Size(), false, false},
				{"the kernel", 0xffff800000000000, false, false},
				{"no address", 0x800000000000, false, false},
			}
			const n = 64
			code := ownersPage(t, page)
			for _, p := range places {
				if p.addr == 0 && p.name != "address 0" {
					t.Fatalf("no address of %s", p.name)
				}
				disk := func(code uint8, addr uint64, n uint32) hostring.SQE {
					s := op(code, addr, n)
					s.FD = 0
					return s
				}
				feed := func() {
					if _, err := unix.Write(other, file); err != nil {
						t.Fatal(err)
					}
				}
				drain := func() []byte { // what was sent
					b := make([]byte, 4096)
					_, _, _ = unix.Recvfrom(socket.FD, b, unix.MSG_DONTWAIT)
					n, _, _ := unix.Recvfrom(other, b, unix.MSG_DONTWAIT)
					return b[:max(n, 0)]
				}
				for _, c := range []struct {
					name string
					sqe  func() hostring.SQE
					out  sink // where the request, which only reads memory, puts it
				}{
					{"READ", func() hostring.SQE { return disk(hostring.OpRead, p.addr, n) }, nowhere},
					{"READ, async", func() hostring.SQE {
						s := disk(hostring.OpRead, p.addr, n)
						s.Flags |= hostring.SQEAsync
						return s
					}, nowhere},
					{"WRITE", func() hostring.SQE { return disk(hostring.OpWrite, p.addr, n) }, toFile},
					{"READV", func() hostring.SQE { return disk(hostring.OpReadv, vec(g, p.addr, n), 1) }, nowhere},
					{"READV, async", func() hostring.SQE {
						s := disk(hostring.OpReadv, vec(g, p.addr, n), 1)
						s.Flags |= hostring.SQEAsync
						return s
					}, nowhere},
					{"WRITEV", func() hostring.SQE { return disk(hostring.OpWritev, vec(g, p.addr, n), 1) }, toFile},
					{"SEND", func() hostring.SQE { return op(hostring.OpSend, p.addr, n) }, toSocket},
					{"SENDMSG", func() hostring.SQE {
						return op(hostring.OpSendmsg, msg(g, 0, 0, vec(g, p.addr, n), 0, 0), 1)
					}, toSocket},
					{"RECV", func() hostring.SQE { feed(); return op(hostring.OpRecv, p.addr, n) }, nowhere},
					{"RECVMSG", func() hostring.SQE {
						feed()
						return op(hostring.OpRecvmsg, msg(g, 0, 0, vec(g, p.addr, n), 0, 0), 1)
					}, nowhere},
				} {
					if _, err := unix.Pwrite(g.Files[0].FD, file, 0); err != nil {
						t.Fatal(err)
					}
					clear(g.Data[atData : atData+n])
					if c.out != nowhere {
						copy(g.Data[atData:], file)
					}
					if c.out == toFile {
						if _, err := unix.Pwrite(g.Files[0].FD, make([]byte, n), 0); err != nil {
							t.Fatal(err)
						}
					}
					want, bytesWant := int32(-int32(unix.EFAULT)), []byte(nil)
					switch {
					case p.ok:
						want, bytesWant = n, file
					case p.read && c.out != nowhere:
						want, bytesWant = n, code[:n]
					}
					if res := d.Do(t, c.sqe()); res != want {
						t.Errorf("%s, %s: %d, want %d", c.name, p.name, res, want)
					}
					sent := drain()
					switch c.out {
					case nowhere:
						sent = g.Data[atData : atData+n]
					case toFile:
						sent = make([]byte, n)
						if _, err := unix.Pread(g.Files[0].FD, sent, 0); err != nil {
							t.Fatal(err)
						}
					}
					if bytesWant != nil && !bytes.Equal(sent, bytesWant) {
						t.Errorf("%s, %s: wrong bytes %q", c.name, p.name, sent)
					}
				}
				if p.read && !p.ok { // the whole of it is what the program has there
					got := make([]byte, memmap.PageSize)
					res := d.Do(t, disk(hostring.OpWrite, p.addr, memmap.PageSize))
					if _, err := unix.Pread(g.Files[0].FD, got, 0); err != nil || res != memmap.PageSize || !bytes.Equal(got, code) {
						t.Errorf("%s can be read (%d, %v), and is not the program's page", p.name, res, err)
					}
				}
				// The array of iovecs, the msghdr, its array and its name themselves.
				if p.ok {
					continue
				}
				for name, s := range map[string]func() hostring.SQE{
					"READV's array":    func() hostring.SQE { return disk(hostring.OpReadv, p.addr, 1) },
					"WRITEV's array":   func() hostring.SQE { return disk(hostring.OpWritev, p.addr, 1) },
					"SENDMSG's header": func() hostring.SQE { return op(hostring.OpSendmsg, p.addr, 1) },
					"RECVMSG's header": func() hostring.SQE { return op(hostring.OpRecvmsg, p.addr, 1) },
					"SENDMSG's array":  func() hostring.SQE { return op(hostring.OpSendmsg, msg(g, 0, 0, p.addr, 0, 0), 1) },
					"SENDMSG's name": func() hostring.SQE {
						return op(hostring.OpSendmsg, msg(g, p.addr, 16, vec(g, g.Addr(atData), n), 0, 0), 1)
					},
					"SENDMSG's control": func() hostring.SQE {
						return op(hostring.OpSendmsg, msg(g, 0, 0, vec(g, g.Addr(atData), n), p.addr, 64), 1)
					},
					"TIMEOUT's time": func() hostring.SQE { return op(hostring.OpTimeout, p.addr, 1) },
				} {
					if p.read {
						continue // code is read as if it were an address or a time
					}
					if name == "SENDMSG's name" && p.addr == 0 {
						continue // no name
					}
					if name == "SENDMSG's control" && p.addr == 0 {
						continue
					}
					if res := d.Do(t, s()); res != -int32(unix.EFAULT) {
						t.Errorf("%s at %s: %d, want -EFAULT", name, p.name, res)
					}
					drain()
				}
			}
			if res := d.Do(t, ringtest.NOP(1)); res != 0 {
				t.Errorf("a NOP after all that: %d", res)
			}
			d.Destroy(t)
		})
	}
	for _, c := range secret {
		if c != 0x5a {
			t.Fatal("the monitor's memory has changed")
		}
	}
}

// TestDescriptorsCannotBePassed: the owner has none to send, and no room for any.
func TestDescriptorsCannotBePassed(t *testing.T) {
	testutil.NoLeaks(t)
	socket, other := stream(t)
	g := ringtest.NewRig(t, newTestBackend, ringtest.Disk(t, 1<<20, false), socket)
	d := g.Setup(t, ringtest.Config{SQ: 16, Flags: hostring.SetupSQPoll})
	control := g.Data[atTime : atTime+24]
	for fd := range uint32(16) {
		clear(control)
		le.PutUint64(control, 20)
		le.PutUint32(control[8:], unix.SOL_SOCKET)
		le.PutUint32(control[12:], unix.SCM_RIGHTS)
		le.PutUint32(control[16:], fd)
		s := op(hostring.OpSendmsg, msg(g, 0, 0, vec(g, g.Addr(atData), 8), g.Addr(atTime), 24), 1)
		if res := d.Do(t, s); res != -int32(unix.EBADF) {
			t.Errorf("SCM_RIGHTS of descriptor %d: %d, want -EBADF", fd, res)
		}
	}
	if err := unix.Sendmsg(other, []byte("x"), unix.UnixRights(other), nil, 0); err != nil {
		t.Fatal(err)
	}
	s := op(hostring.OpRecvmsg, msg(g, 0, 0, vec(g, g.Addr(atData), 8), g.Addr(atTime), 24), 1)
	if res := d.Do(t, s); res != 1 {
		t.Errorf("a message with a descriptor: %d, want 1", res)
	}
	if flags := le.Uint32(g.Data[atMsg+48:]); flags&unix.MSG_CTRUNC == 0 {
		t.Errorf("its flags are %#x, want MSG_CTRUNC", flags)
	}
	if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", ownerOf(t, d).pid)); err != nil || len(fds) != 0 {
		t.Errorf("the owner has %d descriptors, %v", len(fds), err)
	}
}

// TestDeadOwnerIsNoticed: it costs its ring, and nothing else.
func TestDeadOwnerIsNoticed(t *testing.T) {
	testutil.NoLeaks(t)
	g := ringtest.NewRig(t, newTestBackend, ringtest.Disk(t, 1<<20, false), ringtest.Pipe(t))
	for _, m := range ringtest.Modes {
		other := g.Setup(t, ringtest.Config{SQ: 8, Flags: m.Flags})
		d := g.Setup(t, ringtest.Config{SQ: 8, Flags: m.Flags})
		d.Do(t, ringtest.NOP(1))
		s := op(hostring.OpRead, g.Addr(atData), 16) // in flight: the pipe stays empty
		d.MustPut(t, &s)
		d.Submit()
		o := ownerOf(t, d)
		if err := unix.Kill(o.pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		err := d.Stopped(t)
		var guest *uringpv.GuestError
		if !errors.Is(err, ErrOwner) || errors.As(err, &guest) || !strings.Contains(err.Error(), "killed") {
			t.Errorf("the ring stopped with %v, want a host's error that says how its owner ended", err)
		}
		for err = nil; err == nil; time.Sleep(time.Millisecond) {
			err = d.Ring.Enter(0, 0)
		}
		if !errors.Is(err, unix.ENXIO) {
			t.Errorf("ENTER of a ring without an owner: %v, want ENXIO", err)
		}
		if res := other.Do(t, ringtest.NOP(2)); res != 0 {
			t.Errorf("another ring's NOP: %d", res)
		}
		d.Destroy(t)
		// And again, with a new owner.
		d = g.Setup(t, ringtest.Config{SQ: 8, Flags: m.Flags})
		if res := d.Do(t, ringtest.NOP(3)); res != 0 {
			t.Errorf("a new ring's NOP: %d", res)
		}
		d.Destroy(t)
		other.Destroy(t)
	}
	noChildren(t)
}

// TestSignalsDoNotEndTheOwner: a terminal's are for the monitor.
func TestSignalsDoNotEndTheOwner(t *testing.T) {
	g := ringtest.NewRig(t, newTestBackend, ringtest.Disk(t, 1<<20, false))
	d := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll})
	o := ownerOf(t, d)
	for _, s := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGXFSZ} {
		if err := unix.Kill(o.pid, s); err != nil {
			t.Fatal(err)
		}
	}
	if group, err := unix.Getpgid(o.pid); err != nil || group != o.pid {
		t.Errorf("its process group is %d, %v; want its own", group, err)
	}
	ours, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	if session, err := unix.Getsid(o.pid); err != nil || session != ours {
		t.Errorf("its session is %d, %v; want the monitor's, %d", session, err, ours)
	}
	for range 100 {
		if res := d.Do(t, ringtest.NOP(1)); res != 0 {
			t.Fatal(res)
		}
	}
}

// inChild is the variable that makes the test binary the monitor to be killed.
const inChild = "URINGPV_TEST_OWNER_CHILD"

// TestOwnerDiesWithTheMonitor kills a process that has rings.
func TestOwnerDiesWithTheMonitor(t *testing.T) {
	if os.Getenv(inChild) != "" {
		g := ringtest.NewRig(t, newTestBackend, ringtest.Disk(t, 1<<20, false))
		for range 2 {
			d := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll})
			d.Do(t, ringtest.NOP(1))
			fmt.Println("owner", ownerOf(t, d).pid)
		}
		time.Sleep(time.Minute) // it is killed before
		return
	}
	ringtest.Need(t, Supported())
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run", "^TestOwnerDiesWithTheMonitor$", "-test.v")
	cmd.Env = append(os.Environ(), inChild+"=1", "TMPDIR="+t.TempDir()) // what it leaves goes with this test
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var owners []int // pidfds
	for lines := bufio.NewScanner(out); len(owners) < 2; {
		if !lines.Scan() {
			t.Fatal("the child has said too little")
		}
		var pid int
		if _, err := fmt.Sscanf(lines.Text(), "owner %d", &pid); err == nil {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			owners = append(owners, fd)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, fd := range owners {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 5000); n != 1 || err != nil {
			t.Errorf("an owner outlives its monitor (%d, %v)", n, err)
		}
	}
}

// TestRingsWithFilesOfDifferentSizes: each ring has a bound of its own.
func TestRingsWithFilesOfDifferentSizes(t *testing.T) {
	testutil.NoLeaks(t)
	small, large, reader := ringtest.Disk(t, 8192, false), ringtest.Disk(t, 1<<20, false), ringtest.Disk(t, 12345, true)
	twin := ringtest.Disk(t, 8192, false)
	g := ringtest.NewRig(t, newTestBackend, small, large)
	write := func(t *testing.T, d *ringtest.Guest, off uint64) int32 {
		t.Helper()
		s := op(hostring.OpWrite, g.Addr(atData), 4096)
		s.FD, s.Off = 0, off
		return d.Do(t, s)
	}
	for _, f := range []uringpv.File{small, large} {
		size, _ := f.Size()
		d := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll, Files: []uringpv.File{f, reader}})
		defer d.Destroy(t)
		if res := write(t, d, uint64(size)-4096); res != 4096 {
			t.Errorf("a write before the end at %d: %d", size, res)
		}
		if res := write(t, d, uint64(size)); res != -int32(unix.EFBIG) {
			t.Errorf("a write at the end, %d: %d, want -EFBIG", size, res)
		}
	}
	if _, err := g.TrySetup(t, ringtest.Config{SQ: 8, Files: []uringpv.File{small, large}}); !errors.Is(err, ErrGrowth) || !errors.Is(err, uringpv.ErrElsewhere) {
		t.Errorf("a ring with files of two sizes: %v, want ErrGrowth and ErrElsewhere", err)
	}
	// A ring without any can have the first of any size, and from then on others of
	// that size.
	d := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll, Files: []uringpv.File{reader}})
	if err := d.Ring.UpdateFiles(0, []*uringpv.File{&small}); err != nil {
		t.Fatal(err)
	}
	if res := write(t, d, 4096); res != 4096 {
		t.Errorf("a write to the first: %d", res)
	}
	for name, f := range map[string]*uringpv.File{"a larger one": &large, "a larger one, after it was emptied": &large} {
		if err := d.Ring.UpdateFiles(0, []*uringpv.File{f}); !errors.Is(err, ErrGrowth) {
			t.Errorf("%s: %v, want ErrGrowth", name, err)
		}
		if err := d.Ring.UpdateFiles(0, []*uringpv.File{uringpv.NoFile}); err != nil {
			t.Error(err)
		}
	}
	if err := d.Ring.UpdateFiles(0, []*uringpv.File{&twin}); err != nil {
		t.Error(err)
	}
	if res := write(t, d, 8192); res != -int32(unix.EFBIG) {
		t.Errorf("a write at the end of its twin: %d, want -EFBIG", res)
	}
	if err := d.Ring.UpdateFiles(0, []*uringpv.File{&reader}); err != nil {
		t.Error(err)
	}
	for _, f := range g.Files {
		var st unix.Stat_t
		if err := unix.Fstat(f.FD, &st); err != nil || st.Size != 8192 && st.Size != 1<<20 {
			t.Errorf("a file has %d bytes, %v", st.Size, err)
		}
	}
}

// TestSocketsThatReachAnybodyAreRefused: restrictions do not see addresses.
func TestSocketsThatReachAnybodyAreRefused(t *testing.T) {
	ringtest.Need(t, Supported())
	m := ringtest.Memory(t, memmap.MinRAM)
	for _, c := range []struct {
		name     string
		file     uringpv.File
		err      error
		shutdown bool
	}{
		{"a datagram socket", uringpv.File{Kind: abi.FileDgram}, ErrPeer, false},
		{"one that may send to anybody", uringpv.File{Kind: abi.FileDgram, AnyPeer: true}, nil, true},
		{"a stream that is not connected", uringpv.File{Kind: abi.FileStream, Unconnected: true}, ErrPeer, false},
		{"a UNIX stream that is not connected", uringpv.File{Kind: abi.FileStream, Unconnected: true, Peer: &unix.SockaddrUnix{Name: "/s"}}, nil, true},
		{"a stream", uringpv.File{Kind: abi.FileStream}, nil, true},
		{"one that listens", uringpv.File{Kind: abi.FileListener}, nil, false},
	} {
		b, err := New(Config{Memory: m, Files: []uringpv.File{c.file}})
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
		if err != nil {
			continue
		}
		caps := b.Capabilities()
		if caps.Opcodes.Has(hostring.OpShutdown) != c.shutdown {
			t.Errorf("%s: SHUTDOWN allowed: %v", c.name, !c.shutdown)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestATrialUnderABound: memory of the trial is a file, which RLIMIT_FSIZE bounds as
// others. That says nothing of the host.
func TestATrialUnderABound(t *testing.T) {
	ringtest.Need(t, Supported())
	h, err := growth.Bound(4096)
	if err != nil {
		t.Fatal(err)
	}
	forget := func() {
		trials.mu.Lock()
		defer trials.mu.Unlock()
		trials.done = false
	}
	forget()
	err = Supported()
	if e := h.Release(); e != nil {
		t.Error(e)
	}
	if !errors.Is(err, growth.ErrConflict) || errors.Is(err, ErrUnsupported) {
		t.Errorf("under a bound of 4096 bytes: %v, want %v", err, growth.ErrConflict)
	}
	if err := Supported(); err != nil {
		t.Errorf("without: %v", err)
	}
}

func TestFloodStopsTheRing(t *testing.T) {
	testutil.NoLeaks(t)
	g := ringtest.NewRig(t, newTestBackend, ringtest.Disk(t, 1<<20, false))
	other := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll})
	for _, m := range ringtest.Modes {
		t.Run(m.Name, func(t *testing.T) {
			d := g.Setup(t, ringtest.Config{SQ: 256, Flags: m.Flags})
			err := d.Flood(20 * time.Second)
			var guest *uringpv.GuestError
			if !errors.As(err, &guest) {
				t.Fatalf("the ring was stopped with %v, want a guest's error", err)
			}
			if res := other.Do(t, ringtest.NOP(1)); res != 0 {
				t.Errorf("another ring's NOP: %d", res)
			}
			d.Destroy(t)
		})
	}
}

// TestRequestsThatWaitAreCounted: they cost kernel memory, too, and have no CQE.
func TestRequestsThatWaitAreCounted(t *testing.T) {
	testutil.NoLeaks(t)
	g := ringtest.NewRig(t, newTestBackend, ringtest.Disk(t, 1<<20, false), ringtest.Pipe(t))
	d := g.Setup(t, ringtest.Config{SQ: 256, Flags: hostring.SetupSQPoll})
	s := op(hostring.OpPollAdd, 0, 0)
	s.OpFlags = unix.POLLIN
	stopped := d.FloodWith(s, time.Minute)
	var guest *uringpv.GuestError
	if !errors.As(stopped, &guest) {
		t.Errorf("the ring was stopped with %v, want a guest's error", stopped)
	}
	d.Destroy(t)
}

// TestRequestsBehindADrainAreCounted: where the host's policy has no CQE skipped. The
// kernel lists none of them.
func TestRequestsBehindADrainAreCounted(t *testing.T) {
	testutil.NoLeaks(t)
	g := ringtest.NewRig(t, func(t testing.TB, m *memmap.Memory, files []uringpv.File) uringpv.Backend {
		b := newTestBackend(t, m, files).(*Backend)
		b.caps.SQEFlags &^= hostring.SQECQESkipSuccess
		return b
	}, ringtest.Disk(t, 1<<20, false), ringtest.Pipe(t))
	poll := op(hostring.OpPollAdd, 0, 0)
	poll.OpFlags = unix.POLLIN
	drained := ringtest.NOP(1)
	drained.Flags |= hostring.SQEIODrain
	timeout := op(hostring.OpTimeout, after(g, time.Hour), 1)
	for name, s := range map[string]hostring.SQE{"a drain": ringtest.NOP(2), "time": timeout} {
		d := g.Setup(t, ringtest.Config{SQ: 256, Flags: hostring.SetupSQPoll})
		if name == "a drain" {
			d.MustPut(t, &poll)
			d.MustPut(t, &drained)
		}
		var guest *uringpv.GuestError
		if stopped := d.FloodWith(s, time.Minute); !errors.As(stopped, &guest) {
			t.Errorf("a flood that waits for %s: %v, want a guest's error", name, stopped)
		}
		d.Destroy(t)
	}
}

// TestSkippedCompletionsAreNoFlood: a driver may ask for no CQE as often as it
// likes.
func TestSkippedCompletionsAreNoFlood(t *testing.T) {
	g := ringtest.NewRig(t, newTestBackend, ringtest.Disk(t, 1<<20, false))
	d := g.Setup(t, ringtest.Config{SQ: 256, Flags: hostring.SetupSQPoll})
	for start := time.Now(); time.Since(start) < 3*direct.Interval; {
		for range 4 * direct.MaxBehind {
			s := ringtest.NOP(1)
			s.Flags |= hostring.SQECQESkipSuccess
			d.MustPut(t, &s)
			d.Submit()
		}
	}
	if res := d.Do(t, ringtest.NOP(2)); res != 0 {
		t.Errorf("a NOP after them: %d", res)
	}
	if _, ok := d.Reap(); ok {
		t.Error("a completion too many")
	}
}

// listening is a listening UNIX socket, and how to connect to it.
func listening(t testing.TB) (uringpv.File, func() int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	addr := &unix.SockaddrUnix{Name: fmt.Sprintf("@uringpv-isolated-%d-%d", os.Getpid(), fd)}
	if err := errors.Join(unix.Bind(fd, addr), unix.Listen(fd, 4)); err != nil {
		t.Fatal(err)
	}
	return uringpv.File{FD: fd, Kind: abi.FileListener, Name: "listener"}, func() int {
		t.Helper()
		client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(client) })
		if err := unix.Connect(client, addr); err != nil {
			t.Fatal(err)
		}
		return client
	}
}

// acceptOf is an ACCEPT of file 0 into an entry.
func acceptOf(entry int32) hostring.SQE {
	s := op(hostring.OpAccept, 0, 0)
	s.FD, s.SpliceFDIn = 0, entry+1 // file_index
	return s
}

// TestAcceptFillsTheGuestsEntriesOnly: the table has no others, whatever index the SQE
// names, and an end with a request in flight is waited for although an ACCEPT has been
// in the entry where the sentinel comes.
func TestAcceptFillsTheGuestsEntriesOnly(t *testing.T) {
	testutil.NoLeaks(t)
	l, dial := listening(t)
	g := ringtest.NewRig(t, newTestBackend, l, ringtest.Pipe(t))
	d := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll, Slots: 3})
	s := op(hostring.OpRead, g.Addr(atData), 16)
	s.FD = 1
	d.MustPut(t, &s)
	for _, entry := range []int32{3, 4, 99, uringpv.ReservedFile - 1, uringpv.ReservedFile, uringpv.ReservedFile + 1, 1 << 20} {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(l.FD), Events: unix.POLLIN}}, 0); err != nil {
			t.Fatal(err)
		} else if n == 0 {
			dial()
		}
		if res := d.Do(t, acceptOf(entry)); res != -int32(unix.EINVAL) {
			t.Errorf("ACCEPT into entry %d of 3: %d, want -EINVAL", entry, res)
		}
	}
	for _, entry := range []int32{2, 0} {
		dial()
		if res := d.Do(t, acceptOf(entry)); res != 0 {
			t.Errorf("ACCEPT into entry %d: %d", entry, res)
		}
	}
	o := ownerOf(t, d)
	d.Destroy(t)
	if err := unix.Kill(o.pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the ring has ended and its owner has not: %v", err)
	}
}

// TestFilesChangeUnderAnAccept: RING_REGISTER fills and empties the entry that an ACCEPT
// under way is to fill. Whoever comes last has it, and nothing is lost or leaks.
func TestFilesChangeUnderAnAccept(t *testing.T) {
	testutil.NoLeaks(t)
	l, dial := listening(t)
	disk := ringtest.Disk(t, 8192, false)
	g := ringtest.NewRig(t, newTestBackend, l, disk)
	d := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll, Files: []uringpv.File{l}, Slots: 3})
	update := func(f *uringpv.File) {
		t.Helper()
		if err := d.Ring.UpdateFiles(1, []*uringpv.File{f}); err != nil {
			t.Fatal(err)
		}
	}
	send := op(hostring.OpSend, g.Addr(atData), 5)
	read := op(hostring.OpReadFixed, g.Addr(atData), 512)
	send.FD, read.FD = 1, 1
	gone := func(client int) bool {
		t.Helper()
		fds := []unix.PollFd{{Fd: int32(client), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 5000)
		return n == 1 && err == nil && fds[0].Revents&unix.POLLHUP != 0
	}
	for round := range 50 {
		accept := acceptOf(1)
		d.MustPut(t, &accept)
		d.Submit()
		if round%2 == 0 {
			time.Sleep(time.Millisecond) // it waits
		}
		update(&disk)
		if res := d.Do(t, read); res != 512 {
			t.Fatalf("the disk in the entry: %d", res)
		}
		if round%3 == 0 {
			update(uringpv.NoFile)
		}
		client := dial()
		if c := d.Wait(t); c.Res != 0 {
			t.Fatalf("the ACCEPT: %d", c.Res)
		}
		if res := d.Do(t, send); res != 5 {
			t.Fatalf("SEND by what was accepted: %d", res)
		}
		var got [8]byte
		if n, err := unix.Read(client, got[:]); n != 5 || err != nil {
			t.Fatalf("it arrives: %d, %v", n, err)
		}
		update([]*uringpv.File{&disk, uringpv.NoFile}[round%2])
		if !gone(client) {
			t.Fatal("the connection is there after its entry was filled anew")
		}
	}
	// At the same time.
	stop := make(chan struct{})
	var clients []int
	go func() {
		defer close(stop)
		for i := range 2000 {
			if err := d.Ring.UpdateFiles(1, []*uringpv.File{[]*uringpv.File{&disk, uringpv.NoFile}[i%2]}); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for done := false; !done || len(clients) < 20; {
		accept := acceptOf(1)
		d.MustPut(t, &accept)
		d.Submit()
		clients = append(clients, dial())
		if c := d.Wait(t); c.Res != 0 {
			t.Fatalf("the ACCEPT: %d", c.Res)
		}
		select {
		case <-stop:
			done = true
		default:
		}
	}
	update(&disk)
	for _, c := range clients {
		if !gone(c) {
			t.Fatal("a connection is left that no entry has")
		}
		unix.Shutdown(c, unix.SHUT_RDWR)
	}
	if res := d.Do(t, read); res != 512 {
		t.Errorf("the disk, in the end: %d", res)
	}
	d.Destroy(t)
}

func TestMemlockTooSmallIsSaid(t *testing.T) {
	testutil.NoLeaks(t)
	ringtest.Need(t, Supported())
	m := ringtest.Memory(t, 16<<20)
	ringtest.Unprivileged(t, 1<<20, func() {
		b, err := New(Config{Memory: m})
		if !errors.Is(err, ErrMemlock) || !strings.Contains(err.Error(), "ulimit -l") {
			t.Errorf("New with 1 MiB of lockable memory: %v, want ErrMemlock", err)
		}
		if b != nil {
			b.Close()
		}
	})
}

func TestOwnerThatCannotStartIsExplained(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
		no   bool
	}{
		{fmt.Errorf("execute: %w", unix.EACCES), "vm.memfd_noexec", true},
		{fmt.Errorf("pidfd_getfd: %w", unix.EPERM), "ptrace_scope", true},
		{&startError{stepRing, unix.EPERM}, "io_uring_disabled", true},
		{&startError{stepMemory, unix.EEXIST}, "map guest RAM", true},
		{&startError{ready, fmt.Errorf("%w: x", ErrOwner)}, "has ended", true},
		{&startError{stepRing, unix.ENOMEM}, "make the ring", false},
		{unix.EAGAIN, "", false},
	} {
		err := refused(c.err)
		if errors.Is(err, ErrUnsupported) != c.no || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v became %v", c.err, err)
		}
	}
}

// TestMemoryAboveTheHole: guest RAM in two pieces, the ring in the upper one. Only
// the owner is looked at, as pinning that much would take the host's memory.
func TestMemoryAboveTheHole(t *testing.T) {
	testutil.NoLeaks(t)
	ringtest.Need(t, Supported())
	m := ringtest.Memory(t, uint64(memmap.HoleStart)+1<<20)
	program, err := programFile()
	if err != nil {
		t.Fatal(err)
	}
	b := &Backend{memory: m, log: slog.New(slog.DiscardHandler), program: program, parent: newParent()}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	area := func(at memmap.Addr) shm.View {
		v, err := m.View(memmap.Range{Start: at, Length: memmap.PageSize})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	h := &host{b: b}
	ring, err := h.Make(hostring.Config{
		Entries: 4, Flags: hostring.SetupNoMmap | hostring.SetupSQPoll | hostring.SetupRDisabled,
		Rings: area(memmap.HoleEnd), SQEs: area(memmap.HoleEnd + memmap.PageSize),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Ready(); err != nil {
		t.Fatal(err)
	}
	alone(t, h.owner, 0)
	var pieces []string
	for _, m := range h.owner.mappings(t) {
		pieces = append(pieces, fmt.Sprintf("%x-%x %s", m.start, m.end, m.perms))
	}
	base := uint64(m.Base())
	want := []string{
		"600000-601000 --xp",
		fmt.Sprintf("%x-%x rw-s", base, base+uint64(memmap.HoleStart)),
		fmt.Sprintf("%x-%x rw-s", base+uint64(memmap.HoleEnd), base+uint64(memmap.HoleEnd)+1<<20),
	}
	if !slices.Equal(pieces, want) {
		t.Errorf("it has mapped %q, want %q", pieces, want)
	}
	if err := ring.Close(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := h.End(ctx); err != nil {
		t.Error(err)
	}
	noChildren(t)
}

// TestOwnerThatFailsLeavesNothing sends owners what they must refuse.
func TestOwnerThatFailsLeavesNothing(t *testing.T) {
	testutil.NoLeaks(t)
	g := ringtest.NewRig(t, newTestBackend, ringtest.Disk(t, 4096, true))
	b := g.Backend.(*Backend)
	areas, err := g.Memory.View(memmap.Range{Length: 2 * memmap.PageSize})
	if err != nil {
		t.Fatal(err)
	}
	c := hostring.Config{Entries: 4, Flags: hostring.SetupNoMmap | hostring.SetupSQPoll | hostring.SetupRDisabled}
	c.Rings, _ = areas.Slice(0, memmap.PageSize)
	c.SQEs, _ = areas.Slice(memmap.PageSize, memmap.PageSize)
	good := region{Addr: uint64(g.Memory.Base()), Length: g.Memory.Layout().Size()}
	for name, tt := range map[string]struct {
		regions [regions]region
		flags   uint32
		step    step
	}{
		"no memory":                  {[regions]region{}, 0, 1},
		"memory in the owner's page": {[regions]region{{Addr: 0x600000, Length: 4096}}, 0, 1},
		"memory that wraps":          {[regions]region{{Addr: good.Addr, Length: 1 << 63}}, 0, 1},
		"pieces that overlap":        {[regions]region{good, {Addr: good.Addr + 4096, Length: 4096}}, 0, 1},
		"memory on the stack":        {[regions]region{good, {Addr: good.Addr + good.Length, Length: 1<<47 - 4096 - good.Addr - good.Length}}, 0, stepMemory},
		"unaligned memory":           {[regions]region{{Addr: good.Addr + 1, Length: 4096}}, 0, stepMemory},
		"setup flags that clash":     {[regions]region{good}, hostring.SetupDeferTaskrun, stepRing},
		"a ring outside the memory":  {[regions]region{{Addr: good.Addr + 8192, Length: 4096, Offset: 8192}}, 0, stepRing},
	} {
		m, c := start{Regions: tt.regions, FSize: 1 << 20}, c
		c.Flags |= tt.flags
		_, _, err := b.start(&m, c)
		var at *startError
		if !errors.As(err, &at) || at.step != tt.step || hostring.Errno(err) == 0 {
			t.Errorf("%s: %v, want an error at step %d", name, err, tt.step)
		}
	}
	noChildren(t)
	d := g.Setup(t, ringtest.Config{SQ: 8})
	if res := d.Do(t, ringtest.NOP(1)); res != 0 {
		t.Error(res)
	}
}

// spy is a backend that keeps its rings for a test.
type spy struct {
	*Backend
	rings []*Ring
}

func (s *spy) NewRing(spec uringpv.RingSpec) (uringpv.Ring, error) {
	r, err := s.Backend.NewRing(spec)
	if err == nil {
		s.rings = append(s.rings, r.(*Ring))
	}
	return r, err
}

// TestDeviceLivesAgainAfterAnOwnersDeath: the device says FAILED, another device
// works on, and RESET revives the first.
func TestDeviceLivesAgainAfterAnOwnersDeath(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.NeedIOUring(t)
	m := devicetest.Memory(t, 1<<20)
	device := func() (*devicetest.Guest, *spy) {
		b := &spy{Backend: newTestBackend(t, m, nil).(*Backend)}
		d, err := uringpv.New(uringpv.Config{Name: "d", Rings: 2, MaxEntries: 64, Memory: m, Backend: b, SQPoll: true, SQThreadCPU: -1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		return &devicetest.Guest{T: t, Device: d, Memory: m}, b
	}
	first, b := device()
	other, _ := device()
	a, _ := devicetest.RingAt(0x10000, 8)
	c, _ := devicetest.RingAt(0x20000, 8)
	if _, errno := first.Setup(0, a); errno != 0 {
		t.Fatal(errno)
	}
	if _, errno := other.Setup(1, c); errno != 0 {
		t.Fatal(errno)
	}
	if err := unix.Kill(b.rings[0].host.owner.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); first.Read32(abi.RegStatus)&abi.StatusFailed == 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Fatalf("STATUS %#x: the owner's death is not noticed", first.Read32(abi.RegStatus))
		}
	}
	if errno := other.Enter(1, abi.Enter{}); errno != 0 || other.Read32(abi.RegStatus) != abi.StatusReady {
		t.Errorf("another device: ENTER %v, STATUS %#x", errno, other.Read32(abi.RegStatus))
	}
	if errno := first.Reset(); errno != 0 || first.Read32(abi.RegStatus) != abi.StatusReady {
		t.Fatalf("RESET: %v, STATUS %#x", errno, first.Read32(abi.RegStatus))
	}
	if _, errno := first.Setup(0, a); errno != 0 {
		t.Errorf("RING_SETUP after RESET: %v", errno)
	}
	if errno := first.Enter(0, abi.Enter{}); errno != 0 {
		t.Errorf("ENTER after RESET: %v", errno)
	}
}
