// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/uringpv/uringpv/memmap"
)

// ram is guest RAM of 64 MiB.
func ram(t testing.TB) *memmap.Memory {
	t.Helper()
	return memory(t, 64<<20)
}

// peek reads n bytes at GPA at.
func peek(t testing.TB, m *memmap.Memory, at uint64, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if err := m.ReadAt(b, memmap.Addr(at)); err != nil {
		t.Fatal(err)
	}
	return b
}

func sum(b []byte) byte {
	var s byte
	for _, c := range b {
		s += c
	}
	return s
}

// tableAt reads the table at GPA at and checks its header.
func tableAt(t *testing.T, m *memmap.Memory, at uint64, signature string) []byte {
	t.Helper()
	n := binary.LittleEndian.Uint32(peek(t, m, at+4, 4))
	if n < 36 || n > 65536 {
		t.Fatalf("%s at %#x has a length of %d", signature, at, n)
	}
	b := peek(t, m, at, int(n))
	if string(b[:4]) != signature || sum(b) != 0 {
		t.Fatalf("table at %#x: signature %q, want %q; sum %d, want 0", at, b[:4], signature, sum(b))
	}
	return b
}

func TestACPITablesLeadFromOneToTheNext(t *testing.T) {
	for _, cpus := range []int{1, 8, 254} {
		m := ram(t)
		a := ACPI{CPUs: cpus, PMPorts: 0x600, SCI: 9, SerialPorts: 0x3f8, SerialIRQ: 4, PanicPort: 0x505}
		rsdp, err := a.Load(m)
		if err != nil {
			t.Fatal(err)
		}
		if rsdp%16 != 0 || rsdp < 0xe0000 || rsdp >= 0x100000 {
			t.Errorf("RSDP at %#x: a kernel looks in the BIOS's area at multiples of 16", rsdp)
		}
		r := peek(t, m, rsdp, 36)
		if string(r[:8]) != "RSD PTR " || sum(r[:20]) != 0 || sum(r) != 0 {
			t.Fatalf("RSDP % x", r)
		}
		le := binary.LittleEndian
		xsdt := tableAt(t, m, le.Uint64(r[24:]), "XSDT")
		if len(xsdt) != 36+2*8 {
			t.Fatalf("XSDT of %d bytes", len(xsdt))
		}
		fadt := tableAt(t, m, le.Uint64(xsdt[36:]), "FACP")
		if len(fadt) != 276 || fadt[8] != 6 {
			t.Errorf("FADT of %d bytes, revision %d: revision 6 has 276", len(fadt), fadt[8])
		}
		if sci := le.Uint16(fadt[46:]); sci != 9 {
			t.Errorf("SCI %d", sci)
		}
		if port := le.Uint32(fadt[64:]); port != 0x604 {
			t.Errorf("PM1a control block at %#x", port)
		}
		dsdt := tableAt(t, m, le.Uint64(fadt[140:]), "DSDT")
		for _, name := range []string{"_SB_", "PCI0", "COM1", "_S5_", "QEMU0001"} {
			if !bytes.Contains(dsdt, []byte(name)) {
				t.Errorf("DSDT has no %s", name)
			}
		}
		at := max(le.Uint64(fadt[132:]), uint64(le.Uint32(fadt[36:]))) // one of the two is zero
		if facs := peek(t, m, at, 64); string(facs[:4]) != "FACS" || at%64 != 0 {
			t.Errorf("FACS at %#x: % x", at, facs)
		}
		madt := tableAt(t, m, le.Uint64(xsdt[44:]), "APIC")
		local, io := 0, 0
		for e := madt[44:]; len(e) > 0; e = e[e[1]:] {
			if e[1] < 2 || int(e[1]) > len(e) {
				t.Fatalf("MADT entry % x", e)
			}
			switch e[0] {
			case 0:
				if int(e[3]) != local || e[4]&1 == 0 {
					t.Errorf("local APIC % x is not number %d, enabled", e[:8], local)
				}
				local++
			case 1:
				io++
			}
		}
		if local != cpus || io != 1 {
			t.Errorf("%d local APICs and %d IO-APICs, want %d and 1", local, io, cpus)
		}
	}
}

func TestACPIRefusesWhatItCannotName(t *testing.T) {
	m := ram(t)
	for _, cpus := range []int{0, -1, 255} {
		if _, err := (ACPI{CPUs: cpus}).Load(m); err == nil {
			t.Errorf("%d CPUs are taken", cpus)
		}
	}
}

// The package length of AML has one to three bytes here (ACPI 6.5, 20.2.4), and
// counts itself.
func TestAMLLength(t *testing.T) {
	for _, n := range []int{0, 1, 61, 62, 63, 64, 4093, 4094, 4095, 70000} {
		b := amlLength(make([]byte, n))
		lead, rest := b[0], b[1:]
		more := int(lead >> 6)
		got := int(lead & 0x3f)
		if more > 0 {
			got = int(lead & 0xf)
			for i := range more {
				got |= int(rest[i]) << (4 + 8*i)
			}
		}
		if want := 1 + more + n; got != want || len(b) != want {
			t.Errorf("%d bytes: length %d in %d, want %d", n, got, len(b), want)
		}
	}
}

func TestInterruptMask(t *testing.T) {
	for irq := range uint(16) {
		b := resIRQ(irq)
		if got := binary.LittleEndian.Uint16(b[1:]); got != 1<<irq {
			t.Errorf("IRQ %d: mask %#x", irq, got)
		}
	}
}
