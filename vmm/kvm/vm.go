// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"fmt"
	"structs"

	"github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"
)

// VM is a virtual machine: its memory, interrupt controllers and event
// descriptors. Its methods may be called from any goroutine.
type VM struct {
	fd       int
	mmapSize int
}

// Close closes the VM. Its vCPUs are closed before.
func (v *VM) Close() error { return unix.Close(v.fd) }

// SetMemory makes the n bytes at host address hva the guest's RAM at gpa, as
// memory slot slot. All are page aligned.
func (v *VM) SetMemory(slot uint32, gpa uint64, hva uintptr, n uint64) error {
	r := kvm.UserspaceMemoryRegion{Slot: slot, GuestPhysAddr: gpa, MemorySize: n, UserspaceAddr: uint64(hva)}
	if err := ioctl(v.fd, setUserMemoryRegion, &r); err != nil {
		return fmt.Errorf("memory slot %d, %d bytes at %#x: %w", slot, n, gpa, err)
	}
	return nil
}

// CreateIRQChip makes the in-kernel PIC, IOAPIC and local APICs. It comes before
// the first vCPU. Intel hosts need tss and identityMap, GPAs in the MMIO hole of
// three pages and one page that the guest does not use.
func (v *VM) CreateIRQChip(tss, identityMap uint32) error {
	if _, err := call(v.fd, setTSSAddr, uintptr(tss)); err != nil {
		return fmt.Errorf("pages at %#x: %w", tss, err)
	}
	addr := uint64(identityMap)
	if err := ioctl(v.fd, setIdentityMapAddr, &addr); err != nil {
		return fmt.Errorf("page at %#x: %w", identityMap, err)
	}
	_, err := call(v.fd, createIRQChip, 0)
	return err
}

// irqLevel is struct kvm_irq_level.
type irqLevel struct {
	_     structs.HostLayout
	irq   uint32
	level uint32
}

// IRQLine sets the level of an interrupt line of the PIC and IOAPIC.
func (v *VM) IRQLine(irq uint32, high bool) error {
	l := irqLevel{irq: irq}
	if high {
		l.level = 1
	}
	if err := ioctl(v.fd, setIRQLine, &l); err != nil {
		return fmt.Errorf("interrupt line %d: %w", irq, err)
	}
	return nil
}

// msi is struct kvm_msi.
type msi struct {
	_      structs.HostLayout
	addrLo uint32
	addrHi uint32
	data   uint32
	flags  uint32
	devid  uint32
	pad    [12]uint8
}

// SignalMSI sends one message-signalled interrupt. An address that no local
// APIC answers to is no error: the message is lost, as on a PC.
func (v *VM) SignalMSI(m MSI) error {
	return ioctl(v.fd, signalMSI, &msi{addrLo: uint32(m.Addr), addrHi: uint32(m.Addr >> 32), data: m.Data})
}

// enabledCap is struct kvm_enable_cap.
type enabledCap struct {
	_     structs.HostLayout
	cap   uint32
	flags uint32
	args  [4]uint64
	pad   [64]uint8
}

// EnableCap turns a capability of the VM on. The arguments are the capability's.
func (v *VM) EnableCap(c Capability, args ...uint64) error {
	e := enabledCap{cap: uint32(c)}
	if n := copy(e.args[:], args); n < len(args) {
		return fmt.Errorf("KVM_ENABLE_CAP %d: %d arguments, at most %d", c, len(args), n)
	}
	if err := ioctl(v.fd, enableCap, &e); err != nil {
		return fmt.Errorf("capability %d: %w", c, err)
	}
	return nil
}

// irqfd is struct kvm_irqfd.
type irqfd struct {
	_          structs.HostLayout
	fd         uint32
	gsi        uint32
	flags      uint32
	resamplefd uint32
	pad        [16]uint8
}

// irqfdDeassign is KVM_IRQFD_FLAG_DEASSIGN.
const irqfdDeassign = 1

// AssignIRQFD makes a signal of the eventfd fd an interrupt by route gsi. If the
// eventfd holds a signal already, it is delivered.
func (v *VM) AssignIRQFD(fd int, gsi uint32) error {
	return ioctl(v.fd, setIRQFD, &irqfd{fd: uint32(fd), gsi: gsi})
}

// DeassignIRQFD undoes AssignIRQFD. Later signals stay in the eventfd.
func (v *VM) DeassignIRQFD(fd int, gsi uint32) error {
	return ioctl(v.fd, setIRQFD, &irqfd{fd: uint32(fd), gsi: gsi, flags: irqfdDeassign})
}

// ioeventfd is struct kvm_ioeventfd.
type ioeventfd struct {
	_         structs.HostLayout
	datamatch uint64
	addr      uint64
	len       uint32
	fd        int32
	flags     uint32
	pad       [36]uint8
}

// ioeventfdDeassign is KVM_IOEVENTFD_FLAG_DEASSIGN.
const ioeventfdDeassign = 4

// AssignIOEventFD makes a 4-byte guest write of any value to gpa a signal of
// the eventfd fd, without an exit to this process.
func (v *VM) AssignIOEventFD(gpa uint64, fd int) error {
	return ioctl(v.fd, setIOEventFD, &ioeventfd{addr: gpa, len: 4, fd: int32(fd)})
}

// DeassignIOEventFD undoes AssignIOEventFD.
func (v *VM) DeassignIOEventFD(gpa uint64, fd int) error {
	return ioctl(v.fd, setIOEventFD, &ioeventfd{addr: gpa, len: 4, fd: int32(fd), flags: ioeventfdDeassign})
}

// MSI is a message-signalled interrupt: what the device writes, and where.
type MSI struct {
	Addr uint64
	Data uint32
}

// routingEntry is struct kvm_irq_routing_entry with its union as words.
type routingEntry struct {
	_     structs.HostLayout
	gsi   uint32
	kind  uint32
	flags uint32
	pad   uint32
	u     [8]uint32
}

// Kinds of routing entries, KVM_IRQ_ROUTING_*, and the in-kernel chips.
const (
	routeIRQChip = 1
	routeMSI     = 2

	chipPICMaster = 0
	chipPICSlave  = 1
	chipIOAPIC    = 2
)

// FirstMSI is the lowest GSI for MSIs: those below are the pins of the IOAPIC.
const FirstMSI = 24

// MaxMSI bounds the number of MSI routes of a VM.
const MaxMSI = 1024

// routing is struct kvm_irq_routing with room for every route.
type routing struct {
	_       structs.HostLayout
	nr      uint32
	flags   uint32
	entries [16 + FirstMSI + MaxMSI]routingEntry
}

// SetRoutes replaces all routes: the pins of PIC and IOAPIC as on a PC, and the
// MSIs, by GSI.
func (v *VM) SetRoutes(msis map[uint32]MSI) error {
	if len(msis) > MaxMSI {
		return fmt.Errorf("KVM_SET_GSI_ROUTING: %d MSIs, at most %d", len(msis), MaxMSI)
	}
	var r routing
	add := func(e routingEntry) {
		r.entries[r.nr] = e
		r.nr++
	}
	for pin := range uint32(16) {
		chip := uint32(chipPICMaster)
		if pin >= 8 {
			chip = chipPICSlave
		}
		add(routingEntry{gsi: pin, kind: routeIRQChip, u: [8]uint32{chip, pin % 8}})
	}
	for pin := range uint32(FirstMSI) {
		switch pin {
		case 0: // the timer is on pin 2, as on every PC
			add(routingEntry{gsi: pin, kind: routeIRQChip, u: [8]uint32{chipIOAPIC, 2}})
		case 2: // the PIC's cascade
		default:
			add(routingEntry{gsi: pin, kind: routeIRQChip, u: [8]uint32{chipIOAPIC, pin}})
		}
	}
	for gsi, m := range msis {
		add(routingEntry{gsi: gsi, kind: routeMSI, u: [8]uint32{uint32(m.Addr), uint32(m.Addr >> 32), m.Data}})
	}
	return ioctl(v.fd, setGSIRouting, &r)
}
