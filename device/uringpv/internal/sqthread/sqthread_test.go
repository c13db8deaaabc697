// SPDX-License-Identifier: Apache-2.0

package sqthread_test

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/device/uringpv/internal/sqthread"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
)

// eventually waits until the process has so many SQ threads.
func eventually(t *testing.T, want int, when string) {
	t.Helper()
	got := 0
	for range 500 {
		if got = ringtest.SQThreads(t); got == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s there are %d SQ threads, want %d", when, got, want)
}

func attach(t *testing.T, h *sqthread.Hold) *hostring.Ring {
	t.Helper()
	r, err := hostring.New(hostring.Config{
		Entries: 4, Flags: hostring.SetupSQPoll | hostring.SetupAttachWQ, WQFD: h.FD(), SQThreadIdle: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func nop(t *testing.T, r *hostring.Ring) {
	t.Helper()
	if c := ringtest.One(t, r, hostring.SQE{Opcode: hostring.OpNop}); c.Res != 0 {
		t.Errorf("NOP gives %d", c.Res)
	}
}

func TestRingsShareOneThread(t *testing.T) {
	testutil.NeedIOUring(t)
	testutil.NoLeaks(t)
	eventually(t, 0, "before")
	a, err := sqthread.Get(-1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := sqthread.Get(-1)
	if err != nil {
		t.Fatal(err)
	}
	r, s := attach(t, a), attach(t, b)
	eventually(t, 1, "with two rings")
	nop(t, r)
	nop(t, s)

	// One who goes takes nothing from the other.
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := a.Release(); err != nil {
			t.Error(err)
		}
	}
	nop(t, s)
	eventually(t, 1, "with one ring left")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Release(); err != nil {
		t.Error(err)
	}
	eventually(t, 0, "in the end")
}

func TestEachCPUHasAThread(t *testing.T) {
	testutil.NeedIOUring(t)
	testutil.NoLeaks(t)
	eventually(t, 0, "before")
	free, err := sqthread.Get(-1)
	if err != nil {
		t.Fatal(err)
	}
	bound, err := sqthread.Get(0)
	if err != nil {
		t.Skipf("NOT TESTED: nothing may be bound to CPU 0 here: %v", err)
	}
	eventually(t, 2, "free and bound to CPU 0")
	for _, h := range []*sqthread.Hold{free, bound} {
		r := attach(t, h)
		nop(t, r)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := h.Release(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, 0, "in the end")
}

// sqNice are the nice values of this process's SQ threads.
func sqNice(t *testing.T) []int {
	t.Helper()
	names, err := filepath.Glob("/proc/self/task/*/comm")
	if err != nil {
		t.Fatal(err)
	}
	var all []int
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(comm), "iou-sqp-") {
			continue
		}
		tid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, 20-raw)
	}
	return all
}

func TestThreadWeighsAsManyAsItStandsFor(t *testing.T) {
	testutil.NeedIOUring(t)
	testutil.NoLeaks(t)
	eventually(t, 0, "before")
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	base := 20 - raw
	// May this process lower a nice value as far as it likes?
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	may := unix.Setpriority(unix.PRIO_PROCESS, 0, -20) == nil
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, base); err != nil {
		t.Fatal(err)
	}
	var holds []*sqthread.Hold
	for range 32 {
		h, err := sqthread.Get(-1)
		if err != nil {
			t.Fatal(err)
		}
		holds = append(holds, h)
		got := sqNice(t)
		if len(got) != 1 {
			t.Fatalf("%d SQ threads", len(got))
		}
		// Twice that of as many threads, within a step of the scale, 1.25.
		ratio := math.Pow(1.25, float64(base-got[0])) / float64(2*len(holds))
		alone := len(holds) == 1
		if alone && got[0] != base || may && !alone && (got[0] > base-2 || got[0] < -20 || got[0] > -20 && (ratio < 0.99 || ratio > 1.25)) {
			t.Errorf("held %d times it has the nice value %d, others %d", len(holds), got[0], base)
		}
	}
	for i, h := range holds {
		if err := h.Release(); err != nil {
			t.Error(err)
		}
		if left := len(holds) - 1 - i; left == 1 {
			if got := sqNice(t); len(got) != 1 || got[0] != base {
				t.Errorf("held once it has the nice value %v, others %d", got, base)
			}
		}
	}
	eventually(t, 0, "in the end")
}
