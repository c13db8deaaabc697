// SPDX-License-Identifier: Apache-2.0

// Package hostring is io_uring from Go: set-up, the rings, registration,
// restrictions, and finding out by doing what the host's kernel offers.
//
// It owns every io_uring system call of the program. It must not know of
// guests: memory comes as a shm.View or an address, files as descriptors.
//
// Invariant: submission and completion allocate nothing and take no lock; what
// the kernel reads later lies outside the Go heap or is pinned for the call.
//
// Names and rules are those of linux/io_uring.h and of the man pages
// io_uring_setup(2), io_uring_enter(2) and io_uring_register(2).
package hostring
