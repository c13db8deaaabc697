// SPDX-License-Identifier: Apache-2.0

// Package buffers says by which host addresses the host's io_uring knows ranges of guest
// RAM.
//
// It owns nothing. It must not know whose rings they are registered with.
//
// Invariant: every buffer lies in guest RAM, or is empty.
package buffers
