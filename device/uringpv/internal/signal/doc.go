// SPDX-License-Identifier: Apache-2.0

// Package signal writes and reads eventfds: doorbells, vectors, and what wakes a ring's
// thread.
//
// It owns nothing. It must not know what a signal means.
//
// Invariant: no call waits, and none allocates.
package signal
