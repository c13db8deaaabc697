// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

// unread is a writer whose reader has gone.
type unread struct{}

func (unread) Write([]byte) (int, error) { return 0, &os.PathError{Op: "write", Err: syscall.EPIPE} }

func TestSignalsAndLostReadersEndWithTheirStatus(t *testing.T) {
	failure := &machineError{exitMachine, errors.New("what a signal made fail")}
	ctx, out, stop := interruptible(unread{})
	if got := exitStatus(ctx, failure); got != exitMachine {
		t.Errorf("exit status %d, want the machine's", got)
	}
	if _, err := out.Write([]byte("x")); err == nil {
		t.Error("a write without a reader has succeeded")
	}
	if got := exitStatus(ctx, failure); got != 128+13 {
		t.Errorf("exit status %d, want 141", got)
	}
	stop()
	ctx, _, stop = interruptible(os.Stdout)
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	if got := exitStatus(ctx, failure); got != 128+15 {
		t.Errorf("exit status %d, want 143", got)
	}
	if got := exitStatus(t.Context(), errors.New("a flag")); got != exitUsage {
		t.Errorf("exit status %d, want that of a wrong usage", got)
	}
}
