// SPDX-License-Identifier: Apache-2.0

// Package devicetest plays the guest for the tests of the device and of its
// backends: a driver that speaks the admin protocol through registers and guest
// RAM, and an interpreter that makes a misbehaving one out of fuzz input.
//
// It must not know how the device works inside, nor what a backend does with a
// ring.
//
// Invariant: it touches the device only in ways that a guest can.
package devicetest
