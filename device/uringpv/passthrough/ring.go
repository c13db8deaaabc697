// SPDX-License-Identifier: Apache-2.0

package passthrough

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/internal/buffers"
	"github.com/uringpv/uringpv/device/uringpv/internal/direct"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// unboundWorkers bounds the kernel's worker threads of a ring for requests that
// may wait for ever, of which there are none on disks: only a guest that names
// the reserved file makes some.
const unboundWorkers = 1

// Supported is nil if this host can do passthrough; it finds out by doing. The
// error wraps ErrUnsupported and names what is missing and the kernel that has
// it, or wraps what kept the probe from an answer.
func Supported() error {
	_, err := direct.Limits()
	return err
}

// NewRing makes a ring of this process. Its requests have the credentials of the
// ring's thread.
func (b *Backend) NewRing(s uringpv.RingSpec) (uringpv.Ring, error) {
	r, err := direct.New(direct.Config{Spec: s, Host: &host{b}, Shareable: true, UnboundWorkers: unboundWorkers})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// host makes rings that belong to this process.
type host struct{ b *Backend }

// Make makes a ring with as few capabilities as the host allows.
func (h *host) Make(c hostring.Config) (*hostring.Ring, error) { return setup(c) }

// Buffers shares all guest RAM with the device's other rings, or pins ranges of it.
func (h *host) Buffers(r *hostring.Ring, ranges []memmap.Range) error {
	if slices.Equal(ranges, h.b.memory.Layout().Buffers()) {
		if err := h.b.ram.Share(r); hostring.Errno(err) != unix.EINVAL {
			return err
		}
	}
	return buffers.Pin(r, h.b.memory, ranges)
}

// Ready has nothing to wait for.
func (h *host) Ready() error { return nil }

// Lost is none: the ring is this process's.
func (h *host) Lost() int { return -1 }

// Fate is not asked for.
func (h *host) Fate() error { return nil }

// End has nothing to end.
func (h *host) End(context.Context) error { return nil }

// setup makes a ring with as few capabilities as the host allows.
func setup(c hostring.Config) (*hostring.Ring, error) {
	own, err := threadCapabilities()
	if err != nil {
		return nil, err
	}
	if err := own.unprivileged().apply(); err != nil {
		return nil, err
	}
	r, err := hostring.New(c)
	if hostring.Errno(err) != unix.EPERM {
		return r, err
	}
	// kernel.io_uring_disabled=1 allows io_uring to CAP_SYS_ADMIN only.
	if e := own.apply(); e != nil {
		return nil, errors.Join(err, e)
	}
	return hostring.New(c)
}

// Discard closes a ring that has no requests. Only its SQ thread could write to
// the guest's areas, and has gone when this returns nil.
func (h *host) Discard(r *hostring.Ring, shut func()) error {
	polled := r.Params().Flags&hostring.SetupSQPoll != 0
	if r.Params().Flags&hostring.SetupAttachWQ != 0 {
		shut()
		return fmt.Errorf("whether the shared SQ thread has let go of a closed ring is not known: %w", unix.ETIMEDOUT)
	}
	info, err := r.Info()
	if err != nil {
		return err
	}
	// The kernel names an SQ thread for the thread that made the ring, which is
	// this one and made no other; until it has begun, Info tells that id as well. In
	// a PID namespace it is another than ours here. Some name must be seen while
	// the thread is there, or its absence says nothing.
	names := []string{fmt.Sprintf("iou-sqp-%d", unix.Gettid()), fmt.Sprintf("iou-sqp-%d", info.SQThread)}
	seen := !polled
	for deadline := time.Now().Add(time.Second); !seen && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if seen, err = hasThread(names); err != nil {
			break
		}
	}
	shut()
	if !polled || err != nil {
		return err
	}
	for deadline := time.Now().Add(5 * time.Second); seen && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if there, err := hasThread(names); err != nil || !there {
			return err
		}
	}
	return fmt.Errorf("whether the SQ thread %s of a closed ring has ended is not known: %w", names[0], unix.ETIMEDOUT)
}

// hasThread says whether this process has a thread of one of those names.
func hasThread(names []string) (bool, error) {
	const tasks = "/proc/self/task/"
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return false, err
	}
	for _, e := range threads {
		comm, err := os.ReadFile(tasks + e.Name() + "/comm")
		if err == nil && slices.Contains(names, strings.TrimSpace(string(comm))) {
			return true, nil
		}
	}
	return false, nil
}
