// SPDX-License-Identifier: Apache-2.0

// Package mixed is the backend that is two: a fast one, which serves every ring
// that it can, and a second one for rings that name an opcode which the fast one
// lacks. Passthrough cannot offer FALLOCATE, for the kernel's restrictions do not
// see the range and a file could grow; with the relay behind it a guest's driver
// gets it on a ring of its own, and its data rings stay the host's.
//
// The second one also serves a ring of which the fast one says that it cannot,
// and that this does not concern others (uringpv.ErrElsewhere).
//
// It owns the choice, ring by ring. It must not know what the two do.
//
// Invariant: a ring that the fast backend can serve is the fast backend's.
package mixed
