// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uringpv/uringpv/internal/testutil"
)

// startPiped starts a command and returns its stdout.
func startPiped(t *testing.T, c *command) io.ReadCloser {
	t.Helper()
	c.Stdout = nil
	pipe, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return pipe
}

// startAndWaitFor starts c and returns when a line of its stdout begins with
// prefix. The rest of stdout is collected.
func startAndWaitFor(t *testing.T, c *command, prefix string) {
	t.Helper()
	pipe := startPiped(t, c)
	lines := bufio.NewReader(io.TeeReader(pipe, &c.stdout))
	for {
		line, err := lines.ReadString('\n')
		if strings.HasPrefix(line, prefix) {
			break
		}
		if err != nil {
			t.Fatalf("stdout ends before a line that begins with %q: %v\n%s%s", prefix, err, &c.stdout, &c.stderr)
		}
	}
	go io.Copy(io.Discard, lines) // it must be able to write on
}

func TestSignalsTearEverythingDown(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	for _, s := range []struct {
		signal syscall.Signal
		name   string
		status int
	}{{syscall.SIGINT, "SIGINT", 130}, {syscall.SIGTERM, "SIGTERM", 143}} {
		// At its start, with the guest in its set-up, and amidst its I/O.
		for _, after := range []string{"uringpv ", "CASE", "write-read"} {
			t.Run(s.name+" after "+after, func(t *testing.T) {
				c := newCommand(t, "run")
				if after == "write-read" {
					// The long case is the one after the first few.
					startAndWaitFor(t, c, "identify")
					time.Sleep(300 * time.Millisecond)
				} else {
					startAndWaitFor(t, c, after)
				}
				begin := time.Now()
				if err := c.Process.Signal(s.signal); err != nil {
					t.Fatal(err)
				}
				if status := c.finish(); status != s.status {
					t.Errorf("exit status %d, want %d\n%s", status, s.status, &c.stderr)
				}
				if took := time.Since(begin); took > 10*time.Second {
					t.Errorf("the teardown took %v", took)
				}
				c.says("ended by " + s.name)
			})
		}
	}
}

// TestSignalsAtAnyMoment sends SIGTERM at moments spread over a run's first
// second, before the signal is handled excepted.
func TestSignalsAtAnyMoment(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	for delay := 20 * time.Millisecond; delay < time.Second; delay = delay * 3 / 2 {
		c := newCommand(t, "run", "--report", "json")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay)
		if err := c.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		status := c.finish()
		if status == -1 && delay < 100*time.Millisecond {
			continue // the process had not come to its first line: the kernel ended it
		}
		if status != 143 {
			t.Errorf("SIGTERM after %v: exit status %d, want 143\n%s", delay, status, &c.stderr)
		}
		c.says("ended by SIGTERM")
	}
}

// A run whose output nobody reads any more ends, and leaves nothing.
func TestClosedStdoutEndsARun(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"run"}, {"run", "--guest", "checksum", "--report", "json", "--disk", disk}, {"probe"}} {
		c := newCommand(t, args...)
		pipe := startPiped(t, c)
		if len(args) == 1 && args[0] == "run" {
			if _, err := bufio.NewReaderSize(pipe, 16).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		if err := pipe.Close(); err != nil {
			t.Fatal(err)
		}
		if status := c.finish(); status != 141 {
			t.Errorf("%v: exit status %d, want 141", args, status)
		}
		if c.stderr.Len() > 0 {
			t.Errorf("%v says: %s", args, &c.stderr)
		}
	}
}

func TestTimeoutEndsARun(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	c := newCommand(t, "run", "--timeout", "300ms")
	begin := time.Now()
	if status := c.finish(); status != exitFailure {
		t.Errorf("exit status %d, want 1", status)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	c.says("--timeout 300ms is over")
}

// TestKilledRunLeavesNothing is the one way out that no code of ours sees.
func TestKilledRunLeavesNothing(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	c := newCommand(t, "run")
	startAndWaitFor(t, c, "CASE")
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if status := c.finish(); status != -1 {
		t.Errorf("exit status %d of a killed process", status)
	}
}
