// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/uringpv/uringpv/internal/interrupt"
)

// unread is a writer whose reader has gone.
type unread struct{}

func (unread) Write([]byte) (int, error) { return 0, &os.PathError{Op: "write", Err: syscall.EPIPE} }

func TestALostReaderEndsWithItsStatus(t *testing.T) {
	failure := &machineError{exitMachine, errors.New("what a signal made fail")}
	ctx, cancel := context.WithCancelCause(t.Context())
	out := &output{unread{}, func() { cancel(&interrupt.Error{Signal: syscall.SIGPIPE}) }}
	if got := exitStatus(ctx, failure); got != exitMachine {
		t.Errorf("exit status %d, want the machine's", got)
	}
	if _, err := out.Write([]byte("x")); err == nil {
		t.Error("a write without a reader has succeeded")
	}
	if got := exitStatus(ctx, failure); got != 128+13 {
		t.Errorf("exit status %d, want 141", got)
	}
	if got := exitStatus(t.Context(), errors.New("a flag")); got != exitUsage {
		t.Errorf("exit status %d, want that of a wrong usage", got)
	}
}
