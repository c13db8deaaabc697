// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"encoding/binary"
	"testing"

	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
	"github.com/uringpv/uringpv/vmm/boot"
	"github.com/uringpv/uringpv/vmm/pci"
)

// asm is the machine code of a small guest, in the order of its instructions.
// Addresses are below 2 GiB or in the top 2 GiB of the first four: absolute
// 32-bit ones that are sign-extended are not used.
type asm struct{ code []byte }

func (a *asm) emit(b ...byte) *asm {
	a.code = append(a.code, b...)
	return a
}

func (a *asm) imm32(v uint32) *asm {
	a.code = binary.LittleEndian.AppendUint32(a.code, v)
	return a
}

// eax is mov eax, v.
func (a *asm) eax(v uint32) *asm { return a.emit(0xb8).imm32(v) }

// store32 is mov dword [addr], v.
func (a *asm) store32(addr, v uint32) *asm {
	return a.emit(0xb9).imm32(addr).emit(0xc7, 0x01).imm32(v) // mov ecx, addr; mov dword [rcx], v
}

// load32 is mov eax, [addr].
func (a *asm) load32(addr uint32) *asm {
	return a.emit(0xb9).imm32(addr).emit(0x8b, 0x01) // mov ecx, addr; mov eax, [rcx]
}

// inc32 is inc dword [addr].
func (a *asm) inc32(addr uint32) *asm {
	return a.emit(0xb9).imm32(addr).emit(0xff, 0x01) // mov ecx, addr; inc dword [rcx]
}

// out32 is out port, v.
func (a *asm) out32(port uint16, v uint32) *asm {
	return a.emit(0x66, 0xba, byte(port), byte(port>>8)).eax(v).emit(0xef) // mov dx, port; mov eax, v; out dx, eax
}

// exit writes eax to the exit port.
func (a *asm) exit() *asm { return a.emit(0xe7, portExit, 0xeb, 0xfe) }

// pci writes v to register reg of device 1.
func (a *asm) pci(reg uint8, v uint32) *asm {
	return a.out32(pci.ConfigPorts, 1<<31|1<<11|uint32(reg)).out32(pci.ConfigPorts+4, v)
}

// delay spins n times.
func (a *asm) delay(n uint32) *asm {
	return a.emit(0xbb).imm32(n).emit(0xff, 0xcb, 0x75, 0xfc) // mov ebx, n; dec ebx; jnz -4
}

// Where the small guests with interrupts keep things: behind their code.
const (
	guestIDT     = boot.ImageStart + 0x2000
	guestIDTR    = boot.ImageStart + 0x3000
	guestHandler = boot.ImageStart + 0x4000
	guestStack   = boot.ImageStart + 0x6000
	guestCount   = boot.ImageStart + 0x7000
	guestWord    = boot.ImageStart + 0x7008
)

// Local APIC registers (Intel SDM volume 3, 11.4.1).
const (
	lapicEOI      = 0xfee000b0
	lapicSpurious = 0xfee000f0
)

// testVector is the interrupt vector of the tests' MSIs.
const testVector = 0x41

// start loads the IDT and a stack and enables the local APIC.
func (a *asm) start() *asm {
	a.emit(0xbc).imm32(guestStack) // mov esp, guestStack
	a.emit(0xb9).imm32(guestIDTR)  // mov ecx, guestIDTR
	a.emit(0x0f, 0x01, 0x19)       // lidt [rcx]
	return a.store32(lapicSpurious, 0x100|0xff)
}

// handle is an interrupt handler: save what asm's instructions use, do body,
// say EOI, return.
func handle(body *asm) []byte {
	h := (&asm{}).emit(0x50, 0x51, 0x52) // push rax, rcx, rdx
	h.emit(body.code...)
	return h.store32(lapicEOI, 0).emit(0x5a, 0x59, 0x58, 0x48, 0xcf).code // pop; iretq
}

// interrupts puts an IDT with handler at testVector into the machine's memory.
func interrupts(t testing.TB, vm *VM, handler []byte) {
	t.Helper()
	gate := make([]byte, 16)
	binary.LittleEndian.PutUint16(gate[0:], guestHandler&0xffff)
	binary.LittleEndian.PutUint16(gate[2:], boot.CodeSelector)
	gate[5] = 0x8e // present, interrupt gate
	binary.LittleEndian.PutUint16(gate[6:], guestHandler>>16)
	idtr := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(nil, 0xfff), guestIDT)
	for at, b := range map[memmap.Addr][]byte{guestIDT + 16*testVector: gate, guestIDTR: idtr, guestHandler: handler} {
		if err := vm.memory.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
}

// Where the only device's BARs lie while the guest leaves them, with one ring.
const (
	bar0 = pci.WindowStart
	bar2 = pci.WindowStart + 0x1000
	bar4 = pci.WindowStart + 0x2000

	bar4Pending = bar4 + 0x1000
)

// Registers of the function, and values.
const (
	cfgCommand = 0x04
	cfgBAR2    = 0x18
	cfgMSIX    = 0x40

	memoryAndMaster = 0x6
	msixOn          = 0x8000 << 16
)

// closedAtEnd makes a machine that is closed when the test ends.
func closedAtEnd(t testing.TB, c Config) *VM {
	t.Helper()
	vm, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
	})
	return vm
}

// withDevice makes a machine with one device of one ring, on the relay.
func withDevice(t testing.TB, a *asm) *VM {
	t.Helper()
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	return closedAtEnd(t, Config{
		Memory: 16 << 20, CPUs: 1, Guest: Guest{ELF: program(a.code...)},
		Devices: []DeviceConfig{{Name: "test", Backend: ChooseRelay, Rings: 1, MaxEntries: 64, SQThreadCPU: -1}},
	})
}
