// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"

	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

// program is an ELF file with one segment.
func program(paddr, entry, memsz uint64, code []byte) []byte {
	var b bytes.Buffer
	h := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64),
		Version: 1, Entry: entry, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	p := elf.Prog64{Type: uint32(elf.PT_LOAD), Off: 120, Vaddr: paddr, Paddr: paddr, Filesz: uint64(len(code)), Memsz: memsz}
	_ = binary.Write(&b, binary.LittleEndian, h)
	_ = binary.Write(&b, binary.LittleEndian, p)
	b.Write(code)
	return b.Bytes()
}

func memory(t testing.TB, size uint64) *memmap.Memory {
	t.Helper()
	l, err := memmap.NewLayout(size)
	if err != nil {
		t.Fatal(err)
	}
	m, err := memmap.New(l, memmap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func u64(t *testing.T, m *memmap.Memory, a uint64) uint64 {
	t.Helper()
	var b [8]byte
	if err := m.ReadAt(b[:], memmap.Addr(a)); err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint64(b[:])
}

func TestLoadPutsEverythingInPlace(t *testing.T) {
	testutil.NoLeaks(t)
	m := memory(t, 5<<30)
	code := []byte{0xf4, 0xeb, 0xfd}
	e, err := Bare{ELF: program(ImageStart, ImageStart+1, 8192, code), Cmdline: "guest=x", CPUs: 2, TSCkHz: 3e6}.Load(m)
	if err != nil {
		t.Fatal(err)
	}
	if e.RIP != ImageStart+1 || e.RDI != infoAddr || e.CR3 != pml4Addr {
		t.Errorf("entry %+v", e)
	}
	got := make([]byte, 3)
	if err := m.ReadAt(got, ImageStart); err != nil || !bytes.Equal(got, code) {
		t.Errorf("code %x, %v", got, err)
	}
	var info Info
	b := make([]byte, binary.Size(info))
	_ = m.ReadAt(b, memmap.Addr(e.RDI))
	_, _ = binary.Decode(b, binary.LittleEndian, &info)
	if info.Magic != infoMagic || info.NrCPUs != 2 || info.NrRAM != 2 || info.RAM[1].Start != 4<<30 || info.RAM[1].Length != 2<<30 {
		t.Errorf("boot information %+v", info)
	}
	// Walk the tables: identity everywhere, nothing at page 0.
	for _, a := range []uint64{0x1000, 0x1ff000, ImageStart, 0xfee00000, 5<<30 + 4096} {
		pd := u64(t, m, pdptAddr+8*(a>>30)) &^ 0xfff
		e := u64(t, m, pd+8*(a>>21&511))
		if a < 2<<20 {
			e = u64(t, m, lowPTAddr+8*(a>>12))
		} else if e&pteLarge == 0 {
			t.Errorf("%#x: no large page", a)
		}
		if want := a &^ (2<<20 - 1); a >= 2<<20 && e&^0xfff != want || e&pteAll != pteAll {
			t.Errorf("%#x maps by %#x", a, e)
		}
	}
	if u64(t, m, lowPTAddr) != 0 {
		t.Error("page 0 is mapped")
	}
}

func TestBadProgramsAreRefused(t *testing.T) {
	m := memory(t, 16<<20)
	for name, image := range map[string][]byte{
		"empty":               nil,
		"no ELF":              []byte("#!/bin/sh\n"),
		"below the image":     program(0x1000, 0x1000, 16, []byte{1}),
		"outside RAM":         program(1<<40, 1<<40, 16, []byte{1}),
		"past the end of RAM": program(16<<20-8, 16<<20-8, 16, []byte{1}),
		"wraps":               program(^uint64(0)-8, ^uint64(0)-8, 64, []byte{1}),
		"entry elsewhere":     program(ImageStart, 0x1000, 16, []byte{1}),
		"file over memory":    program(ImageStart, ImageStart, 1, []byte{1, 2, 3}),
		"cut":                 program(ImageStart, ImageStart, 16, []byte{1, 2, 3})[:121],
	} {
		if _, err := (Bare{ELF: image}).Load(m); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	ok := program(ImageStart, ImageStart, 16, []byte{1})
	if _, err := (Bare{ELF: ok, Cmdline: string(make([]byte, 5000))}).Load(m); err == nil {
		t.Error("a long command line was accepted")
	}
}

func FuzzELF(f *testing.F) {
	f.Add(program(ImageStart, ImageStart, 4096, []byte{0xf4}))
	m := memory(f, 4<<20)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = loadELF(m, b)
	})
}

func TestCountersHaveTheGuestsSize(t *testing.T) {
	if n := len((Counters{}).Bytes()); n != 64 {
		t.Errorf("%d bytes, want 64", n)
	}
}
