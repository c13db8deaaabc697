// SPDX-License-Identifier: Apache-2.0

// Package serial is a 16550A serial port: what a PC's first COM port is to a
// guest.
//
// It owns the port's registers. It must not know of KVM: its interrupt is a
// function.
//
// Invariant: output is never held back, and no guest access blocks on input.
package serial
