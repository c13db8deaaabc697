// SPDX-License-Identifier: Apache-2.0

package isolated

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
)

// results executes SQEs as one batch and returns the results of those that have a
// CQE, by user_data, and the order of CQEs.
func results(t *testing.T, d *ringtest.Guest, n int, sqes ...hostring.SQE) (map[uint64]int32, []uint64) {
	t.Helper()
	for i := range sqes {
		d.MustPut(t, &sqes[i])
	}
	d.Submit()
	res, order := map[uint64]int32{}, []uint64{}
	for range n {
		c := d.Wait(t)
		res[c.UserData] = c.Res
		order = append(order, c.UserData)
	}
	time.Sleep(2 * time.Millisecond)
	if c, ok := d.Reap(); ok {
		t.Errorf("a completion too many: %+v", c)
	}
	return res, order
}

// after writes a timespec and returns its address.
func after(g *ringtest.Rig, d time.Duration) uint64 {
	le.PutUint64(g.Data[atTime:], uint64(d/time.Second))
	le.PutUint64(g.Data[atTime+8:], uint64(d%time.Second))
	return g.Addr(atTime)
}

// TestEveryOpcode executes each opcode of the backend once with the effect that it
// has on Linux.
func TestEveryOpcode(t *testing.T) {
	testutil.NoLeaks(t)
	socket, other := stream(t)
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(event)
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	addr := &unix.SockaddrUnix{Name: fmt.Sprintf("@uringpv-opcodes-%d", os.Getpid())}
	if err := errors.Join(unix.Bind(listener, addr), unix.Listen(listener, 4)); err != nil {
		t.Fatal(err)
	}
	const (
		disk, sock, ev, listens, never = 0, 1, 2, 3, 4
	)
	g := ringtest.NewRig(t, newTestBackend, ringtest.Disk(t, 1<<20, false), socket,
		uringpv.File{FD: event, Kind: abi.FileEventfd, Name: "event"},
		uringpv.File{FD: listener, Kind: abi.FileListener, Name: "listener"}, ringtest.Pipe(t))
	sqe := func(code uint8, fd int32, user uint64, change func(*hostring.SQE)) hostring.SQE {
		s := hostring.SQE{Opcode: code, Flags: hostring.SQEFixedFile, FD: fd, UserData: user}
		if change != nil {
			change(&s)
		}
		return s
	}
	link := func(s hostring.SQE) hostring.SQE { s.Flags |= hostring.SQEIOLink; return s }
	canceled, etime := -int32(unix.ECANCELED), -int32(unix.ETIME)
	used := map[uint8]bool{}
	for _, m := range ringtest.Modes {
		run := func(name string, test func(t *testing.T, d *ringtest.Guest)) {
			t.Run(m.Name+"/"+name, func(t *testing.T) {
				d := g.Setup(t, ringtest.Config{SQ: 16, Flags: m.Flags, Idle: 5 * time.Millisecond, Slots: 20})
				test(t, d)
				d.Destroy(t)
			})
		}
		run("disk", func(t *testing.T, d *ringtest.Guest) {
			copy(g.Data[atData:], "thirty-two bytes, all in a row...")
			v := func(s *hostring.SQE) { s.Addr, s.Len = vec(g, g.Addr(atData), 32), 1 }
			b := func(s *hostring.SQE) { s.Addr, s.Len = g.Addr(atData), 32 }
			for i, c := range []struct {
				code   uint8
				change func(*hostring.SQE)
				want   int32
			}{
				{hostring.OpNop, nil, 0}, {hostring.OpWritev, v, 32}, {hostring.OpReadv, v, 32}, {hostring.OpWriteFixed, b, 32},
				{hostring.OpReadFixed, b, 32}, {hostring.OpWrite, b, 32}, {hostring.OpRead, b, 32}, {hostring.OpFsync, nil, 0},
				{hostring.OpSyncFileRange, func(s *hostring.SQE) { s.Len, s.OpFlags = 4096, 7 }, 0},
			} {
				if res := d.Do(t, sqe(c.code, disk, uint64(i), c.change)); res != c.want {
					t.Errorf("opcode %d: %d, want %d", c.code, res, c.want)
				}
				used[c.code] = true
			}
		})
		run("poll", func(t *testing.T, d *ringtest.Guest) {
			poll := func(user uint64, multi uint32) hostring.SQE {
				return sqe(hostring.OpPollAdd, ev, user, func(s *hostring.SQE) { s.OpFlags, s.Len = unix.POLLIN, multi })
			}
			ring := func() {
				if _, err := unix.Write(event, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
					t.Fatal(err)
				}
			}
			s := poll(1, 0)
			d.MustPut(t, &s)
			d.Submit()
			ring()
			if c := d.Wait(t); c.UserData != 1 || c.Res&unix.POLLIN == 0 || c.Flags != 0 {
				t.Errorf("one-shot: %+v", c)
			}
			if res := d.Do(t, sqe(hostring.OpRead, ev, 2, func(s *hostring.SQE) { s.Addr, s.Len = g.Addr(atData), 8 })); res != 8 {
				t.Errorf("READ of the eventfd: %d", res)
			}
			s = poll(3, 1)
			d.MustPut(t, &s)
			d.Submit()
			for range 3 {
				ring()
				if c := d.Wait(t); c.UserData != 3 || c.Res&unix.POLLIN == 0 || c.Flags&2 == 0 {
					t.Errorf("multishot: %+v, want IORING_CQE_F_MORE", c)
				}
			}
			res, _ := results(t, d, 2, sqe(hostring.OpPollRemove, -1, 4, func(s *hostring.SQE) { s.Addr = 3 }))
			if res[4] != 0 || res[3] != canceled {
				t.Errorf("POLL_REMOVE: %v", res)
			}
			used[hostring.OpPollAdd], used[hostring.OpPollRemove] = true, true
			var b [8]byte
			_, _ = unix.Read(event, b[:])
		})
		run("time", func(t *testing.T, d *ringtest.Guest) {
			timeout := func(user uint64, code uint8, in time.Duration) hostring.SQE {
				return sqe(code, -1, user, func(s *hostring.SQE) { s.Addr, s.Len = after(g, in), 1 })
			}
			if res := d.Do(t, timeout(1, hostring.OpTimeout, time.Millisecond)); res != etime {
				t.Errorf("TIMEOUT: %d", res)
			}
			res, _ := results(t, d, 2, timeout(2, hostring.OpTimeout, time.Hour),
				sqe(hostring.OpAsyncCancel, -1, 3, func(s *hostring.SQE) { s.Addr = 2 }))
			if res[2] != canceled || res[3] != 0 {
				t.Errorf("ASYNC_CANCEL of a TIMEOUT: %v", res)
			}
			res, _ = results(t, d, 2,
				link(sqe(hostring.OpRead, never, 4, func(s *hostring.SQE) { s.Addr, s.Len = g.Addr(atData), 8 })),
				timeout(5, hostring.OpLinkTimeout, time.Millisecond))
			if res[4] != canceled && res[4] != -int32(unix.EINTR) || res[5] != etime && res[5] != -int32(unix.EALREADY) {
				t.Errorf("LINK_TIMEOUT: %v", res)
			}
			used[hostring.OpTimeout], used[hostring.OpAsyncCancel], used[hostring.OpLinkTimeout] = true, true, true
		})
		run("links", func(t *testing.T, d *ringtest.Guest) {
			nop := func(user uint64, flags uint8) hostring.SQE {
				return sqe(hostring.OpNop, 0, user, func(s *hostring.SQE) { s.Flags |= flags })
			}
			bad := sqe(hostring.OpRead, 77, 1, nil)
			res, _ := results(t, d, 3, link(bad), link(nop(2, 0)), nop(3, 0))
			if res[1] != -int32(unix.EBADF) || res[2] != canceled || res[3] != canceled {
				t.Errorf("a broken chain: %v", res)
			}
			bad.Flags |= hostring.SQEIOHardlink
			res, order := results(t, d, 2, bad, nop(2, 0))
			if res[2] != 0 || order[0] != 1 {
				t.Errorf("a hard link: %v, %v", res, order)
			}
			// Not before the request in flight.
			timeout := sqe(hostring.OpTimeout, -1, 4, func(s *hostring.SQE) { s.Addr, s.Len = after(g, 5*time.Millisecond), 1 })
			if _, order = results(t, d, 3, timeout, nop(5, hostring.SQEIODrain), nop(6, 0)); order[0] != 4 || order[1] != 5 {
				t.Errorf("IO_DRAIN: %v", order)
			}
			if res, _ = results(t, d, 1, nop(7, hostring.SQECQESkipSuccess), nop(8, 0)); res[8] != 0 || len(res) != 1 {
				t.Errorf("CQE_SKIP_SUCCESS: %v", res)
			}
		})
		run("sockets", func(t *testing.T, d *ringtest.Guest) {
			text := []byte("over a socket")
			n := uint32(len(text))
			buf := g.Data[atData : atData+len(text)]
			for _, code := range []uint8{hostring.OpSend, hostring.OpSendmsg} {
				copy(buf, text)
				s := op(code, g.Addr(atData), n)
				if code == hostring.OpSendmsg {
					s = op(code, msg(g, 0, 0, vec(g, g.Addr(atData), len(text)), 0, 0), 1)
				}
				got := make([]byte, 64)
				res := d.Do(t, s)
				if k, err := unix.Read(other, got); res != int32(n) || err != nil || !bytes.Equal(got[:k], text) {
					t.Errorf("opcode %d: %d, %q, %v", code, res, got[:max(k, 0)], err)
				}
				used[code] = true
			}
			for _, code := range []uint8{hostring.OpRecv, hostring.OpRecvmsg} {
				clear(buf)
				s := op(code, g.Addr(atData), n)
				if code == hostring.OpRecvmsg {
					s = op(code, msg(g, 0, 0, vec(g, g.Addr(atData), len(text)), 0, 0), 1)
				}
				d.MustPut(t, &s)
				d.Submit()
				time.Sleep(time.Millisecond) // it waits
				if _, err := unix.Write(other, text); err != nil {
					t.Fatal(err)
				}
				if c := d.Wait(t); c.Res != int32(n) || !bytes.Equal(buf, text) {
					t.Errorf("opcode %d: %+v, %q", code, c, buf)
				}
				used[code] = true
			}
		})
		run("accept", func(t *testing.T, d *ringtest.Guest) {
			client := func() int {
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err == nil {
					err = unix.Connect(fd, addr)
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { unix.Close(fd) })
				return fd
			}
			accept := func(index int32) hostring.SQE {
				return sqe(hostring.OpAccept, listens, 1, func(s *hostring.SQE) { s.SpliceFDIn = index })
			}
			hello := func(slot int32, fd int) {
				t.Helper()
				copy(g.Data[atData:], "hello")
				s := sqe(hostring.OpSend, slot, 2, func(s *hostring.SQE) { s.Addr, s.Len = g.Addr(atData), 5 })
				got := make([]byte, 8)
				res := d.Do(t, s)
				if k, err := unix.Read(fd, got); res != 5 || err != nil || string(got[:k]) != "hello" {
					t.Errorf("SEND by slot %d: %d, %q, %v", slot, res, got[:max(k, 0)], err)
				}
			}
			a := client()
			if res := d.Do(t, accept(10)); res != 0 {
				t.Fatalf("ACCEPT into slot 9: %d", res)
			}
			hello(9, a)
			// Without a slot: no descriptor can be made.
			b := client()
			if res := d.Do(t, accept(0)); res != -int32(unix.EMFILE) {
				t.Errorf("ACCEPT without a slot: %d, want -EMFILE", res)
			}
			// Where the kernel chooses, below Slots. Slots 0 to 4 are taken.
			res := d.Do(t, accept(-1))
			if res < 5 || res >= 20 {
				t.Fatalf("ACCEPT with IORING_FILE_INDEX_ALLOC: slot %d, want 5 to 19", res)
			}
			hello(res, b)
			for want := 13; want > 0; want-- { // all others
				client()
				if res := d.Do(t, accept(-1)); res < 5 || res >= 20 {
					t.Fatalf("ACCEPT: %d with %d slots left", res, want)
				}
			}
			client()
			if res := d.Do(t, accept(-1)); res != -int32(unix.ENFILE) {
				t.Errorf("ACCEPT without a free slot: %d, want -ENFILE", res)
			}
			if err := d.Ring.UpdateFiles(9, []*uringpv.File{uringpv.NoFile}); err != nil {
				t.Fatal(err)
			}
			if k, err := unix.Read(a, make([]byte, 8)); k != 0 || err != nil {
				t.Errorf("a socket whose slot was emptied: %d, %v; want its end", k, err)
			}
			if res := d.Do(t, sqe(hostring.OpSend, 9, 3, nil)); res != -int32(unix.EBADF) {
				t.Errorf("SEND by an empty slot: %d", res)
			}
			used[hostring.OpAccept] = true
		})
	}
	for _, o := range g.Backend.Capabilities().Opcodes.List() {
		if !used[o] {
			t.Errorf("nothing tests opcode %d", o)
		}
	}
}

// TestShutdown needs a device without a socket that listens.
func TestShutdown(t *testing.T) {
	socket, other := stream(t)
	g := ringtest.NewRig(t, newTestBackend, ringtest.Disk(t, 4096, true), socket)
	d := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll})
	if res := d.Do(t, op(hostring.OpShutdown, 0, unix.SHUT_WR)); res != 0 {
		t.Errorf("SHUTDOWN: %d", res)
	}
	if n, err := unix.Read(other, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the other end reads %d, %v; want the end", n, err)
	}
}

// TestOpcodesThatFixedFileForbids shows why two are not offered: the kernel wants
// no IOSQE_FIXED_FILE with them.
func TestOpcodesThatFixedFileForbids(t *testing.T) {
	g := ringtest.NewRig(t, newTestBackend, ringtest.Disk(t, 4096, true))
	b := g.Backend.(*Backend)
	b.caps.Opcodes = b.caps.Opcodes.Union(ptr(abi.OpcodesOf(hostring.OpTimeoutRemove, hostring.OpClose)))
	d := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll})
	s := hostring.SQE{Opcode: hostring.OpTimeoutRemove, Flags: hostring.SQEFixedFile, Addr: 1}
	if res := d.Do(t, s); res != -int32(unix.EINVAL) {
		t.Errorf("TIMEOUT_REMOVE: %d, want -EINVAL; offer it if the kernel takes it", res)
	}
	s = hostring.SQE{Opcode: hostring.OpClose, Flags: hostring.SQEFixedFile, SpliceFDIn: 1}
	if res := d.Do(t, s); res != -int32(unix.EBADF) {
		t.Errorf("CLOSE of slot 0: %d, want -EBADF; offer it if the kernel takes it", res)
	}
}

func ptr[T any](v T) *T { return &v }
