// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/uringpv/uringpv/memmap"
)

// bzImage is a kernel of no code: a header as Documentation/arch/x86/boot.rst has
// it, and a protected-mode part of n bytes of 0x90.
func bzImage(n int, change func(h []byte)) []byte {
	b := make([]byte, 5*512+n)
	le := binary.LittleEndian
	b[hdrSetupSects] = 4
	le.PutUint16(b[hdrBootFlag:], 0xaa55)
	b[hdrJump], b[hdrJump+1] = 0xeb, 0x66
	copy(b[hdrMagic:], "HdrS")
	le.PutUint16(b[hdrVersion:], 0x20f)
	le.PutUint16(b[hdrXLoadFlags:], xlfKernel64)
	le.PutUint32(b[hdrInitrdMax:], 0x7fffffff)
	le.PutUint32(b[hdrAlignment:], 2<<20)
	b[hdrRelocatable] = 1
	le.PutUint32(b[hdrCmdlineSize:], 255)
	le.PutUint64(b[hdrPrefAddress:], 16<<20)
	le.PutUint32(b[hdrInitSize:], 8<<20)
	for i := range n {
		b[5*512+i] = 0x90
	}
	if change != nil {
		change(b)
	}
	return b
}

// vmlinux is an ELF kernel with one segment of n bytes at paddr.
func vmlinux(paddr uint64, n int, change func(h *elf.Header64, p *elf.Prog64)) []byte {
	h := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1,
		Entry: paddr + 16, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	p := elf.Prog64{Type: uint32(elf.PT_LOAD), Off: 120, Paddr: paddr, Filesz: uint64(n), Memsz: uint64(n) + 4096}
	if change != nil {
		change(&h, &p)
	}
	var b bytes.Buffer
	for _, v := range []any{h, p} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	b.Write(bytes.Repeat([]byte{0x90}, n))
	return b.Bytes()
}

func load(m *memmap.Memory, kernel []byte, initrd, cmdline string) (Entry, error) {
	l := Linux{Kernel: kernel, Cmdline: cmdline, ACPI: ACPI{CPUs: 2}}
	if initrd != "" {
		l.Initrd, l.InitrdSize = strings.NewReader(initrd), int64(len(initrd))
	}
	return l.Load(m)
}

func TestLinuxIsPutInPlace(t *testing.T) {
	for name, kernel := range map[string][]byte{"bzImage": bzImage(5000, nil), "vmlinux": vmlinux(16<<20, 5000, nil)} {
		m := ram(t)
		e, err := load(m, kernel, "the initrd", "console=ttyS0")
		if err != nil {
			t.Fatal(err)
		}
		if code := peek(t, m, 16<<20, 5000); !bytes.Equal(code, bytes.Repeat([]byte{0x90}, 5000)) {
			t.Errorf("%s: the kernel is not at 16 MiB", name)
		}
		if want := uint64(16<<20) + map[string]uint64{"bzImage": 0x200, "vmlinux": 16}[name]; e.RIP != want {
			t.Errorf("%s: entry %#x, want %#x", name, e.RIP, want)
		}
		params := peek(t, m, e.RSI, paramsSize)
		le := binary.LittleEndian
		if string(params[hdrMagic:hdrMagic+4]) != "HdrS" || params[hdrLoader] != otherLoader {
			t.Errorf("%s: boot_params have no header", name)
		}
		if at := le.Uint32(params[hdrCmdline:]); string(peek(t, m, uint64(at), 14)) != "console=ttyS0\x00" {
			t.Errorf("%s: no command line at %#x", name, at)
		}
		at, n := le.Uint32(params[hdrRamdisk:]), le.Uint32(params[hdrRamdiskSize:])
		if n != 10 || at%memmap.PageSize != 0 || string(peek(t, m, uint64(at), 10)) != "the initrd" {
			t.Errorf("%s: initrd of %d bytes at %#x", name, n, at)
		}
		if rsdp := le.Uint64(params[paramsRSDP:]); string(peek(t, m, rsdp, 8)) != "RSD PTR " {
			t.Errorf("%s: no RSDP at %#x", name, rsdp)
		}
		// RAM in the e820 map, less the hole below 1 MiB.
		var total uint64
		for i := range int(params[paramsE820Count]) {
			entry := params[paramsE820+20*i:]
			if le.Uint32(entry[16:]) == e820RAM {
				total += le.Uint64(entry[8:])
			}
		}
		if want := uint64(64<<20) - (highRAMStart - lowRAMEnd); total != want {
			t.Errorf("%s: the e820 map has %#x bytes of RAM, want %#x", name, total, want)
		}
	}
}

func TestLinuxMovesWhereItFits(t *testing.T) {
	m := ram(t)
	k := bzImage(100, func(h []byte) { binary.LittleEndian.PutUint64(h[hdrPrefAddress:], 1<<30) })
	e, err := load(m, k, "", "")
	if err != nil || e.RIP != 2<<20+0x200 {
		t.Errorf("a kernel that prefers 1 GiB is at %#x, %v; want the lowest aligned place", e.RIP, err)
	}
	k[hdrRelocatable] = 0
	if _, err := load(m, k, "", ""); err == nil || !strings.Contains(err.Error(), "give it more") {
		t.Errorf("a kernel that cannot move: %v", err)
	}
}

func TestBadKernelsAreRefusedWithTheReason(t *testing.T) {
	m := ram(t)
	le := binary.LittleEndian
	for name, tt := range map[string]struct {
		kernel          []byte
		initrd, cmdline string
		want            string
	}{
		"nothing":          {nil, "", "", "neither"},
		"text":             {bytes.Repeat([]byte("text"), 1000), "", "", "neither"},
		"old protocol":     {bzImage(100, func(h []byte) { le.PutUint16(h[hdrVersion:], 0x20b) }), "", "", "boot protocol 2.11"},
		"32 bits":          {bzImage(100, func(h []byte) { le.PutUint16(h[hdrXLoadFlags:], 0) }), "", "", "64-bit entry"},
		"cut short":        {bzImage(100, nil)[:2000], "", "", "cut short"},
		"long header":      {bzImage(100, func(h []byte) { h[hdrJump+1] = 0xff }), "", "", "cut short"},
		"too large":        {bzImage(100, func(h []byte) { le.PutUint32(h[hdrInitSize:], 1<<30) }), "", "", "give it more"},
		"command line":     {bzImage(100, nil), "", strings.Repeat("x", 300), "at most 255"},
		"NUL":              {bzImage(100, nil), "", "a\x00b", "without NUL"},
		"initrd":           {bzImage(100, nil), strings.Repeat("x", 60<<20), "", "give the guest more RAM"},
		"ELF for ARM":      {vmlinux(16<<20, 10, func(h *elf.Header64, _ *elf.Prog64) { h.Machine = uint16(elf.EM_AARCH64) }), "", "", "x86-64"},
		"ELF low":          {vmlinux(4096, 10, nil), "", "", "must lie in guest RAM"},
		"ELF high":         {vmlinux(1<<40, 10, nil), "", "", "must lie in guest RAM"},
		"ELF wraps":        {vmlinux(16<<20, 10, func(_ *elf.Header64, p *elf.Prog64) { p.Memsz = ^uint64(0) }), "", "", "must lie in guest RAM"},
		"ELF cut short":    {vmlinux(16<<20, 10, func(_ *elf.Header64, p *elf.Prog64) { p.Filesz, p.Memsz = 1<<20, 1<<20 }), "", "", "cut short"},
		"ELF entry":        {vmlinux(16<<20, 10, func(h *elf.Header64, _ *elf.Prog64) { h.Entry = 1 }), "", "", "in none of its segments"},
		"ELF of one piece": {[]byte(elf.ELFMAG), "", "", "kernel"},
	} {
		if _, err := load(m, tt.kernel, tt.initrd, tt.cmdline); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// Whatever a kernel file says, Load returns.
func FuzzLinux(f *testing.F) {
	f.Add(bzImage(100, nil))
	f.Add(vmlinux(16<<20, 100, nil))
	m := ram(f)
	f.Fuzz(func(t *testing.T, kernel []byte) {
		e, err := load(m, kernel, "initrd", "quiet")
		if err == nil && e.RIP < highRAMStart {
			t.Errorf("entry %#x", e.RIP)
		}
	})
}
