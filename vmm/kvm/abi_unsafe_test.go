// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"testing"
	"unsafe"

	"github.com/bobuhiro11/gokvm/kvm"
)

// The kernel reads and writes as much as the request's number says, so each
// structure has to be that long (linux/kvm.h). The sizes come from unsafe,
// which is of this test only.
func TestStructuresAreAsLongAsTheirRequestsSay(t *testing.T) {
	for _, c := range []struct {
		request request
		size    uintptr
		array   bool // the structure ends in an array that the number leaves out
	}{
		{getSupportedCPUID, unsafe.Offsetof(cpuid{}.entries), true},
		{setCPUID, unsafe.Offsetof(cpuid{}.entries), true},
		{setUserMemoryRegion, unsafe.Sizeof(kvm.UserspaceMemoryRegion{}), false},
		{setIdentityMapAddr, unsafe.Sizeof(uint64(0)), false},
		{setIRQLine, unsafe.Sizeof(irqLevel{}), false},
		{setGSIRouting, unsafe.Offsetof(routing{}.entries), true},
		{setIRQFD, unsafe.Sizeof(irqfd{}), false},
		{setIOEventFD, unsafe.Sizeof(ioeventfd{}), false},
		{enableCap, unsafe.Sizeof(enabledCap{}), false},
		{signalMSI, unsafe.Sizeof(msi{}), false},
		{getRegs, unsafe.Sizeof(Regs{}), false},
		{setRegs, unsafe.Sizeof(Regs{}), false},
		{getSregs, unsafe.Sizeof(Sregs{}), false},
		{setSregs, unsafe.Sizeof(Sregs{}), false},
		{translate, unsafe.Sizeof(kvm.Translation{}), false},
		{setFPU, unsafe.Sizeof(fpu{}), false},
		{getMPState, unsafe.Sizeof(MPState(0)), false},
		{setMPState, unsafe.Sizeof(MPState(0)), false},
	} {
		// _IOC: the size is in bits 16 to 29.
		if got := c.request.op >> 16 & 0x3fff; got != c.size {
			t.Errorf("%s says %d bytes, the structure has %d", c.request.name, got, c.size)
		}
	}
	if n := unsafe.Sizeof(routingEntry{}); n != 48 {
		t.Errorf("struct kvm_irq_routing_entry has %d bytes, want 48", n)
	}
	if n := unsafe.Sizeof(CPUIDEntry{}); n != 40 {
		t.Errorf("struct kvm_cpuid_entry2 has %d bytes, want 40", n)
	}
	if off := unsafe.Offsetof(fpu{}.mxcsr); off != 408 {
		t.Errorf("mxcsr is at %d, want 408", off)
	}
}
