// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// session is a running guest whose console a test reads and types on.
type session struct {
	*command
	in       *os.File
	patience time.Duration // of expect

	mu      sync.Mutex // guards what follows
	console bytes.Buffer
	seen    int // expect has looked at the console up to here
	ended   bool
	changed chan struct{} // closed at each change
}

// startSession starts a guest.
func (r linuxRun) startSession(t *testing.T) *session {
	t.Helper()
	s := &session{command: r.prepare(t), patience: expectTime, changed: make(chan struct{})}
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	s.in, s.Stdin, s.Stdout = w, in, nil
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	t.Cleanup(func() {
		if s.ProcessState == nil {
			_ = s.Process.Kill()
			_ = s.Wait()
		}
	})
	go s.read(out)
	return s
}

// read collects the console.
func (s *session) read(out io.Reader) {
	b := make([]byte, 4096)
	for {
		n, err := out.Read(b)
		s.mu.Lock()
		s.console.Write(b[:n])
		s.ended = err != nil
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// text is the console so far.
func (s *session) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.console.String()
}

// expectTime is how long expect waits, but for a fuzzer's guest. An emulated machine is
// slow, and what hangs does so for ever.
const expectTime = 5 * time.Minute

// expect waits until the console says what, behind what it said at the last
// expect.
func (s *session) expect(what string) {
	s.t.Helper()
	deadline := time.After(s.patience)
	for {
		s.mu.Lock()
		at := strings.Index(s.console.String()[s.seen:], what)
		if at >= 0 {
			s.seen += at + len(what)
		}
		ended, changed := s.ended, s.changed
		s.mu.Unlock()
		if at >= 0 {
			return
		}
		if ended {
			s.t.Fatalf("the console ended and had no %q:\n%s\nstderr: %s", what, s.text(), &s.stderr)
		}
		select {
		case <-changed:
		case <-deadline:
			s.t.Fatalf("the console had no %q in %v:\n%s", what, s.patience, s.text())
		}
	}
}

// send types line.
func (s *session) send(line string) {
	s.t.Helper()
	if _, err := io.WriteString(s.in, line+"\n"); err != nil {
		s.t.Fatal(err)
	}
}

// end waits for the guest's end and returns the exit status and the console,
// which it has scanned for trouble.
func (s *session) end() (status int, console string) {
	s.t.Helper()
	for {
		s.mu.Lock()
		ended, changed := s.ended, s.changed
		s.mu.Unlock()
		if ended {
			break
		}
		<-changed // newCommandFor bounds it
	}
	status = s.finish()
	console = s.text()
	scan(s.t, console)
	return status, console
}
