// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/testutil"
)

// sqThread returns the id of r's SQ thread. The kernel does not tell while that
// thread holds the ring's lock, and tells the id of the ring's maker until the
// thread has begun.
func sqThread(t *testing.T, r *Ring) int {
	t.Helper()
	var info Info
	var err error
	for range 1000 {
		if info, err = r.Info(); err == nil && info.SQThread > 0 {
			comm, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/comm", info.SQThread))
			if err == nil && strings.HasPrefix(string(comm), "iou-sqp-") {
				return info.SQThread
			}
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("no SQ thread: %+v, %v", info, err)
	return 0
}

func TestSQThreadIsBoundToItsCPU(t *testing.T) {
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		t.Fatal(err)
	}
	tried := 0
	for cpu := range 1024 {
		if !may.IsSet(cpu) {
			continue
		}
		r := newRing(t, Config{Entries: 4, Flags: SetupSQPoll | SetupSQAff, SQThreadCPU: uint32(cpu), SQThreadIdle: 10 * time.Millisecond})
		if c := one(t, r, func(s *SQE) { s.Opcode = OpNop }); c.Res != 0 {
			t.Errorf("CPU %d: NOP gives %d", cpu, c.Res)
		}
		f, err := os.Open(fmt.Sprintf("/proc/self/task/%d/status", sqThread(t, r)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		list := ""
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if s, ok := strings.CutPrefix(lines.Text(), "Cpus_allowed_list:"); ok {
				list = strings.TrimSpace(s)
			}
		}
		if list != fmt.Sprint(cpu) {
			t.Errorf("the SQ thread may run on the CPUs %q, want %d alone", list, cpu)
		}
		if tried++; tried == 4 {
			break
		}
	}
	if tried == 0 {
		t.Fatal("this process may run on no CPU below 1024")
	}
}

func TestSQThreadOfACPUThatIsNot(t *testing.T) {
	testutil.NeedIOUring(t)
	_, err := New(Config{Entries: 4, Flags: SetupSQPoll | SetupSQAff, SQThreadCPU: 1 << 20})
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "io_uring_setup") {
		t.Errorf("%v, want EINVAL of io_uring_setup", err)
	}
}

func TestRingsShareAnSQThread(t *testing.T) {
	first := newRing(t, Config{Entries: 4, Flags: SetupSQPoll})
	second := newRing(t, Config{Entries: 4, Flags: SetupSQPoll | SetupAttachWQ, WQFD: first.FD()})
	alone := newRing(t, Config{Entries: 4, Flags: SetupSQPoll})
	a, b, c := sqThread(t, first), sqThread(t, second), sqThread(t, alone)
	if a != b || a == c {
		t.Errorf("SQ threads %d and %d attached, %d alone", a, b, c)
	}
	for _, r := range []*Ring{first, second, alone} {
		if c := one(t, r, func(s *SQE) { s.Opcode = OpNop }); c.Res != 0 {
			t.Errorf("NOP gives %d", c.Res)
		}
	}
}

func TestCQSize(t *testing.T) {
	for _, c := range []struct{ sq, cq, wantSQ, wantCQ uint32 }{{5, 0, 8, 16}, {8, 8, 8, 8}, {8, 100, 8, 128}, {1, 4096, 1, 4096}} {
		flags := uint32(0)
		if c.cq != 0 {
			flags = SetupCQSize
		}
		p := newRing(t, Config{Entries: c.sq, CQEntries: c.cq, Flags: flags}).Params()
		if p.SQEntries != c.wantSQ || p.CQEntries != c.wantCQ {
			t.Errorf("%d and %d entries asked for: got %d and %d, want %d and %d", c.sq, c.cq, p.SQEntries, p.CQEntries, c.wantSQ, c.wantCQ)
		}
	}
	testutil.NeedIOUring(t)
	if _, err := New(Config{Entries: 16, CQEntries: 8, Flags: SetupCQSize}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a CQ ring smaller than the SQ ring: %v, want EINVAL", err)
	}
}

// A ring that polls for completions reads a file where its file system can poll,
// and says so where it cannot.
func TestIOPoll(t *testing.T) {
	path := testutil.ScratchFile(t, 1<<16)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EINVAL) {
		t.Skip("SKIPPED, NOT TESTED: the file system of the scratch directory knows no O_DIRECT")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, v := shared(t, 4096)
	r := newRing(t, Config{Entries: 4, Flags: SetupIOPoll})
	if err := r.RegisterBuffers([]Buffer{{v.Addr(), 4096}}); err != nil {
		t.Fatal(err)
	}
	c := one(t, r, func(s *SQE) {
		*s = SQE{Opcode: OpReadFixed, FD: int32(fd), Addr: uint64(v.Addr()), Len: 4096, UserData: 7}
	})
	if c.UserData != 7 || c.Res != 4096 && c.Res != -int32(unix.EOPNOTSUPP) {
		t.Errorf("a polled read: %+v, want 4096 bytes or -EOPNOTSUPP", c)
	}
	if c := one(t, r, func(s *SQE) { *s = SQE{Opcode: OpFsync, FD: int32(fd)} }); c.Res != -int32(unix.EINVAL) {
		t.Errorf("FSYNC on a ring with IOPOLL gives %d, want -EINVAL", c.Res)
	}
}

func TestWorkerLimits(t *testing.T) {
	r := newRing(t, Config{Entries: 4})
	if err := r.RegisterIOWQMaxWorkers(1, 1); err != nil {
		t.Fatal(err)
	}
	// With one worker, requests that block it come one after the other.
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	b, v := shared(t, 4096)
	for i := range uint64(3) {
		s, _ := r.SQE()
		*s = SQE{Opcode: OpRead, Flags: SQEAsync, FD: int32(p[0]), Addr: uint64(v.Addr()) + i, Len: 1, Off: ^uint64(0), UserData: i}
	}
	if _, err := r.Submit(); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(p[1], []byte("abc")); err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	for len(seen) < 3 {
		if err := r.WaitCQE(); err != nil {
			t.Fatal(err)
		}
		var c [4]CQE
		for _, c := range c[:r.Reap(c[:])] {
			if c.Res != 1 || seen[c.UserData] {
				t.Errorf("completion %+v", c)
			}
			seen[c.UserData] = true
		}
	}
	if !strings.Contains("abc acb bac bca cab cba", string(b[:3])) {
		t.Errorf("the bytes read are %q", b[:3])
	}
	// A worker's count of its kind is part of the process, and is put back.
	if err := r.RegisterIOWQMaxWorkers(64, 64); err != nil {
		t.Fatal(err)
	}
}

// pelting is the environment variable that makes the test program a maker of rings
// under signals.
const pelting = "URINGPV_TEST_PELTING"

// TestSetupIsNotBegunAgain looks, by strace, for calls of io_uring_setup that the
// kernel restarts while signals hit the thread that makes the ring.
func TestSetupIsNotBegunAgain(t *testing.T) {
	testutil.NeedIOUring(t)
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("SKIPPED, NOT TESTED: no strace to see restarted system calls; the package strace has it")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	restarted := func(how string) int {
		t.Helper()
		trace := filepath.Join(t.TempDir(), how)
		c := exec.Command(strace, "-f", "-e", "trace=io_uring_setup", "-o", trace, self, "-test.run=^TestMakeRingsUnderSignals$")
		c.Env = append(os.Environ(), pelting+"="+how)
		if out, err := c.CombinedOutput(); err != nil {
			if strings.Contains(string(out), "ptrace") {
				t.Skipf("SKIPPED, NOT TESTED: strace may not trace here: %s", out)
			}
			t.Fatalf("%v: %s", err, out)
		}
		text, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "io_uring_setup("); n < ringsUnderSignals {
			t.Fatalf("%d calls of io_uring_setup, want at least %d", n, ringsUnderSignals)
		}
		return strings.Count(string(text), "ERESTART")
	}
	if n := restarted("plain"); n == 0 {
		t.Error("not one restart with the bare system call: the test sees nothing")
	}
	if n := restarted("setup"); n != 0 {
		t.Errorf("%d calls were begun again", n)
	}
}

// ringsUnderSignals is how many rings TestMakeRingsUnderSignals makes.
const ringsUnderSignals = 200

// TestMakeRingsUnderSignals is the program that TestSetupIsNotBegunAgain traces.
func TestMakeRingsUnderSignals(t *testing.T) {
	how := os.Getenv(pelting)
	if how == "" {
		return
	}
	ready := make(chan int)
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(done)
		ready <- unix.Gettid()
		for range ringsUnderSignals {
			p := Params{Flags: SetupSQPoll, SQThreadIdle: 1}
			fd := -1
			var err error
			if how == "setup" {
				fd, err = setup(4, &p)
			} else {
				fd, err = bareSetup(4, &p)
			}
			if err != nil {
				t.Errorf("io_uring_setup: %v", err)
				return
			}
			_ = unix.Close(fd)
		}
	}()
	tid := <-ready
	for {
		select {
		case <-done:
			return
		default:
			_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
		}
	}
}
