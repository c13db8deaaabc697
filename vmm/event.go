// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"golang.org/x/arch/x86/x86asm"

	"github.com/uringpv/uringpv/vmm/kvm"
)

// longestInst is how many bytes an instruction may have.
const longestInst = 15

// delivered says whether e tells of an event that cannot be delivered though the guest
// has had it and can go on. Linux from 6.14 on looks at the kind of event in a VMCB's
// EXITINTINFO, not at its valid bit (svm_check_emulate_instruction in svm.c). QEMU's
// emulation of AMD's processors leaves the kind of the guest's last exception there
// (handle_even_inj in seg_helper.c), so the next access to a page of a device can be
// taken for a part of that exception's delivery.
//
// Of an event that has not been delivered KVM knows, but it does not tell of one that
// an instruction like int or int3 raises: there RIP is at the instruction.
func (c *vcpu) delivered(e *kvm.Exit) bool {
	if e.Reason != kvm.ExitInternalError || e.Code != kvm.ErrorDelivery {
		return false
	}
	if delivers, err := c.kvm.Delivers(); err != nil || delivers {
		return false
	}
	r, err := c.kvm.Regs()
	if err != nil {
		return false
	}
	s, err := c.kvm.Sregs()
	if err != nil {
		return false
	}
	mode, base, _ := addressing(&s)
	code := c.bytes(base+r.RIP, longestInst)
	if len(code) == 0 {
		return false
	}
	inst, err := x86asm.Decode(code, mode)
	if err != nil {
		return true // of none that raises an event
	}
	switch inst.Op {
	case x86asm.INT, x86asm.INTO, x86asm.ICEBP:
		return false
	}
	return true
}
