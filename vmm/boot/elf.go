// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"debug/elf"
	"fmt"

	"github.com/uringpv/uringpv/memmap"
)

// loadELF copies the segments of a static x86-64 ELF program to their physical
// addresses, which lie in RAM at ImageStart or above, and returns its entry.
func loadELF(m *memmap.Memory, image []byte) (entry uint64, err error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, fmt.Errorf("guest program: %w", err)
	}
	defer f.Close()
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC {
		return 0, fmt.Errorf("guest program: %v %v %v: must be a static 64-bit x86-64 executable", f.Class, f.Machine, f.Type)
	}
	inside := false
	for i, p := range f.Progs {
		if p.Type != elf.PT_LOAD || p.Memsz == 0 {
			continue
		}
		r := memmap.Range{Start: memmap.Addr(p.Paddr), Length: p.Memsz}
		if p.Filesz > p.Memsz || p.Paddr < ImageStart || !m.Layout().Contains(r) {
			return 0, fmt.Errorf("guest program: segment %d at %s with %d bytes in the file: must lie in guest RAM above %#x", i, r, p.Filesz, uint64(ImageStart))
		}
		if p.Vaddr != p.Paddr {
			return 0, fmt.Errorf("guest program: segment %d is linked at %#x and loaded at %#x: must be the same, memory is mapped to itself", i, p.Vaddr, p.Paddr)
		}
		size := uint64(len(image))
		if p.Off > size || p.Filesz > size-p.Off {
			return 0, fmt.Errorf("guest program: segment %d has %d bytes at %d of a file of %d: it is cut short", i, p.Filesz, p.Off, size)
		}
		// What the file does not fill is zero already.
		if err := m.WriteAt(image[p.Off:p.Off+p.Filesz], r.Start); err != nil {
			return 0, err
		}
		inside = inside || f.Entry >= p.Paddr && f.Entry-p.Paddr < p.Memsz
	}
	if !inside {
		return 0, fmt.Errorf("guest program: entry %#x is in none of its segments", f.Entry)
	}
	return f.Entry, nil
}
