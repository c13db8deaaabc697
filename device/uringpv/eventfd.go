// SPDX-License-Identifier: Apache-2.0

package uringpv

import "golang.org/x/sys/unix"

// one is what signal writes: in memory for good, since a system call's argument
// on the stack would move to the heap.
var one = [8]byte{1}

// signal adds one to the non-blocking eventfd fd. If its counter is full it is
// signalled already (eventfd(2)).
func signal(fd int) {
	for {
		if _, err := unix.Write(fd, one[:]); err != unix.EINTR {
			return
		}
	}
}

// drain sets the non-blocking eventfd fd to zero.
func drain(fd int) {
	var n [8]byte
	for {
		if _, err := unix.Read(fd, n[:]); err != unix.EINTR {
			return
		}
	}
}
