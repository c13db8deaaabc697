// SPDX-License-Identifier: Apache-2.0

package isolated

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/growth"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// trials keeps what a trial has shown, for this process.
var trials struct {
	mu   sync.Mutex // guards what follows
	done bool
	err  error
	end  func() error // waits until nothing is left of the trial; nil if there is nothing
}

// Supported is nil if this host can give a ring to a process of its own; it finds
// out by doing. The error wraps ErrUnsupported and says what the host refuses, or
// wraps what kept the trial from an answer.
func Supported() error {
	err := supported()
	return errors.Join(err, trialEnded())
}

// supported is Supported, but the trial's ring may still be about to end, which takes
// the kernel some 30 ms.
func supported() error {
	trials.mu.Lock()
	defer trials.mu.Unlock()
	if trials.done {
		return trials.err
	}
	undo, err := try()
	ended := make(chan error, 1)
	go func() { ended <- undo() }()
	trials.end = sync.OnceValue(func() error { return <-ended })
	if err == nil || errors.Is(err, ErrUnsupported) {
		trials.done, trials.err = true, err
	}
	return err
}

// trialEnded waits until nothing is left of a trial, and returns what went wrong with
// its end.
func trialEnded() error {
	trials.mu.Lock()
	defer trials.mu.Unlock()
	if trials.end == nil {
		return nil
	}
	return trials.end()
}

// try makes a ring of one entry in a little memory. undo ends what it made, also if
// there is an error.
func try() (undo func() error, err error) {
	var undos []func() error
	undo = func() error {
		var err error
		for _, f := range slices.Backward(undos) {
			err = errors.Join(err, f())
		}
		return err
	}
	l, err := memmap.NewLayout(memmap.MinRAM)
	if err != nil {
		return undo, err
	}
	m, err := memmap.New(l, memmap.Options{Name: "ring-trial"})
	if errors.Is(err, memmap.ErrNoSlot) {
		return undo, nil // 64 machines in this process: the first ring will show
	}
	if errors.Is(err, unix.EFBIG) {
		return undo, fmt.Errorf("%w: RLIMIT_FSIZE is below the memory of a trial: %w", growth.ErrConflict, err)
	}
	if err != nil {
		return undo, err
	}
	undos = append(undos, m.Close)
	b, err := newBackend(Config{Memory: m, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return undo, err
	}
	undos = append(undos, b.close)
	doorbell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return undo, fmt.Errorf("eventfd: %w", err)
	}
	undos = append(undos, func() error { return unix.Close(doorbell) })
	s := uringpv.RingSpec{
		SQEntries: 1, CQEntries: 2, Flags: hostring.SetupSQPoll, SQThreadCPU: -1, SQThreadIdle: time.Millisecond,
		Memory: m, Buffers: l.Buffers(), WholeRAM: true, Policy: b.caps.Policy,
		DoorbellFD: doorbell, VectorFD: -1,
		Stopped: func(error) {}, Logger: b.log,
	}
	s.Policy.Opcodes = abi.OpcodesOf(hostring.OpNop)
	if s.Rings, err = m.View(memmap.Range{Length: memmap.PageSize}); err != nil {
		return undo, err
	}
	if s.SQEs, err = m.View(memmap.Range{Start: memmap.PageSize, Length: memmap.PageSize}); err != nil {
		return undo, err
	}
	r, err := b.NewRing(s)
	if err != nil {
		return undo, refused(err)
	}
	undos = append(undos, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return r.Close(ctx)
	})
	return undo, nil
}

// refused is what to say of a ring that could not be made.
func refused(err error) error {
	var at *startError
	errors.As(err, &at)
	switch errno := hostring.Errno(err); {
	case errno == unix.ENOMEM || errno == unix.EMFILE || errno == unix.ENFILE || errno == unix.EAGAIN || errno == unix.ETIMEDOUT:
		return err // says nothing of the host
	case errno == unix.EACCES && at == nil:
		return fmt.Errorf("%w: vm.memfd_noexec must be below 2, and no policy forbid it: %w", ErrUnsupported, err)
	case errno == unix.EPERM && at == nil:
		return fmt.Errorf("%w: kernel.yama.ptrace_scope must be below 2, and no policy forbid pidfd_getfd: %w", ErrUnsupported, err)
	case errno == unix.EPERM && at.step == stepRing:
		return fmt.Errorf("%w: kernel.io_uring_disabled must be 0, or the user in kernel.io_uring_group: %w", ErrUnsupported, err)
	}
	return fmt.Errorf("%w: %w", ErrUnsupported, err)
}
