// SPDX-License-Identifier: Apache-2.0

// Package memmap owns a guest's physical address space: which addresses are
// RAM, where that RAM lies on the host, and every checked access to it.
//
// Guest RAM is one memfd, mapped so that host address = Base + GPA. The host
// addresses around it are reserved and inaccessible, so that a miscounted
// address, ours or the kernel's, faults and never reaches other memory.
//
// It must not know what lies in the memory, nor about KVM or io_uring.
//
// Invariant: no address or length that a guest supplies leads to an access
// outside the guest's RAM.
package memmap
