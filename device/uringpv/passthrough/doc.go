// SPDX-License-Identifier: Apache-2.0

// Package passthrough is the backend on which the guest's ring is the host's:
// an io_uring instance whose rings and SQEs lie in guest RAM
// (IORING_SETUP_NO_MMAP), so that nobody stands between a guest and the kernel.
//
// It owns the host rings, which belong to this process, and what keeps a guest
// in: opcodes without a raw pointer only, on registered files and buffers; a bound
// on the growth of files; credentials without privileges. It must not know how
// guests are told of rings, nor what is on the disks. What serves a ring is
// internal/direct.
//
// Invariant: no request of a guest's can name memory of this process, which is
// the one that it would reach.
package passthrough
