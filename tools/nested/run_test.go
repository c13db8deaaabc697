// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uringpv/uringpv/images"
	"github.com/uringpv/uringpv/internal/interrupt"
)

// TestMain lets the test binary be all that a run needs: PID 1 of the machine, as
// this command is, and the program that runs in it.
func TestMain(m *testing.M) {
	switch {
	case os.Getpid() == 1:
		runInit()
	case len(os.Args) > 1 && inMachine[os.Args[1]] != nil:
		os.Exit(inMachine[os.Args[1]]())
	}
	os.Exit(m.Run())
}

// inMachine are what tests run in the machine, each with its exit status.
var inMachine = map[string]func() int{
	"hello": func() int {
		b, err := os.ReadFile("/etc/given")
		fmt.Printf("hello from %s, given %q %v\n", os.Getenv("URINGPV_NESTED"), b, err)
		fmt.Fprintln(os.Stderr, "and from stderr")
		kept, err := filepath.Glob("/sys/kernel/debug/kvm/*-*/vcpu*") // PID-FD, a directory for each virtual machine
		rings := 0
		fds, _ := filepath.Glob("/proc/1/fd/*")
		for _, fd := range fds {
			if to, _ := os.Readlink(fd); to == "anon_inode:[io_uring]" {
				rings++
			}
		}
		fmt.Printf("%d virtual CPU and %d ring kept, %v\n", len(kept), rings, err)
		return 42
	},
	"hang": func() int {
		if err := os.WriteFile("/dev/kmsg", []byte("<1>the program hangs\n"), 0); err != nil {
			return 1
		}
		for {
			time.Sleep(time.Hour)
		}
	},
	"panic": func() int {
		err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
		fmt.Println(err)
		return 1
	},
	"killed": func() int {
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		time.Sleep(time.Minute)
		fmt.Println(err)
		return 1
	},
}

// boot runs one of the programs in a machine and returns what run does, with its
// stdout.
func boot(t *testing.T, ctx context.Context, r run, program string) (int, string, error) {
	t.Helper()
	dir := os.Getenv("URINGPV_TEST_CACHE")
	if dir == "" {
		t.Skip("NOT TESTED: URINGPV_TEST_CACHE names no directory for Debian's packages (make test-nested sets it)")
	}
	c, err := images.OpenCache(images.CacheOptions{Dir: dir, Report: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	if r.machine, err = prepare(t.Context(), c, "6.12"); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r.tmp = t.TempDir()
	var out bytes.Buffer
	r.cpus, r.memory, r.stdout, r.stderr = 1, 1024, &out, t.Output()
	status, err := r.run(ctx, []string{self, program})
	left, lerr := os.ReadDir(r.tmp)
	if lerr != nil || len(left) != 0 {
		t.Errorf("left in the directory of temporary files: %v, %v", left, lerr)
	}
	return status, out.String(), err
}

func TestOutputAndExitStatusComeThrough(t *testing.T) {
	t.Parallel()
	given := filepath.Join(t.TempDir(), "given")
	if err := os.WriteFile(given, []byte("a file"), 0o644); err != nil {
		t.Fatal(err)
	}
	status, out, err := boot(t, t.Context(), run{timeout: time.Minute, put: []string{given + ":/etc/given"}}, "hello")
	if want := "hello from 1, given \"a file\" <nil>\nand from stderr\n1 virtual CPU and 1 ring kept, <nil>\n"; err != nil || status != 42 || out != want {
		t.Errorf("status %d, %v, output %q; want 42 and %q", status, err, out, want)
	}
}

func TestASignalsStatusComesThrough(t *testing.T) {
	t.Parallel()
	if status, out, err := boot(t, t.Context(), run{timeout: time.Minute}, "killed"); err != nil || status != 128+9 {
		t.Errorf("status %d, %v, output %q; want 137", status, err, out)
	}
}

// failsWith checks an error of the machine's, and that it shows the console.
func failsWith(t *testing.T, err error, code int, console string) {
	t.Helper()
	var m *machineError
	if !errors.As(err, &m) || m.code != code || !strings.Contains(err.Error(), console) {
		t.Errorf("%v; want exit status %d, and %q from the console", err, code, console)
	}
}

func TestAHangEndsInATimeoutWithTheConsole(t *testing.T) {
	t.Parallel()
	_, _, err := boot(t, t.Context(), run{timeout: 30 * time.Second}, "hang")
	failsWith(t, err, exitTimeout, "the program hangs")
}

func TestAPanicOfTheMachineShowsTheConsole(t *testing.T) {
	t.Parallel()
	_, _, err := boot(t, t.Context(), run{timeout: time.Minute}, "panic")
	failsWith(t, err, exitMachine, "Kernel panic")
}

func TestWhatAKernelSaysFirstIsItsTrouble(t *testing.T) {
	for console, want := range map[string]bool{
		"": false,
		"[1.0] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\n[1.1] Call Trace:\n[1.2] Kernel panic - not syncing": true,
		"[1.0] BUG: kernel NULL pointer dereference\n[1.1] Oops: int3: 0000 [#2]":                            false,
		"[1.0] Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI\n[1.1] Oops: int3: 0000 [#2]":                         false,
	} {
		if got := firstTrouble(console, staleInt3); got != want {
			t.Errorf("%q: %v", console, got)
		}
		if troubled(console) != (console != "") {
			t.Errorf("%q: troubled is %v", console, console == "")
		}
	}
}

func TestAnInterruptEndsTheMachine(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, &interrupt.Error{Signal: syscall.SIGTERM})
	defer cancel()
	_, _, err := boot(t, ctx, run{timeout: time.Minute}, "hang")
	if status := exitStatus(ctx, err); err == nil || status != 128+15 {
		t.Errorf("%v, exit status %d; want 143", err, status)
	}
}

func TestLinksToDirectoriesAreNotPutEmpty(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.Mkdir(at("real"), 0o755), os.WriteFile(at("real/file"), []byte("x"), 0o644), os.Symlink("real", at("link"))); err != nil {
		t.Fatal(err)
	}
	tree := images.NewTree()
	if err := addTree(tree, at("link"), "/to"); err != nil || !tree.Has("to/file") {
		t.Errorf("a link to a directory: %v, file is there: %t", err, tree.Has("to/file"))
	}
	if err := addTree(tree, dir, "/all"); err == nil || !strings.Contains(err.Error(), at("link")) {
		t.Errorf("a directory with such a link: %v", err)
	}
}
