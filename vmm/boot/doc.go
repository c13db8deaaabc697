// SPDX-License-Identifier: Apache-2.0

// Package boot puts a guest's program into memory and says in which state its
// first vCPU begins.
//
// It owns the low megabyte of guest memory before the guest runs
// (docs/memory-layout.md) and the boot contract of freestanding guests. It must
// not know of KVM.
//
// Invariant: nothing is written outside guest RAM, whatever the program's file
// holds.
package boot
