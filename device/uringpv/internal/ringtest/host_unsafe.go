// SPDX-License-Identifier: Apache-2.0

package ringtest

import "unsafe"

// addrOf is the host's address of b, which is mmapped and stays: what an
// attacker would like to know.
func addrOf(b []byte) uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) // a number for an SQE, never a pointer again
}

// AddrOf is the host's address of b, which is mmapped or pinned.
func AddrOf(b []byte) uint64 { return addrOf(b) }
