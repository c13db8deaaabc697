// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/uringpv/uringpv/memmap"
)

// Where things lie before a freestanding guest runs: GPAs. Page 0 is not
// mapped, so that a null pointer faults.
const (
	pml4Addr      = 0x1000
	pdptAddr      = 0x2000 // of the first 512 GiB
	lowPTAddr     = 0x3000 // of the first 2 MiB
	gdtAddr       = 0x8000
	infoAddr      = 0x9000
	cmdlineAddr   = 0xa000
	CountersAddr  = 0xb000
	stackTop      = 0x10000 // of 16 KiB for the guest's first instructions
	pdAddr        = 0x10000 // page directories, one for each GiB
	maxPDs        = 0x70
	ImageStart    = 0x200000
	pageTableSize = 4096
)

// maxCmdline is the longest command line in bytes: a page, with its NUL.
const maxCmdline = pageTableSize - 1

// infoMagic and infoVersion begin struct bootinfo.
const (
	infoMagic   = 0x69425075 // "uPBi"
	infoVersion = 1
	maxRAM      = 8
)

// Info is struct bootinfo of guest/bare/include/bootinfo.h, which the guest
// finds by RDI.
type Info struct {
	Magic    uint32
	Version  uint32
	Size     uint32
	NrCPUs   uint32
	TSCkHz   uint64
	Cmdline  uint64 // GPA of a NUL-terminated string
	Counters uint64 // GPA of struct counters
	NrRAM    uint32
	Resv     uint32
	RAM      [maxRAM]struct{ Start, Length uint64 }
}

// Counters is struct counters of bootinfo.h, which a guest asks for by the
// counters port.
type Counters struct {
	KVMExits      uint64
	IRQExits      uint64
	IRQInjections uint64
	VMMSyscalls   uint64
	HostNs        uint64 // since the machine was made
	Resv          [3]uint64
}

// Bytes is c as it lies in guest memory.
func (c Counters) Bytes() []byte {
	b, err := binary.Append(nil, binary.LittleEndian, c)
	if err != nil {
		panic(err) // Counters has no fixed size: its test finds that
	}
	return b
}

// Bare is a freestanding guest.
type Bare struct {
	ELF     []byte
	Cmdline string // at most 4095 bytes, without NUL
	CPUs    int
	TSCkHz  uint64
}

// Page table bits.
const (
	ptePresent = 1 << 0
	pteWrite   = 1 << 1
	pteUser    = 1 << 2
	pteLarge   = 1 << 7
	pteAll     = ptePresent | pteWrite | pteUser
)

// Load puts the guest, its page tables and its boot information into m, and
// returns the state in which its first vCPU begins.
func (g Bare) Load(m *memmap.Memory) (Entry, error) {
	if len(g.Cmdline) > maxCmdline || bytes.IndexByte([]byte(g.Cmdline), 0) >= 0 {
		return Entry{}, fmt.Errorf("guest command line of %d bytes: must be at most %d, without NUL", len(g.Cmdline), maxCmdline)
	}
	rip, err := loadELF(m, g.ELF)
	if err != nil {
		return Entry{}, err
	}
	if err := writePageTables(m); err != nil {
		return Entry{}, err
	}
	info := Info{
		Magic: infoMagic, Version: infoVersion, NrCPUs: uint32(g.CPUs), TSCkHz: g.TSCkHz,
		Cmdline: cmdlineAddr, Counters: CountersAddr,
	}
	info.Size = uint32(binary.Size(info))
	for _, r := range m.Layout().Regions() {
		info.RAM[info.NrRAM].Start, info.RAM[info.NrRAM].Length = uint64(r.Start), r.Length
		info.NrRAM++
	}
	b, err := binary.Append(nil, binary.LittleEndian, info)
	if err != nil {
		return Entry{}, err
	}
	for _, w := range []struct {
		at memmap.Addr
		b  []byte
	}{
		{infoAddr, b}, {cmdlineAddr, append([]byte(g.Cmdline), 0)},
		{gdtAddr, words(0, gdtCode, gdtData)},
	} {
		if err := m.WriteAt(w.b, w.at); err != nil {
			return Entry{}, err
		}
	}
	return Entry{RIP: rip, RSP: stackTop, RDI: infoAddr, CR3: pml4Addr, GDT: gdtAddr, GDTLimit: 3*8 - 1, Code: CodeSelector, Data: DataSelector}, nil
}

// writePageTables maps the first 4 GiB and all RAM above them to themselves, for
// CPL 0 and 3, by pages of 2 MiB; the first 2 MiB by pages of 4 KiB, without
// page 0.
func writePageTables(m *memmap.Memory) error {
	top := uint64(memmap.HoleEnd)
	for _, r := range m.Layout().Regions() {
		if end, ok := r.End(); ok {
			top = max(top, uint64(end))
		}
	}
	pds := (top + 1<<30 - 1) >> 30
	if pds > maxPDs {
		return fmt.Errorf("guest RAM of %d bytes: a freestanding guest can have at most %d GiB", m.Layout().Size(), maxPDs-1)
	}
	put := func(table, i, entry uint64) error {
		return m.WriteAt(words(entry), memmap.Addr(table+8*i))
	}
	if err := put(pml4Addr, 0, pdptAddr|pteAll); err != nil {
		return err
	}
	for g := range pds {
		pd := uint64(pdAddr) + g*pageTableSize
		if err := put(pdptAddr, g, pd|pteAll); err != nil {
			return err
		}
		table := make([]uint64, 512)
		for i := range table {
			table[i] = g<<30 | uint64(i)<<21 | pteAll | pteLarge
		}
		if g == 0 {
			table[0] = lowPTAddr | pteAll
		}
		if err := m.WriteAt(words(table...), memmap.Addr(pd)); err != nil {
			return err
		}
	}
	low := make([]uint64, 512)
	for i := 1; i < len(low); i++ {
		low[i] = uint64(i)<<12 | pteAll
	}
	return m.WriteAt(words(low...), lowPTAddr)
}

// words is v as it lies in guest memory.
func words(v ...uint64) []byte {
	b := make([]byte, 0, 8*len(v))
	for _, w := range v {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}
