// SPDX-License-Identifier: Apache-2.0

// Package relay is the backend that stands between a guest's rings and the
// host's kernel: it copies each SQE once, checks and rewrites the copy, submits
// it on a ring of its own, and copies the CQE back.
//
// Each ring has a goroutine on an OS thread of its own, and a host ring that the
// guest never sees. The package owns both. It must not know how guests are told
// of rings, nor what is on the disks.
//
// Invariant: the host's kernel gets only what translate composed from a private
// copy; what a guest writes into its rings is data, never trusted and never read
// twice. Requests in flight and CQEs held back are together never more than a
// ring has slots, so that nothing a guest does makes the host's memory grow.
package relay
