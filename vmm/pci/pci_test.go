// SPDX-License-Identifier: Apache-2.0

package pci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/uringpv/uringpv/memmap"
	"github.com/uringpv/uringpv/vmm/bus"
)

// vector is an eventfd with an irqfd that comes and goes: a signal is sent while
// it is routed and waits while it is not.
type vector struct {
	routed  bool
	addr    uint64
	data    uint32
	pending bool
	sent    int
	routes  int   // calls of Route
	refuse  error // what the host says to both calls
}

func (v *vector) Route(addr uint64, data uint32) error {
	v.routes++
	if v.refuse != nil {
		return v.refuse
	}
	v.routed, v.addr, v.data = true, addr, data
	if v.pending {
		v.pending, v.sent = false, v.sent+1
	}
	return nil
}

func (v *vector) Unroute() error {
	v.routed = false
	return nil
}

func (v *vector) Pending() bool { return v.pending }

// event is a device's signal.
func (v *vector) event() {
	if v.routed {
		v.sent++
	} else {
		v.pending = true
	}
}

// content answers a BAR's reads with its number.
type content struct{ n byte }

func (c *content) Read(_ uint64, p []byte) {
	for i := range p {
		p[i] = c.n
	}
}
func (*content) Write(uint64, []byte) {}

// card is a function with what a test sees of it: BAR 0 of 4 KiB, BAR 2 of
// 16 KiB, MSI-X with three vectors in BAR 4.
type card struct {
	*Function
	device  int
	bar0    content
	bar2    content
	at      uint64 // where BAR 2 has said that it is
	vectors [3]*vector
	refused []error // what the host refused, as SetMSIX reports it
}

// machine is a bus with cards, as devices 1 and up.
type machine struct {
	*Host
	mmio  bus.Bus
	cards []*card
}

// tester is a testing.TB or a *rapid.T.
type tester interface {
	Helper()
	Errorf(string, ...any)
	Fatal(...any)
	Fatalf(string, ...any)
}

func newMachine(t tester, cards int) *machine {
	t.Helper()
	m := &machine{}
	m.Host = NewHost(&m.mmio)
	for i := range cards {
		c := &card{bar0: content{n: byte(0x10 + i)}, bar2: content{n: byte(0x20 + i)}}
		c.Function = NewFunction(Identity{Vendor: 0x1af4, Device: 0x10f1, Class: 0x018000, Revision: 1})
		var vs []Vector
		for i := range c.vectors {
			c.vectors[i] = &vector{}
			vs = append(vs, c.vectors[i])
		}
		for _, err := range []error{
			c.SetBAR(0, BAR{Size: 4096, Handler: &c.bar0}),
			c.SetBAR(2, BAR{Size: 16384, Handler: &c.bar2, Moved: func(a uint64, mapped bool) {
				if mapped != (a != 0) || mapped == (c.at != 0) {
					t.Errorf("moved from %#x to %#x, mapped %v", c.at, a, mapped)
				}
				c.at = a
			}}),
			c.SetMSIX(4, vs, func(err error) { c.refused = append(c.refused, err) }),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if c.device, err = m.Add(c.Function); err != nil || c.device != i+1 {
			t.Fatalf("device %d, %v", c.device, err)
		}
		m.cards = append(m.cards, c)
	}
	return m
}

func le(v uint64, n int) []byte { return binary.LittleEndian.AppendUint64(nil, v)[:n] }

func (m *machine) choose(device, reg int) {
	m.Write(0, le(1<<31|uint64(device)<<11|uint64(reg&0xfc), 4))
}

// cfg reads n bytes of a device's configuration space.
func (m *machine) cfg(device, reg, n int) uint32 {
	m.choose(device, reg)
	var b [4]byte
	m.Read(4+uint64(reg&3), b[:n])
	return binary.LittleEndian.Uint32(b[:])
}

func (m *machine) setCfg(device, reg, n int, v uint32) {
	m.choose(device, reg)
	m.Write(4+uint64(reg&3), le(uint64(v), n))
}

// bar is where a device's BAR has been put.
func (m *machine) bar(device, i int) uint64 { return uint64(m.cfg(device, regBAR+4*i, 4)) }

func (m *machine) place(device, i int, addr uint64) { m.setCfg(device, regBAR+4*i, 4, uint32(addr)) }

// who is the content that answers at addr, 0xff for nobody.
func (m *machine) who(addr uint64) byte {
	var b [1]byte
	m.mmio.Read(addr, b[:])
	return b[0]
}

func TestWindowIsInTheHoleAndBelowTheAPICs(t *testing.T) {
	const ioapic, lapic = 0xfec0_0000, 0xfee0_0000
	if WindowStart < uint64(memmap.HoleStart) || WindowEnd > uint64(memmap.HoleEnd) || WindowEnd > ioapic || WindowEnd > lapic {
		t.Errorf("[%#x, %#x)", uint64(WindowStart), uint64(WindowEnd))
	}
}

func TestHostBridgeIsAt0(t *testing.T) {
	m := newMachine(t, 0)
	if v := m.cfg(0, regClass, 2); v != 0x0000 || m.cfg(0, regClass+2, 1) != 0x06 {
		t.Error("no host bridge at 00:00.0")
	}
	if id := m.cfg(0, 0, 4); id != 0x12378086 {
		t.Errorf("host bridge %#x", id)
	}
}

func TestWhatIsNotThereReadsAsOnes(t *testing.T) {
	m := newMachine(t, 1)
	for name, address := range map[string]uint64{
		"device 2": 1<<31 | 2<<11, "device 31": 1<<31 | 31<<11, "function 1": 1<<31 | 1<<11 | 1<<8, "bus 1": 1<<31 | 1<<16 | 1<<11,
		"enable bit off": 1 << 11,
	} {
		m.Write(0, le(address, 4))
		m.Write(4, le(0, 4))
		var b [4]byte
		if m.Read(4, b[:]); b != [4]byte{0xff, 0xff, 0xff, 0xff} {
			t.Errorf("%s reads %x", name, b)
		}
	}
	// The check that Linux makes for mechanism #1 (pci_check_type1).
	m.Write(3, []byte{1})
	m.Write(0, le(1<<31, 4))
	var b [4]byte
	if m.Read(0, b[:]); binary.LittleEndian.Uint32(b[:]) != 1<<31 {
		t.Errorf("CONFIG_ADDRESS reads %x", b)
	}
}

func TestIdentity(t *testing.T) {
	m := newMachine(t, 1)
	f := NewFunction(Identity{Vendor: 1, Device: 2, Class: 0x030405, Revision: 6, SubVendor: 7, SubDevice: 8})
	if _, err := m.Add(f); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		device, reg int
		want        uint32
	}{
		{1, regVendor, 0x10f11af4}, {1, regRevision, 0x01800001}, {1, regSubVendor, 0x10f11af4},
		{2, regVendor, 0x00020001}, {2, regRevision, 0x03040506}, {2, regSubVendor, 0x00080007},
		{2, regCapList, 0}, {2, regStatus & 0xfc, 0},
	} {
		if got := m.cfg(tt.device, tt.reg, 4); got != tt.want {
			t.Errorf("device %d, register %#x: %#x, want %#x", tt.device, tt.reg, got, tt.want)
		}
	}
	if c := int(m.cfg(1, regCapList, 1)); c != msixCapAt || m.cfg(1, c, 2) != capMSIX || m.cfg(1, c+2, 2) != 2 || m.cfg(1, regStatus, 2)&statusCapList == 0 {
		t.Errorf("no MSI-X capability of three vectors at %#x", c)
	}
	if table, pba := m.cfg(1, msixCapAt+4, 4), m.cfg(1, msixCapAt+8, 4); table != 4 || pba != 4096|4 {
		t.Errorf("table %#x, pending bits %#x", table, pba)
	}
}

func TestRegistersAreReachedByBytesAndWords(t *testing.T) {
	m := newMachine(t, 1)
	for reg := 0; reg < configSize; reg += 4 {
		whole := m.cfg(1, reg, 4)
		for off := range 4 {
			if got := m.cfg(1, reg+off, 1); got != whole>>(8*off)&0xff {
				t.Errorf("byte %#x: %#x of %#x", reg+off, got, whole)
			}
		}
		for off := 0; off < 4; off += 2 {
			if got := m.cfg(1, reg+off, 2); got != whole>>(8*off)&0xffff {
				t.Errorf("word %#x: %#x of %#x", reg+off, got, whole)
			}
		}
	}
	m.setCfg(1, regBAR+3, 1, 0xe7)
	m.setCfg(1, regBAR+1, 1, 0x3f) // bits below the BAR's size stay zero
	m.setCfg(1, regCommand, 1, commandMemory)
	if got := m.bar(1, 0); got>>24 != 0xe7 || got&0xff00 != 0x3000 || m.who(got) != 0x10 {
		t.Errorf("BAR 0 written by bytes is %#x, answered by %#x", got, m.who(got))
	}
	// An access that goes past the data register stays in it.
	b := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	m.choose(1, regLine)
	m.Read(7, b)
	if b[0] != 0 || b[1] != 0xff || b[7] != 0xff {
		t.Errorf("read past the data register: %x", b)
	}
	m.choose(1, regCommand-4)
	m.Write(7, make([]byte, 8))
	if m.cfg(1, regCommand, 2) != commandMemory {
		t.Error("a write past the data register reached the next one")
	}
}

func TestOnlyWritableBitsChange(t *testing.T) {
	writable := map[int]uint32{
		regCommand: commandMemory | commandMaster | commandINTx, regBAR: 0xfffff000, regBAR + 8: 0xffffc000, regBAR + 16: 0xffffe000,
		regLine: 0xff, msixCapAt: (msixEnable | msixMaskAll) << 16,
	}
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t, 1)
		var want [configSize / 4]uint32
		for i := range want {
			want[i] = m.cfg(1, 4*i, 4)
		}
		for range rapid.IntRange(1, 50).Draw(t, "writes") {
			n := rapid.SampledFrom([]int{1, 2, 4}).Draw(t, "bytes")
			reg := rapid.IntRange(0, configSize-1).Draw(t, "register") &^ (n - 1)
			v := rapid.Uint32().Draw(t, "value")
			m.setCfg(1, reg, n, v)
			shift := 8 * (reg & 3)
			mask := writable[reg&0xfc] & (uint32(1<<(8*n)-1) << shift)
			want[reg/4] = want[reg/4]&^mask | v<<shift&mask
		}
		for i := range want {
			if got := m.cfg(1, 4*i, 4); got != want[i] {
				t.Fatalf("register %#x: %#x, want %#x", 4*i, got, want[i])
			}
		}
	})
}

func TestBARsAreSizedByAllOnes(t *testing.T) {
	m := newMachine(t, 1)
	for _, on := range []uint32{0, commandMemory} {
		m.setCfg(1, regCommand, 2, on)
		for i, size := range map[int]uint32{0: 4096, 1: 0, 2: 16384, 3: 0, 4: 8192, 5: 0} {
			old := m.bar(1, i)
			m.place(1, i, 0xffffffff)
			if got := -uint32(m.bar(1, i)); got != size {
				t.Errorf("BAR %d has size %d, want %d", i, got, size)
			}
			m.place(1, i, old)
			if m.bar(1, i) != old || size != 0 && (old < WindowStart || old%uint64(size) != 0) {
				t.Errorf("BAR %d is at %#x", i, old)
			}
		}
	}
	if m.who(m.bar(1, 0)) != 0x10 || m.cards[0].at != m.bar(1, 2) {
		t.Error("a BAR does not answer after it was sized")
	}
}

func TestBARsAnswerWhereTheGuestPutsThem(t *testing.T) {
	m := newMachine(t, 1)
	at := m.bar(1, 0)
	if m.who(at) != 0xff {
		t.Error("BAR 0 answers with memory decoding off")
	}
	m.setCfg(1, regCommand, 2, commandMemory)
	if m.who(at) != 0x10 || m.who(at+4095) != 0x10 || m.who(at+4096) == 0x10 {
		t.Error("BAR 0 does not answer in its place")
	}
	for _, to := range []uint64{WindowEnd - 4096, 0xf000_0000, WindowStart} {
		m.place(1, 0, to)
		if m.who(to) != 0x10 || m.who(at) == 0x10 {
			t.Errorf("BAR 0 did not move to %#x", to)
		}
		at = to
	}
	for _, bad := range []uint64{0, 0x1000, uint64(memmap.HoleStart) - 4096, uint64(memmap.HoleStart), WindowStart - 4096, WindowEnd, 0xfee0_0000, 0xffff_f000} {
		m.place(1, 0, bad)
		if m.who(bad) != 0xff {
			t.Errorf("BAR 0 answers at %#x", bad)
		}
	}
	m.place(1, 0, at)
	if m.who(at) != 0x10 {
		t.Error("BAR 0 does not come back")
	}
	m.setCfg(1, regCommand, 2, 0)
	if m.who(at) != 0xff || m.cards[0].at != 0 {
		t.Error("BARs answer with memory decoding off again")
	}
}

func TestABARNeverTakesAnothersPlace(t *testing.T) {
	m := newMachine(t, 2)
	board := &content{n: 0x77} // something of the board's, inside the window
	if err := m.mmio.Claim(0xf100_0000, 4096, board); err != nil {
		t.Fatal(err)
	}
	for d := range 2 {
		m.setCfg(d+1, regCommand, 2, commandMemory)
	}
	one := m.bar(1, 0)
	for _, to := range []uint64{0xf100_0000, m.bar(2, 0), m.bar(1, 2) + 4096} {
		before := m.who(to)
		m.place(1, 0, to)
		if m.who(to) != before {
			t.Errorf("BAR 0 took the place of %#x at %#x", before, to)
		}
		if m.who(one) != 0xff {
			t.Error("BAR 0 still answers where it was")
		}
	}
	// It answers as soon as the place is free: here both functions' BARs swap,
	// while they are on.
	two := m.bar(2, 0)
	m.place(1, 0, two)
	m.place(2, 0, one)
	if m.who(two) != 0x10 || m.who(one) != 0x11 {
		t.Errorf("after a swap %#x and %#x answer", m.who(two), m.who(one))
	}
	// And so inside a function.
	m.place(1, 0, m.bar(1, 2))
	m.place(1, 2, 0xe100_0000)
	if m.who(m.bar(1, 0)) != 0x10 || m.cards[0].at != 0xe100_0000 {
		t.Errorf("BAR 0's place is %#x's, BAR 2 is at %#x", m.who(m.bar(1, 0)), m.cards[0].at)
	}
}

// checkPlaces holds a machine to the invariants of BARs: they answer inside the
// window only, apart, and every one that can answer does.
func (m *machine) checkPlaces(t tester) {
	t.Helper()
	type place struct {
		start, size uint64
		who         string
	}
	var taken, waiting []place
	for _, c := range m.cards {
		for i, b := range c.bars {
			if b == nil {
				continue
			}
			at := place{uint64(binary.LittleEndian.Uint32(c.config[regBAR+4*i:])), b.Size, fmt.Sprintf("BAR %d of device %d", i, c.device)}
			on := c.command()&commandMemory != 0 && at.start >= WindowStart && at.start+at.size <= WindowEnd
			switch {
			case b.claimed != 0 && (!on || b.claimed != at.start):
				t.Fatalf("%s, put at %#x, answers at %#x", at.who, at.start, b.claimed)
			case b.claimed != 0:
				taken = append(taken, at)
			case on:
				waiting = append(waiting, at)
			}
		}
		if c.at != c.bars[2].claimed {
			t.Fatalf("BAR 2 is at %#x and has heard of %#x", c.bars[2].claimed, c.at)
		}
	}
	overlap := func(a, b place) bool { return a.start < b.start+b.size && b.start < a.start+a.size }
	for i, a := range taken {
		for _, b := range taken[:i] {
			if overlap(a, b) {
				t.Fatalf("%s and %s both answer at %#x", a.who, b.who, a.start)
			}
		}
	}
	for _, w := range waiting {
		free := true
		for _, a := range taken {
			free = free && !overlap(w, a)
		}
		if free {
			t.Fatalf("%s waits at %#x, which is free", w.who, w.start)
		}
	}
}

// Wherever a guest puts its BARs, in whatever order, they stay in the window and
// apart, and who can answer does.
func TestBARsNeverCollide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t, 3)
		t.Repeat(map[string]func(*rapid.T){
			"place": func(t *rapid.T) {
				addr := rapid.OneOf(
					rapid.Map(rapid.Uint64Range(0, 16), func(n uint64) uint64 { return WindowStart + n*4096 }),
					rapid.Map(rapid.Uint64Range(0, 8), func(n uint64) uint64 { return WindowEnd - n*4096 }),
					rapid.Uint64Range(0, 1<<32-1),
				).Draw(t, "addr")
				m.place(rapid.IntRange(1, 3).Draw(t, "device"), rapid.IntRange(0, 5).Draw(t, "bar"), addr)
			},
			"switch": func(t *rapid.T) {
				on := rapid.SampledFrom([]uint32{0, commandMemory, commandMemory, commandMaster}).Draw(t, "command")
				m.setCfg(rapid.IntRange(1, 3).Draw(t, "device"), regCommand, 2, on)
			},
			"": func(t *rapid.T) { m.checkPlaces(t) },
		})
	})
}

func TestConfigurationIsChecked(t *testing.T) {
	f := NewFunction(Identity{})
	for name, err := range map[string]error{
		"BAR 6":        f.SetBAR(6, BAR{Size: 4096}),
		"BAR -1":       f.SetBAR(-1, BAR{Size: 4096}),
		"no size":      f.SetBAR(0, BAR{}),
		"half a page":  f.SetBAR(0, BAR{Size: 2048}),
		"three pages":  f.SetBAR(0, BAR{Size: 3 * 4096}),
		"512 MiB":      f.SetBAR(0, BAR{Size: 512 << 20}),
		"1 << 63":      f.SetBAR(0, BAR{Size: 1 << 63}),
		"no vectors":   f.SetMSIX(4, nil, nil),
		"2049 vectors": f.SetMSIX(4, make([]Vector, MaxVectors+1), nil),
	} {
		if err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if err := f.SetMSIX(4, make([]Vector, MaxVectors), nil); err != nil {
		t.Error(err)
	}
	if f.SetMSIX(2, make([]Vector, 1), nil) == nil || f.SetBAR(4, BAR{Size: 4096}) == nil {
		t.Error("MSI-X or a BAR can be set twice")
	}
}

func TestMSIXSizeHoldsTableAndPendingBits(t *testing.T) {
	for n := 1; n <= MaxVectors; n++ {
		size, pba := MSIXSize(n), pbaOffset(n)
		if pba < uint64(n)*entrySize || pba%8 != 0 || pba+uint64(n+63)/64*8 > size || size&(size-1) != 0 || size < minBAR {
			t.Fatalf("%d vectors: pending bits at %#x of %#x", n, pba, size)
		}
	}
}

func TestBusAndWindowFillUpWithAnError(t *testing.T) {
	m := newMachine(t, 0)
	for i := range maxDevices - 1 {
		if d, err := m.Add(NewFunction(Identity{Vendor: 1})); err != nil || d != i+1 {
			t.Fatalf("device %d: %v", d, err)
		}
	}
	if _, err := m.Add(NewFunction(Identity{Vendor: 1})); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("one more: %v", err)
	}
	m = newMachine(t, 0)
	for i := range 3 {
		f := NewFunction(Identity{Vendor: 1})
		if err := f.SetBAR(0, BAR{Size: 256 << 20, Handler: &content{}}); err != nil {
			t.Fatal(err)
		}
		// The window has 492 MiB: one fits.
		if _, err := m.Add(f); (err == nil) != (i == 0) {
			t.Errorf("BAR %d of 256 MiB: %v", i, err)
		}
	}
}

// entry writes a word of an MSI-X table entry.
func (m *machine) entry(device, i int, off uint64, v uint32) {
	m.mmio.Write(m.bar(device, 4)+uint64(i)*entrySize+off, le(uint64(v), 4))
}

// pba reads the pending bits.
func (m *machine) pba(device int) uint64 {
	var b [8]byte
	m.mmio.Read(m.bar(device, 4)+pbaOffset(3), b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func TestMSIXMasksHoldEventsBack(t *testing.T) {
	m := newMachine(t, 1)
	v := m.cards[0].vectors[1]
	m.setCfg(1, regCommand, 2, commandMemory|commandMaster)
	m.entry(1, 1, entryAddr, 0xfee01000)
	m.entry(1, 1, entryAddrHi, 0x12)
	m.entry(1, 1, entryData, 0x41)
	v.event()
	if v.sent != 0 || m.pba(1) != 2 {
		t.Errorf("disabled: %d sent, pending bits %#x", v.sent, m.pba(1))
	}
	m.setCfg(1, msixCapAt+2, 2, msixEnable)
	if v.routed {
		t.Error("routed while the entry is masked")
	}
	m.entry(1, 1, entryControl, 0)
	if !v.routed || v.sent != 1 || v.addr != 0x12_fee01000 || v.data != 0x41 || m.pba(1) != 0 {
		t.Errorf("unmasked: %+v, pending bits %#x", v, m.pba(1))
	}
	m.setCfg(1, msixCapAt+2, 2, msixEnable|msixMaskAll)
	v.event()
	if v.sent != 1 || m.pba(1) != 2 {
		t.Errorf("masked as a whole: %d sent, pending bits %#x", v.sent, m.pba(1))
	}
	m.setCfg(1, msixCapAt+2, 2, msixEnable)
	if v.sent != 2 {
		t.Errorf("unmasked as a whole: %d sent", v.sent)
	}
	m.setCfg(1, regCommand, 2, commandMemory)
	v.event()
	if v.routed || m.pba(1) != 2 {
		t.Error("routed though the function is no bus master")
	}
	m.setCfg(1, regCommand, 2, commandMemory|commandMaster)
	if v.sent != 3 {
		t.Errorf("bus master again: %d sent", v.sent)
	}
	// A change of an entry in use goes through; the same again costs nothing.
	routes := v.routes
	m.entry(1, 1, entryData, 0x42)
	m.entry(1, 1, entryData, 0x42)
	m.entry(1, 1, entryControl, 0xfffffffe) // reserved bits
	if v.data != 0x42 || v.routes != routes+1 {
		t.Errorf("data %#x after %d routes", v.data, v.routes-routes)
	}
}

func TestMSIXTableIsReadBackAndOnlyByWholeWords(t *testing.T) {
	m := newMachine(t, 1)
	m.setCfg(1, regCommand, 2, commandMemory)
	table := m.bar(1, 4)
	read := func(off uint64, n int) uint64 {
		var b [8]byte
		m.mmio.Read(table+off, b[:n])
		return binary.LittleEndian.Uint64(b[:])
	}
	for i := range uint64(3) {
		if read(16*i+entryControl, 4) != entryMasked {
			t.Errorf("entry %d does not begin masked", i)
		}
	}
	m.mmio.Write(table+16, le(0x1122334455667788, 8))
	m.mmio.Write(table+24, le(0xffffffff_99aabbcc, 8))
	if read(16, 8) != 0x1122334455667788 || read(24, 8) != 0x1_99aabbcc {
		t.Errorf("entry 1 is %#x %#x", read(16, 8), read(24, 8))
	}
	for _, w := range []struct {
		off uint64
		n   int
	}{{16, 1}, {16, 2}, {17, 4}, {18, 4}, {20, 8}, {48, 4}, {4096, 4}, {4096, 8}, {8188, 4}, {8184, 8}} {
		before := [2]uint64{read(16, 8), read(24, 8)}
		m.mmio.Write(table+w.off, le(0, w.n))
		if got := [2]uint64{read(16, 8), read(24, 8)}; got != before {
			t.Errorf("%d bytes at %d changed entry 1", w.n, w.off)
		}
	}
	m.cards[0].vectors[2].event()
	for off, want := range map[uint64]uint64{44: entryMasked, 48: 0, 4088: 0, 4096: 4, 4104: 0, 8184: 0} {
		if got := read(off, 4); got != want {
			t.Errorf("table at %d reads %#x, want %#x", off, got, want)
		}
	}
	if got := read(4092, 8); got != 0 {
		t.Errorf("read across the end of the table: %#x", got)
	}
}

// Whatever a guest does to the masks and whenever events come, each event is
// sent or pending, never lost and never sent while masked.
func TestNoEventIsLostOrSentWhileMasked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t, 1)
		c := m.cards[0]
		var control, command uint32 = 0, commandMemory
		m.setCfg(1, regCommand, 2, command)
		var table [3][4]uint32
		for i := range table {
			table[i][3] = entryMasked
		}
		var events, sent [3]int // sent, with those that are pending
		t.Repeat(map[string]func(*rapid.T){
			"entry": func(t *rapid.T) {
				i, w := rapid.IntRange(0, 2).Draw(t, "entry"), rapid.IntRange(0, 3).Draw(t, "word")
				v := rapid.Uint32().Draw(t, "value")
				m.entry(1, i, uint64(4*w), v)
				if table[i][w] = v; w == 3 {
					table[i][w] &= entryMasked
				}
			},
			"mask": func(t *rapid.T) {
				i, v := rapid.IntRange(0, 2).Draw(t, "entry"), rapid.Uint32Range(0, 1).Draw(t, "value")
				m.entry(1, i, entryControl, v)
				table[i][3] = v
			},
			"control": func(t *rapid.T) {
				control = rapid.SampledFrom([]uint32{0, msixEnable, msixEnable, msixMaskAll, msixEnable | msixMaskAll}).Draw(t, "control")
				m.setCfg(1, msixCapAt+2, 2, control)
			},
			"master": func(t *rapid.T) {
				command ^= commandMaster
				m.setCfg(1, regCommand, 2, command)
			},
			"event": func(t *rapid.T) {
				i := rapid.IntRange(0, 2).Draw(t, "vector")
				v := c.vectors[i]
				// An event that comes while another is pending is the same one.
				if v.routed || !v.pending {
					events[i]++
				}
				v.event()
			},
			"": func(t *rapid.T) {
				pba := m.pba(1)
				for i, v := range c.vectors {
					want := control == msixEnable && command&commandMaster != 0 && table[i][3] == 0
					if v.routed != want {
						t.Fatalf("vector %d routed: %v", i, v.routed)
					}
					if addr := uint64(table[i][0]) | uint64(table[i][1])<<32; want && (v.addr != addr || v.data != table[i][2]) {
						t.Fatalf("vector %d sends %#x to %#x, want %#x to %#x", i, v.data, v.addr, table[i][2], addr)
					}
					if sent[i] = v.sent; v.pending {
						sent[i]++
					}
					if sent[i] != events[i] || v.pending && v.routed {
						t.Fatalf("vector %d: %d events, %d sent, pending %v", i, events[i], v.sent, v.pending)
					}
					if pba>>i&1 == 1 != v.pending || pba>>3 != 0 {
						t.Fatalf("pending bits %#x, vector %d pending %v", pba, i, v.pending)
					}
				}
			},
		})
	})
}

func TestARouteThatTheHostRefusesIsOffAndReportedOnce(t *testing.T) {
	m := newMachine(t, 1)
	c := m.cards[0]
	v := c.vectors[0]
	m.setCfg(1, regCommand, 2, commandMemory|commandMaster)
	m.setCfg(1, msixCapAt+2, 2, msixEnable)
	m.entry(1, 0, entryControl, 0)
	v.refuse = errors.New("the host says no")
	for i := range uint32(5) {
		m.entry(1, 0, entryAddr, i+1)
	}
	if v.routed {
		t.Error("events still go where the entry no longer points")
	}
	if len(c.refused) != 1 || !errors.Is(c.refused[0], v.refuse) || !strings.Contains(c.refused[0].Error(), "vector 0") {
		t.Errorf("reported %v", c.refused)
	}
	v.event()
	if m.pba(1) != 1 {
		t.Error("the event is not pending")
	}
	v.refuse = nil
	m.entry(1, 0, entryAddr, 0xfee00000)
	if !v.routed || v.sent != 1 {
		t.Errorf("it does not recover: %+v", v)
	}
	v.refuse = errors.New("again")
	m.entry(1, 0, entryAddr, 0)
	if len(c.refused) != 2 {
		t.Errorf("reported %v", c.refused)
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	m := newMachine(t, 1)
	m.setCfg(1, regCommand, 2, commandMemory|commandMaster)
	m.setCfg(1, msixCapAt+2, 2, msixEnable)
	m.entry(1, 0, entryControl, 0)
	at, c := m.bar(1, 0), m.cards[0]
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if c.vectors[0].routed || c.at != 0 || m.who(at) != 0xff {
		t.Errorf("routed %v, BAR 2 at %#x, BAR 0 answered by %#x", c.vectors[0].routed, c.at, m.who(at))
	}
	if err := NewFunction(Identity{}).Close(); err != nil {
		t.Errorf("a function that no bus has seen: %v", err)
	}
}

// Several vCPUs may do all of this at once. The race detector is the judge, and
// the invariants afterwards.
func TestVCPUsMayAccessAtOnce(t *testing.T) {
	m := newMachine(t, 2)
	var cpus sync.WaitGroup
	for cpu := range 4 {
		cpus.Go(func() {
			for i := range 500 {
				d := 1 + (cpu+i)%2
				m.setCfg(d, regCommand, 2, uint32(i)%8)
				m.place(d, i%6, WindowStart+uint64(i*4096)%(1<<20))
				m.setCfg(d, msixCapAt+2, 2, uint32(i)<<14)
				at := m.bar(d, 4)
				m.mmio.Write(at+uint64(i%12)*4, le(uint64(i), 4))
				m.mmio.Read(at+4096, make([]byte, 8))
				m.mmio.Read(m.bar(d, 0), make([]byte, 4))
			}
		})
	}
	cpus.Wait()
	m.checkPlaces(t)
	for _, c := range m.cards {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestMaskingAllocatesNothing(t *testing.T) {
	m := newMachine(t, 1)
	m.setCfg(1, regCommand, 2, commandMemory|commandMaster)
	m.setCfg(1, msixCapAt+2, 2, msixEnable)
	at := m.bar(1, 4)
	on, off, bits := le(0, 4), le(1, 4), make([]byte, 8)
	if n := testing.AllocsPerRun(100, func() {
		m.mmio.Write(at+entryControl, on)
		m.mmio.Write(at+entryControl, off)
		m.mmio.Read(at+pbaOffset(3), bits)
		m.Write(4, bits[:1])
		m.Read(4, bits[:4])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever a guest writes to the configuration ports and to the BARs, the bus
// lives, no BAR leaves the window or takes another's place, and no vector is
// routed that should not be. A step is 8 bytes: kind, width, two of offset, four
// of value.
func FuzzGuestAccesses(f *testing.F) {
	f.Add([]byte{0, 2, 4, 0, 6, 0, 0, 0, 0, 2, 0x10, 0, 0, 0, 0, 0xf0})
	f.Add([]byte{0, 1, 4, 0, 6, 0, 0, 0, 0, 1, 0x42, 0, 0, 0x80, 0, 0, 2, 2, 12, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 2, 0x20, 1, 0xff, 0xff, 0xff, 0xff, 1, 3, 7, 0, 0xff, 0xff, 0xff, 0xff, 3, 3, 0xff, 0xff, 0, 0, 0, 0xe0})
	f.Fuzz(func(t *testing.T, steps []byte) {
		m := newMachine(t, 2)
		for ; len(steps) >= 8; steps = steps[8:] {
			n := 1 << (steps[1] & 3)
			off := uint64(binary.LittleEndian.Uint16(steps[2:]))
			v := binary.LittleEndian.Uint32(steps[4:])
			device := 1 + int(off>>8&1)
			p := append(steps[4:8:8], steps[4:8]...)[:n]
			switch steps[0] % 5 {
			case 0: // a register of a card
				m.setCfg(device, int(off&0xff), min(n, 4), v)
				m.cfg(device, int(off&0xff), min(n, 4))
			case 1: // the ports, in any way
				m.Write(off%16, p)
				m.Read(off%16, make([]byte, n))
			case 2: // the MSI-X table
				at := m.bar(device, 4) + off&0xff
				m.mmio.Write(at, p)
				m.mmio.Read(at, make([]byte, n))
			case 3: // anywhere
				m.mmio.Write(uint64(v)+off, p)
				m.mmio.Read(uint64(v)+off, make([]byte, n))
			case 4: // the device's side
				m.cards[device-1].vectors[v%3].event()
				m.pba(device)
			}
			m.checkPlaces(t)
			for _, c := range m.cards {
				on := c.command()&commandMaster != 0 && binary.LittleEndian.Uint16(c.config[msixCapAt+2:])&(msixEnable|msixMaskAll) == msixEnable
				for i, v := range c.vectors {
					if want := on && c.msix.table[i*entrySize+entryControl]&entryMasked == 0; v.routed != want {
						t.Fatalf("vector %d of device %d routed: %v", i, c.device, v.routed)
					}
				}
			}
		}
		for _, c := range m.cards {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			for i, v := range c.vectors {
				if v.routed || c.at != 0 {
					t.Errorf("vector %d is routed, or BAR 2 at %#x, after Close", i, c.at)
				}
			}
		}
	})
}
