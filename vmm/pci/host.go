// SPDX-License-Identifier: Apache-2.0

package pci

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/uringpv/uringpv/vmm/bus"
)

// The ports of configuration mechanism #1.
const (
	ConfigPorts    = 0xcf8 // the address, then the data
	ConfigPortsLen = 8

	portData = 4 // CONFIG_DATA, by offset
)

// Where BARs may lie: below the IOAPIC and the local APICs, inside the hole that
// has no RAM (docs/memory-layout.md).
const (
	WindowStart = 0xe000_0000
	WindowEnd   = 0xfec0_0000
)

// maxDevices is the number of devices on a bus.
const maxDevices = 32

// Host is the root of bus 0. Device 0 is the host bridge; the others are
// functions that Add put there. It is the bus.Handler of the configuration
// ports.
type Host struct {
	mmio *bus.Bus

	mu        sync.Mutex // guards what follows
	address   uint32     // the CONFIG_ADDRESS register
	functions [maxDevices]*Function
	next      uint64 // free address space for BARs
}

// NewHost makes a bus whose BARs answer on mmio.
func NewHost(mmio *bus.Bus) *Host {
	h := &Host{mmio: mmio, next: WindowStart}
	bridge := newFunction(Identity{Vendor: 0x8086, Device: 0x1237, Class: 0x060000}, mmio) // i440FX
	h.functions[0] = bridge
	return h
}

// Add puts a function on the bus, places its BARs, and returns its device
// number. Memory decoding is off until the guest turns it on.
func (h *Host) Add(f *Function) (device int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := 1; i < maxDevices; i++ {
		if h.functions[i] != nil {
			continue
		}
		next, err := f.place(h.mmio, h.next)
		if err != nil {
			return 0, err
		}
		h.next, h.functions[i] = next, f
		return i, nil
	}
	return 0, fmt.Errorf("PCI bus: all %d devices are in use", maxDevices-1)
}

// selected is the function and register that CONFIG_ADDRESS names; nil if there
// is nothing.
func (h *Host) selected() (*Function, int) {
	a := h.address
	// Bit 31 enables; bus, device and function follow.
	if a>>31 == 0 || a>>16&0xff != 0 || a>>8&7 != 0 {
		return nil, 0
	}
	return h.functions[a>>11&0x1f], int(a & 0xfc)
}

// Read is a guest's read of the configuration ports. What is not there reads as
// all ones, and so does what an access reaches beyond the register it began in.
func (h *Host) Read(off uint64, p []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range p {
		p[i] = 0xff
	}
	switch {
	case off < portData:
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], h.address)
		copy(p, b[off:])
	case off < ConfigPortsLen:
		if f, reg := h.selected(); f != nil {
			f.readConfig(reg+int(off-portData), p[:min(uint64(len(p)), ConfigPortsLen-off)])
		}
	}
}

// Write is a guest's write to the configuration ports.
func (h *Host) Write(off uint64, p []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case off == 0 && len(p) == 4: // narrower writes are not for the address
		h.address = binary.LittleEndian.Uint32(p)
	case off >= portData && off < ConfigPortsLen:
		f, reg := h.selected()
		if f == nil || !f.writeConfig(reg+int(off-portData), p[:min(uint64(len(p)), ConfigPortsLen-off)]) {
			return
		}
		for _, other := range h.functions {
			if other != nil && other != f {
				other.settle()
			}
		}
	}
}
