// SPDX-License-Identifier: Apache-2.0

package testutil

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// settle is how long goroutines, files and threads that are on their way out may
// take.
const settle = 3 * time.Second

// NoLeaks checks, when the test and its other cleanups are done, that nothing is
// left that was not there at the call: no file descriptor, no goroutine, no
// thread of the kernel's that polls a ring (IORING_SETUP_SQPOLL). Call it first
// in a test, which must not run in parallel with others.
func NoLeaks(t testing.TB) {
	t.Helper()
	noLeaks(t, settle)
}

// noLeaks is NoLeaks with the time that what is on its way out may take.
func noLeaks(t testing.TB, settle time.Duration) {
	t.Helper()
	if err := startPoller(); err != nil {
		t.Fatal(err)
	}
	before, err := takeInventory()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() || t.Skipped() {
			return // what is left then says nothing
		}
		var leaks []string
		for deadline := time.Now().Add(settle); ; time.Sleep(5 * time.Millisecond) {
			after, err := takeInventory()
			if err != nil {
				t.Fatal(err)
			}
			leaks = before.leaks(after)
			if len(leaks) == 0 || time.Now().After(deadline) {
				break
			}
		}
		for _, l := range leaks {
			t.Errorf("left behind: %s", l)
		}
	})
}

// startPoller makes the runtime open the descriptors of its poller, which it
// does once, when the first file asks for it. From then on they are always there.
func startPoller() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	return errors.Join(r.Close(), w.Close())
}

// inventory counts what a process has, by kind and name.
type inventory map[string]int

// takeInventory looks at this process.
func takeInventory() (inventory, error) {
	n := inventory{}
	if err := n.addFiles(); err != nil {
		return nil, err
	}
	n.addGoroutines()
	return n, n.addSQThreads()
}

// leaks lists what after holds more often than n.
func (n inventory) leaks(after inventory) []string {
	var out []string
	for what, now := range after {
		if d := now - n[what]; d > 0 {
			out = append(out, fmt.Sprintf("%d × %s", d, what))
		}
	}
	slices.Sort(out)
	return out
}

// addFiles counts descriptors by what they name.
func (n inventory) addFiles() error {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, err := os.Readlink(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed meanwhile: the directory's own is one
		}
		if err != nil {
			return err
		}
		if kind, _, ok := strings.Cut(name, ":["); ok && (kind == "pipe" || kind == "socket") {
			name = kind // the inode's number says nothing
		}
		n["file descriptor: "+name]++
	}
	return nil
}

// addGoroutines counts goroutines by where they were started.
func (n inventory) addGoroutines() {
	buf := make([]byte, 1<<16)
	for {
		if l := runtime.Stack(buf, true); l < len(buf) {
			buf = buf[:l]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for g := range bytes.SplitSeq(buf, []byte("\n\n")) {
		_, by, ok := bytes.Cut(g, []byte("\ncreated by "))
		if !ok {
			continue // the main goroutine
		}
		by, _, _ = bytes.Cut(by, []byte("\n"))
		by, _, _ = bytes.Cut(by, []byte(" in goroutine"))
		// Those that run tests, and the one that os/signal starts once.
		if bytes.HasPrefix(by, []byte("testing.")) || bytes.HasPrefix(by, []byte("os/signal.")) {
			continue
		}
		n["goroutine of "+string(by)]++
	}
}

// addSQThreads counts the kernel's SQ threads, which are threads of the process
// whose rings they poll.
func (n inventory) addSQThreads() error {
	const dir = "/proc/self/task"
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, task := range tasks {
		comm, err := os.ReadFile(filepath.Join(dir, task.Name(), "comm"))
		if err == nil && strings.HasPrefix(string(comm), "iou-sqp-") {
			n["SQ thread of an io_uring"]++
		}
	}
	return nil
}
