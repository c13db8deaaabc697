// SPDX-License-Identifier: Apache-2.0

package testutil

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"testing"
	"time"
)

// settle is how long goroutines and files that are on their way out may take.
const settle = 3 * time.Second

// NoLeaks checks, when the test and its other cleanups are done, that no file
// descriptor and no goroutine is left that was not there at the call. Call it
// first in a test, which must not run in parallel with others.
func NoLeaks(t testing.TB) {
	t.Helper()
	fds, routines := openFiles(), goroutines()
	t.Cleanup(func() {
		if t.Failed() || t.Skipped() {
			return // what is left then says nothing
		}
		var leaks []string
		for deadline := time.Now().Add(settle); ; time.Sleep(5 * time.Millisecond) {
			leaks = append(more("file descriptor", fds, openFiles()), more("goroutine", routines, goroutines())...)
			if len(leaks) == 0 || time.Now().After(deadline) {
				break
			}
		}
		for _, l := range leaks {
			t.Errorf("left behind: %s", l)
		}
	})
}

// more lists what after holds more often than before.
func more(kind string, before, after map[string]int) []string {
	var out []string
	for what, n := range after {
		if d := n - before[what]; d > 0 {
			out = append(out, fmt.Sprintf("%d %s(s): %s", d, kind, what))
		}
	}
	sort.Strings(out)
	return out
}

// openFiles counts this process's descriptors by what they name.
func openFiles() map[string]int {
	out := map[string]int{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		name, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err != nil || name == fmt.Sprintf("/proc/%d/fd", os.Getpid()) {
			continue // the directory's own
		}
		// The runtime's poller opens these once, when it is first needed.
		if name == "anon_inode:[eventpoll]" || name == "anon_inode:[eventfd]" && !countEventfd(e.Name()) {
			continue
		}
		if i := strings.IndexByte(name, ':'); i > 0 && (name[:i] == "pipe" || name[:i] == "socket") {
			name = name[:i] // the inode's number says nothing
		}
		out[name]++
	}
	return out
}

// countEventfd says whether an eventfd is anybody's but the runtime's poller's,
// the only one whose counter is watched by the poller's own epoll instance.
func countEventfd(fd string) bool {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		name, _ := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if name != "anon_inode:[eventpoll]" {
			continue
		}
		info, _ := os.ReadFile(filepath.Join("/proc/self/fdinfo", e.Name()))
		for line := range strings.Lines(string(info)) {
			f := strings.Fields(line)
			if len(f) > 1 && f[0] == "tfd:" && f[1] == fd {
				return false
			}
		}
	}
	return true
}

// goroutines counts the goroutines by where they were started.
func goroutines() map[string]int {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	out := map[string]int{}
	for g := range bytes.SplitSeq(buf, []byte("\n\n")) {
		created := bytes.LastIndex(g, []byte("created by "))
		if created < 0 {
			continue // the main goroutine
		}
		line, _, _ := bytes.Cut(g[created:], []byte("\n"))
		line, _, _ = bytes.Cut(line, []byte(" in goroutine"))
		if bytes.Contains(line, []byte("testing.")) || bytes.Contains(line, []byte("os/signal.")) {
			continue
		}
		out[string(line)]++
	}
	return out
}
