// SPDX-License-Identifier: Apache-2.0

// Package disk opens the host's files and block devices as disks for guests. It
// owns the questions that come before the first I/O: is this a disk at all, is
// it in use by somebody else, how large is it, which alignment does direct I/O
// want.
//
// It must not know how a disk is read and written, nor look at what is on it.
//
// Invariant: while a Disk is open, nobody who takes locks writes the same file
// from elsewhere, and nobody reads it from elsewhere if this Disk can be
// written.
package disk
