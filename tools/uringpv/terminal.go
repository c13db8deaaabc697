// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// terminal brings what a user types, or what a pipe holds, to a guest's serial
// port.
type terminal struct {
	in    io.Reader
	feed  func([]byte) int // takes what it can
	leave func()           // Ctrl-a x

	fd    int // of a terminal, else -1
	saved *unix.Termios
	esc   escapes
}

// openTerminal begins to read in. A terminal is in raw mode until Close, so that
// every key is the guest's but for Ctrl-a.
func openTerminal(in io.Reader, feed func([]byte) int, leave func()) (*terminal, error) {
	t := &terminal{in: in, feed: feed, leave: leave, fd: -1}
	if f, ok := in.(*os.File); ok {
		if saved, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			raw := *saved
			// Input comes as it is typed. Output processing stays, for this program's
			// own lines.
			raw.Iflag &^= unix.BRKINT | unix.ICRNL | unix.INLCR | unix.IGNCR | unix.INPCK | unix.ISTRIP | unix.IXON
			raw.Lflag &^= unix.ECHO | unix.ICANON | unix.IEXTEN | unix.ISIG
			raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
			if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &raw); err != nil {
				return nil, fmt.Errorf("set the terminal to raw mode: %w", err)
			}
			t.fd, t.saved = int(f.Fd()), saved
		}
	}
	go t.copy()
	return t, nil
}

// Close gives the terminal back as it was. The reader ends with the process: a
// read of a terminal cannot be called off.
func (t *terminal) Close() error {
	if t.fd < 0 {
		return nil
	}
	return unix.IoctlSetTermios(t.fd, unix.TCSETS, t.saved)
}

// retry is how long input waits for a guest that does not read.
const retry = 10 * time.Millisecond

// copy feeds what is read, until the end of the input. The guest runs on.
func (t *terminal) copy() {
	b := make([]byte, 4096)
	for {
		n, err := t.in.Read(b)
		p := b[:n]
		if t.fd >= 0 {
			var leave bool
			if p, leave = t.esc.strip(p); leave {
				t.leave()
				return
			}
		}
		for len(p) > 0 {
			if k := t.feed(p); k > 0 {
				p = p[k:]
			} else {
				time.Sleep(retry)
			}
		}
		if err != nil {
			return
		}
	}
}

// escapes finds Ctrl-a in what is typed.
type escapes struct{ armed bool }

// What follows Ctrl-a.
const (
	keyEscape = 0x01 // Ctrl-a; twice: one for the guest
	keyLeave  = 'x'
)

// strip returns p without escape sequences, and says whether one of them asks to
// leave.
func (e *escapes) strip(p []byte) (rest []byte, leave bool) {
	// Not in place: the first byte may belong to the Ctrl-a of an earlier read.
	rest = make([]byte, 0, len(p)+1)
	for _, c := range p {
		switch {
		case e.armed && (c == keyLeave || c == keyLeave-'a'+'A'):
			return rest, true
		case e.armed:
			e.armed = false
			if c != keyEscape {
				rest = append(rest, keyEscape) // not a sequence of this program's
			}
			rest = append(rest, c)
		case c == keyEscape:
			e.armed = true
		default:
			rest = append(rest, c)
		}
	}
	return rest, false
}
