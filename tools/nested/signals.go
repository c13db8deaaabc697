// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// interruptError is a signal that asked the program to end, or stands for that: SIGPIPE.
type interruptError struct{ signal syscall.Signal }

func (e *interruptError) Error() string { return fmt.Sprintf("ended by a signal: %v", e.signal) }

// interruptible returns a context that ends with the first SIGHUP, SIGINT or SIGTERM, or
// by a call of end, its cause an *interruptError; and what passes writes on to w, and
// ends it when nobody reads them any more.
func interruptible(w io.Writer) (ctx context.Context, out io.Writer, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	end := func(s syscall.Signal) { cancel(&interruptError{s}) }
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signal.Notify(signals, syscall.SIGHUP)
	}
	// Without this a write to stdout that nobody reads would kill the process on the spot,
	// and leave machines behind. It is not ignored: what is executed would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	go func() {
		select {
		case s := <-signals:
			end(s.(syscall.Signal))
		case <-ctx.Done():
		}
		signal.Stop(signals) // the next one ends the process at once
	}()
	return ctx, &output{w, func() { end(syscall.SIGPIPE) }}, func() { cancel(context.Canceled) }
}

// output calls gone when nobody reads what is written to w.
type output struct {
	w    io.Writer
	gone func()
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		o.gone()
	}
	return n, err
}

// exitStatus is the status for err, which ended the command while ctx was as it is.
func exitStatus(ctx context.Context, err error) int {
	if i, ok := errors.AsType[*interruptError](context.Cause(ctx)); ok {
		return exitSignal + int(i.signal)
	}
	if m, ok := errors.AsType[*machineError](err); ok {
		return m.code
	}
	return exitUsage
}
