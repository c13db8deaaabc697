// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
)

// alarmTime is how long a look at the kernel's account of a ring may take whose thread
// has a processor for half of that time. The largest rings, full, and as many CQEs besides
// as a guest may leave to the kernel, take a tenth of a second, and one in the emulated
// machine.
const alarmTime = 3 * time.Second

// alarm ends a look that would not end by itself. The kernel writes the whole account
// into a buffer, and begins again with one of twice the size when that is full: where the
// SQ thread of a flooded ring has as much of a processor as the looking thread, the list
// of CQEs that found no room grows faster than the buffer, and no signal ends the call.
// Letting go of the ring does, and the flood as well.
type alarm struct {
	rang atomic.Bool // the ring is lost

	mu    sync.Mutex // guards what follows
	time  time.Duration
	timer *time.Timer
	host  *hostring.Ring // being looked at, nil: none
	clock int32          // the looking thread's, of processor time
	since time.Duration  // what it showed at the timer's first end, 0: that is to come
}

// begin is called before a look at host, and end after it, by the same goroutine.
func (a *alarm) begin(host *hostring.Ring) {
	runtime.LockOSThread()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.time == 0 {
		a.time = alarmTime
	}
	// clock_getcpuclockid(3): a thread's scheduler clock.
	a.host, a.clock, a.since = host, int32(^unix.Gettid()<<3|6), 0
	if a.timer == nil {
		a.timer = time.AfterFunc(a.time/2, a.ring)
	} else {
		a.timer.Reset(a.time / 2)
	}
}

func (a *alarm) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer.Stop()
	a.host = nil
	runtime.UnlockOSThread()
}

// ring is the timer's. A thread that has had no processor is not to blame.
func (a *alarm) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.host == nil {
		return
	}
	var t unix.Timespec
	if unix.ClockGettime(a.clock, &t) == nil {
		switch now := time.Duration(t.Nano()); {
		case a.since == 0:
			a.since = now
		case now-a.since >= a.time/2 && a.host.Detach() == nil:
			a.rang.Store(true)
			return
		}
	}
	a.timer.Reset(a.time / 2)
}
