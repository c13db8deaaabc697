// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/arch/x86/x86asm"

	"github.com/uringpv/uringpv/memmap"
	"github.com/uringpv/uringpv/vmm/kvm"
)

// GuestCrash is a guest that cannot go on: a triple fault, an instruction that
// KVM cannot emulate, an exit that nobody serves.
type GuestCrash struct {
	CPU    int
	Reason string
	Report string // registers, code and stack, several lines
}

func (e *GuestCrash) Error() string {
	return fmt.Sprintf("the guest crashed on vCPU %d: %s", e.CPU, e.Reason)
}

// Sizes of what a report shows.
const (
	reportCode  = 64 // bytes from RIP on that are looked at
	reportInsts = 8  // instructions
	reportStack = 12 // words from RSP on
)

// Where a processor begins after a reset (Intel's manual, volume 3, 10.1.4).
const (
	resetRIP    = 0xfff0
	resetCSBase = 0xffff_0000
)

// crash describes the vCPU after exit e.
func (c *vcpu) crash(e *kvm.Exit) *GuestCrash {
	g := &GuestCrash{CPU: c.id, Reason: e.Reason.String()}
	switch e.Reason {
	case kvm.ExitInternalError:
		switch e.Code {
		case kvm.ErrorEmulation:
			g.Reason = "KVM cannot emulate an instruction"
		case kvm.ErrorDelivery:
			g.Reason = "KVM cannot deliver an exception or an interrupt: what that needs is not in RAM"
		default:
			g.Reason = fmt.Sprintf("KVM internal error %d", e.Code)
		}
	case kvm.ExitFailEntry, kvm.ExitUnknown:
		g.Reason = fmt.Sprintf("%s, hardware reason %#x", e.Reason, e.Code)
	}
	var b strings.Builder
	if e.Reason == kvm.ExitInternalError && len(e.Data) > 0 {
		fmt.Fprintf(&b, "KVM says %x\n", e.Data)
	}
	r, err := c.kvm.Regs()
	if err != nil {
		g.Report = fmt.Sprintf("registers: %v\n", err)
		return g
	}
	s, err := c.kvm.Sregs()
	if err != nil {
		g.Report = fmt.Sprintf("segments: %v\n", err)
		return g
	}
	// After a triple fault a VMCB is not defined, so kvm-amd puts the vCPU into the
	// state after INIT (svm.c, shutdown_interception).
	if e.Reason == kvm.ExitShutdown && r.RIP == resetRIP && s.CS.Base == resetCSBase {
		g.Report = "its registers are lost: on AMD's processors KVM resets a vCPU that has a triple fault\n"
		return g
	}
	fmt.Fprintf(&b, "rip %016x  rsp %016x  rflags %08x\n", r.RIP, r.RSP, r.RFLAGS)
	for i, v := range []struct {
		name  string
		value uint64
	}{
		{"rax", r.RAX}, {"rbx", r.RBX}, {"rcx", r.RCX}, {"rdx", r.RDX}, {"rsi", r.RSI}, {"rdi", r.RDI}, {"rbp", r.RBP}, {"r8 ", r.R8},
		{"r9 ", r.R9}, {"r10", r.R10}, {"r11", r.R11}, {"r12", r.R12}, {"r13", r.R13}, {"r14", r.R14}, {"r15", r.R15},
	} {
		end := "  "
		if i%4 == 3 || i == 14 {
			end = "\n"
		}
		fmt.Fprintf(&b, "%s %016x%s", v.name, v.value, end)
	}
	fmt.Fprintf(&b, "cr0 %08x  cr2 %016x  cr3 %016x  cr4 %08x  efer %04x\n", s.CR0, s.CR2, s.CR3, s.CR4, s.EFER)
	fmt.Fprintf(&b, "cs %04x (CPL %d)  ss %04x  tr %04x  gdt %016x+%x  idt %016x+%x\n",
		s.CS.Selector, s.CS.Selector&3, s.SS.Selector, s.TR.Selector, s.GDT.Base, s.GDT.Limit, s.IDT.Base, s.IDT.Limit)
	fmt.Fprintf(&b, "fs %04x at %016x  gs %04x at %016x  ds %04x  es %04x  ldt %04x\n",
		s.FS.Selector, s.FS.Base, s.GS.Selector, s.GS.Base, s.DS.Selector, s.ES.Selector, s.LDT.Selector)
	mode, code, stack := addressing(&s)
	c.code(&b, code+r.RIP, mode)
	c.stack(&b, stack+r.RSP)
	g.Report = b.String()
	return g
}

// addressing is how many bits the code has and where the segments of code and stack
// begin: outside 64-bit mode addresses are relative to these.
func addressing(s *kvm.Sregs) (mode int, code, stack uint64) {
	switch {
	case s.CS.L != 0:
		return 64, 0, 0
	case s.CS.DB != 0:
		return 32, s.CS.Base, s.SS.Base
	}
	return 16, s.CS.Base, s.SS.Base
}

// bytes reads up to n bytes at a guest-virtual address, as far as it is mapped.
func (c *vcpu) bytes(virtual uint64, n int) []byte {
	var out []byte
	for len(out) < n {
		at := virtual + uint64(len(out))
		physical, ok := c.kvm.Translate(at)
		if !ok {
			break
		}
		p := make([]byte, min(uint64(n-len(out)), memmap.PageSize-at%memmap.PageSize))
		if c.vm.memory.ReadAt(p, memmap.Addr(physical)) != nil {
			break
		}
		out = append(out, p...)
	}
	return out
}

// code disassembles mode-bit code from linear address rip on.
func (c *vcpu) code(b *strings.Builder, rip uint64, mode int) {
	code := c.bytes(rip, reportCode)
	if len(code) == 0 {
		fmt.Fprintf(b, "code at rip: not mapped\n")
	}
	for pc, shown := rip, 0; len(code) > 0 && shown < reportInsts; shown++ {
		text := "(bad)"
		n := 1
		if inst, err := x86asm.Decode(code, mode); err == nil {
			text, n = x86asm.IntelSyntax(inst, pc, nil), inst.Len
		} else if pc != rip {
			break // cut by the end of what was read
		}
		fmt.Fprintf(b, "%c %x: %-24x %s\n", map[bool]rune{true: '>', false: ' '}[pc == rip], pc, code[:n], text)
		pc, code = pc+uint64(n), code[n:]
	}
}

// stack shows the words from rsp on.
func (c *vcpu) stack(b *strings.Builder, rsp uint64) {
	s := c.bytes(rsp, 8*reportStack)
	for i := 0; i+8 <= len(s); i += 8 {
		if i%32 == 0 {
			fmt.Fprintf(b, "stack %016x:", rsp+uint64(i))
		}
		fmt.Fprintf(b, " %016x", binary.LittleEndian.Uint64(s[i:]))
		if i%32 == 24 || i+16 > len(s) {
			b.WriteByte('\n')
		}
	}
}
