// SPDX-License-Identifier: Apache-2.0

package quiesce

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/testutil"
)

// TestWaitOutlastsTheLastReference lets a duplicate stand for the ring's.
func TestWaitOutlastsTheLastReference(t *testing.T) {
	testutil.NoLeaks(t)
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	ring, err := unix.FcntlInt(uintptr(s.File()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.Handed()
	if s.File() != -1 {
		t.Error("the sentinel kept its own reference")
	}
	for range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		if err := s.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait with a live ring: %v, want the context's error", err)
		}
		cancel()
		if s.Gone() {
			t.Fatal("Gone with a live ring")
		}
	}
	time.AfterFunc(10*time.Millisecond, func() { unix.Close(ring) })
	for range 2 {
		if err := s.Wait(context.Background()); err != nil {
			t.Errorf("Wait after the ring's end: %v", err)
		}
	}
	if !s.Gone() {
		t.Error("not Gone after Wait returned nil")
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Wait(done); err != nil {
		t.Errorf("Wait on a ring that is gone, with a cancelled context: %v", err)
	}
}

func TestSentinelWithoutARingIsGoneAtOnce(t *testing.T) {
	testutil.NoLeaks(t)
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(context.Background()); err != nil {
		t.Error(err)
	}
}
