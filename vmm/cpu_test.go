// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
	"github.com/uringpv/uringpv/vmm/boot"
)

// lapicICR are the halves of the interrupt command register.
const (
	lapicICRLow  = 0xfee00300
	lapicICRHigh = 0xfee00310

	icrINIT = 0x4500
	icrSIPI = 0x4600
)

// realMode is where the tests' application processors begin: a page below 1 MiB.
const realMode = 0x80000

// wake starts application processor id at realMode.
func (a *asm) wake(id uint32) *asm {
	return a.store32(lapicICRHigh, id<<24).store32(lapicICRLow, icrINIT).delay(2000).
		store32(lapicICRHigh, id<<24).store32(lapicICRLow, icrSIPI|realMode>>12)
}

// machine makes a machine without devices and puts code for application
// processors into its memory.
func machine(t testing.TB, c Config, ap []byte) *VM {
	t.Helper()
	testutil.NeedKVM(t)
	c.Memory = 16 << 20
	vm := closedAtEnd(t, c)
	if err := vm.memory.WriteAt(ap, memmap.Addr(realMode)); err != nil {
		t.Fatal(err)
	}
	return vm
}

func TestTheGuestStartsItsOtherCPUs(t *testing.T) {
	testutil.NoLeaks(t)
	// The application processor exits with 9; the first one waits for that.
	ap := []byte{0x66, 0xb8, 9, 0, 0, 0, 0x66, 0xe7, portExit, 0xf4, 0xeb, 0xfd}
	a := (&asm{}).start().wake(1).emit(halt...)
	vm := machine(t, Config{CPUs: 2, Guest: Guest{ELF: program(a.code...)}}, ap)
	exit, err := vm.Run(limit(t))
	if err != nil || exit.Code != 9 {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

func TestTheConsoleIsWrittenByOneCPUAtATime(t *testing.T) {
	testutil.NoLeaks(t)
	// Each writes 200 bytes; the application processor then counts up, for which
	// the first one waits. bytes.Buffer is not for concurrent use: the race
	// detector would tell, and bytes would be lost.
	ap := []byte{0xb9, 200, 0, 0xb0, 'b', 0xe6, portConsole, 0xe2, 0xfc, // mov cx,200; mov al,'b'; 1: out 0xe9,al; loop 1b
		0xb8, byte(realMode >> 4 & 0xff), byte(realMode >> 12), 0x8e, 0xd8, // mov ax,realMode>>4; mov ds,ax
		0xc6, 0x06, 0, 1, 1, 0xf4, 0xeb, 0xfd} // mov byte [0x100],1; hlt
	a := (&asm{}).start().wake(1)
	a.emit(0xbb).imm32(200).emit(0xb0, 'a', 0xe6, portConsole, 0xff, 0xcb, 0x75, 0xfa) // mov ebx,200; mov al,'a'; 1: out; dec ebx; jnz
	a.emit(0xb9).imm32(realMode+0x100).emit(0x8a, 0x01, 0x84, 0xc0, 0x74, 0xfa)        // mov ecx,..; 1: mov al,[rcx]; test al,al; jz 1b
	a.eax(0).exit()
	var out bytes.Buffer
	vm := machine(t, Config{CPUs: 2, Guest: Guest{ELF: program(a.code...)}, Console: &out}, ap)
	exit, err := vm.Run(limit(t))
	if err != nil || exit.Code != 0 {
		t.Fatalf("exit %+v, %v", exit, err)
	}
	if x, y := strings.Count(out.String(), "a"), strings.Count(out.String(), "b"); x != 200 || y != 200 {
		t.Errorf("%d bytes of the first CPU and %d of the second, want 200 each", x, y)
	}
}

func TestExitWhileAnotherCPUIsHalted(t *testing.T) {
	testutil.NoLeaks(t)
	ap := []byte{0xfa, 0xf4, 0xeb, 0xfd}
	a := (&asm{}).start().wake(1).delay(2000).eax(5).exit()
	vm := machine(t, Config{CPUs: 3, Guest: Guest{ELF: program(a.code...)}}, ap)
	start := time.Now()
	exit, err := vm.Run(limit(t))
	if err != nil || exit.Code != 5 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("it took %v", d)
	}
}

// userMode is a guest that goes to CPL 3, counts to n there, and exits with the
// value of CS. The ports are opened by the TSS's bitmap, not by IOPL, which
// software KVM does not keep at CPL 3.
func userMode(n uint32) *asm {
	const gdt, gdtr, tss = guestIDT, guestIDTR, guestWord + 0x100
	a := &asm{}
	a.emit(0xbc).imm32(guestStack)
	descriptors := []uint64{
		0, 0x00af9b000000ffff, 0x00cf93000000ffff, // CPL 0: code, data
		0x00cff3000000ffff, 0x00affb000000ffff, // CPL 3: data, code
		0x0000890000000000 | (tss&0xffffff)<<16 | 0x88, 0, // TSS of 0x89 bytes
	}
	for i, d := range descriptors {
		a.store32(gdt+8*uint32(i), uint32(d)).store32(gdt+8*uint32(i)+4, uint32(d>>32))
	}
	a.store32(tss+0x64, 0x68<<16).store32(tss+0x88, 0xff) // the bitmap begins at 0x68; all ports below 0x100 are open
	a.store32(gdtr, uint32(8*len(descriptors)-1)|gdt&0xffff<<16).store32(gdtr+4, gdt>>16).store32(gdtr+8, 0)
	a.emit(0xb9).imm32(gdtr).emit(0x0f, 0x01, 0x11)           // lgdt [rcx]
	a.emit(0x66, 0xb8, 0x28, 0, 0x0f, 0x00, 0xd8)             // mov ax, 0x28; ltr ax
	target := boot.ImageStart + uint32(len(a.code)) + 5*5 + 2 // behind the pushes and iretq
	a.emit(0x68).imm32(0x1b).emit(0x68).imm32(guestStack)     // ss, rsp
	a.emit(0x68).imm32(0x2).emit(0x68).imm32(0x23).emit(0x68).imm32(target)
	a.emit(0x48, 0xcf)
	return a.delay(n).emit(0x8c, 0xc8).exit()
}

func TestUserModeRunsAndReachesPorts(t *testing.T) {
	testutil.NoLeaks(t)
	vm := machine(t, Config{CPUs: 1, Guest: Guest{ELF: program(userMode(50_000_000).code...)}}, nil)
	start := time.Now()
	exit, err := vm.Run(limit(t))
	var crash *GuestCrash
	if errors.As(err, &crash) {
		t.Log(crash.Report)
	}
	// Software KVM shows the host's own selector at CPL 3; the level is right.
	if err != nil || exit.Code&3 != 3 {
		t.Fatalf("exit %+v, %v: want a selector of CPL 3", exit, err)
	}
	t.Logf("100 million instructions at CPL 3 took %v, %+v", time.Since(start), vm.Stats().KVM)
}
