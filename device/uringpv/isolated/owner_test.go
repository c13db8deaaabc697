// SPDX-License-Identifier: Apache-2.0

package isolated

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A thread that gets no processor between its look at the clock and its poll waits no
// longer than one that does.
func TestWaitEndsAfterItsDeadline(t *testing.T) {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	for _, within := range []time.Duration{0, time.Millisecond, -time.Nanosecond, -3 * time.Millisecond, -time.Hour} {
		done := make(chan bool, 1)
		go func() {
			o := &owner{pidfd: pidfd}
			ended, err := o.wait(within)
			done <- ended || err != nil
		}()
		select {
		case wrong := <-done:
			if wrong {
				t.Errorf("within %v: the process, which lives, has ended", within)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("within %v: still waiting after 10 s", within)
		}
	}
}
