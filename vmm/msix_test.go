// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/testutil"
)

// signal adds one to an eventfd, as the end of a request does.
func signal(t testing.TB, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
}

// msix makes entry 0 an interrupt at testVector, masked or not, and turns MSI-X
// on.
func (a *asm) msix(masked uint32) *asm {
	a.pci(cfgCommand, memoryAndMaster)
	a.store32(bar4, 0xfee00000).store32(bar4+4, 0).store32(bar4+8, testVector).store32(bar4+12, masked)
	return a.pci(cfgMSIX, msixOn)
}

func TestAnEventfdWakesAHaltedGuest(t *testing.T) {
	testutil.NoLeaks(t)
	a := (&asm{}).start().msix(0)
	a.store32(guestWord, 1).emit(0xfb, 0xf4).load32(guestCount).exit() // ready; sti; hlt
	vm := withDevice(t, a)
	interrupts(t, vm, handle((&asm{}).inc32(guestCount)))

	ctx, cancel := context.WithCancel(limit(t))
	signalled := make(chan error, 1)
	go func() {
		// The guest says when it has enabled its vector; a little later it halts.
		var ready [4]byte
		for ready[0] == 0 && ctx.Err() == nil {
			if err := vm.memory.ReadAt(ready[:], guestWord); err != nil {
				signalled <- err
				return
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(10 * time.Millisecond)
		_, err := unix.Write(vm.devices[0].VectorFD(0), []byte{1, 0, 0, 0, 0, 0, 0, 0})
		signalled <- err
	}()
	exit, err := vm.Run(ctx)
	cancel()
	if serr := <-signalled; serr != nil {
		t.Error(serr)
	}
	if err != nil || exit.Code != 1 {
		t.Errorf("exit %+v, %v: want one interrupt", exit, err)
	}
	if n := vm.Stats().KVM.IRQInjections; vm.Stats().HaveKVM && n == 0 {
		t.Error("KVM counts no interrupt")
	}
}

// One event is one interrupt, also for a driver that masks its vector in the
// handler and unmasks it at the end.
func TestOneEventIsOneInterruptHoweverOftenTheVectorIsMasked(t *testing.T) {
	testutil.NoLeaks(t)
	// Pending bits while masked; unmask; leave time; how many interrupts came.
	a := (&asm{}).start().msix(1).load32(bar4Pending)
	a.emit(0xb9).imm32(guestWord).emit(0x89, 0x01) // mov [guestWord], eax
	a.store32(bar4+12, 0).emit(0xfb).delay(40000)  // unmask; sti
	a.store32(bar4+12, 1).load32(bar4Pending).emit(0xc1, 0xe0, 16)
	a.emit(0xb9).imm32(guestCount).emit(0x03, 0x01).exit() // eax = pending << 16 + count
	vm := withDevice(t, a)
	body := (&asm{}).store32(bar4+12, 1).inc32(guestCount).store32(bar4+12, 0)
	interrupts(t, vm, handle(body))
	signal(t, vm.devices[0].VectorFD(0))
	exit, err := vm.Run(limit(t))
	if err != nil {
		var crash *GuestCrash
		if errors.As(err, &crash) {
			t.Log(crash.Report)
		}
		t.Fatal(err)
	}
	var pending [4]byte
	if err := vm.memory.ReadAt(pending[:], guestWord); err != nil || pending[0] != 1 {
		t.Errorf("pending bits %x, %v, while the event is held back; want 1", pending, err)
	}
	if exit.Code&0xffff != 1 {
		t.Errorf("%d interrupts for one event", exit.Code&0xffff)
	}
	if exit.Code>>16 != 0 {
		t.Error("the event is still pending after its interrupt")
	}
}
