// SPDX-License-Identifier: Apache-2.0

// Package relay is the backend that stands between a guest's rings and the
// host's kernel: it copies each SQE once, with all that it points at, checks and
// rewrites the copy, submits it on a ring of its own, and copies the CQE back.
//
// Each ring has a goroutine on an OS thread of its own, and a host ring that the
// guest never sees. The package owns both. It must not know how guests are told
// of rings, nor what is on the disks.
//
// Each SQE of the guest's is one on the host's ring, also one that is refused: that
// is submitted as one that fails at the same moment. So order, chains, drains and
// what timeouts count are the kernel's own.
//
// Invariant: the host's kernel gets only what translate composed from private
// copies; what a guest writes into its rings, iovecs, msghdrs and times is data,
// never trusted and never read twice. A request names a file of the host's table
// that stays what was checked until the request has ended. Requests in flight, CQEs
// held back and copies are bounded, so that nothing a guest does makes the host's
// memory grow.
package relay
