// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/shm"
	"github.com/uringpv/uringpv/internal/testutil"
)

// TestAWatchdogThatLearnsNothingCostsLittle: the kernel does not tell its counters
// while somebody has the ring's lock, however often it is asked.
func TestAWatchdogThatLearnsNothingCostsLittle(t *testing.T) {
	testutil.NeedIOUring(t)
	host, err := hostring.New(hostring.Config{Entries: 1})
	if err != nil {
		t.Fatal(err)
	}
	// With its account open, so that each look at a closed one fails.
	_, err = host.Info()
	if err := errors.Join(err, host.Close()); err != nil {
		t.Fatal(err)
	}
	r := &Ring{host: host}
	var spent time.Duration
	for ended := false; !ended; {
		calls, now := r.count.SystemCalls.Load(), time.Now()
		err := r.watch()
		calls = r.count.SystemCalls.Load() - calls
		wait := r.next.Sub(now)
		switch {
		case errors.Is(err, errInfo):
			ended = true
		case err != nil:
			t.Fatal(err)
		case calls > 1 && (calls > 300 || wait < Interval):
			t.Fatalf("a look of %d system calls, the next %v after it; want 300 at most, %v", calls, wait, Interval)
		}
		spent += wait
		if spent > 90*time.Second {
			t.Fatalf("after %v without an account the ring is not stopped", spent)
		}
	}
	if spent < 50*time.Second {
		t.Errorf("the ring is stopped after %v without an account, want a minute", spent)
	}
	if n := r.count.SystemCalls.Load(); n > 40_000 {
		t.Errorf("%d system calls in that time, want 40,000 at most", n)
	}
}

// TestALongAccountIsAskedForNoLonger: the kernel lists what is in the rings each time it
// is asked, and a guest may keep large ones full while its SQ thread has the lock. Whoever
// wants the ring's mutex, such as RING_DESTROY, must not wait for hundreds of tries.
func TestALongAccountIsAskedForNoLonger(t *testing.T) {
	testutil.NeedIOUring(t)
	full := fullRing(t)
	// The same ring, and said to have an SQ thread, which the account does not name: so
	// it is when that thread has the lock.
	fd, err := unix.FcntlInt(uintptr(full.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := shm.Of(make([]byte, 8<<20))
	if err != nil {
		t.Fatal(err)
	}
	p := full.Params()
	p.Flags |= hostring.SetupSQPoll
	host, err := hostring.Adopt(fd, p, hostring.Config{Rings: memory, SQEs: memory, External: true})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	r := &Ring{host: host, params: p, inexact: true}
	r.short = glances // past those, so that it asks often
	before := time.Now()
	if err := r.watch(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(before)
	if r.blind != 1 {
		t.Fatal("the account is whole: nothing was tested")
	}
	if n := r.count.SystemCalls.Load(); n > infoTries*3/4 {
		t.Errorf("%d system calls, in %v", n, took)
	}
	if rest := time.Until(r.next); rest < took/2 {
		t.Errorf("a look that took %v, and the next one %v later", took, rest)
	}
}

// fullRing is one of the largest size whose CQ ring is full.
func fullRing(t *testing.T) *hostring.Ring {
	t.Helper()
	testutil.NeedIOUring(t)
	full, err := hostring.New(hostring.Config{Entries: 32768})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = full.Close() })
	for full.Ready() < full.Params().CQEntries {
		for range full.Params().SQEntries {
			if _, ok := full.SQE(); !ok { // a zeroed one is a NOP
				t.Fatal("no room for an SQE")
			}
		}
		if _, err := full.Submit(); err != nil {
			t.Fatal(err)
		}
	}
	return full
}

// TestALookThatDoesNotEndIsEnded: the thread is in the kernel, and takes all the time
// that it may.
func TestALookThatDoesNotEndIsEnded(t *testing.T) {
	host := fullRing(t)
	a := alarm{time: 20 * time.Millisecond}
	a.begin(host)
	looks := 0
	for ; !a.rang.Load(); looks++ {
		_, err := host.Info()
		if err != nil && !a.rang.Load() {
			t.Fatal(err)
		}
		if looks == 10_000 {
			t.Fatal("the alarm did not ring")
		}
	}
	a.end()
	if info, err := host.Info(); err == nil {
		t.Errorf("the ring is not let go of: %+v", info)
	}
	if _, err := host.Enter(0, 0, hostring.EnterGetevents); err == nil {
		t.Error("a ring that was let go of can be entered")
	}
}

// TestASleepingLookIsNotEnded: the host has no processor for the thread.
func TestASleepingLookIsNotEnded(t *testing.T) {
	host := fullRing(t)
	a := alarm{time: 20 * time.Millisecond}
	for range 3 {
		a.begin(host)
		time.Sleep(10 * a.time)
		a.end()
	}
	if a.rang.Load() {
		t.Fatal("the alarm rang")
	}
	if _, err := host.Info(); err != nil {
		t.Error(err)
	}
}

// withoutOwner is a Host whose rings belong to no other process.
type withoutOwner struct{ Host }

func (withoutOwner) Lost() int { return -1 }

// TestARingThatWasLetGoOfStops: whoever looked, the ring's thread says why it ends, and
// nobody uses the descriptor any more.
func TestARingThatWasLetGoOfStops(t *testing.T) {
	var stopped error
	r := &Ring{host: fullRing(t), back: withoutOwner{}}
	r.spec.DoorbellFD, r.spec.Stopped = -1, func(err error) { stopped = err }
	r.alarm.time = 2 * time.Millisecond
	var err error
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(r.wake)
	for looks := 0; !r.alarm.rang.Load(); looks++ {
		r.Stats()
		if looks == 10_000 {
			t.Fatal("the alarm did not ring")
		}
	}
	done := make(chan struct{})
	go func() { r.serve(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the ring's thread goes on")
	}
	if !errors.Is(stopped, errFlood) {
		t.Errorf("the ring stopped with %v, want %v", stopped, errFlood)
	}
	if err := r.SetVector(-1); !errors.Is(err, unix.ENXIO) {
		t.Errorf("a register call gives %v, want ENXIO", err)
	}
	calls := r.count.SystemCalls.Load()
	if r.Stats(); r.count.SystemCalls.Load() != calls {
		t.Error("the account is still asked for")
	}
}
