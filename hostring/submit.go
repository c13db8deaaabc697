// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"golang.org/x/sys/unix"
)

// SQE is the next free SQE, zeroed, to fill in. It says false if the SQ ring is
// full. The kernel sees it after Flush or Submit.
func (r *Ring) SQE() (*SQE, bool) {
	if r.sqeTail-r.sqHead.Load() >= r.sqEntries {
		return nil, false
	}
	sqe := sqeAt(r.sqes, r.sqeTail&r.sqMask)
	*sqe = SQE{}
	r.sqeTail++
	return sqe, true
}

// Pending is the number of SQEs that the kernel has not consumed, flushed or
// not.
func (r *Ring) Pending() uint32 { return r.sqeTail - r.sqHead.Load() }

// Flush publishes the SQEs handed out and returns how many the kernel has not
// consumed. With SetupSQPoll a thread that is awake takes them from here.
func (r *Ring) Flush() uint32 {
	// Orders the stores to the SQEs before the tail, and the tail before a later
	// load of the flags: Go's atomics are sequentially consistent.
	r.sqTail.Store(r.sqeTail)
	return r.sqeTail - r.sqHead.Load()
}

// NeedWakeup says whether the SQ thread sleeps. Look after Flush.
func (r *Ring) NeedWakeup() bool { return r.sqFlags.Load()&SQNeedWakeup != 0 }

// Overflowed says whether the kernel holds CQEs that found the CQ ring full;
// Enter with EnterGetevents moves them into it.
func (r *Ring) Overflowed() bool { return r.sqFlags.Load()&SQCQOverflow != 0 }

// Submit publishes the SQEs handed out and makes the kernel take them: with
// SetupSQPoll it wakes the SQ thread if that sleeps, else it enters. It returns
// the number of SQEs that the kernel took (with SetupSQPoll: will take).
func (r *Ring) Submit() (int, error) {
	n := r.Flush()
	if n == 0 {
		return 0, nil
	}
	if r.params.Flags&SetupSQPoll == 0 {
		return r.Enter(n, 0, 0)
	}
	if r.NeedWakeup() {
		if _, err := r.Enter(n, 0, EnterSQWakeup); err != nil {
			return 0, err
		}
	}
	return int(n), nil
}

// Enter is io_uring_enter(2). Interrupted by a signal it starts again, unless it
// has submitted something. EBUSY and EAGAIN mean: reap CQEs, then try again.
func (r *Ring) Enter(toSubmit, minComplete, flags uint32) (int, error) {
	for {
		r.enters.Add(1)
		n, errno := enter(r.fd, toSubmit, minComplete, flags)
		switch errno {
		case 0:
			return n, nil
		case unix.EINTR:
		default:
			return 0, &Error{Call: "io_uring_enter", Errno: errno}
		}
	}
}

// EnterCalls is the number of io_uring_enter(2) calls made so far.
func (r *Ring) EnterCalls() uint64 { return r.enters.Load() }

// WaitCQE waits until there is a CQE.
func (r *Ring) WaitCQE() error {
	for r.Ready() == 0 {
		if _, err := r.Enter(0, 1, EnterGetevents); err != nil {
			return err
		}
	}
	return nil
}
