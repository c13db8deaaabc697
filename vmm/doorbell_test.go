// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/testutil"
)

// rung is how often the eventfd fd was signalled since it was last asked.
func rung(t testing.TB, fd int) uint64 {
	t.Helper()
	var b [8]byte
	switch _, err := unix.Read(fd, b[:]); err {
	case nil:
		return binary.NativeEndian.Uint64(b[:])
	case unix.EAGAIN:
		return 0
	default:
		t.Fatal(err)
		return 0
	}
}

func TestADoorbellFollowsItsBARAndCostsTheMonitorNothing(t *testing.T) {
	testutil.NoLeaks(t)
	const moved = 0xf0000000
	a := (&asm{}).store32(bar2, 1) // memory decoding is off
	a.pci(cfgCommand, memoryAndMaster).store32(bar2, 1).store32(bar2, 0)
	a.pci(cfgBAR2, moved).store32(bar2, 1).store32(moved, 7)
	a.pci(cfgCommand, 0).store32(moved, 1)
	a.pci(cfgCommand, memoryAndMaster).store32(moved, 1)
	a.pci(cfgBAR2, 0x1000).store32(moved, 1) // outside the window: nowhere
	a.eax(0).exit()
	vm := withDevice(t, a)
	exit, err := vm.Run(limit(t))
	if err != nil || exit.Code != 0 {
		t.Fatalf("exit %+v, %v", exit, err)
	}
	if n := rung(t, vm.devices[0].DoorbellFD(0)); n != 4 {
		t.Errorf("the doorbell rang %d times, want 4", n)
	}
	if n := vm.devices[0].SystemCalls(); n != 0 {
		t.Errorf("the monitor served %d doorbells itself: the ioeventfd is not in place", n)
	}
}

func TestOnlyAFourByteWriteAtItsStartRingsADoorbell(t *testing.T) {
	testutil.NoLeaks(t)
	a := (&asm{}).pci(cfgCommand, memoryAndMaster)
	a.emit(0xb9).imm32(bar2)          // mov ecx, bar2
	a.emit(0xc6, 0x01, 1)             // mov byte [rcx], 1
	a.emit(0x66, 0xc7, 0x01, 1, 0)    // mov word [rcx], 1
	a.emit(0x48, 0xc7, 0x01).imm32(1) // mov qword [rcx], 1
	a.emit(0xc7, 0x41, 4).imm32(1)    // mov dword [rcx+4], 1
	a.emit(0xc7, 0x41, 0xff).imm32(1) // mov dword [rcx-1], 1
	a.emit(0x8b, 0x01).exit()         // mov eax, [rcx]: reads give zero
	vm := withDevice(t, a)
	exit, err := vm.Run(limit(t))
	if err != nil || exit.Code != 0 {
		t.Fatalf("exit %+v, %v", exit, err)
	}
	if n := rung(t, vm.devices[0].DoorbellFD(0)); n != 0 {
		t.Errorf("the doorbell rang %d times, want 0", n)
	}
}
