// SPDX-License-Identifier: Apache-2.0

package interrupt

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

func cause(t *testing.T, ctx context.Context) *Error {
	t.Helper()
	<-ctx.Done()
	e, ok := errors.AsType[*Error](context.Cause(ctx))
	if !ok {
		t.Fatalf("the cause is %v", context.Cause(ctx))
	}
	return e
}

func TestASignalEndsTheContextWithItsStatus(t *testing.T) {
	for s, want := range map[syscall.Signal]struct {
		text   string
		status int
	}{
		syscall.SIGINT:  {"ended by SIGINT", 130},
		syscall.SIGTERM: {"ended by SIGTERM", 143},
		syscall.SIGHUP:  {"ended by SIGHUP", 129},
	} {
		if signal.Ignored(s) {
			continue // as nohup has it; TestAnIgnoredSIGHUPStaysIgnored
		}
		ctx, _, stop := Context(t.Context())
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		if e := cause(t, ctx); e.Error() != want.text || e.Status() != want.status {
			t.Errorf("%v: %q, status %d; want %q, %d", s, e, e.Status(), want.text, want.status)
		}
		stop()
	}
}

func TestAnIgnoredSIGHUPStaysIgnored(t *testing.T) {
	was := signal.Ignored(syscall.SIGHUP)
	signal.Ignore(syscall.SIGHUP)
	if !was {
		defer signal.Reset(syscall.SIGHUP)
	}
	ctx, end, stop := Context(t.Context())
	defer stop()
	if !signal.Ignored(syscall.SIGHUP) {
		t.Fatal("SIGHUP was ignored and is not any more")
	}
	end(syscall.SIGPIPE)
	if e := cause(t, ctx); e.Error() != "ended by SIGPIPE" || e.Status() != 141 {
		t.Errorf("%q, status %d", e, e.Status())
	}
}
