// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"

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
		b := make([]byte, p.Filesz) // memory is zero already
		if _, err := io.ReadFull(p.Open(), b); err != nil {
			return 0, fmt.Errorf("guest program: segment %d: %w", i, err)
		}
		if err := m.WriteAt(b, r.Start); err != nil {
			return 0, err
		}
		inside = inside || f.Entry >= p.Paddr && f.Entry-p.Paddr < p.Memsz
	}
	if !inside {
		return 0, fmt.Errorf("guest program: entry %#x is in none of its segments", f.Entry)
	}
	return f.Entry, nil
}
