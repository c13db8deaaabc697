// SPDX-License-Identifier: Apache-2.0

package sqthread

import (
	"fmt"
	"sync"
	"time"

	"github.com/uringpv/uringpv/hostring"
)

// idle is how long a thread polls without work on the ring that it is made with. The
// kernel takes the longest of all its rings.
const idle = time.Millisecond

// threads are those that somebody holds.
var threads struct {
	mu  sync.Mutex // guards what follows
	all map[int]*thread
}

// thread is an SQ thread.
type thread struct {
	cpu   int
	ring  *hostring.Ring
	tid   int // -1: not known
	holds int
}

// Hold is somebody's use of a shared SQ thread.
type Hold struct {
	thread *thread
	once   sync.Once
	err    error // of Release
}

// Get holds the shared SQ thread that is bound to cpu, or with -1 that which is not
// bound. A ring made with IORING_SETUP_ATTACH_WQ and FD is polled by it; it keeps the
// thread's CPU and its own requests' credentials (io_uring_setup(2); io_sq_thread,
// io_uring/sqpoll.c). The error is hostring's.
func Get(cpu int) (*Hold, error) {
	threads.mu.Lock()
	defer threads.mu.Unlock()
	t := threads.all[cpu]
	if t == nil {
		c := hostring.Config{Entries: 1, Flags: hostring.SetupSQPoll, SQThreadIdle: idle}
		if cpu >= 0 {
			c.Flags |= hostring.SetupSQAff
			c.SQThreadCPU = uint32(cpu)
		}
		ring, err := hostring.New(c)
		if err != nil {
			return nil, fmt.Errorf("an SQ thread to share: %w", err)
		}
		t = &thread{cpu: cpu, ring: ring, tid: begun(ring)}
		if threads.all == nil {
			threads.all = map[int]*thread{}
		}
		threads.all[cpu] = t
	}
	t.holds++
	t.weigh()
	return &Hold{thread: t}, nil
}

// FD is the descriptor of a ring that the thread polls.
func (h *Hold) FD() int { return h.thread.ring.FD() }

// Release gives the thread up. Nobody else's hold may be used for a ring of the
// caller's. Further calls do nothing and return the same error.
func (h *Hold) Release() error {
	h.once.Do(func() {
		threads.mu.Lock()
		defer threads.mu.Unlock()
		t := h.thread
		if t.holds--; t.holds == 0 {
			delete(threads.all, t.cpu)
			h.err = t.ring.Close()
			return
		}
		t.weigh()
	})
	return h.err
}
