// SPDX-License-Identifier: Apache-2.0

package kvm

import "unsafe"

// addressOf is where b, which is mapped and not of the Go heap, lies.
func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
