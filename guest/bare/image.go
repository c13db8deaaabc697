// SPDX-License-Identifier: Apache-2.0

package bare

import (
	_ "embed" // the two programs below
	"slices"
)

//go:embed generated/bare.elf
var guest []byte

//go:embed generated/native
var native []byte

// Guest returns the guest, a static 64-bit ELF program for the boot contract of
// docs/memory-layout.md. Its command line says what it does: guest=selftest,
// checksum or bench, and the keys that the C file of that program reads. The
// caller owns the bytes.
func Guest() []byte { return slices.Clone(guest) }

// Native returns the guest's benchmark loop as a static program for Linux on
// x86-64. It takes arguments as the guest does: file=PATH (required), depth=N,
// bs=BYTES, ms=N, ios=N, seed=N, rw=randread|nop; it writes value lines to its
// stdout, and ends with status 2 if its arguments are wrong and 1 if the host
// refuses something. The caller owns the bytes.
func Native() []byte { return slices.Clone(native) }
