// SPDX-License-Identifier: Apache-2.0

// Package pci is a guest's PCI bus: configuration mechanism #1, functions with
// 32-bit memory BARs, and MSI-X.
//
// It owns configuration space, the place of the BARs and the MSI-X tables. It
// must not know of KVM, nor what the functions do: an interrupt vector is a
// Vector, a BAR's content a bus.Handler.
//
// Invariant: a BAR answers only inside Window, never over another claim, and
// whatever a guest writes changes nothing outside the function it names.
//
// The rules are the PCI Local Bus Specification 3.0's.
package pci
