// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"fmt"
	"runtime"

	"github.com/uringpv/uringpv/vmm/boot"
	"github.com/uringpv/uringpv/vmm/kvm"
)

// vcpu is a virtual CPU and the loop that serves its exits.
type vcpu struct {
	vm  *VM
	id  int
	kvm *kvm.VCPU
}

// start puts the vCPU into the state e.
func (c *vcpu) start(e boot.Entry) error {
	s, err := c.kvm.Sregs()
	if err != nil {
		return err
	}
	code := kvm.Segment{Limit: 0xffffffff, Selector: e.Code, Typ: 11, Present: 1, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: 0xffffffff, Selector: e.Data, Typ: 3, Present: 1, S: 1, DB: 1, G: 1}
	s.CS, s.DS, s.ES, s.FS, s.GS, s.SS = code, data, data, data, data, data
	s.TR = kvm.Segment{Limit: 0x67, Typ: 11, Present: 1} // a busy 64-bit TSS: VMX asks for one
	s.LDT = kvm.Segment{Unusable: 1}
	s.GDT = kvm.Descriptor{Base: e.GDT, Limit: e.GDTLimit}
	s.IDT = kvm.Descriptor{} // empty: an early fault is a triple fault, and reported
	s.CR0, s.CR3, s.CR4, s.EFER = boot.CR0, e.CR3, boot.CR4, boot.EFER
	if err := c.kvm.SetSregs(s); err != nil {
		return err
	}
	if err := c.kvm.ResetFPU(); err != nil {
		return err
	}
	return c.kvm.SetRegs(kvm.Regs{RIP: e.RIP, RSP: e.RSP, RDI: e.RDI, RSI: e.RSI, RFLAGS: boot.Flags})
}

// loop runs the vCPU on an OS thread of its own until the machine stops.
func (c *vcpu) loop() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c.kvm.Enter()
	defer c.kvm.Leave()
	for {
		select {
		case <-c.vm.stopped:
			return
		default:
		}
		exit, err := c.kvm.Run()
		if err != nil {
			c.vm.stop(result{err: fmt.Errorf("vCPU %d: %w", c.id, err)})
			return
		}
		switch exit.Reason {
		case kvm.ExitInterrupted:
		case kvm.ExitIO:
			c.portIO(&exit)
		case kvm.ExitMMIO:
			if exit.Write {
				c.vm.mmio.Write(exit.Addr, exit.Data)
			} else {
				c.vm.mmio.Read(exit.Addr, exit.Data)
			}
		default:
			if c.delivered(&exit) {
				continue
			}
			c.vm.stop(result{err: c.crash(&exit)})
			return
		}
	}
}
