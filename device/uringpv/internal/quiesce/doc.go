// SPDX-License-Identifier: Apache-2.0

// Package quiesce tells when the kernel has really let go of an io_uring
// instance. Closing a ring's descriptor only begins its end: requests in flight
// go on, and so do the reads and writes of their buffers, until a kernel worker
// frees the ring.
//
// It owns a pipe for each ring. The ring's table of files holds the only
// reference to the read end; the kernel drops it when it frees the ring, after
// its last request, and poll(2) on the write end then reports POLLERR. It must
// not know what the ring does.
//
// Invariant: Wait returns nil only when the ring is gone.
package quiesce
