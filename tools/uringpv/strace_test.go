// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uringpv/uringpv/internal/testutil"
)

// The guest frames a stretch by two requests for the monitor's counters. To
// answer one the monitor reads the statistics of the vCPU, which strace -y shows
// by the name of their descriptor. So the system calls between the last two such
// reads before a case is reported are those of the case's stretch.

var (
	// straceLine is a line of `strace -f -o`: the thread, then a call, or the
	// second half of one.
	straceLine = regexp.MustCompile(`^(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()`)
	statsRead  = regexp.MustCompile(`^\d+ +pread64\(\d+<anon_inode:kvm-vcpu-stats`)
)

// stretchBefore returns the system calls, each with its thread, that were begun
// between the last two reads of vCPU statistics before a write of text, without
// the thread's own return to the guest. ok is false if the trace has no such
// stretch.
func stretchBefore(trace io.Reader, text string) (calls []string, ok bool, err error) {
	var between, last []string // since the last read, and between the two before
	reads := 0
	s := bufio.NewScanner(trace)
	for s.Scan() {
		line := s.Text()
		m := straceLine.FindStringSubmatch(line)
		switch {
		case m == nil: // a signal, an exit
			continue
		case statsRead.MatchString(line):
			last, between = between, nil
			reads++
		case m[3] == "write" && strings.Contains(line, text):
			return last, reads >= 2, nil
		case m[3] == "":
			continue // it was begun before
		case m[3] == "ioctl" && strings.Contains(line, "KVM_RUN"):
			continue
		default:
			between = append(between, m[1]+" "+m[3])
		}
	}
	return nil, false, s.Err()
}

func TestStretchBefore(t *testing.T) {
	const trace = `7 openat(AT_FDCWD, "/dev/kvm", O_RDWR) = 3
8 pread64(9<anon_inode:kvm-vcpu-stats:0>, "..."..., 500, 700) = 500
8 ioctl(8<anon_inode:kvm-vcpu:0>, KVM_RUN, 0) = 0
7 futex(0x1, FUTEX_WAIT_PRIVATE, 0, NULL <unfinished ...>
8 pread64(9<anon_inode:kvm-vcpu-stats:0>, "..."..., 500, 700) = 500
8 ioctl(8<anon_inode:kvm-vcpu:0>, KVM_RUN <unfinished ...>
7 <... futex resumed>) = 0
7 getpid() = 7
--- SIGURG {si_signo=SIGURG} ---
8 <... ioctl resumed>, 0) = 0
8 pread64(9<anon_inode:kvm-vcpu-stats:0>, "..."..., 500, 700) = 500
8 write(1<pipe:[5]>, "polled  pass", 12) = 12
8 getuid() = 0
`
	calls, ok, err := stretchBefore(strings.NewReader(trace), "polled")
	if diff := cmp.Diff([]string{"7 getpid"}, calls); diff != "" || !ok || err != nil {
		t.Errorf("ok %v, %v, calls (-want +got):\n%s", ok, err, diff)
	}
	if _, ok, _ := stretchBefore(strings.NewReader(trace), "never written"); ok {
		t.Error("a stretch before what was never written")
	}
	if _, ok, _ := stretchBefore(strings.NewReader("8 write(1, \"polled\", 6) = 6\n"), "polled"); ok {
		t.Error("a stretch without reads of the statistics")
	}
}

// polledCase is the case of the self-test that reads 100,000 times by polling.
const polledCase = "polled-stretch"

func TestPolledStretchMakesNoSystemCall(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("SKIPPED, NOT TESTED: no strace to count the system calls; the package strace has it")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	uringpv, err := exec.LookPath("uringpv")
	if err != nil {
		t.Fatal(err)
	}
	c := newCommand(t, "run")
	c.Path, c.Args = strace, append([]string{"strace", "-f", "-y", "-s", "64", "-o", trace, uringpv}, c.Args[1:]...)
	if status := c.finish(); status != exitOK {
		if strings.Contains(c.stderr.String(), "ptrace") {
			t.Skipf("SKIPPED, NOT TESTED: strace may not trace here: %s", &c.stderr)
		}
		t.Fatalf("exit status %d\n%s%s", status, &c.stdout, &c.stderr)
	}
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	row := fmt.Sprintf("%-*s  %s", nameWidth, polledCase, backendPassthrough)
	calls, ok, err := stretchBefore(f, row)
	if err != nil || !ok {
		t.Fatalf("the trace has no stretch before %q: %v", row, err)
	}
	if len(calls) != 0 {
		t.Errorf("the polled stretch made %d system calls: %v", len(calls), calls)
	}
}
