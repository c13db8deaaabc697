// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// command is one uringpv process of a test, with a directory of its own for
// temporary files and a mark in its environment, which its children inherit.
type command struct {
	*exec.Cmd
	t              testing.TB
	tmp, mark      string
	stdout, stderr bytes.Buffer
}

const markName = "URINGPV_TEST_MARK"

// newCommand prepares `uringpv args...`. It is killed if it runs for a minute or
// two longer than any of the tests should take.
func newCommand(t *testing.T, args ...string) *command {
	t.Helper()
	return newCommandFor(t, 3*time.Minute, args...)
}

// newCommandFor prepares a command that is ended after timeout. It says on stderr what
// its goroutines do, as a program of Go's does after SIGQUIT.
func newCommandFor(t testing.TB, timeout time.Duration, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	c := &command{Cmd: exec.CommandContext(ctx, "uringpv", args...), t: t, tmp: t.TempDir()}
	c.mark = fmt.Sprintf("%s=%d-%s", markName, os.Getpid(), filepath.Base(filepath.Dir(c.tmp)))
	c.Env = append(os.Environ(), "TMPDIR="+c.tmp, c.mark)
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGQUIT) }
	c.WaitDelay = 10 * time.Second
	return c
}

// finish runs or ends the command and returns its exit status, after a look at
// what it has left behind.
func (c *command) finish() int {
	c.t.Helper()
	var err error
	if c.Process == nil {
		err = c.Run()
	} else {
		err = c.Wait()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("uringpv %s: %v", strings.Join(c.Args[1:], " "), err)
	}
	c.leavesNothing()
	return c.ProcessState.ExitCode()
}

// leavesNothing checks that no file and no process of the command is left.
func (c *command) leavesNothing() {
	c.t.Helper()
	entries, err := os.ReadDir(c.tmp)
	if err != nil {
		c.t.Error(err)
	}
	for _, e := range entries {
		c.t.Errorf("uringpv %s left the file %s behind", strings.Join(c.Args[1:], " "), e.Name())
	}
	for _, p := range marked(c.t, c.mark) {
		c.t.Errorf("uringpv %s left the process %s behind", strings.Join(c.Args[1:], " "), p)
	}
}

// marked lists the processes that have mark in their environment.
func marked(t testing.TB, mark string) []string {
	t.Helper()
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, path := range environs {
		env, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended, or is somebody else's
		}
		for v := range bytes.SplitSeq(env, []byte{0}) {
			if string(v) == mark {
				cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
				out = append(out, fmt.Sprintf("%s (%q)", filepath.Base(filepath.Dir(path)), cmdline))
			}
		}
	}
	return out
}

// report reads the command's JSON report.
func (c *command) report() report {
	c.t.Helper()
	var r report
	dec := json.NewDecoder(bytes.NewReader(c.stdout.Bytes()))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		c.t.Fatalf("uringpv %s: no JSON report: %v\nstdout: %s\nstderr: %s", strings.Join(c.Args[1:], " "), err, &c.stdout, &c.stderr)
	}
	if dec.More() {
		c.t.Errorf("uringpv %s: more than one JSON object on stdout", strings.Join(c.Args[1:], " "))
	}
	return r
}

// says checks that stderr is one line that has text in it.
func (c *command) says(text string) {
	c.t.Helper()
	s := c.stderr.String()
	if !strings.HasPrefix(s, "uringpv: ") || strings.Count(s, "\n") != 1 || !strings.Contains(s, text) {
		c.t.Errorf("uringpv %s: stderr has %q, want one line that says %q", strings.Join(c.Args[1:], " "), s, text)
	}
}

// workingBackends asks `uringpv probe` which backends this host has. None is a
// failure: every host with io_uring has the relay.
func workingBackends(t *testing.T) []string {
	t.Helper()
	c := newCommand(t, "probe", "--json")
	if status := c.finish(); status != 0 {
		t.Fatalf("probe: exit status %d: %s", status, &c.stderr)
	}
	var p probeReport
	if err := json.Unmarshal(c.stdout.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, b := range p.Backends {
		if b.Works {
			out = append(out, b.Name)
		} else {
			t.Logf("NOT TESTED: %s does not work on this host: %s", b.Name, b.Why)
		}
	}
	if len(out) == 0 {
		t.Fatalf("no backend works on this host: %+v", p.Backends)
	}
	return out
}

// What looks for processes that are left behind finds one that is there.
func TestAMarkedProcessIsFound(t *testing.T) {
	const mark = markName + "=is-found"
	c := exec.Command("sleep", "60")
	c.Env = append(os.Environ(), mark)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	found := marked(t, mark)
	if err := c.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = c.Wait()
	if want := fmt.Sprintf("%d (\"sleep\\x0060\\x00\")", c.Process.Pid); len(found) != 1 || found[0] != want {
		t.Errorf("marked() = %q, want %q", found, want)
	}
	if left := marked(t, mark); len(left) != 0 {
		t.Errorf("marked() = %q after its end", left)
	}
}
