// SPDX-License-Identifier: Apache-2.0

// Package ringtest is the suite that every backend has to pass, and the guest
// driver that it drives rings with: a plain goroutine that plays the guest on
// guest RAM without a guest, by docs/protocol.md.
//
// It owns the tests' expectations of what a ring does. It must not know which
// backend it drives, but for what the backend's Capabilities say.
//
// Invariant: what passes here on one backend and fails on another is a bug in
// one of them.
package ringtest
