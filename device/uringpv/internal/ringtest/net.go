// SPDX-License-Identifier: Apache-2.0

package ringtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/export"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
)

// Where the cases of Network keep things: offsets in Rig.Data.
const (
	netOut  = 0x10000
	netIn   = 0x20000
	netMsg  = 0x1000
	netIov  = 0x1100
	netName = 0x1200
)

// netTime is how long something may take that the loopback does at once.
const netTime = 5 * time.Second

// Network runs what guests do with the host's network: TCP, UDP and TAP, opened as the
// command line opens them. looks says that the backend looks at the addresses in
// requests; one that does not takes datagram sockets only that may reach anybody, and no
// stream that the guest connects.
func Network(t *testing.T, mk Make, looks bool) {
	for _, c := range []struct {
		name string
		any  bool // on any backend
		run  func(*testing.T, Make, bool)
	}{
		{"TCP, connected", true, tcpConnected},
		{"TCP, listening", true, tcpListening},
		{"TCP, connected by the guest", false, tcpGuestConnects},
		{"UDP, connected", true, udpConnected},
		{"UDP, bound", true, udpBound},
		{"TAP", true, tap},
	} {
		if !c.any && !looks {
			continue
		}
		t.Run(c.name, func(t *testing.T) { c.run(t, mk, looks) })
	}
}

// netGuest is a rig with one export as its file 0, and a ring with two empty entries.
type netGuest struct {
	*Rig
	*Guest
}

// newNetGuest opens the export and sets up a ring.
func newNetGuest(t *testing.T, mk Make, open func() (*export.Export, error)) netGuest {
	t.Helper()
	e, err := open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	g := NewRig(t, mk, e.Files()...)
	return netGuest{g, g.Setup(t, Config{SQ: 8, Flags: hostring.SetupSQPoll, Slots: 3})}
}

// sqe is a request that moves n bytes at off of Data by entry fd.
func (g netGuest) sqe(op uint8, fd int32, off uint64, n uint32) hostring.SQE {
	return hostring.SQE{Opcode: op, Flags: hostring.SQEFixedFile, FD: fd, Addr: g.Addr(off), Len: n, UserData: 1}
}

// message writes a msghdr of one iovec and a name of n bytes, and returns its SQE.
func (g netGuest) message(op uint8, fd int32, off uint64, length uint64, n uint32) hostring.SQE {
	le := binary.LittleEndian
	le.PutUint64(g.Data[netIov:], g.Addr(off))
	le.PutUint64(g.Data[netIov+8:], length)
	m := g.Data[netMsg : netMsg+56]
	clear(m)
	if n > 0 {
		le.PutUint64(m, g.Addr(netName))
		le.PutUint32(m[8:], n)
	}
	le.PutUint64(m[16:], g.Addr(netIov))
	le.PutUint64(m[24:], 1)
	s := g.sqe(op, fd, netMsg, 0)
	return s
}

// want executes s and fails the test unless its result is res.
func (g netGuest) want(t *testing.T, what string, s hostring.SQE, res int32) {
	t.Helper()
	if have := g.Do(t, s); have != res {
		t.Fatalf("%s: %d, want %d", what, have, res)
	}
}

// talks moves bytes both ways between the guest's stream and the host's.
func (g netGuest) talks(t *testing.T, fd int32, host net.Conn) {
	t.Helper()
	host.SetDeadline(time.Now().Add(netTime))
	for i := range 30000 {
		g.Data[netOut+i] = byte(i * 7)
	}
	g.want(t, "SEND", g.sqe(hostring.OpSend, fd, netOut, 30000), 30000)
	got := make([]byte, 30000)
	if _, err := io.ReadFull(host, got); err != nil || !bytes.Equal(got, g.Data[netOut:netOut+30000]) {
		t.Fatalf("what the guest has sent: %v", err)
	}
	recv := g.sqe(hostring.OpRecv, fd, netIn, 30000)
	recv.OpFlags = unix.MSG_WAITALL
	g.MustPut(t, &recv)
	g.Submit() // before there is anything
	if _, err := host.Write(got); err != nil {
		t.Fatal(err)
	}
	if c := g.Wait(t); c.Res != 30000 || !bytes.Equal(got, g.Data[netIn:netIn+30000]) {
		t.Fatalf("what the host has sent: %d", c.Res)
	}
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	g.want(t, "RECV behind the host's end", recv, 0)
}

// loopback listens on a port of its own.
func loopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// taken is the next connection that l has.
func taken(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	l.(*net.TCPListener).SetDeadline(time.Now().Add(netTime))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func tcpConnected(t *testing.T, mk Make, _ bool) {
	testutil.NoLeaks(t)
	l := loopback(t)
	g := newNetGuest(t, mk, func() (*export.Export, error) {
		return export.OpenSocket(t.Context(), export.SocketOptions{Name: "s", Network: export.TCP, Address: l.Addr().String()})
	})
	g.talks(t, 0, taken(t, l))
}

func tcpListening(t *testing.T, mk Make, _ bool) {
	testutil.NoLeaks(t)
	g := newNetGuest(t, mk, func() (*export.Export, error) {
		return export.OpenSocket(t.Context(), export.SocketOptions{Name: "l", Network: export.TCP, Address: "127.0.0.1:0", Listen: true})
	})
	at := g.Files[0].Serial
	accept := func(entry int32) net.Conn {
		sqe := hostring.SQE{Opcode: hostring.OpAccept, Flags: hostring.SQEFixedFile, SpliceFDIn: entry + 1, UserData: 1}
		g.MustPut(t, &sqe)
		g.Submit()
		host, err := net.Dial("tcp4", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { host.Close() })
		if c := g.Wait(t); c.Res != 0 {
			t.Fatalf("ACCEPT: %d", c.Res)
		}
		return host
	}
	for _, entry := range []int32{2, 1} {
		g.talks(t, entry, accept(entry))
	}
	// Its end on the host's side is the ring's.
	host := accept(1)
	g.Destroy(t)
	host.SetDeadline(time.Now().Add(netTime))
	if n, err := host.Read(make([]byte, 8)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection outlives its ring: %d, %v", n, err)
	}
}

func tcpGuestConnects(t *testing.T, mk Make, _ bool) {
	testutil.NoLeaks(t)
	l, other := loopback(t), loopback(t)
	g := newNetGuest(t, mk, func() (*export.Export, error) {
		return export.OpenSocket(t.Context(), export.SocketOptions{Name: "s", Network: export.TCP, Address: l.Addr().String(), GuestConnect: true})
	})
	connect := g.sqe(hostring.OpConnect, 0, netName, 0)
	connect.Off = uint64(g.name(other.Addr()))
	g.want(t, "CONNECT to another port", connect, -int32(unix.EACCES))
	g.want(t, "SEND before CONNECT", g.sqe(hostring.OpSend, 0, netOut, 5), -int32(unix.EPIPE))
	g.name(l.Addr())
	g.want(t, "CONNECT", connect, 0)
	g.talks(t, 0, taken(t, l))
}

// name writes an address as a sockaddr_in, and returns its length.
func (g netGuest) name(a net.Addr) uint32 {
	ap := netip.MustParseAddrPort(a.String())
	b := g.Data[netName : netName+16]
	clear(b)
	binary.NativeEndian.PutUint16(b, unix.AF_INET)
	binary.BigEndian.PutUint16(b[2:], ap.Port())
	ip := ap.Addr().Unmap().As4()
	copy(b[4:], ip[:])
	return 16
}

// named is the address that a request has written.
func (g netGuest) named() string {
	b := g.Data[netName : netName+16]
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:])).String()
}

// hostUDP is a socket of the host's.
func hostUDP(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(netTime))
	return c
}

func udpConnected(t *testing.T, mk Make, looks bool) {
	testutil.NoLeaks(t)
	host, other := hostUDP(t), hostUDP(t)
	g := newNetGuest(t, mk, func() (*export.Export, error) {
		return export.OpenSocket(t.Context(), export.SocketOptions{Name: "s", Network: export.UDP, Address: host.LocalAddr().String(), AnyPeer: !looks})
	})
	copy(g.Data[netOut:], "hello, world")
	g.want(t, "SEND", g.sqe(hostring.OpSend, 0, netOut, 12), 12)
	g.want(t, "SEND of an empty datagram", g.sqe(hostring.OpSend, 0, netOut, 0), 0)
	g.want(t, "WRITE", g.sqe(hostring.OpWrite, 0, netOut, 5), 5)
	var from net.Addr
	for _, want := range []string{"hello, world", "", "hello"} {
		b := make([]byte, 16)
		n, a, err := host.ReadFrom(b)
		if err != nil || string(b[:n]) != want {
			t.Fatalf("%q, %v; want %q", b[:n], err, want)
		}
		from = a
	}
	for _, s := range []string{"first datagram", "second"} {
		if _, err := host.WriteTo([]byte(s), from); err != nil {
			t.Fatal(err)
		}
	}
	// A datagram keeps its end, and what has no room is lost with it.
	g.want(t, "RECV", g.sqe(hostring.OpRecv, 0, netIn, 5), 5)
	g.want(t, "RECVMSG", g.message(hostring.OpRecvmsg, 0, netIn+100, 100, 16), 6)
	if string(g.Data[netIn:netIn+5]) != "first" || string(g.Data[netIn+100:netIn+106]) != "second" || g.named() != host.LocalAddr().String() {
		t.Errorf("%q, %q from %s", g.Data[netIn:netIn+5], g.Data[netIn+100:netIn+106], g.named())
	}
	// From others nothing comes, and to others goes what the host allows.
	if _, err := other.WriteTo([]byte("not for you"), from); err != nil {
		t.Fatal(err)
	}
	recv := g.sqe(hostring.OpRecv, 0, netIn, 100)
	recv.OpFlags = unix.MSG_DONTWAIT
	g.want(t, "RECV of what another has sent", recv, -int32(unix.EAGAIN))
	res := g.Do(t, g.message(hostring.OpSendmsg, 0, netOut, 12, g.name(other.LocalAddr())))
	if looks && res != -int32(unix.EACCES) || !looks && res != 12 {
		t.Errorf("SENDMSG to another: %d", res)
	}
	g.want(t, "SENDMSG to its peer", g.message(hostring.OpSendmsg, 0, netOut, 12, g.name(host.LocalAddr())), 12)
}

func udpBound(t *testing.T, mk Make, looks bool) {
	testutil.NoLeaks(t)
	host := hostUDP(t)
	for _, any := range []bool{false, true} {
		if !any && !looks {
			continue // it refuses such a device
		}
		g := newNetGuest(t, mk, func() (*export.Export, error) {
			return export.OpenSocket(t.Context(), export.SocketOptions{Name: "s", Network: export.UDP, Address: "127.0.0.1:0", Listen: true, AnyPeer: any})
		})
		recv := g.message(hostring.OpRecvmsg, 0, netIn, 100, 16)
		g.MustPut(t, &recv)
		g.Submit()
		at, err := net.ResolveUDPAddr("udp4", g.Files[0].Serial)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := host.WriteTo([]byte("who is there?"), at); err != nil {
			t.Fatal(err)
		}
		if c := g.Wait(t); c.Res != 13 || string(g.Data[netIn:netIn+13]) != "who is there?" || g.named() != host.LocalAddr().String() {
			t.Fatalf("RECVMSG: %d, %q from %s", c.Res, g.Data[netIn:netIn+13], g.named())
		}
		copy(g.Data[netOut:], "a guest")
		reply := g.message(hostring.OpSendmsg, 0, netOut, 7, 16) // to the name that came
		if !any {
			g.want(t, "a reply to whoever asks", reply, -int32(unix.EACCES))
			g.want(t, "SEND to nobody", g.sqe(hostring.OpSend, 0, netOut, 7), -int32(unix.EDESTADDRREQ))
			continue
		}
		g.want(t, "a reply", reply, 7)
		b := make([]byte, 16)
		if n, a, err := host.ReadFrom(b); err != nil || string(b[:n]) != "a guest" || a.String() != g.Files[0].Serial {
			t.Errorf("%q from %v, %v", b[:n], a, err)
		}
	}
}

// The frames of the TAP case are of a type that is nobody's (IEEE 802, local
// experiments), so that what else the host sends is told apart.
const (
	experimental = 0x88b5
	networkOrder = 0xb588
)

// tap moves frames from the guest to a packet socket of the host's, and back.
func tap(t *testing.T, mk Make, _ bool) {
	testutil.NoLeaks(t)
	ifname := fmt.Sprintf("upvt%d", os.Getpid()%100000)
	e, err := export.OpenTap("net", ifname)
	if err != nil {
		for _, lacks := range []error{unix.ENOENT, unix.ENODEV, unix.ENXIO, unix.EPERM, unix.EACCES} {
			if errors.Is(err, lacks) {
				t.Skipf("SKIPPED, NOT TESTED: no TAP interface can be made: %v", err)
			}
		}
		t.Fatal(err)
	}
	g := newNetGuest(t, mk, func() (*export.Export, error) { return e, nil })
	host, index := packets(t, ifname)
	frame := func(n int, fill byte) []byte {
		f := bytes.Repeat([]byte{fill}, n)
		copy(f, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, fill})
		binary.BigEndian.PutUint16(f[12:], experimental)
		return f
	}
	for i, n := range []int{60, 1514, 100} {
		f := frame(n, byte(i+1))
		copy(g.Data[netOut:], f)
		op := []uint8{hostring.OpWrite, hostring.OpWriteFixed}[i%2]
		g.want(t, "a frame out", g.sqe(op, 0, netOut, uint32(n)), int32(n))
		b := make([]byte, 2000)
		got, from, err := unix.Recvfrom(host, b, 0)
		if err != nil || !bytes.Equal(b[:got], f) || from.(*unix.SockaddrLinklayer).Ifindex != index {
			t.Fatalf("a frame of %d bytes comes out as %d, %v, %v", n, got, from, err)
		}
	}
	for i, n := range []int{60, 1514} {
		f := frame(n, byte(i+0x41))
		if err := unix.Sendto(host, f, 0, &unix.SockaddrLinklayer{Ifindex: index, Protocol: networkOrder, Halen: 6}); err != nil {
			t.Fatal(err)
		}
		for {
			read := g.sqe([]uint8{hostring.OpRead, hostring.OpReadFixed}[i%2], 0, netIn, 4096)
			res := g.Do(t, read)
			if res < 14 {
				t.Fatalf("a frame in: %d", res)
			}
			in := g.Data[netIn : netIn+int(res)]
			if binary.BigEndian.Uint16(in[12:]) != experimental {
				continue // the host's own, IPv6's for one
			}
			if !bytes.Equal(in, f) {
				t.Fatalf("a frame of %d bytes comes in as %d others", n, res)
			}
			break
		}
	}
	g.want(t, "a frame that is none", g.sqe(hostring.OpWrite, 0, netOut, 5), -int32(unix.EINVAL))
	g.want(t, "a frame from memory that is not there", hostring.SQE{
		Opcode: hostring.OpWrite, Flags: hostring.SQEFixedFile, Addr: 4096, Len: 60, UserData: 1,
	}, -int32(unix.EFAULT))
}

// packets brings the interface up, and is a packet socket for its frames.
func packets(t *testing.T, ifname string) (fd, index int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, networkOrder)
	if errors.Is(err, unix.EPERM) {
		t.Skipf("SKIPPED, NOT TESTED: packet sockets take CAP_NET_RAW: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	ifr, err := unix.NewIfreq(ifname)
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		t.Fatal(err)
	}
	in, err := net.InterfaceByName(ifname)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder, Ifindex: in.Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(netTime / time.Second)}); err != nil {
		t.Fatal(err)
	}
	return fd, in.Index
}
