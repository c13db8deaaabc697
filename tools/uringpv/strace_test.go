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
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uringpv/uringpv/internal/testutil"
)

// The guest frames a stretch by two requests for the monitor's counters. To
// answer one the monitor reads the statistics of the vCPU, which strace -y shows
// by the name of their descriptor. So the system calls between the last two such
// reads before a case is reported are those of the case's stretch. The stretch
// begins with a pause, in which the threads that served the first request (among
// them the Go runtime's own, which looks about for some milliseconds whenever
// something has happened) go back to sleep; the reads begin after it.

var (
	// straceLine is a line of `strace -f -ttt -o`: the thread, the time in
	// seconds, then a call, or the second half of one.
	straceLine = regexp.MustCompile(`^(\d+) +(\d+\.\d+) (?:<\.\.\. (\w+) resumed>|(\w+)\()`)
	statsRead  = regexp.MustCompile(`^\d+ +\d+\.\d+ pread64\(\d+<anon_inode:kvm-vcpu-stats`)
)

// settle is the pause in seconds: a little less than the guest's SETTLE_MS.
const settle = 0.055

// stretchBefore returns the system calls, each with its thread, that were begun
// between the last two reads of vCPU statistics before a write of text: after the
// pause, and until the vCPU's thread leaves the guest to serve the second one. Its
// returns to the guest are left out. ok is false if the trace has no such stretch.
func stretchBefore(trace io.Reader, text string) (calls []string, ok bool, err error) {
	var outside []string       // since the vCPU's thread last entered or left the guest
	var between, last []string // in the guest: since the last read, and between the two before
	reads, begin, vcpu := 0, 0.0, ""
	s := bufio.NewScanner(trace)
	for s.Scan() {
		line := s.Text()
		m := straceLine.FindStringSubmatch(line)
		if m == nil { // a signal, an exit
			continue
		}
		thread, resumed, call := m[1], m[3], m[4]
		now, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return nil, false, err
		}
		switch {
		case statsRead.MatchString(line):
			last, between, outside = between, nil, nil
			reads++
			begin, vcpu = now, thread
		case call == "write" && strings.Contains(line, text):
			return last, reads >= 2, nil
		case resumed == "ioctl" && thread == vcpu, call == "ioctl" && thread == vcpu && strings.Contains(line, "KVM_RUN"):
			between, outside = append(between, outside...), nil
		case call == "", strings.Contains(line, "KVM_RUN"), now < begin+settle:
			continue // it was begun before, is another vCPU's, or falls into the pause
		default:
			outside = append(outside, thread+" "+call)
		}
	}
	return nil, false, s.Err()
}

func TestStretchBefore(t *testing.T) {
	const trace = `7 10.000000 openat(AT_FDCWD, "/dev/kvm", O_RDWR) = 3
8 10.000100 pread64(9<anon_inode:kvm-vcpu-stats:0>, "..."..., 500, 700) = 500
8 10.000200 ioctl(8<anon_inode:kvm-vcpu:0>, KVM_RUN, 0) = 0
7 10.000300 futex(0x1, FUTEX_WAIT_PRIVATE, 0, NULL <unfinished ...>
8 10.000400 pread64(9<anon_inode:kvm-vcpu-stats:0>, "..."..., 500, 700) = 500
8 10.000500 ioctl(8<anon_inode:kvm-vcpu:0>, KVM_RUN <unfinished ...>
7 10.001000 nanosleep({tv_sec=0, tv_nsec=20000}, NULL) = 0
7 10.100000 <... futex resumed>) = 0
7 10.100100 getpid() = 7
--- SIGURG {si_signo=SIGURG} ---
8 10.200000 <... ioctl resumed>, 0) = 0
7 10.200050 futex(0x1, FUTEX_WAKE_PRIVATE, 1) = 0
8 10.200100 pread64(9<anon_inode:kvm-vcpu-stats:0>, "..."..., 500, 700) = 500
8 10.200200 write(1<pipe:[5]>, "polled  pass", 12) = 12
8 10.200300 getuid() = 0
`
	calls, ok, err := stretchBefore(strings.NewReader(trace), "polled")
	if diff := cmp.Diff([]string{"7 getpid"}, calls); diff != "" || !ok || err != nil {
		t.Errorf("ok %v, %v, calls (-want +got):\n%s", ok, err, diff)
	}
	if _, ok, _ := stretchBefore(strings.NewReader(trace), "never written"); ok {
		t.Error("a stretch before what was never written")
	}
	if _, ok, _ := stretchBefore(strings.NewReader("8 10.0 write(1, \"polled\", 6) = 6\n"), "polled"); ok {
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
	if !slices.Contains(workingBackends(t), backendPassthrough) {
		t.Skip("NOT TESTED: passthrough does not work on this host")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	uringpv, err := exec.LookPath("uringpv")
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(disk, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newCommand(t, "run", "--guest", "selftest", "--disk", disk+",backend=passthrough")
	c.Path, c.Args = strace, append([]string{"strace", "-f", "-y", "-ttt", "-s", "64", "-o", trace, uringpv}, c.Args[1:]...)
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
