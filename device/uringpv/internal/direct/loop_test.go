// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"errors"
	"testing"
	"time"

	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
)

// TestAWatchdogThatLearnsNothingCostsLittle: the kernel does not tell its counters
// while somebody has the ring's lock, however often it is asked.
func TestAWatchdogThatLearnsNothingCostsLittle(t *testing.T) {
	testutil.NeedIOUring(t)
	host, err := hostring.New(hostring.Config{Entries: 1})
	if err != nil {
		t.Fatal(err)
	}
	// With its account open, so that each look at a closed one fails.
	_, err = host.Info()
	if err := errors.Join(err, host.Close()); err != nil {
		t.Fatal(err)
	}
	r := &Ring{host: host}
	var spent time.Duration
	for ended := false; !ended; {
		calls, now := r.count.SystemCalls.Load(), time.Now()
		err := r.watch()
		calls = r.count.SystemCalls.Load() - calls
		wait := r.next.Sub(now)
		switch {
		case errors.Is(err, errInfo):
			ended = true
		case err != nil:
			t.Fatal(err)
		case calls > 1 && (calls > 300 || wait < Interval):
			t.Fatalf("a look of %d system calls, the next %v after it; want 300 at most, %v", calls, wait, Interval)
		}
		spent += wait
		if spent > 90*time.Second {
			t.Fatalf("after %v without an account the ring is not stopped", spent)
		}
	}
	if spent < 50*time.Second {
		t.Errorf("the ring is stopped after %v without an account, want a minute", spent)
	}
	if n := r.count.SystemCalls.Load(); n > 40_000 {
		t.Errorf("%d system calls in that time, want 40,000 at most", n)
	}
}
