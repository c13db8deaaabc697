// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/internal/testutil"
)

// opened closes e at the test's end, and hands out its files.
func opened(t *testing.T, e *Export, err error) []uringpv.File {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := e.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
	})
	files := e.Files()
	for _, f := range files {
		if f.FD < 0 || f.BlockSize < 1 || f.DIOMemAlign < 1 || f.DIOOffsetAlign < 1 || f.Seekable() != (f.Size != nil) {
			t.Errorf("file %+v is incomplete", f)
		}
		flags, err := unix.FcntlInt(uintptr(f.FD), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_NONBLOCK != 0 {
			t.Errorf("file %s: flags %#x, %v: io_uring would not wait", f.Name, flags, err)
		}
		if flags, err := unix.FcntlInt(uintptr(f.FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("file %s: descriptor flags %#x, %v", f.Name, flags, err)
		}
	}
	return files
}

// says fails the test unless err is one line with all of words in it.
func says(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v; want a line that says %q", err, words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v; want %q in it", err, w)
		}
	}
}

func TestFile(t *testing.T) {
	testutil.NoLeaks(t)
	path := testutil.ScratchFile(t, 1<<20)
	e, err := OpenFile(FileOptions{Name: "file", Path: path, Twin: "ro"})
	f := opened(t, e, err)
	if len(f) != 2 || f[0].Kind != abi.FileRegular || f[1].Kind != abi.FileRegular || f[0].Name != "file" || f[1].Name != "ro" || f[0].ReadOnly || !f[1].ReadOnly {
		t.Fatalf("%+v", f)
	}
	if n, err := f[1].Size(); n != 1<<20 || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
	if _, err := unix.Write(f[1].FD, []byte("x")); err != unix.EBADF {
		t.Errorf("a write to the twin: %v, want EBADF", err)
	}
	_, err = OpenFile(FileOptions{Name: "other", Path: path})
	says(t, err, path, "file in use")
	_, err = OpenFile(FileOptions{Name: "dir", Path: t.TempDir()})
	says(t, err, "is a directory: a file is a regular file or a block device")
	_, err = OpenFile(FileOptions{Name: "none", Path: filepath.Join(t.TempDir(), "none")})
	says(t, err, "no such file")
}

func TestEventfd(t *testing.T) {
	testutil.NoLeaks(t)
	e, err := OpenEventfd("event")
	f := opened(t, e, err)
	if len(f) != 1 || f[0].Kind != abi.FileEventfd || f[0].Name != "event" {
		t.Fatalf("%+v", f)
	}
	if _, err := unix.Write(f[0].FD, []byte{7, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Error(err)
	}
	var b [8]byte
	if n, err := unix.Read(f[0].FD, b[:]); n != 8 || err != nil || b[0] != 7 {
		t.Errorf("%d bytes % x, %v", n, b, err)
	}
}

func TestPipe(t *testing.T) {
	testutil.NoLeaks(t)
	e, err := OpenPipe(PipeOptions{Name: "p"})
	f := opened(t, e, err)
	if len(f) != 2 || f[0].Name != "p.read" || !f[0].ReadOnly || f[0].WriteOnly || f[1].Name != "p.write" || !f[1].WriteOnly || f[1].ReadOnly || f[0].Kind != abi.FilePipe || f[1].Kind != abi.FilePipe {
		t.Fatalf("%+v", f)
	}
	var b [8]byte
	if _, err := unix.Write(f[1].FD, []byte("through")); err != nil {
		t.Error(err)
	}
	if n, err := unix.Read(f[0].FD, b[:]); err != nil || string(b[:n]) != "through" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if _, err := unix.Write(f[0].FD, b[:]); err != unix.EBADF {
		t.Errorf("a write to the read end: %v", err)
	}
}

func TestNamedPipe(t *testing.T) {
	testutil.NoLeaks(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := OpenPipe(PipeOptions{Name: "w", Path: path, Write: true})
	says(t, err, path, "nobody has it open for reading")
	e, err := OpenPipe(PipeOptions{Name: "r", Path: path})
	r := opened(t, e, err)
	e, err = OpenPipe(PipeOptions{Name: "w", Path: path, Write: true})
	w := opened(t, e, err)
	if len(r) != 1 || len(w) != 1 || !r[0].ReadOnly || !w[0].WriteOnly || r[0].Name != "r" || w[0].Name != "w" {
		t.Fatalf("%+v, %+v", r, w)
	}
	if _, err := unix.Write(w[0].FD, []byte("x")); err != nil {
		t.Error(err)
	}
	if n, err := unix.Read(r[0].FD, make([]byte, 2)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = OpenPipe(PipeOptions{Path: file})
	says(t, err, file, "is no named pipe; mkfifo makes one")
	_, err = OpenPipe(PipeOptions{Path: filepath.Join(dir, "none")})
	says(t, err, "no such file", "mkfifo")
	_, err = OpenPipe(PipeOptions{Path: "a\nb"})
	says(t, err, `"a\nb"`)
}

// talk sends a few bytes from one descriptor to the other.
func talk(t *testing.T, from, to int) {
	t.Helper()
	if _, err := unix.Write(from, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8)
	if n, err := unix.Read(to, b); err != nil || string(b[:n]) != "hello" {
		t.Fatalf("%q, %v", b[:n], err)
	}
}

// accepted is the next connection to fd.
func accepted(t *testing.T, fd int) int {
	t.Helper()
	c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(c) })
	return c
}

func TestStreamSockets(t *testing.T) {
	for _, tt := range []struct {
		network Network
		address func(t *testing.T) string
	}{
		{Unix, func(t *testing.T) string { return filepath.Join(t.TempDir(), "s") }},
		{Unix, func(t *testing.T) string { return "@uringpv-test-" + filepath.Base(t.TempDir()) + t.Name() }},
		{TCP, func(*testing.T) string { return "127.0.0.1:0" }},
		{TCP, func(*testing.T) string { return "localhost:0" }},
	} {
		t.Run(string(tt.network), func(t *testing.T) {
			testutil.NoLeaks(t)
			ctx := t.Context()
			address := tt.address(t)
			e, err := OpenSocket(ctx, SocketOptions{Name: "l", Network: tt.network, Address: address, Listen: true})
			l := opened(t, e, err)
			if len(l) != 1 || l[0].Kind != abi.FileListener || l[0].Unconnected || l[0].Peer != nil {
				t.Fatalf("%+v", l)
			}
			at := l[0].Serial // with the port that it has
			if tt.network == Unix && at != address {
				t.Errorf("listens at %s, not at %s", at, address)
			}
			e, err = OpenSocket(ctx, SocketOptions{Name: "c", Network: tt.network, Address: at})
			c := opened(t, e, err)
			if len(c) != 1 || c[0].Kind != abi.FileStream || c[0].Unconnected || c[0].Serial != at {
				t.Fatalf("%+v", c)
			}
			talk(t, c[0].FD, accepted(t, l[0].FD))

			e, err = OpenSocket(ctx, SocketOptions{Name: "g", Network: tt.network, Address: at, GuestConnect: true})
			g := opened(t, e, err)
			if len(g) != 1 || g[0].Kind != abi.FileStream || !g[0].Unconnected || g[0].Peer == nil {
				t.Fatalf("%+v", g)
			}
			if _, err := unix.Write(g[0].FD, []byte("x")); err != unix.ENOTCONN && err != unix.EPIPE {
				t.Errorf("it is connected already: %v", err)
			}
			if err := unix.Connect(g[0].FD, g[0].Peer); err != nil {
				t.Fatal(err)
			}
			talk(t, g[0].FD, accepted(t, l[0].FD))
		})
	}
}

func TestDatagramSockets(t *testing.T) {
	for _, tt := range []struct {
		network Network
		address func(t *testing.T) string
	}{
		{Unix, func(t *testing.T) string { return filepath.Join(t.TempDir(), "d") }},
		{UDP, func(*testing.T) string { return "127.0.0.1:0" }},
		{UDP, func(*testing.T) string { return "[::1]:0" }},
	} {
		t.Run(string(tt.network), func(t *testing.T) {
			testutil.NoLeaks(t)
			ctx := t.Context()
			e, err := OpenSocket(ctx, SocketOptions{Name: "b", Network: tt.network, Dgram: true, Address: tt.address(t), Listen: true, AnyPeer: true})
			var export *Error
			if errors.As(err, &export) && errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
				t.Skipf("this host has no IPv6 loopback: %v", err)
			}
			b := opened(t, e, err)
			if len(b) != 1 || b[0].Kind != abi.FileDgram || b[0].Peer != nil || !b[0].AnyPeer {
				t.Fatalf("%+v", b)
			}
			e, err = OpenSocket(ctx, SocketOptions{Name: "c", Network: tt.network, Dgram: true, Address: b[0].Serial})
			c := opened(t, e, err)
			if len(c) != 1 || c[0].Kind != abi.FileDgram || c[0].Peer == nil || c[0].AnyPeer {
				t.Fatalf("%+v", c)
			}
			talk(t, c[0].FD, b[0].FD)
			// It has an address to be answered at.
			if _, err := unix.Write(c[0].FD, []byte("x")); err != nil {
				t.Fatal(err)
			}
			_, from, err := unix.Recvfrom(b[0].FD, make([]byte, 2), 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Sendto(b[0].FD, []byte("answer"), 0, from); err != nil {
				t.Fatal(err)
			}
			if n, err := unix.Read(c[0].FD, make([]byte, 8)); n != 6 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
}

func TestSocketsOfTheProgramsOwn(t *testing.T) {
	testutil.NoLeaks(t)
	for _, dgram := range []bool{false, true} {
		e, err := SocketPair("a", "b", dgram)
		f := opened(t, e, err)
		want := abi.FileStream
		if dgram {
			want = abi.FileDgram
		}
		if len(f) != 2 || f[0].Name != "a" || f[1].Name != "b" || f[0].Kind != want || f[1].Kind != want {
			t.Fatalf("%+v", f)
		}
		talk(t, f[0].FD, f[1].FD)
		talk(t, f[1].FD, f[0].FD)
	}
}

func TestOnlyTheSocketThatWasMadeIsRemoved(t *testing.T) {
	testutil.NoLeaks(t)
	listen := func(path string) *Export {
		t.Helper()
		e, err := OpenSocket(t.Context(), SocketOptions{Name: "l", Network: Unix, Address: path, Listen: true})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	closed := func(e *Export) {
		t.Helper()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	path := filepath.Join(t.TempDir(), "s")
	e := listen(path)
	_, err := OpenSocket(t.Context(), SocketOptions{Name: "l", Network: Unix, Address: path, Listen: true})
	says(t, err, "unix="+path, "address already in use", "remove the file")
	if _, err := os.Lstat(path); err != nil {
		t.Error("the failure has removed the other's socket")
	}
	closed(e)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close the socket is there still: %v", err)
	}
	// Somebody else's file in its place stays.
	e = listen(path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	keep := filepath.Join(filepath.Dir(path), "keep") // so that the inode's number is another
	for _, p := range []string{keep, path} {
		if err := os.WriteFile(p, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	closed(e)
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("%q, %v", b, err)
	}
	closed(e)
}

func TestSocketErrorsSayWhatWouldBeRight(t *testing.T) {
	testutil.NoLeaks(t)
	dir := t.TempDir()
	stream := filepath.Join(dir, "stream")
	e, err := OpenSocket(t.Context(), SocketOptions{Name: "l", Network: Unix, Address: stream, Listen: true})
	opened(t, e, err)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		o    SocketOptions
		says string
	}{
		{SocketOptions{Network: Unix, Address: ""}, "has a path"},
		{SocketOptions{Network: Unix, Address: "@"}, "has a path"},
		{SocketOptions{Network: Unix, Address: strings.Repeat("x", 108)}, "at most 107 bytes"},
		{SocketOptions{Network: Unix, Address: "a\x00b"}, "no NUL"},
		{SocketOptions{Network: TCP, Address: "127.0.0.1"}, "must be HOST:PORT"},
		{SocketOptions{Network: TCP, Address: ":80"}, "the host is missing"},
		{SocketOptions{Network: UDP, Address: "127.0.0.1:0"}, "from 1 to 65535"},
		{SocketOptions{Network: UDP, Address: "127.0.0.1:65536"}, "from 1 to 65535"},
		{SocketOptions{Network: UDP, Address: "127.0.0.1:http"}, "from 1 to 65535"},
		{SocketOptions{Network: TCP, Address: "127.0.0.1:1"}, "nobody listens there"},
		{SocketOptions{Network: TCP, Address: "192.0.2.1:80", Listen: true}, "an address of this host"},
		{SocketOptions{Network: Unix, Address: filepath.Join(dir, "none")}, "nobody listens there (listen=on makes the socket)"},
		{SocketOptions{Network: Unix, Address: file}, "nobody listens there"},
		{SocketOptions{Network: Unix, Address: stream, Dgram: true}, "of the other type"},
		{SocketOptions{Network: Unix, Address: filepath.Join(dir, "none", "s"), Listen: true}, "no such file or directory"},
	} {
		tt.o.Name = "s"
		e, err := OpenSocket(t.Context(), tt.o)
		says(t, err, string(tt.o.Network)+"=", tt.says)
		if e != nil {
			t.Errorf("%+v is opened", tt.o)
		}
	}
}

// A listener whose backlog is full does not answer.
func TestConnectEndsWithItsContext(t *testing.T) {
	testutil.NoLeaks(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	path := filepath.Join(t.TempDir(), "s")
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	e, err := OpenSocket(t.Context(), SocketOptions{Name: "first", Network: Unix, Address: path})
	opened(t, e, err)
	why := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, why)
	defer cancel()
	start := time.Now()
	if _, err = OpenSocket(ctx, SocketOptions{Name: "second", Network: Unix, Address: path}); !errors.Is(err, why) {
		t.Errorf("%v, want the context's cause", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it waits for %s", d)
	}
}

func TestTap(t *testing.T) {
	testutil.NoLeaks(t)
	_, err := OpenTap("t", strings.Repeat("x", 16))
	says(t, err, "1 to 15 characters")
	e, err := OpenTap("t", "lo")
	if err == nil {
		opened(t, e, err)
		t.Error("the loopback interface is no TAP interface")
	}
	says(t, err, "lo: ")
	const ifname = "upvtest0"
	e, err = OpenTap("net", ifname)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENXIO) {
		says(t, err, ifname)
		t.Skipf("no TAP interfaces for this user on this host: %v", err)
	}
	f := opened(t, e, err)
	if len(f) != 1 || f[0].Kind != abi.FileTap || f[0].Name != "net" || f[0].Serial != ifname {
		t.Fatalf("%+v", f)
	}
	if _, err := os.Stat("/sys/class/net/" + ifname); err != nil {
		t.Error(err)
	}
	_, err = OpenTap("again", ifname)
	says(t, err, ifname, "somebody else has")
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/sys/class/net/" + ifname); err == nil {
		t.Error("the interface is there still")
	}
}

func TestTapErrorsSayWhatWouldBeRight(t *testing.T) {
	for err, want := range map[error]string{
		unix.EPERM: "ip tuntap add", unix.EBUSY: "somebody else", unix.EINVAL: "another kind", unix.ENOMEM: "TUNSETIFF: cannot allocate memory",
	} {
		if got := tapReason(err); !strings.Contains(got, want) {
			t.Errorf("%v: %q, want %q in it", err, got, want)
		}
	}
}
