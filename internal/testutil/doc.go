// SPDX-License-Identifier: Apache-2.0

// Package testutil is what the tests of several packages share: which host
// features they need, scratch files, and a check that nothing is left behind.
//
// It must not be imported outside tests.
//
// Invariant: a skip says why, and REQUIRE_KVM=1 or REQUIRE_IO_URING=1 turns it
// into a failure.
package testutil
