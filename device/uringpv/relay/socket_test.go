// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// listener is a listening TCP socket on the loopback, and its address.
func listener(t testing.TB) (uringpv.File, *unix.SockaddrInet4) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := end(t, fd, abi.FileListener)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 16); err != nil {
		t.Fatal(err)
	}
	a, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return f, a.(*unix.SockaddrInet4)
}

// dialled is a listener, and two sockets that may be connected to it.
func dialled(t testing.TB) []uringpv.File {
	l, a := listener(t)
	all := []uringpv.File{l}
	for range 2 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := end(t, fd, abi.FileStream)
		f.Unconnected, f.Peer = true, a
		all = append(all, f)
	}
	return all
}

// udp is two UDP sockets, each the other's peer.
func udp(connect bool) func(testing.TB) []uringpv.File {
	return func(t testing.TB) []uringpv.File {
		var fds [2]int
		var addrs [2]unix.Sockaddr
		for i := range fds {
			var err error
			if fds[i], err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
				t.Fatal(err)
			}
			if err := unix.Bind(fds[i], &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
				t.Fatal(err)
			}
			if addrs[i], err = unix.Getsockname(fds[i]); err != nil {
				t.Fatal(err)
			}
		}
		files := make([]uringpv.File, 2)
		for i, fd := range fds {
			files[i] = end(t, fd, abi.FileDgram)
			files[i].Peer = addrs[1-i]
			if connect {
				if err := unix.Connect(fd, addrs[1-i]); err != nil {
					t.Fatal(err)
				}
			}
		}
		return files
	}
}

// peerAt writes file i's peer at at and returns its length.
func (b *bench) peerAt(i int, at uint64) uint32 {
	p, err := peerBytes(b.files[i].Peer)
	if err != nil {
		b.Fatal(err)
	}
	return uint32(copy(b.data[at:], p))
}

func TestSendRecv(t *testing.T) {
	for _, kind := range []struct {
		name  string
		files func(testing.TB) []uringpv.File
	}{
		{"stream", pair(unix.SOCK_STREAM, abi.FileStream)}, {"datagram", pair(unix.SOCK_DGRAM, abi.FileDgram)}, {"udp", udp(true)},
	} {
		t.Run(kind.name, func(t *testing.T) {
			same(t, files(kind.files, pipe), func(b *bench) {
				copy(b.data, "hello, world")
				send, recv := b.rw(hostring.OpSend, fixed, 1, 0, 0, 0, 12), b.rw(hostring.OpRecv, fixed, 2, 1, 0, 100, 50)
				b.do(1, send)
				b.do(1, recv)
				b.bytesAt(100, 14)
				b.submit([]hostring.SQE{recv})
				b.none() // it waits
				send.Len = 5
				b.do(2, send)
				send.IOPrio, recv.IOPrio = recvSendPollFirst, recvSendPollFirst
				b.do(2, recv, send)
				recv.IOPrio, send.IOPrio = 0, 0
				recv.OpFlags = unix.MSG_DONTWAIT
				b.do(1, recv)
				b.do(1, send)
				recv.OpFlags = unix.MSG_PEEK
				b.do(1, recv)
				recv.OpFlags = 0
				b.do(1, recv)
				b.do(1, send)
				recv.Len, recv.OpFlags = 3, unix.MSG_TRUNC
				if kind.name != "stream" {
					b.do(1, recv)
				} else {
					recv.OpFlags = 0
					b.do(2, recv, recv)
				}
				recv.OpFlags = 0
				send.FD, recv.FD = 2, 2
				b.do(1, send) // no socket
				b.do(1, recv)
				send.FD, recv.FD = 9, 99
				b.do(1, send)
				b.do(1, recv)
				send.BufIndex = 1
				b.do(1, b.rw(hostring.OpRecv, fixed, 3, 9, 5, 100, 50))
			})
		})
	}
}

// TestShortReceiveBreaksAChainWithWaitall: without the flag any number is a success.
func TestShortReceiveBreaksAChainWithWaitall(t *testing.T) {
	same(t, pair(unix.SOCK_STREAM, abi.FileStream), func(b *bench) {
		recv := b.rw(hostring.OpRecv, link, 2, 1, 0, 100, 50)
		b.do(1, b.rw(hostring.OpSend, fixed, 1, 0, 0, 0, 12))
		b.inOrder(2, recv, sqe(hostring.OpNop, fixed, 3))
		b.do(1, b.rw(hostring.OpSend, fixed, 1, 0, 0, 0, 12))
		recv.OpFlags, recv.Flags = unix.MSG_WAITALL, link|skip
		b.submit([]hostring.SQE{recv, sqe(hostring.OpNop, fixed, 3)})
		b.none()
		if err := unix.Shutdown(b.peer(0), unix.SHUT_WR); err != nil {
			b.Fatal(err)
		}
		b.take(1)
		b.none()
	})
}

func TestSendmsgRecvmsg(t *testing.T) {
	same(t, files(udp(false), pipe), func(b *bench) {
		copy(b.data, "hello, world")
		n := b.peerAt(0, 1000)
		send := sqe(hostring.OpSendmsg, fixed, 1)
		send.Addr = b.msg(2000, 1000, n, b.vec(3000, [2]uint64{0, 5}, [2]uint64{7, 5}), 2)
		b.do(1, send)
		recv := sqe(hostring.OpRecvmsg, fixed, 2)
		recv.FD = 1
		b.fill(4000, 128, 0x55)
		recv.Addr = b.msg(2100, 4000, 64, b.vec(3100, [2]uint64{100, 3}, [2]uint64{200, 20}), 2)
		b.do(1, recv)
		b.bytesAt(100, 4)
		b.bytesAt(200, 8)
		b.note("name of %d bytes, of our peer: %v, rest untouched: %v", binary.LittleEndian.Uint32(b.data[2100+msgNameLen:]),
			samePeer(b.data[4000:4016], must(peerBytes(b.files[1].Peer))), b.data[4016] == 0x55)
		// The guest's name buffer is too short, then there is none; the data are cut.
		b.do(1, send)
		b.fill(4000, 128, 0x55)
		b.msg(2100, 4000, 4, b.vec(3100, [2]uint64{100, 3}), 1)
		b.do(1, recv)
		b.note("name of %d bytes, %q, flags %#x", binary.LittleEndian.Uint32(b.data[2100+msgNameLen:]), b.data[4004:4008],
			binary.LittleEndian.Uint32(b.data[2100+msgFlags:]))
		b.do(1, send)
		b.msg(2100, 0, 99, b.vec(3100, [2]uint64{100, 30}), 1)
		b.do(1, recv)
		b.note("name of %d bytes, flags %#x", binary.LittleEndian.Uint32(b.data[2100+msgNameLen:]), binary.LittleEndian.Uint32(b.data[2100+msgFlags:]))
		// An empty datagram.
		send.Addr = b.msg(2000, 1000, n, 0, 0)
		b.do(1, send)
		b.do(1, recv)
		// SEND with an address.
		s := b.rw(hostring.OpSend, fixed, 5, 0, 0, 0, 12)
		b.do(1, s) // no destination
		s.Off, s.SpliceFDIn = b.addr(1000), int32(n)
		b.do(1, s)
		b.do(1, recv)
		// What is wrong.
		for i, f := range []func(*hostring.SQE){
			func(s *hostring.SQE) { s.Addr = 0 },
			func(s *hostring.SQE) { s.Addr = b.msg(2000, 1000, ^uint32(0), b.vec(3000, [2]uint64{0, 5}), 1) },
			func(s *hostring.SQE) { s.Addr = b.msg(2000, 1000, n, 1<<63, 1) },
			func(s *hostring.SQE) { s.FD = 2 },
			func(s *hostring.SQE) { s.FD = 9 },
			func(s *hostring.SQE) { s.Off = 1 },
		} {
			s := send
			s.UserData = 20 + uint64(i)
			s.Addr = b.msg(2000, 1000, n, b.vec(3000, [2]uint64{0, 5}), 1)
			f(&s)
			b.do(1, s)
			s.Opcode = hostring.OpRecvmsg
			if i == 1 || i == 2 || i == 3 || i == 5 || i == 6 {
				b.do(1, s)
			}
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestControlMessagesAndOtherPeersAreRefused: descriptors pass through the first, and
// the second are hosts that nobody has exported.
func TestControlMessagesAndOtherPeersAreRefused(t *testing.T) {
	b := relayBench(t, "polling", files(udp(false), dialled)(t))
	iov := b.vec(3000, [2]uint64{0, 5})
	n := b.peerAt(0, 1000)
	result := func(what string, s hostring.SQE, want unix.Errno) {
		t.Helper()
		b.submit([]hostring.SQE{s})
		if c := b.wait(); c.Res != -int32(want) {
			t.Errorf("%s: %s, want %v", what, text(c), want)
		}
	}
	for _, op := range []uint8{hostring.OpSendmsg, hostring.OpRecvmsg} {
		s := sqe(op, fixed, 1)
		s.Addr = b.msg(2000, 0, 0, iov, 1)
		binary.LittleEndian.PutUint64(b.data[2000+msgControl:], b.addr(5000))
		binary.LittleEndian.PutUint64(b.data[2000+msgControlLen:], 64)
		result(fmt.Sprint("control message, opcode ", op), s, unix.EINVAL)
		// Kernels differ (6.12 says EINVAL, 6.18 EMSGSIZE); the relay says one thing.
		s.Addr = b.msg(2000, 0, 0, iov, 1025)
		result(fmt.Sprint("1025 iovecs, opcode ", op), s, unix.EMSGSIZE)
	}
	for _, f := range []func([]byte){
		func(a []byte) { a[2]++ }, func(a []byte) { a[4]++ }, func(a []byte) { a[7]++ }, func(a []byte) { a[0]++ },
	} {
		b.peerAt(0, 1000)
		f(b.data[1000:])
		s := sqe(hostring.OpSendmsg, fixed, 2)
		s.Addr = b.msg(2000, 1000, n, iov, 1)
		result("SENDMSG to another", s, unix.EACCES)
		s = b.rw(hostring.OpSend, fixed, 3, 0, 0, 0, 5)
		s.Off, s.SpliceFDIn = b.addr(1000), int32(n)
		result("SEND to another", s, unix.EACCES)
		c := sqe(hostring.OpConnect, fixed, 4)
		b.peerAt(3, 1000)
		f(b.data[1000:])
		c.FD, c.Addr, c.Off = 3, b.addr(1000), uint64(n)
		result("CONNECT to another", c, unix.EACCES)
	}
	b.peerAt(0, 1000)
	c := sqe(hostring.OpConnect, fixed, 5)
	c.Addr, c.Off = b.addr(1000), uint64(n)
	result("CONNECT of what is not to be connected", c, unix.EACCES)
	s := b.rw(hostring.OpSend, fixed, 6, 0, 0, 0, 5)
	for _, flag := range []uint32{unix.MSG_FASTOPEN, unix.MSG_ZEROCOPY, unix.MSG_DONTROUTE, 1 << 31} {
		s.OpFlags = flag
		result(fmt.Sprintf("msg_flags %#x", flag), s, unix.EINVAL)
	}
	r := b.rw(hostring.OpRecv, fixed, 7, 0, 0, 0, 5)
	for _, prio := range []uint16{2, 4, 8, 16, 1 << 15} {
		r.IOPrio = prio
		result(fmt.Sprintf("RECV with ioprio %#x", prio), r, unix.EINVAL)
	}
	a := sqe(hostring.OpAccept, fixed, 8)
	a.FD = 2
	result("ACCEPT to a descriptor", a, unix.EACCES)
	a.IOPrio = acceptMultishot
	result("multishot ACCEPT to descriptors", a, unix.EACCES)
	result("CLOSE of a descriptor", hostring.SQE{Opcode: hostring.OpClose, Flags: fixed, FD: 1, UserData: 9}, unix.EACCES)
}

// What the host's user has asked for: datagrams to anybody, still by a copy of the
// address, and no CONNECT.
func TestMessagesToAnybodyWhereTheHostSaysSo(t *testing.T) {
	anybody := func(t testing.TB) []uringpv.File {
		f := udp(false)(t)
		f[0].Peer, f[0].AnyPeer = f[1].Peer, true // of file 1: file 0 itself
		return f
	}
	b := relayBench(t, "polling", anybody(t))
	n := b.peerAt(1, 1000) // file 0's own address
	copy(b.data, "hello")
	send := b.rw(hostring.OpSend, fixed, 1, 0, 0, 0, 5)
	send.Off, send.SpliceFDIn = b.addr(1000), int32(n)
	message := sqe(hostring.OpSendmsg, fixed, 2)
	message.Addr = b.msg(2000, 1000, n, b.vec(3000, [2]uint64{0, 5}), 1)
	for _, s := range []hostring.SQE{send, message} {
		b.submit([]hostring.SQE{s})
		if c := b.wait(); c.Res != 5 {
			t.Fatalf("a message to an address that is no peer's: %s, want 5", text(c))
		}
		b.submit([]hostring.SQE{b.rw(hostring.OpRecv, fixed, 3, 0, 0, 100, 50)})
		if c := b.wait(); c.Res != 5 || string(b.data[100:105]) != "hello" {
			t.Errorf("it arrived as %s, %q", text(c), b.data[100:105])
		}
	}
	c := sqe(hostring.OpConnect, fixed, 4)
	c.Addr, c.Off = b.addr(1000), uint64(n)
	b.submit([]hostring.SQE{c})
	if c := b.wait(); c.Res != -int32(unix.EACCES) {
		t.Errorf("CONNECT: %s, want EACCES", text(c))
	}
}

func TestAcceptConnectShutdownClose(t *testing.T) {
	same(t, dialled, func(b *bench) {
		n := b.peerAt(1, 1000)
		connect := func(flags uint8, user uint64, fd int32) hostring.SQE {
			s := sqe(hostring.OpConnect, flags, user)
			s.FD, s.Addr, s.Off = fd, b.addr(1000), uint64(n)
			return s
		}
		accept := func(flags uint8, user uint64, slot int32) hostring.SQE {
			s := sqe(hostring.OpAccept, flags, user)
			s.SpliceFDIn = slot
			return s
		}
		closes := func(flags uint8, user uint64, slot int32) hostring.SQE {
			s := sqe(hostring.OpClose, flags, user)
			s.SpliceFDIn = slot
			return s
		}
		down := func(user uint64, fd int32, how uint32) hostring.SQE {
			s := sqe(hostring.OpShutdown, fixed, user)
			s.FD, s.Len = fd, how
			return s
		}
		a := accept(fixed, 1, 6) // into slot 5
		binary.LittleEndian.PutUint32(b.data[1200:], 64)
		b.fill(1100, 64, 0x55)
		a.Addr, a.Off = b.addr(1100), b.addr(1200)
		b.submit([]hostring.SQE{a})
		b.none()
		b.do(2, connect(fixed, 2, 1))
		b.note("address of %d bytes, family %d, %v", binary.LittleEndian.Uint32(b.data[1200:]),
			binary.LittleEndian.Uint16(b.data[1100:]), b.data[1116] == 0x55)
		b.do(1, connect(fixed, 2, 1)) // it is
		copy(b.data, "hello, world")
		b.do(1, b.rw(hostring.OpSend, fixed, 3, 1, 0, 0, 12))
		b.do(1, b.rw(hostring.OpRecv, fixed, 4, 5, 0, 100, 50))
		b.do(1, b.rw(hostring.OpWriteFixed, fixed, 5, 5, 0, 0, 6))
		b.do(1, b.rw(hostring.OpReadFixed, fixed, 6, 1, 0, 200, 50))
		b.bytesAt(100, 13)
		b.bytesAt(200, 7)
		b.do(1, b.rw(hostring.OpRecv, fixed, 7, 6, 0, 100, 50)) // an empty slot
		// Shutdown ends a receive that waits.
		b.submit([]hostring.SQE{b.rw(hostring.OpRecv, fixed, 8, 5, 0, 100, 50)})
		b.none()
		b.do(2, down(9, 1, unix.SHUT_WR))
		b.do(1, down(9, 1, 7))
		b.do(1, down(9, 9, 0))
		b.do(1, b.rw(hostring.OpSend, fixed, 10, 1, 0, 0, 12))
		// Close; a request in flight keeps the socket.
		b.submit([]hostring.SQE{b.rw(hostring.OpRecv, fixed, 11, 1, 0, 100, 50)})
		b.none()
		b.do(1, closes(fixed, 12, 2)) // slot 1
		b.do(1, closes(fixed, 12, 2))
		b.do(1, closes(fixed, 12, 99))
		b.do(1, b.rw(hostring.OpSend, fixed, 13, 1, 0, 0, 12))
		b.do(2, b.rw(hostring.OpSend, fixed, 13, 5, 0, 0, 12))
		b.do(1, closes(fixed, 14, 6))
		// A chain: accept, receive from what was accepted, close it.
		b.submit([]hostring.SQE{accept(link, 20, 6), b.rw(hostring.OpRecv, link, 21, 5, 0, 300, 12), closes(fixed, 22, 6)})
		b.none()
		b.do(5, connect(link, 23, 2), b.rw(hostring.OpSend, fixed, 24, 2, 0, 0, 12))
		b.bytesAt(300, 12)
		b.do(1, b.rw(hostring.OpRecv, fixed, 25, 5, 0, 100, 50))
		// What is wrong.
		for i, f := range []func(*hostring.SQE){
			func(s *hostring.SQE) { s.FD = 2 }, func(s *hostring.SQE) { s.FD = 99 }, func(s *hostring.SQE) { s.Len = 1 },
			func(s *hostring.SQE) { s.OpFlags = unix.SOCK_CLOEXEC }, func(s *hostring.SQE) { s.IOPrio = 1 << 12 },
			func(s *hostring.SQE) { s.IOPrio = acceptDontWait },
		} {
			s := accept(fixed, 30+uint64(i), 6)
			f(&s)
			b.do(1, s)
		}
		for i, f := range []func(*hostring.SQE){
			func(s *hostring.SQE) { s.FD = 99 }, func(s *hostring.SQE) { s.Addr = 0 }, func(s *hostring.SQE) { s.Off = 129 },
			func(s *hostring.SQE) { s.OpFlags = 1 }, func(s *hostring.SQE) { s.FD = 9 },
		} {
			s := connect(fixed, 40+uint64(i), 2)
			f(&s)
			b.do(1, s)
		}
	})
}

// TestAcceptIntoAFreeSlot: io_uring takes any free one, the relay the lowest.
// TestListenersStay: behind a backend that looks at no message, a socket that listens
// cannot be made one that connects.
func TestListenersStay(t *testing.T) {
	for _, keep := range []bool{false, true} {
		l, _ := listener(t)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[1])
		g := ringtest.NewRig(t, func(t testing.TB, m *memmap.Memory, files []uringpv.File) uringpv.Backend {
			b, err := New(Config{Memory: m, Files: files, Unpinned: true, KeepListening: keep, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}, l, end(t, pair[0], abi.FileStream))
		d := g.Setup(t, ringtest.Config{SQ: 8})
		want := int32(0)
		if keep {
			want = -int32(unix.EACCES)
		}
		down := hostring.SQE{Opcode: hostring.OpShutdown, Flags: hostring.SQEFixedFile, FD: 0, Len: unix.SHUT_RDWR}
		if res := d.Do(t, down); res != want {
			t.Errorf("keep %v: SHUTDOWN of a socket that listens: %d, want %d", keep, res, want)
		}
		if n, err := unix.GetsockoptInt(l.FD, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || (n == 1) != keep {
			t.Errorf("keep %v: SO_ACCEPTCONN is %d, %v", keep, n, err)
		}
		down.FD = 1
		if res := d.Do(t, down); res != 0 {
			t.Errorf("keep %v: SHUTDOWN of a stream: %d", keep, res)
		}
	}
}

func TestAcceptIntoAFreeSlot(t *testing.T) {
	same(t, dialled, func(b *bench) {
		n := b.peerAt(1, 1000)
		a := sqe(hostring.OpAccept, fixed, 1)
		a.SpliceFDIn = -1
		c := sqe(hostring.OpConnect, fixed, 2)
		c.FD, c.Addr, c.Off = 1, b.addr(1000), uint64(n)
		b.do(2, a, c)
		c.FD = 2
		b.do(2, a, c)
		b.do(1, b.rw(hostring.OpSend, fixed, 3, 4, 0, 0, 12))
		b.do(1, b.rw(hostring.OpRecv, fixed, 3, 2, 0, 0, 12))
	})
}

func TestPeers(t *testing.T) {
	in6 := &unix.SockaddrInet6{Port: 80, Addr: [16]byte{15: 1}}
	for _, c := range []struct {
		a    unix.Sockaddr
		same bool
		f    func([]byte) []byte
	}{
		{in6, true, func(b []byte) []byte { return b }},
		{in6, true, func(b []byte) []byte { b[5] = 9; return b }}, // flow label
		{in6, false, func(b []byte) []byte { b[3]++; return b }},
		{in6, false, func(b []byte) []byte { b[23]++; return b }},
		{in6, false, func(b []byte) []byte { b[24]++; return b }}, // scope
		{in6, false, func(b []byte) []byte { return b[:16] }},
		{&unix.SockaddrUnix{Name: "/run/x"}, true, func(b []byte) []byte { return append(b, 0, 0) }},
		{&unix.SockaddrUnix{Name: "/run/x"}, true, func(b []byte) []byte { return b[:len(b)-1] }},
		{&unix.SockaddrUnix{Name: "/run/x"}, false, func(b []byte) []byte { return append(b[:len(b)-1], 'y') }},
		{&unix.SockaddrUnix{Name: "@x"}, true, func(b []byte) []byte { return b }},
		{&unix.SockaddrUnix{Name: "@x"}, false, func(b []byte) []byte { return append(b, 0) }},
		{&unix.SockaddrInet4{Port: 1}, false, func(b []byte) []byte { return b[:1] }},
		{&unix.SockaddrInet4{Port: 1}, true, func(b []byte) []byte { b[15] = 1; return b }},
	} {
		p := must(peerBytes(c.a))
		if have := samePeer(c.f(append([]byte(nil), p...)), p); have != c.same {
			t.Errorf("%+v, %q: %v", c.a, c.f(append([]byte(nil), p...)), have)
		}
	}
	if _, err := peerBytes(&unix.SockaddrVM{}); err == nil {
		t.Error("a peer of an unknown kind is taken")
	}
}
