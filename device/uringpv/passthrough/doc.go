// SPDX-License-Identifier: Apache-2.0

// Package passthrough is the backend on which the guest's ring is the host's:
// an io_uring instance whose rings and SQEs lie in guest RAM
// (IORING_SETUP_NO_MMAP), so that nobody stands between a guest and the kernel.
//
// It owns the host rings, a thread for each that serves the doorbell, and what
// keeps a guest in: restrictions that leave only opcodes without a raw pointer,
// on registered files and buffers; a bound on the growth of files; a watchdog
// for completions that the guest does not take. It must not know how guests are
// told of rings, nor what is on the disks.
//
// Invariant: no word of a ring is trusted. The guest can write all of them at
// any time; what the package decides by, it asks the kernel for.
package passthrough
