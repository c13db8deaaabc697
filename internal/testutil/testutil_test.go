// SPDX-License-Identifier: Apache-2.0

package testutil

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// recorder is a testing.TB that remembers what it was told, and whose cleanups
// run when the test says so.
type recorder struct {
	testing.TB
	messages []string
	failed   bool
	skipped  bool
	cleanups []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Failed() bool     { return r.failed }
func (r *recorder) Skipped() bool    { return r.skipped }
func (r *recorder) Errorf(format string, args ...any) {
	r.failed = true
	r.messages = append(r.messages, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatal(args ...any) {
	r.Errorf("%s", fmt.Sprint(args...))
	runtime.Goexit()
}
func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}
func (r *recorder) Skipf(format string, args ...any) {
	r.skipped = true
	r.messages = append(r.messages, fmt.Sprintf(format, args...))
	runtime.Goexit()
}

// record runs f, and then its cleanups, on a recorder.
func record(f func(r *recorder)) *recorder {
	r := &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
	return r
}

func TestNoLeaksFindsWhatIsLeft(t *testing.T) {
	quit := make(chan struct{})
	var cleanup []func() error
	defer func() {
		for _, f := range cleanup {
			if err := f(); err != nil {
				t.Error(err)
			}
		}
	}()
	for _, tt := range []struct {
		name, want string
		leave      func() error
	}{
		{"file", "os.DevNull", func() error {
			f, err := os.Open(os.DevNull)
			cleanup = append(cleanup, f.Close)
			return err
		}},
		{"eventfd", "anon_inode:[eventfd]", func() error {
			fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
			cleanup = append(cleanup, func() error { return unix.Close(fd) })
			return err
		}},
		// The runtime's poller watches this one, like its own.
		{"polled eventfd", "anon_inode:[eventfd]", func() error {
			fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
			f := os.NewFile(uintptr(fd), "eventfd")
			cleanup = append(cleanup, f.Close)
			return err
		}},
		{"epoll", "anon_inode:[eventpoll]", func() error {
			fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
			cleanup = append(cleanup, func() error { return unix.Close(fd) })
			return err
		}},
		{"pipe", "2 × file descriptor: pipe", func() error {
			r, w, err := os.Pipe()
			cleanup = append(cleanup, r.Close, w.Close)
			return err
		}},
		{"goroutine", "TestNoLeaksFindsWhatIsLeft", func() error {
			go func() { <-quit }()
			cleanup = append(cleanup, func() error { close(quit); return nil })
			return nil
		}},
	} {
		r := record(func(r *recorder) {
			noLeaks(r, 20*time.Millisecond)
			if err := tt.leave(); err != nil {
				t.Error(err)
			}
		})
		want := strings.ReplaceAll(tt.want, "os.DevNull", os.DevNull)
		if len(r.messages) != 1 || !strings.Contains(r.messages[0], want) {
			t.Errorf("%s: %q, want one message with %q", tt.name, r.messages, want)
		}
	}
}

func TestNoLeaksFindsSQThreads(t *testing.T) {
	NeedIOUring(t)
	fd := -1
	r := record(func(r *recorder) {
		noLeaks(r, 20*time.Millisecond)
		var err error
		if fd, err = sqPollRing(); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Close(fd); err != nil {
		t.Error(err)
	}
	if len(r.messages) != 2 || !strings.Contains(r.messages[0], "SQ thread") || !strings.Contains(r.messages[1], "[io_uring]") {
		t.Errorf("%q", r.messages)
	}
}

func TestNoLeaksWaitsForWhatIsOnItsWayOut(t *testing.T) {
	r := record(func(r *recorder) {
		NoLeaks(r)
		go time.Sleep(50 * time.Millisecond)
	})
	if r.failed {
		t.Errorf("%q", r.messages)
	}
}

func TestNoLeaksIsSilentWithoutALeak(t *testing.T) {
	for range 20 {
		r := record(func(r *recorder) {
			NoLeaks(r)
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Error(err)
			}
			defer f.Close()
		})
		if r.failed {
			t.Fatalf("%q", r.messages)
		}
	}
}

func TestWhatIsMissingIsALoudSkipOrAFailure(t *testing.T) {
	const env = "REQUIRE_SOMETHING"
	reason := errors.New("not today")
	t.Setenv(env, "")
	r := record(func(r *recorder) { missing(r, env, "something", reason) })
	if !r.skipped || r.failed || !strings.Contains(r.messages[0], "not today") || !strings.Contains(r.messages[0], env+"=1") {
		t.Errorf("skipped %v, failed %v: %q", r.skipped, r.failed, r.messages)
	}
	t.Setenv(env, "1")
	r = record(func(r *recorder) { missing(r, env, "something", reason) })
	if r.skipped || !r.failed || !strings.Contains(r.messages[0], "not today") {
		t.Errorf("required: skipped %v, failed %v: %q", r.skipped, r.failed, r.messages)
	}
}

// A host either has a feature, and the check says nothing, or it has not.
func TestNeedsAgreeWithTheHost(t *testing.T) {
	t.Setenv("REQUIRE_KVM", "")
	t.Setenv("REQUIRE_IO_URING", "")
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err == nil {
		err = f.Close()
	}
	if r := record(func(r *recorder) { NeedKVM(r) }); r.skipped != (err != nil) || r.failed {
		t.Errorf("KVM: open says %v, NeedKVM %q", err, r.messages)
	}
	disabled, err := os.ReadFile("/proc/sys/kernel/io_uring_disabled")
	if r := record(func(r *recorder) { NeedIOUring(r) }); err == nil && strings.TrimSpace(string(disabled)) == "2" && !r.skipped {
		t.Error("io_uring: disabled on this host, and NeedIOUring is content")
	}
}

func TestScratchFileHasItsSizeAndNoBlocks(t *testing.T) {
	const size = 5<<20 + 1
	var st unix.Stat_t
	if err := unix.Stat(ScratchFile(t, size), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != size || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
	}
}
