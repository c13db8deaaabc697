// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
)

// Network is what kind of address a socket has.
type Network string

// Networks.
const (
	Unix Network = "unix" // Address is a path; with '@' first a name without a file, unix(7)
	UDP  Network = "udp"  // Address is HOST:PORT
	TCP  Network = "tcp"  // Address is HOST:PORT
)

// maxUnixPath is the longest path of a socket, in bytes (unix(7), sun_path).
const maxUnixPath = 107

// ConnectTimeout is how long OpenSocket waits for the other side.
const ConnectTimeout = 10 * time.Second

// backlog is how many connections wait for a guest's ACCEPT.
const backlog = 128

// SocketOptions are how to make a socket.
type SocketOptions struct {
	Name    string // in the guest
	Network Network
	Address string
	Dgram   bool // with Unix: datagrams instead of a stream; UDP and TCP have no choice

	// At most one of these; with neither the socket is connected to Address when
	// OpenSocket returns.
	Listen       bool // Address is the socket's own
	GuestConnect bool // the guest connects it, to Address only

	AnyPeer bool // datagrams may go to any address
}

// dgram says whether it is a datagram socket.
func (o *SocketOptions) dgram() bool { return o.Network == UDP || o.Network == Unix && o.Dgram }

// where is the address as errors name it.
func (o *SocketOptions) where() string { return string(o.Network) + "=" + o.Address }

// CheckAddress says what is wrong with an address, as far as its form goes.
func (o *SocketOptions) CheckAddress() error {
	if o.Network == Unix {
		switch {
		case o.Address == "" || o.Address == "@":
			return errors.New("a UNIX socket has a path, or '@' and a name")
		case len(o.Address) > maxUnixPath:
			return fmt.Errorf("a UNIX socket's path has at most %d bytes", maxUnixPath)
		case strings.ContainsRune(o.Address, 0):
			return errors.New("a path has no NUL character")
		}
		return nil
	}
	_, _, err := o.hostPort()
	return err
}

// hostPort splits Address.
func (o *SocketOptions) hostPort() (host string, port uint16, err error) {
	host, p, err := net.SplitHostPort(o.Address)
	if err != nil {
		return "", 0, errors.New("must be HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
	}
	if host == "" {
		return "", 0, errors.New("the host is missing; 0.0.0.0 or [::] listens on all addresses")
	}
	n, err := strconv.ParseUint(p, 10, 16)
	switch {
	case err != nil || n == 0 && !o.Listen:
		return "", 0, errors.New("the port must be a number from 1 to 65535, or 0 with listen=on for any free one")
	}
	return host, uint16(n), nil
}

// OpenSocket makes a socket. It waits for the other side until ctx ends, and for
// ConnectTimeout at most. Errors are *Error, or ctx's cause.
func OpenSocket(ctx context.Context, o SocketOptions) (_ *Export, err error) {
	if err := o.CheckAddress(); err != nil {
		return nil, &Error{o.where(), err.Error(), err}
	}
	ctx, cancel := context.WithTimeout(ctx, ConnectTimeout)
	defer cancel()
	family, addr, err := o.resolve(ctx)
	if err != nil {
		return nil, err
	}
	kind, file := unix.SOCK_STREAM, uringpv.File{Name: o.Name, Kind: abi.FileStream, AnyPeer: o.AnyPeer}
	if o.dgram() {
		kind, file.Kind = unix.SOCK_DGRAM, abi.FileDgram
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &Error{o.where(), fmt.Sprintf("make a socket: %v", err), err}
	}
	e := &Export{ends: []func() error{closeFD(o.Name, fd)}}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	switch {
	case o.Listen:
		if err := o.listen(e, fd, addr); err != nil {
			return nil, err
		}
		if !o.dgram() {
			file.Kind = abi.FileListener
		}
		if addr, err = unix.Getsockname(fd); err != nil { // with the port that there is now
			return nil, &Error{o.where(), fmt.Sprintf("getsockname: %v", err), err}
		}
	case o.GuestConnect:
		file.Unconnected, file.Peer = true, addr
		err = o.autobind(fd)
	default:
		file.Peer = addr
		if err = o.autobind(fd); err == nil {
			err = o.connect(ctx, fd, addr)
		}
	}
	if err != nil {
		return nil, err
	}
	file.FD, file.Serial, file.BlockSize, file.DIOMemAlign, file.DIOOffsetAlign = fd, serial(addr), 1, 1, 1
	e.files = []uringpv.File{file}
	return e, nil
}

// serial is an address for FILE_INFO: what the guest needs to know to name it.
func serial(a unix.Sockaddr) string {
	switch a := a.(type) {
	case *unix.SockaddrUnix:
		return a.Name
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String()
	}
	return ""
}

// resolve is Address as the kernel wants it.
func (o *SocketOptions) resolve(ctx context.Context) (family int, _ unix.Sockaddr, _ error) {
	if o.Network == Unix {
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: o.Address}, nil
	}
	host, port, err := o.hostPort()
	if err != nil {
		return 0, nil, &Error{o.where(), err.Error(), err}
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(ips) == 0 {
		return 0, nil, o.ended(ctx, fmt.Sprintf("no address for %s: %v", host, err), err)
	}
	ip := ips[0].Unmap()
	if ip.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(port), Addr: ip.As4()}, nil
	}
	var zone uint32
	if z := ip.Zone(); z != "" {
		i, err := net.InterfaceByName(z)
		if err != nil {
			return 0, nil, &Error{o.where(), fmt.Sprintf("there is no network interface %s", z), err}
		}
		zone = uint32(i.Index)
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(port), Addr: ip.As16(), ZoneId: zone}, nil
}

// ended is the error of what did not come to its end: the context's, if that is
// why.
func (o *SocketOptions) ended(ctx context.Context, reason string, err error) error {
	switch {
	case ctx.Err() == nil:
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		reason, err = fmt.Sprintf("no answer within %s", ConnectTimeout), unix.ETIMEDOUT
	default:
		return context.Cause(ctx)
	}
	return &Error{o.where(), reason, err}
}

// autobind gives a UNIX datagram socket an address of its own, that the other
// side can answer to. It is a name without a file, which goes with the socket.
func (o *SocketOptions) autobind(fd int) error {
	if o.Network != Unix || !o.Dgram {
		return nil
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{}); err != nil {
		return &Error{o.where(), fmt.Sprintf("give the socket an address to be answered at: %v", err), err}
	}
	return nil
}

// listen binds fd to addr, and makes a stream socket listen.
func (o *SocketOptions) listen(e *Export, fd int, addr unix.Sockaddr) error {
	if o.Network == TCP {
		// Else a port is taken for minutes after each run, tcp(7).
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return &Error{o.where(), fmt.Sprintf("SO_REUSEADDR: %v", err), err}
		}
	}
	if err := unix.Bind(fd, addr); err != nil {
		reason := err.Error()
		switch {
		case err == unix.EADDRINUSE && o.Network == Unix:
			reason += "; if no program listens there any more, remove the file"
		case err == unix.EADDRINUSE:
			reason += "; another program has this port"
		case err == unix.EADDRNOTAVAIL:
			reason += "; with listen=on it must be an address of this host"
		case err == unix.EACCES && o.Network != Unix:
			reason += "; ports below 1024 need CAP_NET_BIND_SERVICE"
		}
		return &Error{o.where(), reason, err}
	}
	if o.Network == Unix && o.Address[0] != '@' {
		e.ends = append(e.ends, o.unlink())
	}
	if o.dgram() {
		return nil
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return &Error{o.where(), fmt.Sprintf("listen: %v", err), err}
	}
	return nil
}

// unlink is what removes the name that bind has made, if it still is the same.
func (o *SocketOptions) unlink() func() error {
	var made unix.Stat_t
	if err := unix.Lstat(o.Address, &made); err != nil {
		return func() error { return &Error{o.where(), fmt.Sprintf("stays there: lstat: %v", err), err} }
	}
	return func() error {
		var st unix.Stat_t
		err := unix.Lstat(o.Address, &st)
		if err == unix.ENOENT || err == nil && (st.Dev != made.Dev || st.Ino != made.Ino) {
			return nil // somebody has removed ours
		}
		if err == nil {
			err = unix.Unlink(o.Address)
		}
		if err != nil {
			return &Error{o.where(), fmt.Sprintf("remove: %v", err), err}
		}
		return nil
	}
}

// connect connects fd to addr, within ctx's time.
func (o *SocketOptions) connect(ctx context.Context, fd int, addr unix.Sockaddr) error {
	err := func() error {
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
		err := unix.Connect(fd, addr)
		for err == unix.EAGAIN || err == unix.EINTR { // unix(7): its backlog is full
			if !pause(ctx) {
				return unix.ETIMEDOUT
			}
			err = unix.Connect(fd, addr)
		}
		if err == unix.EINPROGRESS {
			err = established(ctx, fd)
		}
		if err != nil {
			return err
		}
		return unix.SetNonblock(fd, false)
	}()
	if err == nil {
		return nil
	}
	reason := fmt.Sprintf("connect: %v", err)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		reason += "; nobody listens there"
	case errors.Is(err, unix.ENOENT):
		reason += "; nobody listens there (listen=on makes the socket)"
	case errors.Is(err, unix.EPROTOTYPE):
		reason += "; the other side's socket is of the other type: type=stream or type=dgram"
	}
	return o.ended(ctx, reason, err)
}

// step is how long a wait goes on before it looks at its context.
const step = 20 * time.Millisecond

// pause waits a moment, and says whether ctx still runs then.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(step):
		return true
	}
}

// established waits for a connect in progress.
func established(ctx context.Context, fd int) error {
	for {
		if ctx.Err() != nil {
			return unix.ETIMEDOUT
		}
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(p, int(step/time.Millisecond))
		switch {
		case err != nil && err != unix.EINTR:
			return err
		case n == 0 || err != nil:
			continue
		}
		e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || e == 0 {
			return err
		}
		return unix.Errno(e)
	}
}

// SocketPair makes two UNIX sockets connected to each other, the files first and
// second. Errors are *Error.
func SocketPair(first, second string, dgram bool) (*Export, error) {
	kind, fileKind := unix.SOCK_STREAM, abi.FileStream
	if dgram {
		kind, fileKind = unix.SOCK_DGRAM, abi.FileDgram
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &Error{first, fmt.Sprintf("make a pair of sockets: %v", err), err}
	}
	e := &Export{}
	e.add(fds[0], uringpv.File{Name: first, Kind: fileKind})
	e.add(fds[1], uringpv.File{Name: second, Kind: fileKind})
	return e, nil
}
