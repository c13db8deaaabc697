// SPDX-License-Identifier: Apache-2.0

// Package isolated is the backend on which the guest's ring is the host's and
// belongs to a process of its own, the ring's owner, which has nothing mapped but
// guest RAM, at the addresses that the guest knows, and one page that it sleeps
// in. So a guest may put raw pointers into SQEs, iovecs and msghdrs: they reach
// guest RAM or nothing, but for that page's code, which is no secret, where the CPU
// has no protection keys to make it unreadable.
//
// It owns the owners, from their start to their last, and what else keeps a guest
// in: restrictions on opcodes and to registered files, an empty table of
// descriptors, no capabilities, a bound on the growth of files for each ring. It
// must not know how guests are told of rings, nor what is in the files.
//
// Invariant: the monitor never submits on an owner's ring. A request runs in the
// address space of the task that submits it, and the owner's SQ thread is the only
// one that does.
package isolated
