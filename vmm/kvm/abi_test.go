// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"reflect"
	"testing"

	"github.com/bobuhiro11/gokvm/kvm"
)

// The kernel reads and writes as much as the request's number says, so each
// structure has to be that long (linux/kvm.h).
func TestStructuresAreAsLongAsTheirRequestsSay(t *testing.T) {
	for _, c := range []struct {
		request request
		size    uintptr
		array   bool // the structure ends in an array that the number leaves out
	}{
		{getSupportedCPUID, offsetOf(cpuid{}, "entries"), true},
		{setCPUID, offsetOf(cpuid{}, "entries"), true},
		{setUserMemoryRegion, sizeOf(kvm.UserspaceMemoryRegion{}), false},
		{setIdentityMapAddr, sizeOf(uint64(0)), false},
		{setIRQLine, sizeOf(irqLevel{}), false},
		{setGSIRouting, offsetOf(routing{}, "entries"), true},
		{createPIT2, sizeOf(pitConfig{}), false},
		{setMSRs, offsetOf(msrs{}, "entries"), true},
		{setIRQFD, sizeOf(irqfd{}), false},
		{setIOEventFD, sizeOf(ioeventfd{}), false},
		{enableCap, sizeOf(enabledCap{}), false},
		{signalMSI, sizeOf(msi{}), false},
		{getRegs, sizeOf(Regs{}), false},
		{setRegs, sizeOf(Regs{}), false},
		{getSregs, sizeOf(Sregs{}), false},
		{setSregs, sizeOf(Sregs{}), false},
		{translate, sizeOf(kvm.Translation{}), false},
		{setFPU, sizeOf(fpu{}), false},
		{getMPState, sizeOf(MPState(0)), false},
		{setMPState, sizeOf(MPState(0)), false},
		{getEvents, sizeOf(kvm.VCPUEvents{}), false},
	} {
		// _IOC: the size is in bits 16 to 29.
		if got := c.request.op >> 16 & 0x3fff; got != c.size {
			t.Errorf("%s says %d bytes, the structure has %d", c.request.name, got, c.size)
		}
	}
	if n := sizeOf(routingEntry{}); n != 48 {
		t.Errorf("struct kvm_irq_routing_entry has %d bytes, want 48", n)
	}
	if n := sizeOf(CPUIDEntry{}); n != 40 {
		t.Errorf("struct kvm_cpuid_entry2 has %d bytes, want 40", n)
	}
	if off := offsetOf(fpu{}, "mxcsr"); off != 408 {
		t.Errorf("mxcsr is at %d, want 408", off)
	}
}

func sizeOf(v any) uintptr { return reflect.TypeOf(v).Size() }

func offsetOf(v any, field string) uintptr {
	f, ok := reflect.TypeOf(v).FieldByName(field)
	if !ok {
		panic(field)
	}
	return f.Offset
}
