// SPDX-License-Identifier: Apache-2.0

// Package direct serves a guest's ring that is the host's: an io_uring instance
// whose rings and SQEs lie in guest RAM (IORING_SETUP_NO_MMAP). It is what the
// backends that make such rings, each in its own way, have in common.
//
// It owns a ring's thread, which serves the doorbell, registration and
// restrictions, the watchdog for what a guest leaves to the kernel, and the ring's
// end. It must not know whose process a ring belongs to, nor what keeps the guest
// in there.
//
// Invariant: no word of a ring is trusted. The guest can write all of them at
// any time; what the package decides by, it asks the kernel for.
package direct
