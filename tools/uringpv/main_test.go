// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/passthrough"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/feature"
	"github.com/uringpv/uringpv/internal/testutil"
)

// TestMain makes the test binary stand in for the commands that the tests
// execute: uringpv itself, also with small buffers, two that make a host worse than it is,
// and one whose process must be its own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"uringpv":                    main,
		"uringpv-with-small-buffers": withSmallBuffers,
		"without-io-uring":           withoutIOUring,
		"hold-a-write-lock":          holdAWriteLock,
		"says-conformance":           saysConformance,
	})
}

// smallBuffer is about as little as 480 MiB of RAM can be cut into, as a ring has at most
// 1024 buffers, and a power of two: a guest's rings must not lie across an end.
const smallBuffer = 512 << 10

// withSmallBuffers is uringpv whose guests find a buffer table of small entries, not of
// 1 GiB, which hardly any request would cross.
func withSmallBuffers() {
	bufferSize = smallBuffer
	main()
}

// withoutIOUring executes its arguments with io_uring forbidden, the way
// container runtimes do it: by a seccomp filter that answers EPERM.
func withoutIOUring() {
	if len(os.Args) < 2 {
		fatal(errors.New("usage: without-io-uring COMMAND [ARG...]"))
	}
	if err := testutil.ForbidIOUring(); err != nil {
		fatal(err)
	}
	path, err := exec.LookPath(os.Args[1])
	if err != nil {
		fatal(err)
	}
	fatal(syscall.Exec(path, os.Args[1:], os.Environ()))
}

// holdAWriteLock locks its argument as another monitor would, says so in a file
// beside it, and waits to be killed.
func holdAWriteLock() {
	f, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
	if err != nil {
		fatal(err)
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		fatal(err)
	}
	if err := os.WriteFile(os.Args[1]+".locked", nil, 0o600); err != nil {
		fatal(err)
	}
	for { // not select: where nothing else can wake it, the runtime calls that a deadlock
		time.Sleep(time.Hour)
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(99)
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_GOLDEN") != "",
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "kvm":
				return haveKVM(t), nil
			case "io_uring":
				return hostring.Available() == nil, nil
			case "root":
				return os.Geteuid() == 0, nil
			case "passthrough":
				return passthrough.Supported() == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"refuses":  refuses,
			"wait-for": waitFor,
		},
	})
}

// haveKVM is for conditions of scripts; it honours REQUIRE_KVM as
// testutil.NeedKVM does.
func haveKVM(t *testing.T) bool {
	kvm := feature.ProbeKVM()
	if kvm.Err != nil && os.Getenv("REQUIRE_KVM") == "1" {
		t.Fatalf("REQUIRE_KVM=1, but %v", kvm.Err)
	}
	return kvm.Err == nil
}

// waitFor FILE waits until a command in the background has made the file.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: wait-for FILE")
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
	}
	ts.Fatalf("%s does not appear", args[0])
}

// refuses STATUS COMMAND [ARG...] runs a command that must end with the exit
// status, print nothing on stdout, and say what is wrong in one line on stderr.
func refuses(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: refuses STATUS COMMAND [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		ts.Fatalf("exit status 0, want %d", want)
	case !errors.As(err, &exit):
		ts.Fatalf("%v", err)
	case exit.ExitCode() != want:
		ts.Fatalf("exit status %d, want %d", exit.ExitCode(), want)
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("stdout has %q, want nothing", out)
	}
	text := ts.ReadFile("stderr")
	if !strings.HasPrefix(text, "uringpv: ") || strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
		ts.Fatalf("stderr has %q, want one line that begins with \"uringpv: \"", text)
	}
}
