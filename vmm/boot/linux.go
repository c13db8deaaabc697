// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/uringpv/uringpv/memmap"
)

// Where things lie before a Linux kernel runs: GPAs. The kernel finds them by
// boot_params and reserves what it still needs.
const (
	zeroPageAddr    = 0x7000
	linuxGDTAddr    = 0x8000
	linuxPML4Addr   = 0x9000
	linuxPDPTAddr   = 0xa000
	linuxPDAddr     = 0xb000 // four, of the first 4 GiB
	linuxStackTop   = 0x10000
	linuxCmdline    = 0x20000
	maxLinuxCmdline = 64 << 10
	lowRAMEnd       = 0x9fc00 // of what a PC calls conventional memory
	highRAMStart    = 0x100000
)

// Offsets in a bzImage's setup header, which are those in struct boot_params too
// (Documentation/arch/x86/boot.rst), and other fields of boot_params.
const (
	hdrSetupSects   = 0x1f1
	hdrBootFlag     = 0x1fe
	hdrJump         = 0x200
	hdrMagic        = 0x202
	hdrVersion      = 0x206
	hdrLoader       = 0x210
	hdrRamdisk      = 0x218
	hdrRamdiskSize  = 0x21c
	hdrCmdline      = 0x228
	hdrInitrdMax    = 0x22c
	hdrAlignment    = 0x230
	hdrRelocatable  = 0x234
	hdrXLoadFlags   = 0x236
	hdrCmdlineSize  = 0x238
	hdrPrefAddress  = 0x258
	hdrInitSize     = 0x260
	hdrEnd          = 0x268
	paramsRSDP      = 0x070
	paramsE820Count = 0x1e8
	paramsE820      = 0x2d0
	paramsSize      = 4096

	xlfKernel64 = 1 << 0 // a 64-bit entry point at 0x200
	entry64     = 0x200

	minProtocol = 0x20c // the first that has xloadflags: Linux 3.8
	otherLoader = 0xff

	e820RAM      = 1
	e820Reserved = 2
)

// Linux is a Linux kernel to boot by its 64-bit entry point.
type Linux struct {
	Kernel     []byte    // a bzImage (vmlinuz), or an ELF vmlinux
	Initrd     io.Reader // nil: none
	InitrdSize int64     // bytes
	Cmdline    string
	ACPI       ACPI
}

// kernel is a kernel in memory.
type kernel struct {
	entry      uint64
	start, end uint64 // what it uses before it knows its memory
	header     []byte // of boot_params from hdrSetupSects on
	initrdMax  uint64 // the highest address that an initrd may end at
	maxCmdline int
}

// Load puts the kernel, its initrd, tables and parameters into m, and returns the
// state in which its first vCPU begins.
func (l Linux) Load(m *memmap.Memory) (Entry, error) {
	var k kernel
	var err error
	switch {
	case bytes.HasPrefix(l.Kernel, []byte(elf.ELFMAG)):
		k, err = loadVmlinux(m, l.Kernel)
	case len(l.Kernel) >= hdrEnd && string(l.Kernel[hdrMagic:hdrMagic+4]) == "HdrS":
		k, err = loadBzImage(m, l.Kernel)
	default:
		err = errors.New("kernel: neither a bzImage (vmlinuz) nor an ELF vmlinux for x86-64")
	}
	if err != nil {
		return Entry{}, err
	}
	if len(l.Cmdline) > k.maxCmdline || strings.ContainsRune(l.Cmdline, 0) {
		return Entry{}, fmt.Errorf("kernel command line of %d bytes: this kernel takes at most %d, without NUL", len(l.Cmdline), k.maxCmdline)
	}
	initrd, err := l.loadInitrd(m, k)
	if err != nil {
		return Entry{}, err
	}
	rsdp, err := l.ACPI.Load(m)
	if err != nil {
		return Entry{}, err
	}
	params := make([]byte, paramsSize)
	copy(params[hdrSetupSects:], k.header)
	le := binary.LittleEndian
	params[hdrLoader] = otherLoader
	le.PutUint32(params[hdrRamdisk:], uint32(initrd.Start))
	le.PutUint32(params[hdrRamdiskSize:], uint32(initrd.Length))
	le.PutUint32(params[hdrCmdline:], linuxCmdline)
	le.PutUint64(params[paramsRSDP:], rsdp)
	params[paramsE820Count] = byte(putE820(params[paramsE820:], m.Layout()))
	for _, w := range []struct {
		at memmap.Addr
		b  []byte
	}{
		{zeroPageAddr, params}, {linuxCmdline, append([]byte(l.Cmdline), 0)},
		{linuxGDTAddr, words(0, 0, gdtCode, gdtData)},
	} {
		if err := m.WriteAt(w.b, w.at); err != nil {
			return Entry{}, err
		}
	}
	if err := writeLinuxTables(m); err != nil {
		return Entry{}, err
	}
	return Entry{
		RIP: k.entry, RSP: linuxStackTop, RSI: zeroPageAddr, CR3: linuxPML4Addr,
		GDT: linuxGDTAddr, GDTLimit: 4*8 - 1, Code: linuxCode, Data: linuxData,
	}, nil
}

// __BOOT_CS and __BOOT_DS, as the boot protocol asks for.
const (
	linuxCode = 0x10
	linuxData = 0x18
)

// loadBzImage copies the kernel's protected-mode part to where it likes to run,
// or, in a machine too small for that, to the lowest place.
func loadBzImage(m *memmap.Memory, image []byte) (kernel, error) {
	le := binary.LittleEndian
	version := le.Uint16(image[hdrVersion:])
	if version < minProtocol || le.Uint16(image[hdrXLoadFlags:])&xlfKernel64 == 0 {
		return kernel{}, fmt.Errorf("kernel: boot protocol %d.%02d without a 64-bit entry point: a 64-bit kernel of Linux 3.8 or newer is needed", version>>8, version&0xff)
	}
	sects := int(image[hdrSetupSects])
	if sects == 0 {
		sects = 4
	}
	setup := (sects + 1) * 512
	headerEnd := hdrMagic + int(image[hdrJump+1])
	if setup >= len(image) || headerEnd > len(image) || headerEnd < hdrEnd || headerEnd > paramsE820 {
		return kernel{}, fmt.Errorf("kernel: a setup of %d bytes in a file of %d: it is cut short", setup, len(image))
	}
	code := image[setup:]
	need := max(uint64(le.Uint32(image[hdrInitSize:])), uint64(len(code)))
	at := le.Uint64(image[hdrPrefAddress:])
	low := m.Layout().Regions()[0]
	fits := func(at uint64) bool {
		return at >= highRAMStart && low.Contains(memmap.Range{Start: memmap.Addr(at), Length: need})
	}
	if !fits(at) && image[hdrRelocatable] != 0 {
		align := max(uint64(le.Uint32(image[hdrAlignment:])), memmap.PageSize)
		at = (highRAMStart + align - 1) / align * align
	}
	if !fits(at) {
		return kernel{}, fmt.Errorf("kernel: it needs %d MiB from %#x on, the guest has %d MiB of RAM: give it more", need>>20, at, m.Layout().Size()>>20)
	}
	if err := m.WriteAt(code, memmap.Addr(at)); err != nil {
		return kernel{}, err
	}
	return kernel{
		entry: at + entry64, start: at, end: at + need, header: image[hdrSetupSects:headerEnd],
		initrdMax: uint64(le.Uint32(image[hdrInitrdMax:])) + 1, maxCmdline: min(int(le.Uint32(image[hdrCmdlineSize:])), maxLinuxCmdline-1),
	}, nil
}

// loadVmlinux copies the segments of an ELF kernel to their physical addresses.
func loadVmlinux(m *memmap.Memory, image []byte) (kernel, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return kernel{}, fmt.Errorf("kernel: %w", err)
	}
	defer f.Close()
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC {
		return kernel{}, fmt.Errorf("kernel: %v %v %v: must be a 64-bit x86-64 executable", f.Class, f.Machine, f.Type)
	}
	k := kernel{entry: f.Entry, start: ^uint64(0), initrdMax: 0x8000_0000, maxCmdline: 2047}
	low := m.Layout().Regions()[0]
	for i, p := range f.Progs {
		if p.Type != elf.PT_LOAD || p.Memsz == 0 {
			continue
		}
		r := memmap.Range{Start: memmap.Addr(p.Paddr), Length: p.Memsz}
		if p.Filesz > p.Memsz || p.Paddr < highRAMStart || !low.Contains(r) {
			return kernel{}, fmt.Errorf("kernel: segment %d at %s: must lie in guest RAM between %#x and %#x", i, r, uint64(highRAMStart), low.Length)
		}
		size := uint64(len(image))
		if p.Off > size || p.Filesz > size-p.Off {
			return kernel{}, fmt.Errorf("kernel: segment %d has %d bytes at %d of a file of %d: it is cut short", i, p.Filesz, p.Off, size)
		}
		if err := m.WriteAt(image[p.Off:p.Off+p.Filesz], r.Start); err != nil {
			return kernel{}, err
		}
		k.start, k.end = min(k.start, p.Paddr), max(k.end, p.Paddr+p.Memsz)
	}
	if f.Entry < k.start || f.Entry >= k.end {
		return kernel{}, fmt.Errorf("kernel: entry %#x is in none of its segments: is it an x86-64 Linux kernel?", f.Entry)
	}
	// The header that a bzImage would have: what the kernel looks at.
	k.header = make([]byte, hdrEnd-hdrSetupSects)
	le := binary.LittleEndian
	le.PutUint16(k.header[hdrBootFlag-hdrSetupSects:], 0xaa55)
	copy(k.header[hdrMagic-hdrSetupSects:], "HdrS")
	le.PutUint16(k.header[hdrVersion-hdrSetupSects:], minProtocol)
	return k, nil
}

// loadInitrd reads the initrd into the end of low RAM, where kernels expect it.
func (l Linux) loadInitrd(m *memmap.Memory, k kernel) (memmap.Range, error) {
	if l.Initrd == nil || l.InitrdSize == 0 {
		return memmap.Range{}, nil
	}
	end := min(m.Layout().Regions()[0].Length, k.initrdMax)
	size := uint64(l.InitrdSize)
	if l.InitrdSize < 0 || size > end || (end-size)&^(memmap.PageSize-1) < k.end {
		return memmap.Range{}, fmt.Errorf("initrd: its %d MiB do not fit between the kernel's end at %#x and %#x: give the guest more RAM", size>>20, k.end, end)
	}
	r := memmap.Range{Start: memmap.Addr((end - size) &^ (memmap.PageSize - 1)), Length: size}
	b, err := m.Bytes(r)
	if err != nil {
		return memmap.Range{}, err
	}
	if _, err := io.ReadFull(l.Initrd, b); err != nil {
		return memmap.Range{}, fmt.Errorf("initrd: %w", err)
	}
	return r, nil
}

// putE820 lists RAM as a PC's firmware does, and returns the number of entries.
func putE820(b []byte, layout memmap.Layout) int {
	n := 0
	put := func(start, end uint64, kind uint32) {
		e := b[20*n:]
		binary.LittleEndian.PutUint64(e, start)
		binary.LittleEndian.PutUint64(e[8:], end-start)
		binary.LittleEndian.PutUint32(e[16:], kind)
		n++
	}
	put(0, lowRAMEnd, e820RAM)
	put(lowRAMEnd, highRAMStart, e820Reserved)
	for _, r := range layout.Regions() {
		put(max(uint64(r.Start), highRAMStart), uint64(r.Start)+r.Length, e820RAM)
	}
	return n
}

// writeLinuxTables maps the first 4 GiB to themselves by pages of 2 MiB.
func writeLinuxTables(m *memmap.Memory) error {
	if err := m.WriteAt(words(linuxPDPTAddr|ptePresent|pteWrite), linuxPML4Addr); err != nil {
		return err
	}
	for g := range uint64(4) {
		pd := linuxPDAddr + g*pageTableSize
		if err := m.WriteAt(words(pd|ptePresent|pteWrite), memmap.Addr(linuxPDPTAddr+8*g)); err != nil {
			return err
		}
		table := make([]uint64, 512)
		for i := range table {
			table[i] = g<<30 | uint64(i)<<21 | ptePresent | pteWrite | pteLarge
		}
		if err := m.WriteAt(words(table...), memmap.Addr(pd)); err != nil {
			return err
		}
	}
	return nil
}
