// SPDX-License-Identifier: Apache-2.0

package passthrough

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/internal/direct"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

// sharing is a backend whose rings have one SQ thread.
type sharing struct{ uringpv.Backend }

func (b sharing) NewRing(s uringpv.RingSpec) (uringpv.Ring, error) {
	s.SQThreadShared = true
	return b.Backend.NewRing(s)
}

func newSharing(t testing.TB, m *memmap.Memory, files []uringpv.File) uringpv.Backend {
	t.Helper()
	return sharing{newBackend(t, m, files)}
}

func TestWithASharedThread(t *testing.T) {
	if os.Getenv("URINGPV_TEST_FULL") == "" {
		t.Skip("NOT TESTED: half a minute; URINGPV_TEST_FULL=1 runs it, as make test-nested-full does")
	}
	ringtest.Run(t, newSharing)
}

// makes are rings with a thread of their own, and with a shared one.
var makes = map[string]ringtest.Make{"own": newBackend, "shared": newSharing}

// TestASharedThreadServesTheOthers has two guests with one SQ thread, of which one
// does all it can to keep it busy and never takes a CQE.
func TestASharedThreadServesTheOthers(t *testing.T) {
	testutil.NoLeaks(t)
	g := ringtest.NewRig(t, newSharing, ringtest.Disk(t, 1<<20, false))
	good := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll})
	bad := g.Setup(t, ringtest.Config{SQ: 256, Flags: hostring.SetupSQPoll})
	if n := ringtest.SQThreads(t); n != 1 {
		t.Errorf("two rings have %d SQ threads", n)
	}
	done := make(chan error, 1)
	go func() { done <- bad.Flood(20 * time.Second) }()
	for served := 0; ; served++ {
		if res := good.Do(t, ringtest.NOP(uint64(served))); res != 0 {
			t.Fatalf("NOP %d gives %d", served, res)
		}
		select {
		case err := <-done:
			var guest *uringpv.GuestError
			if !errors.As(err, &guest) {
				t.Errorf("the flood ended with %v, want a guest's error", err)
			}
			if served < 10 {
				t.Errorf("the other ring was served %d times", served)
			}
			if res := good.Do(t, ringtest.NOP(1)); res != 0 {
				t.Errorf("NOP after the flood gives %d", res)
			}
			return
		default:
		}
	}
}

// TestAQuietRingOnABusyThreadIsWatched has a ring at rest begin to flood without a
// doorbell, on a thread that another ring keeps awake.
func TestAQuietRingOnABusyThreadIsWatched(t *testing.T) {
	testutil.NoLeaks(t)
	g := ringtest.NewRig(t, newSharing, ringtest.Disk(t, 1<<20, false))
	busy := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll})
	quiet := g.Setup(t, ringtest.Config{SQ: 256, Flags: hostring.SetupSQPoll})
	start := time.Now()
	begin, done := make(chan struct{}), make(chan error, 1)
	go func() {
		<-begin
		done <- quiet.FloodSilently(20 * time.Second)
	}()
	for {
		if res := busy.Do(t, ringtest.NOP(1)); res != 0 {
			t.Fatalf("NOP gives %d", res)
		}
		if begin != nil && time.Since(start) > direct.DefaultIdle+3*direct.Interval {
			close(begin)
			begin = nil
		}
		select {
		case err := <-done:
			var guest *uringpv.GuestError
			if !errors.As(err, &guest) {
				t.Errorf("the flood ended with %v, want a guest's error", err)
			}
			return
		default:
		}
	}
}
