// SPDX-License-Identifier: Apache-2.0

// Package uring gives programs in a Linux guest rings of a uringpv device:
// /dev/uringpvN and the files in /dev/uringpv/.
//
// Open makes a mediated ring, which is used like an io_uring: the driver pins
// memory and translates addresses. OpenMapped makes a ring that is the process's
// own, with a pool of memory that the host confines it to: as long as it is busy,
// its requests cost no system call and no VM exit.
//
// The package owns the mappings and descriptors of rings, and nothing of the
// program's. It must not know the monitor: it knows the driver's ioctls
// (guest/kmod/uringpv_user.h) only.
//
// Invariant: the words of a ring that the other side writes are loaded once, and
// only differences and indices masked by the ring's size are made of them.
package uring
