// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/uringpv/uringpv/internal/interrupt"
)

// output passes writes on and calls gone when nobody reads them: machines would run on.
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

// exitStatus is the status for err, which ended the command while ctx was as it is: a
// signal's, whatever that made fail.
func exitStatus(ctx context.Context, err error) int {
	if i, ok := errors.AsType[*interrupt.Error](context.Cause(ctx)); ok {
		return i.Status()
	}
	if m, ok := errors.AsType[*machineError](err); ok {
		return m.code
	}
	return exitUsage
}
