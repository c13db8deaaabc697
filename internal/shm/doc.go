// SPDX-License-Identifier: Apache-2.0

// Package shm gives atomic, bounds-checked access to words in memory that
// somebody else writes at the same time: a guest, or the host's kernel.
//
// It owns the rule that shared memory is touched in no other way. It must not
// know what the words mean.
//
// Invariant: no access leaves the View that it was made through, whatever the
// offset, and every word access is naturally aligned and atomic. What is no
// whole word moves byte by byte; a byte cannot tear.
package shm
