// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/internal/signal"
	"github.com/uringpv/uringpv/hostring"
)

const (
	// Interval is the time between two looks of the watchdog at an active ring.
	Interval = 500 * time.Millisecond

	// restInterval is that time for a ring that seems to be at rest, but whose SQ thread
	// may take SQEs again without a doorbell: a shared thread that another ring keeps
	// awake, or that of an inexact ring, when a request completes that nobody can see.
	restInterval = 2 * time.Second

	// MaxBehind is how many CQEs a guest may leave to the kernel, besides two CQ
	// rings full (docs/protocol.md, section 4).
	MaxBehind = 65536

	// infoTries is how often to ask for the kernel's counters at a time, which it does
	// not tell while the SQ thread has the ring's lock. That of a flooded ring has it
	// nearly always; a try takes a few microseconds. More tries would say no more: if so
	// many fail the thread does not run, and has its lock until it does.
	infoTries = 256

	// infoTime is when to ask no more, in any case. Some kernels list all that is in the SQ
	// and CQ rings before they look for the lock, which of the largest that a guest keeps
	// full takes some hundredths of a second a try; whoever wants the ring's mutex waits
	// as long. It is no shorter because a flood has to be seen, whose list grows.
	infoTime = time.Second

	// glances is how often the watchdog first asks but once, and glance the time
	// between two: it may be that the SQ thread does not run because the watchdog
	// does, and then keeps its lock however often it is asked for.
	glances = 50
	glance  = time.Millisecond
)

// errInfo says that the kernel did not tell its counters.
var errInfo = errors.New("the kernel's account of the ring is not to be had")

// errFlood is a ring whose account does not come to an end.
var errFlood = &uringpv.GuestError{
	Errno:  unix.ENXIO,
	Reason: "CQEs that the driver makes no room for come faster than they can be counted",
}

// loop is what belongs to the ring's goroutine.
type loop struct {
	next  time.Time // of the watchdog; zero when the ring cannot be active
	moved time.Time // when SQEs were last seen to have been consumed
	lost  bool      // the host says that the ring is
	blind int       // looks in a row that told nothing, after glances
	short int       // glances in a row that told nothing

	words struct{ head, tail, flags *atomic.Uint32 } // of the SQ ring: hints, the guest's to forge

	polls [3]unix.PollFd // what the loop would otherwise allocate
	event [8]byte
}

// serve waits for doorbells, and looks after an active ring, until the ring is
// to be closed or has to be stopped.
func (r *Ring) serve() {
	r.arm()
	for !r.closing.Load() {
		rung := r.wait()
		if r.lost {
			r.stop(r.back.Fate())
			return
		}
		if r.alarm.rang.Load() {
			r.stop(errFlood)
			return
		}
		if r.enter.Swap(false) || rung {
			submit := r.submit.Take() // after enter: Enter writes them the other way round
			if rung {
				submit = r.params.SQEntries
			}
			r.arm()
			if err := r.ring(submit); err != nil {
				if hostring.Errno(err) == unix.EOWNERDEAD && r.back.Lost() >= 0 {
					err = r.back.Fate() // it says more
				}
				r.stop(err)
				return
			}
		}
		if !r.next.IsZero() && !time.Now().Before(r.next) {
			if err := r.watch(); err != nil {
				r.stop(err)
				return
			}
		}
	}
}

// stop reports that the ring is lost. The caller ends the goroutine, which
// closes the ring.
func (r *Ring) stop(err error) {
	if r.alarm.rang.Load() {
		err = errFlood // what fails because the ring was let go of says less
	}
	if !r.closing.Load() {
		r.spec.Stopped(err)
	}
}

// wait sleeps until there is something to do and says whether the doorbell was
// rung.
func (r *Ring) wait() bool {
	timeout := -1
	if !r.next.IsZero() {
		timeout = int(max(0, time.Until(r.next)+time.Millisecond-1) / time.Millisecond)
	}
	fds := r.polls[:2]
	if fd := r.back.Lost(); fd >= 0 {
		fds = r.polls[:]
		fds[2] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	fds[0] = unix.PollFd{Fd: int32(r.wake), Events: unix.POLLIN}
	fds[1] = unix.PollFd{Fd: int32(r.spec.DoorbellFD), Events: unix.POLLIN}
	r.count.SystemCalls.Add(1)
	if n, err := unix.Poll(fds, timeout); err != nil || n == 0 {
		return false // EINTR: the caller looks at everything anyway
	}
	r.lost = len(fds) > 2 && fds[2].Revents != 0
	if fds[0].Revents != 0 {
		r.read(r.wake)
	}
	if fds[1].Revents == 0 {
		return false
	}
	n := r.read(r.spec.DoorbellFD)
	r.count.Doorbells.Add(n)
	return n > 0
}

// read empties an eventfd and returns its count.
func (r *Ring) read(fd int) uint64 {
	r.count.SystemCalls.Add(1)
	return signal.Take(fd, &r.event)
}

// ring does what a doorbell asks for. Nothing that the guest wrote says whether
// it is needed: the flags in the ring are the guest's to forge. Without SQPOLL it
// takes at most submit SQEs.
func (r *Ring) ring(submit uint32) error {
	if r.sqpoll {
		_, err := r.call(0, hostring.EnterSQWakeup|hostring.EnterGetevents)
		return err
	}
	// The kernel ends a batch at an SQ index that is out of range, so that it can
	// take as many calls as there are bad indices. The guest's words say no more
	// than when to stop sooner: it could only deceive itself.
	for range submit {
		n, err := r.call(submit, 0)
		if err != nil {
			return err
		}
		submit -= min(n, submit)
		if submit == 0 || r.words.head.Load() == r.words.tail.Load() || r.closing.Load() {
			break
		}
	}
	// In a call that takes fewer SQEs than it is told to, GETEVENTS does nothing.
	if r.words.flags.Load()&hostring.SQCQOverflow != 0 {
		_, err := r.call(0, hostring.EnterGetevents)
		return err
	}
	return nil
}

// call is io_uring_enter(2) without waiting. Errors that pass are none: the
// guest rings again when it misses something.
func (r *Ring) call(submit, flags uint32) (uint32, error) {
	before := r.host.EnterCalls()
	n, err := r.host.Enter(submit, 0, flags)
	r.count.SystemCalls.Add(r.host.EnterCalls() - before)
	if err == nil {
		return uint32(max(n, 0)), nil
	}
	switch hostring.Errno(err) {
	case unix.EAGAIN, unix.EBUSY, unix.ENOMEM:
		return 0, nil
	}
	return 0, err
}

// arm makes the watchdog look, as the ring may be active from now on. A fresh
// ring is, and one whose doorbell was rung.
func (r *Ring) arm() {
	now := time.Now()
	r.moved = now
	if r.next.IsZero() {
		r.next = now.Add(Interval)
	}
}

// watch looks at the kernel's own counters. On an exact ring they tell how many CQEs wait for the
// guest to make room, which costs kernel memory without a bound, and whether the
// ring can still be active: if every SQE consumed has its CQE in the ring and
// none has been consumed for longer than the SQ thread polls, that thread sleeps,
// and only a doorbell wakes it.
//
// Requests without a CQE make the difference of the counters larger than what waits,
// requests with several make it smaller. On an inexact ring the watchdog also counts
// what the kernel lists, which are requests that wait for a file, and CQEs that found
// the CQ ring full. Others that wait the kernel does not list: timeouts, what is behind
// a drain or a link, what is in the queue of its workers. Where no SQE may go without
// its CQE they are in the difference, less as many as multishot requests have posted
// CQEs; else the process's memory cgroup bounds them.
func (r *Ring) watch() error {
	now := time.Now()
	r.next = now.Add(Interval)
	defer func() {
		if end := time.Now(); !r.next.IsZero() {
			r.next = later(r.next, end.Add(end.Sub(now))) // half of a processor at most
		}
	}()
	r.mu.Lock()
	before := r.account.last
	tries := 1
	if r.short >= glances {
		tries = infoTries
	}
	known := r.look(tries)
	info := r.account.last
	held := 0
	var err error
	if known && r.inexact {
		held, err = r.held(tries)
		known = err == nil
	}
	r.mu.Unlock()
	if !known {
		if r.short < glances {
			r.short++
			r.next = now.Add(glance)
			return nil
		}
		// A thread that never lets go of the ring's lock is at work without pause.
		// Do not leave a guest alone that keeps it so.
		if r.blind++; r.blind < int(time.Minute/Interval) {
			return nil
		}
		return fmt.Errorf("ring %d: %w", r.spec.Index, errInfo)
	}
	r.blind, r.short = 0, 0
	limit := MaxBehind + 2*r.params.CQEntries
	behind := info.CachedSQHead - info.CachedCQTail
	if r.inexact && held > int(limit) {
		return &uringpv.GuestError{
			Errno:  unix.ENXIO,
			Reason: fmt.Sprintf("more than %d requests wait for an event or have a CQE that the driver makes no room for", limit),
		}
	}
	if !r.skips && int32(behind) > int32(limit) {
		return &uringpv.GuestError{
			Errno:  unix.ENXIO,
			Reason: fmt.Sprintf("%d SQEs consumed have no CQE in the ring, more than %d: the driver does not take its CQEs, or too many requests wait", behind, limit),
		}
	}
	switch {
	case info.CachedSQHead != before.CachedSQHead || behind != 0 || held != 0:
		r.moved = now
	case now.Sub(r.moved) <= r.idle+Interval:
	case r.inexact, r.thread != nil:
		r.next = now.Add(restInterval)
	default:
		r.next = time.Time{}
	}
	return nil
}

// held is how many requests and CQEs of an inexact ring the kernel lists: those
// that wait for a file to become ready, and CQEs that found the CQ ring full. The
// count ends soon above what is allowed. The caller holds mu, and host is open.
func (r *Ring) held(tries int) (int, error) {
	limit := int(MaxBehind + 2*r.params.CQEntries)
	r.alarm.begin(r.host)
	defer r.alarm.end()
	for since := time.Now(); ; {
		r.count.SystemCalls.Add(1) // a short account takes no more
		n, err := r.host.Held(limit + 1)
		if tries--; err == nil || tries <= 0 || r.closing.Load() || time.Since(since) > infoTime {
			return n, err
		}
	}
}

// look takes note of the kernel's counters and says whether it could, in so many
// tries. The caller holds mu, and host is open.
func (r *Ring) look(tries int) bool {
	r.alarm.begin(r.host)
	defer r.alarm.end()
	for since := time.Now(); ; {
		r.count.SystemCalls.Add(1)
		info, err := r.host.Info()
		if err == nil {
			r.account.add(info)
			return true
		}
		if tries--; tries <= 0 || time.Since(since) > infoTime {
			return false
		}
	}
}

// later is the later one of two times.
func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
