// SPDX-License-Identifier: Apache-2.0

package pci

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/uringpv/uringpv/vmm/bus"
)

// Registers of a type 0 header, and their bits.
const (
	regVendor    = 0x00
	regDevice    = 0x02
	regCommand   = 0x04
	regStatus    = 0x06
	regRevision  = 0x08
	regClass     = 0x09
	regBAR       = 0x10
	regSubVendor = 0x2c
	regSubDevice = 0x2e
	regCapList   = 0x34
	regLine      = 0x3c

	commandMemory = 0x0002
	commandMaster = 0x0004
	commandINTx   = 0x0400

	statusCapList = 0x0010

	configSize = 256
	numBARs    = 6
)

// minBAR is the smallest BAR, in bytes: a page, so that a guest can map one
// without its neighbours.
const minBAR = 4096

// Identity is what a driver finds a function by.
type Identity struct {
	Vendor, Device uint16
	Class          uint32 // 24 bits: base class, subclass, interface
	Revision       uint8

	// The subsystem's identity; where it is 0, the function's own.
	SubVendor, SubDevice uint16
}

// BAR is a memory range of a function.
type BAR struct {
	Size    uint64 // bytes, a power of two of at least 4096
	Handler bus.Handler

	// Moved, if not nil, hears where the BAR answers now: at addr, or nowhere
	// (addr 0) if it is not mapped. The calls come one at a time; it must not
	// call the function or the host.
	Moved func(addr uint64, mapped bool)

	claimed uint64 // where it answers; 0: nowhere
}

// Function is a PCI function. Several vCPUs may access it at once.
type Function struct {
	mmio *bus.Bus

	mu     sync.Mutex // guards what follows
	config [configSize]byte
	wmask  [configSize]byte // bits that the guest can write
	bars   [numBARs]*BAR
	msix   *msix
}

// NewFunction makes a function without BARs.
func NewFunction(id Identity) *Function { return newFunction(id, nil) }

func newFunction(id Identity, mmio *bus.Bus) *Function {
	f := &Function{mmio: mmio}
	le := binary.LittleEndian
	le.PutUint16(f.config[regVendor:], id.Vendor)
	le.PutUint16(f.config[regDevice:], id.Device)
	le.PutUint16(f.config[regSubVendor:], cmp.Or(id.SubVendor, id.Vendor))
	le.PutUint16(f.config[regSubDevice:], cmp.Or(id.SubDevice, id.Device))
	f.config[regRevision] = id.Revision
	f.config[regClass] = byte(id.Class)
	f.config[regClass+1] = byte(id.Class >> 8)
	f.config[regClass+2] = byte(id.Class >> 16)
	le.PutUint16(f.wmask[regCommand:], commandMemory|commandMaster|commandINTx)
	f.wmask[regLine] = 0xff
	return f
}

// SetBAR gives the function BAR i. It comes before Host.Add.
func (f *Function) SetBAR(i int, b BAR) error {
	if i < 0 || i >= numBARs || f.bars[i] != nil {
		return fmt.Errorf("PCI BAR %d: must be a free one from 0 to 5", i)
	}
	if b.Size < minBAR || b.Size&(b.Size-1) != 0 || b.Size > WindowEnd-WindowStart {
		return fmt.Errorf("PCI BAR %d: %d bytes: must be a power of two from 4096 to the window's size", i, b.Size)
	}
	f.bars[i] = &b
	binary.LittleEndian.PutUint32(f.wmask[regBAR+4*i:], ^uint32(b.Size-1))
	return nil
}

// place puts the BARs at addresses from next on and returns what follows them.
func (f *Function) place(mmio *bus.Bus, next uint64) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mmio = mmio
	for i, b := range f.bars {
		if b == nil {
			continue
		}
		next = (next + b.Size - 1) &^ (b.Size - 1)
		if next+b.Size > WindowEnd {
			return 0, fmt.Errorf("PCI BAR %d of %d bytes: no room left in the window", i, b.Size)
		}
		binary.LittleEndian.PutUint32(f.config[regBAR+4*i:], uint32(next))
		next += b.Size
	}
	return next, nil
}

// addCapability links a capability of the given content, without its first two
// bytes, at off, a multiple of four.
func (f *Function) addCapability(off int, id byte, content []byte) {
	f.config[off], f.config[off+1] = id, f.config[regCapList]
	copy(f.config[off+2:], content)
	f.config[regCapList] = byte(off)
	f.config[regStatus] |= statusCapList
}

// command is the command register.
func (f *Function) command() uint16 { return binary.LittleEndian.Uint16(f.config[regCommand:]) }

// readConfig copies configuration space from reg on to p. Nothing of p is past
// its end.
func (f *Function) readConfig(reg int, p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	copy(p, f.config[reg:])
}

// writeConfig writes the writable bits of p to configuration space from reg on.
// It says whether that made address space free.
func (f *Function) writeConfig(reg int, p []byte) (freed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, v := range p {
		m := f.wmask[reg+i]
		f.config[reg+i] = f.config[reg+i]&^m | v&m
	}
	freed = f.remap()
	if f.msix != nil {
		f.msix.control(binary.LittleEndian.Uint16(f.config[f.msix.cap+2:]), f.command()&commandMaster != 0)
	}
	return freed
}

// settle makes BARs answer that had to wait for address space.
func (f *Function) settle() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remap()
}

// remap makes each BAR answer where the guest has put it, if that is possible.
// First all that moved away leave, so that two BARs can swap. It says whether
// any did.
func (f *Function) remap() (freed bool) {
	var want [numBARs]uint64
	for i, b := range f.bars {
		if b == nil {
			continue
		}
		a := uint64(binary.LittleEndian.Uint32(f.config[regBAR+4*i:]))
		if f.command()&commandMemory != 0 && a >= WindowStart && a+b.Size <= WindowEnd {
			want[i] = a
		}
		if b.claimed != 0 && b.claimed != want[i] {
			f.mmio.Release(b.claimed)
			b.move(0)
			freed = true
		}
	}
	for i, b := range f.bars {
		// A claim that fails is of a guest that put two BARs in one place: who
		// came later answers nowhere, until the place is free.
		if b != nil && want[i] != 0 && b.claimed == 0 && f.mmio.Claim(want[i], b.Size, b.Handler) == nil {
			b.move(want[i])
		}
	}
	return freed
}

// move notes and tells where the BAR answers.
func (b *BAR) move(addr uint64) {
	b.claimed = addr
	if b.Moved != nil {
		b.Moved(addr, addr != 0)
	}
}
