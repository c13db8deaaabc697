// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pgregory.net/rapid"
)

func TestEscapes(t *testing.T) {
	for _, tt := range []struct {
		typed, guest string
		leave        bool
	}{
		{"abc", "abc", false},
		{"a\x01xb", "a", true},
		{"\x01X", "", true},
		{"\x01\x01", "\x01", false},
		{"\x01\x01x", "\x01x", false},
		{"\x01c", "\x01c", false},
		{"\x01", "", false},
	} {
		// In one read, and byte by byte.
		var whole, single escapes
		got, leave := whole.strip([]byte(tt.typed))
		var bytewise []byte
		left := false
		for i := range len(tt.typed) {
			rest, l := single.strip([]byte{tt.typed[i]})
			bytewise = append(bytewise, rest...)
			if left = l; left {
				break
			}
		}
		if string(got) != tt.guest || leave != tt.leave || string(bytewise) != tt.guest || left != tt.leave {
			t.Errorf("%q: the guest gets %q and %q, leave %v and %v; want %q, %v", tt.typed, got, bytewise, leave, left, tt.guest, tt.leave)
		}
	}
}

func TestEscapesChangeNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		typed := rapid.SliceOf(rapid.Byte().Filter(func(b byte) bool { return b != keyEscape })).Draw(t, "typed")
		var e escapes
		if got, leave := e.strip(typed); string(got) != string(typed) || leave {
			t.Errorf("%q became %q, leave %v", typed, got, leave)
		}
	})
}

func TestInitrdsFollowEachOtherAligned(t *testing.T) {
	var paths []string
	for i, text := range []string{"one", "four", "sixsix"} {
		path := filepath.Join(t.TempDir(), "initrd")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(i, err)
		}
		paths = append(paths, path)
	}
	d, err := openInitrd(paths)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b, err := io.ReadAll(d)
	if err != nil || string(b) != "one\x00foursixsix\x00\x00" || d.size != int64(len(b)) {
		t.Errorf("%q of %d bytes, %v", b, d.size, err)
	}
	if none, err := openInitrd(nil); err != nil || none.size != 0 {
		t.Errorf("no files: %d bytes, %v", none.size, err)
	}
	for _, bad := range []string{"/nonexistent", t.TempDir(), "/dev/null"} {
		if _, err := openInitrd([]string{paths[0], bad}); err == nil || !strings.Contains(err.Error(), "--initrd") || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestATerminalIsRawUntilClose: every key is the guest's but for Ctrl-a x, and the
// terminal is given back as it was.
func TestATerminalIsRawUntilClose(t *testing.T) {
	user, tty := openPty(t)
	termios := func() unix.Termios {
		got, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return *got
	}
	before := termios()
	if before.Lflag&(unix.ICANON|unix.ISIG|unix.ECHO) != unix.ICANON|unix.ISIG|unix.ECHO {
		t.Fatalf("a fresh terminal has the flags %x", before.Lflag)
	}
	fed, left := make(chan string, 10), make(chan struct{})
	term, err := openTerminal(tty, func(b []byte) int { fed <- string(b); return len(b) }, func() { close(left) })
	if err != nil {
		t.Fatal(err)
	}
	raw := termios()
	if raw.Lflag&(unix.ICANON|unix.ISIG|unix.ECHO) != 0 || raw.Iflag&(unix.ICRNL|unix.IXON) != 0 || raw.Oflag != before.Oflag {
		t.Errorf("flags %x, %x, %x while the guest has the terminal", raw.Lflag, raw.Iflag, raw.Oflag)
	}
	// Ctrl-c and Ctrl-z, a carriage return, and no line's end.
	const keys = "\x03\x1a\rx"
	if _, err := user.WriteString(keys); err != nil {
		t.Fatal(err)
	}
	for got := ""; got != keys; {
		select {
		case s := <-fed:
			got += s
		case <-time.After(10 * time.Second):
			t.Fatalf("the guest got %q, want %q", got, keys)
		}
		if !strings.HasPrefix(keys, got) {
			t.Fatalf("the guest got %q, want %q", got, keys)
		}
	}
	if _, err := user.WriteString("\x01x"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Error("Ctrl-a x does not leave")
	}
	if err := term.Close(); err != nil {
		t.Fatal(err)
	}
	if after := termios(); after != before {
		t.Errorf("the terminal was %+v and is %+v", before, after)
	}
}

// openPty opens a pseudo-terminal: the end of who types, and the terminal.
func openPty(t *testing.T) (user, tty *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return user, tty
}
