// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// setup is io_uring_setup(2) with signals blocked. The descriptor is close-on-exec.
//
// A signal that is pending when the kernel makes the SQ thread ends the call with
// ERESTARTNOINTR (copy_process, kernel/fork.c): the kernel begins it again by itself,
// and lets go of the first instance later, when that sets the tail of its CQ ring once
// more. In caller memory it is the second's tail, too, which is 0 from then on until
// the next completion. The runtime's preemption is a signal.
func setup(entries uint32, p *Params) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return -1, &Error{Call: "rt_sigprocmask", Errno: Errno(err)}
	}
	fd, err := bareSetup(entries, p)
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil); err != nil {
		panic(err) // the arguments are right: it has just worked
	}
	return fd, err
}
