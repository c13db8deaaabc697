// SPDX-License-Identifier: Apache-2.0

package ringtest

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Unprivileged runs f on a thread without CAP_IPC_LOCK, in a process that may
// lock no more than memlock bytes. Rings that f makes are counted like any
// user's. f must not end the test by itself: no Fatal, no Skip.
func Unprivileged(t *testing.T, memlock uint64, f func()) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: min(memlock, was.Max), Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &was); err != nil {
			t.Error(err)
		}
	}()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread's capabilities are not what others expect
		done <- func() error {
			h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var c [2]unix.CapUserData
			if err := unix.Capget(&h, &c[0]); err != nil {
				return err
			}
			c[0].Effective &^= 1 << unix.CAP_IPC_LOCK
			if err := unix.Capset(&h, &c[0]); err != nil {
				return err
			}
			f()
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
