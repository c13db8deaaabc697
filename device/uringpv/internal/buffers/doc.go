// SPDX-License-Identifier: Apache-2.0

// Package buffers says by which host addresses the host's io_uring knows ranges of guest
// RAM.
//
// It owns the registered buffers that a process's rings share. It must not know which
// rings those are.
//
// Invariant: every buffer lies in guest RAM, or is empty.
package buffers
