// SPDX-License-Identifier: Apache-2.0

package pci

import (
	"encoding/binary"
	"testing"

	"github.com/uringpv/uringpv/vmm/bus"
)

// vector remembers what it was told.
type vector struct {
	routed  bool
	addr    uint64
	data    uint32
	pending bool
	sent    int
}

func (v *vector) Route(addr uint64, data uint32) error {
	v.routed, v.addr, v.data = true, addr, data
	if v.pending {
		v.pending, v.sent = false, v.sent+1
	}
	return nil
}
func (v *vector) Unroute() error { v.routed = false; return nil }
func (v *vector) Pending() bool  { return v.pending }

// event is a device's signal.
func (v *vector) event() {
	if v.routed {
		v.sent++
	} else {
		v.pending = true
	}
}

// ram answers zero and counts writes.
type ram struct{ writes int }

func (*ram) Read(_ uint64, p []byte)    { clear(p) }
func (r *ram) Write(_ uint64, _ []byte) { r.writes++ }

// machine is a bus with one function: BAR 0 of 4 KiB, BAR 2 of 16 KiB, MSI-X
// with three vectors in BAR 4.
type machine struct {
	*Host
	mmio    bus.Bus
	bar0    ram
	moves   []uint64
	vectors [3]*vector
}

func newMachine(t testing.TB) *machine {
	m := &machine{}
	m.Host = NewHost(&m.mmio)
	f := NewFunction(Identity{Vendor: 0x1af4, Device: 0x10f1, Class: 0x018000, Revision: 1})
	var vs []Vector
	for i := range m.vectors {
		m.vectors[i] = &vector{}
		vs = append(vs, m.vectors[i])
	}
	for _, err := range []error{
		f.SetBAR(0, BAR{Size: 4096, Handler: &m.bar0}),
		f.SetBAR(2, BAR{Size: 16384, Handler: &ram{}, Moved: func(a uint64, mapped bool) {
			if mapped != (a != 0) {
				t.Errorf("moved to %#x, mapped %v", a, mapped)
			}
			m.moves = append(m.moves, a)
		}}),
		f.SetMSIX(4, vs, func(err error) { t.Error(err) }),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if dev, err := m.Add(f); err != nil || dev != 1 {
		t.Fatalf("device %d, %v", dev, err)
	}
	return m
}

// cfg reads n bytes of configuration space of 00:01.0.
func (m *machine) cfg(reg, n int) uint32 {
	m.Write(0, binary.LittleEndian.AppendUint32(nil, 1<<31|1<<11|uint32(reg&0xfc)))
	var b [4]byte
	m.Read(4+uint64(reg&3), b[:n])
	return binary.LittleEndian.Uint32(b[:])
}

func (m *machine) setCfg(reg, n int, v uint32) {
	m.Write(0, binary.LittleEndian.AppendUint32(nil, 1<<31|1<<11|uint32(reg&0xfc)))
	m.Write(4+uint64(reg&3), binary.LittleEndian.AppendUint32(nil, v)[:n])
}

func TestDiscoveryAndSizing(t *testing.T) {
	m := newMachine(t)
	if v := m.cfg(0, 4); v != 0x10f11af4 {
		t.Errorf("identity %#x", v)
	}
	if v := m.cfg(8, 4); v != 0x01800001 {
		t.Errorf("class and revision %#x", v)
	}
	for bar, size := range map[int]uint32{0: 4096, 1: 0, 2: 16384, 4: 8192} {
		old := m.cfg(0x10+4*bar, 4)
		m.setCfg(0x10+4*bar, 4, 0xffffffff)
		if got := -m.cfg(0x10+4*bar, 4); got != size {
			t.Errorf("BAR %d has size %d, want %d", bar, got, size)
		}
		m.setCfg(0x10+4*bar, 4, old)
		if m.cfg(0x10+4*bar, 4) != old || size != 0 && (old < WindowStart || old%size != 0) {
			t.Errorf("BAR %d is at %#x", bar, old)
		}
	}
	if c := m.cfg(0x34, 1); c != msixCapAt || m.cfg(int(c), 1) != capMSIX || m.cfg(int(c)+2, 2) != 2 {
		t.Errorf("no MSI-X capability of three vectors at %#x", c)
	}
	// Nothing else is on the bus.
	m.Write(0, binary.LittleEndian.AppendUint32(nil, 1<<31|2<<11))
	var b [4]byte
	if m.Read(4, b[:]); b != [4]byte{0xff, 0xff, 0xff, 0xff} {
		t.Errorf("device 2 reads %x", b)
	}
}

func TestBARsMoveAndNeverCollide(t *testing.T) {
	m := newMachine(t)
	at := uint64(m.cfg(0x10, 4))
	if m.mmio.Write(at, []byte{1, 0, 0, 0}) {
		t.Error("BAR 0 answers with memory decoding off")
	}
	m.setCfg(4, 2, commandMemory)
	if !m.mmio.Write(at, []byte{1, 0, 0, 0}) || m.bar0.writes != 1 {
		t.Error("BAR 0 does not answer")
	}
	m.setCfg(0x10, 4, 0xf000_0000)
	if m.mmio.Write(at, []byte{1}) || !m.mmio.Write(0xf000_0fff, []byte{1}) {
		t.Error("BAR 0 did not move")
	}
	for _, bad := range []uint32{0, 0x1000, 0xbfff_f000, 0xfee0_0000, 0xffff_f000} {
		m.setCfg(0x10, 4, bad)
		if m.mmio.Write(uint64(bad), []byte{1}) {
			t.Errorf("BAR 0 answers at %#x", bad)
		}
	}
	two := m.cfg(0x18, 4)
	m.setCfg(0x10, 4, two) // over BAR 2
	before := m.bar0.writes
	if !m.mmio.Write(uint64(two), []byte{1}) || m.bar0.writes != before {
		t.Error("BAR 0 took BAR 2's place")
	}
	m.setCfg(4, 2, 0)
	if want := []uint64{uint64(two), 0}; len(m.moves) != 2 || m.moves[0] != want[0] || m.moves[1] != 0 {
		t.Errorf("BAR 2 was told of %#x, want %#x", m.moves, want)
	}
}

func TestMSIXMasksHoldEventsBack(t *testing.T) {
	m := newMachine(t)
	m.setCfg(4, 2, commandMemory|commandMaster)
	table := uint64(m.cfg(0x20, 4))
	w := func(off uint64, v uint32) { m.mmio.Write(table+off, binary.LittleEndian.AppendUint32(nil, v)) }
	w(16, 0xfee01000)
	w(16+8, 0x41)
	v := m.vectors[1]
	v.event()
	pba := func() byte {
		var b [8]byte
		m.mmio.Read(table+4096, b[:])
		return b[0]
	}
	if v.sent != 0 || pba() != 2 {
		t.Errorf("disabled: %d sent, pending bits %#x", v.sent, pba())
	}
	m.setCfg(msixCapAt+2, 2, msixEnable)
	if v.routed {
		t.Error("routed while the entry is masked")
	}
	w(16+12, 0)
	if !v.routed || v.sent != 1 || v.addr != 0xfee01000 || v.data != 0x41 || pba() != 0 {
		t.Errorf("unmasked: %+v, pending bits %#x", v, pba())
	}
	m.setCfg(msixCapAt+2, 2, msixEnable|msixMaskAll)
	v.event()
	if v.sent != 1 || pba() != 2 {
		t.Errorf("masked as a whole: %d sent, pending bits %#x", v.sent, pba())
	}
	m.setCfg(msixCapAt+2, 2, msixEnable)
	if v.sent != 2 {
		t.Errorf("unmasked as a whole: %d sent", v.sent)
	}
	m.setCfg(4, 2, commandMemory)
	if v.routed {
		t.Error("routed though the function is no bus master")
	}
}

// Whatever a guest writes to configuration space and to the BARs, the bus lives
// and no BAR leaves the window.
func FuzzGuestAccesses(f *testing.F) {
	f.Add([]byte{0, 4, 6, 0, 0, 0, 1, 0x10, 0, 0, 0, 0xf0})
	f.Add([]byte{2, 12, 0, 0, 0, 0, 0, 0x42, 0, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMachine(t)
		for ; len(b) >= 6; b = b[6:] {
			reg, v := int(b[1]), binary.LittleEndian.Uint32(b[2:])
			n := 1 << (b[0] >> 4 % 3)
			switch b[0] & 3 {
			case 0:
				m.setCfg(reg, min(n, 4), v)
			case 1:
				m.Write(uint64(reg), b[2:2+min(n, 4)])
			case 2:
				m.mmio.Write(uint64(m.cfg(0x20, 4))+uint64(reg), b[2:2+min(n, 4)])
			case 3:
				m.mmio.Write(uint64(v), b[2:4])
				m.cfg(reg, 1)
			}
		}
		for _, bar := range m.functions[1].bars {
			if bar != nil && bar.claimed != 0 && (bar.claimed < WindowStart || bar.claimed+bar.Size > WindowEnd) {
				t.Errorf("a BAR answers at %#x", bar.claimed)
			}
		}
		if err := m.functions[1].Close(); err != nil {
			t.Error(err)
		}
		for i, v := range m.vectors {
			if v.routed {
				t.Errorf("vector %d is routed after Close", i)
			}
		}
	})
}
