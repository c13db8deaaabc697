// SPDX-License-Identifier: Apache-2.0

// Package bus dispatches a guest's accesses, by port or by guest-physical
// address, to who has claimed them.
//
// It owns the claims. It must not know the devices.
//
// Invariant: claims never overlap, and a dispatch takes no lock and allocates
// nothing; claims may change meanwhile.
package bus
