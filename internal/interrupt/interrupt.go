// SPDX-License-Identifier: Apache-2.0

package interrupt

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Error is a signal that asked the program to end, or stands for that: SIGPIPE.
type Error struct{ Signal syscall.Signal }

func (e *Error) Error() string { return "ended by " + unix.SignalName(e.Signal) }

// Status is the exit status, as a shell reports a signal's: 128 and its number.
func (e *Error) Status() int { return 128 + int(e.Signal) }

// Context returns a context that the first SIGHUP (unless it is ignored, as nohup(1) has
// it), SIGINT or SIGTERM cancels, or a call of end, with an *Error as its cause. A second
// signal ends the process at once, for those whose teardown hangs. Until stop, a write to
// stdout that nobody reads fails with EPIPE, and does not end the process.
func Context(parent context.Context) (ctx context.Context, end func(syscall.Signal), stop context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	end = func(s syscall.Signal) { cancel(&Error{s}) }
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	// Who a SIGPIPE comes from is not known here: the error of the write tells. It is not
	// ignored, for what is executed would inherit that.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	go func() {
		select {
		case s := <-signals:
			end(s.(syscall.Signal))
		case <-ctx.Done():
		}
		signal.Stop(signals)
	}()
	return ctx, end, func() {
		signal.Stop(signals)
		signal.Stop(pipes)
		cancel(context.Canceled)
	}
}
