// SPDX-License-Identifier: Apache-2.0

package bare

import (
	_ "embed" // the three programs below
	"slices"
)

//go:embed generated/bare.elf
var guest []byte

//go:embed generated/native
var native []byte

//go:embed generated/conformance
var nativeConformance []byte

// Guest returns the guest, a static 64-bit ELF program for the boot contract of
// docs/memory-layout.md, and for PVH, by which other monitors boot it. Its command
// line says what it does: guest=selftest, checksum, bench, bench-virtio or
// conformance, and the keys that the C file of that program reads. The caller owns
// the bytes.
func Guest() []byte { return slices.Clone(guest) }

// Native returns the guest's benchmark loop as a static program for Linux on
// x86-64. It takes arguments as the guest does: file=PATH (required), depth=N,
// rings=N, bs=BYTES, ms=N, ios=N, seed=N, direct=on, irq=on and
// rw=randread|randwrite|read|write|nop|fsync; it writes value lines to its stdout,
// and ends with status 1 if its arguments are wrong or the host refuses something.
// The caller owns the bytes.
func Native() []byte { return slices.Clone(native) }

// NativeConformance returns those of the guest's conformance cases that make sense
// without a device, as a static program for Linux on x86-64: the same sequences on
// the host's own io_uring. It takes listener=PATH (required: where it makes a
// socket, which it leaves there) and case=NAME, and writes to its stdout what the
// guest writes: a case line for each case and, for most, a value trace-NAME with
// the results in their order. It ends with status 1 if a case failed or the host
// refuses something. The caller owns the bytes.
func NativeConformance() []byte { return slices.Clone(nativeConformance) }
