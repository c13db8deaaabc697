// SPDX-License-Identifier: Apache-2.0

// Package uringpv is the device model of docs/protocol.md: control registers,
// admin commands, the life of rings, the host's policy, statistics. It owns an
// eventfd for each doorbell and each interrupt vector, which the monitor
// connects to ioeventfds and irqfds.
//
// How SQEs reach the host's kernel is a Backend's business. The package must not
// know which backend serves it, nor about KVM, PCI or vCPUs.
//
// Invariant: whatever a guest writes into registers and admin commands, the
// device neither panics nor touches memory outside guest RAM, and a backend is
// given nothing but a RingSpec that holds what its documentation promises.
package uringpv
