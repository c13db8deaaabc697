// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/shm"
	"github.com/uringpv/uringpv/internal/testutil"
)

// Addresses of the tests' guest: what Intel hosts need, and code.
const (
	testIdentityMap = 0xfffbc000
	testTSS         = 0xfffbd000
	testCode        = 0x1000
	testMemory      = 1 << 20
)

// newVM makes a VM with interrupt controllers, 1 MiB of RAM and cpus vCPUs, the
// first of which is about to run code in real mode.
func newVM(t *testing.T, cpus int, code ...byte) (*VM, []*VCPU) {
	t.Helper()
	testutil.NeedKVM(t)
	s, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.NewVM()
	if err != nil {
		t.Fatal(err)
	}
	// A VM does not need /dev/kvm's descriptor any more.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ram, err := unix.Mmap(-1, 0, testMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	copy(ram[testCode:], code)
	var c []*VCPU
	t.Cleanup(func() {
		for _, c := range c {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
		if err := unix.Munmap(ram); err != nil {
			t.Error(err)
		}
	})
	if err := v.CreateIRQChip(testTSS, testIdentityMap); err != nil {
		t.Fatal(err)
	}
	view, err := shm.Of(ram)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.SetMemory(0, 0, view.Addr(), testMemory); err != nil {
		t.Fatal(err)
	}
	for id := range cpus {
		n, err := v.NewVCPU(id)
		if err != nil {
			t.Fatal(err)
		}
		c = append(c, n)
	}
	sregs, err := c[0].Sregs()
	if err != nil {
		t.Fatal(err)
	}
	sregs.CS.Base, sregs.CS.Selector = 0, 0
	if err := c[0].SetSregs(sregs); err != nil {
		t.Fatal(err)
	}
	if err := c[0].SetRegs(Regs{RIP: testCode, RFLAGS: 2}); err != nil {
		t.Fatal(err)
	}
	return v, c
}

// onThread calls f on an OS thread of its own.
func onThread(c *VCPU, f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c.Enter()
	defer c.Leave()
	f()
}

func TestAGuestRunsAndItsExitsAreCounted(t *testing.T) {
	testutil.NoLeaks(t)
	// mov al,'x'; out 0xe9,al; in al,0x55; out 0xe9,al
	_, cpus := newVM(t, 1, 0xb0, 'x', 0xe6, 0xe9, 0xe4, 0x55, 0xe6, 0xe9)
	c := cpus[0]
	before, have := c.Counters()
	var got []byte
	onThread(c, func() {
		for len(got) < 2 {
			e, err := c.Run()
			switch {
			case err != nil:
				t.Error(err)
				return
			case e.Reason == ExitInterrupted:
			case e.Reason == ExitIO && e.Write:
				got = append(got, e.Data...)
			case e.Reason == ExitIO && e.Addr == 0x55:
				e.Data[0] = 'y'
			default:
				t.Errorf("exit %+v", e)
				return
			}
		}
	})
	if string(got) != "xy" {
		t.Errorf("the guest wrote %q, want xy", got)
	}
	if c.Runs() < 3 {
		t.Errorf("%d calls of KVM_RUN for three exits", c.Runs())
	}
	if after, ok := c.Counters(); have && (!ok || after.GuestExits() <= before.GuestExits()) {
		t.Errorf("counters were %+v and are %+v", before, after)
	}
}

func TestRegistersComeBackAsSet(t *testing.T) {
	testutil.NoLeaks(t)
	_, cpus := newVM(t, 2)
	want := Regs{RAX: 1, RBX: 2, RCX: 3, RDX: 4, RSI: 5, RDI: 6, RSP: 7, RBP: 8, R8: 9, R15: 10, RIP: 11, RFLAGS: 2}
	if err := cpus[0].SetRegs(want); err != nil {
		t.Fatal(err)
	}
	if got, err := cpus[0].Regs(); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if err := cpus[0].ResetFPU(); err != nil {
		t.Error(err)
	}
	// Application processors wait; the first one does not.
	for i, want := range []MPState{MPRunnable, MPUninitialized} {
		if got, err := cpus[i].MPState(); err != nil || got != want {
			t.Errorf("vCPU %d is in state %d, %v; want %d", i, got, err, want)
		}
	}
	if err := cpus[1].SetMPState(MPHalted); err != nil {
		t.Error(err)
	}
	if got, err := cpus[1].MPState(); err != nil || got != MPHalted {
		t.Errorf("state %d, %v", got, err)
	}
	if a, ok := cpus[0].Translate(0x1234); !ok || a != 0x1234 {
		t.Errorf("without paging 0x1234 is %#x, %v", a, ok)
	}
	if cpus[0].TSCkHz() == 0 {
		t.Error("no TSC frequency")
	}
}

// prompt is how soon a kicked vCPU has to be back.
const prompt = 200 * time.Millisecond

func TestAKickEndsRun(t *testing.T) {
	for name, code := range map[string][]byte{"spinning": {0xeb, 0xfe}, "halted": {0xfa, 0xf4, 0xeb, 0xfd}} {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			_, cpus := newVM(t, 2, code...)
			for _, c := range cpus { // the second one waits for its start
				done := make(chan error, 1)
				var stop time.Time
				go onThread(c, func() {
					for {
						e, err := c.Run()
						if err != nil || e.Reason != ExitInterrupted {
							done <- err
							return
						}
						if c.flags.Load()&immediateExit != 0 {
							done <- nil
							return
						}
					}
				})
				time.Sleep(20 * time.Millisecond)
				stop = time.Now()
				c.Kick()
				select {
				case err := <-done:
					if err != nil {
						t.Error(err)
					}
					if d := time.Since(stop); d > prompt {
						t.Errorf("it took %v", d)
					}
				case <-time.After(5 * time.Second):
					t.Fatal("Run goes on")
				}
			}
		})
	}
}

// A kick that comes before Run is not lost.
func TestAKickBeforeRunCounts(t *testing.T) {
	testutil.NoLeaks(t)
	_, cpus := newVM(t, 1, 0xeb, 0xfe)
	cpus[0].Kick()
	onThread(cpus[0], func() {
		for range 3 {
			start := time.Now()
			if e, err := cpus[0].Run(); err != nil || e.Reason != ExitInterrupted {
				t.Errorf("exit %+v, %v", e, err)
			}
			if d := time.Since(start); d > prompt {
				t.Errorf("it took %v", d)
			}
		}
	})
}

func TestEventDescriptorsComeAndGo(t *testing.T) {
	testutil.NoLeaks(t)
	v, _ := newVM(t, 1)
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	// Two routes: entries of the wrong size would be refused.
	routes := map[uint32]MSI{FirstMSI: {0xfee00000, 0x41}, FirstMSI + 1: {0xfee00000, 0x42}}
	if err := v.SetRoutes(routes); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := v.AssignIRQFD(fd, FirstMSI); err != nil {
			t.Fatal(err)
		}
		if err := v.AssignIRQFD(fd, FirstMSI+1); err == nil {
			t.Error("an eventfd can be two interrupts")
		}
		if err := v.DeassignIRQFD(fd, FirstMSI); err != nil {
			t.Fatal(err)
		}
		if err := v.AssignIOEventFD(0xe0000000, fd); err != nil {
			t.Fatal(err)
		}
		if err := v.AssignIOEventFD(0xe0000000, fd); err == nil {
			t.Error("an address can be two doorbells")
		}
		if err := v.DeassignIOEventFD(0xe0000000, fd); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.SignalMSI(routes[FirstMSI]); err != nil {
		t.Error(err)
	}
	if err := v.IRQLine(4, true); err != nil {
		t.Error(err)
	}
	tooMany := map[uint32]MSI{}
	for i := range uint32(MaxMSI + 1) {
		tooMany[FirstMSI+i] = MSI{}
	}
	if err := v.SetRoutes(tooMany); err == nil {
		t.Error("too many routes were accepted")
	}
	delete(tooMany, FirstMSI)
	if err := v.SetRoutes(tooMany); err != nil {
		t.Errorf("%d routes: %v", MaxMSI, err)
	}
}

// maxCapabilityArgs is the most that KVM_ENABLE_CAP has room for.
const maxCapabilityArgs = 4

func TestErrorsNameTheCallAndTheValue(t *testing.T) {
	testutil.NoLeaks(t)
	v, cpus := newVM(t, 1)
	if err := v.SetMemory(1, 0x1001, 0x1001, 4096); err == nil || !strings.Contains(err.Error(), "KVM_SET_USER_MEMORY_REGION") || !strings.Contains(err.Error(), "0x1001") {
		t.Errorf("unaligned memory: %v", err)
	}
	if err := v.EnableCap(0xffff); err == nil || !strings.Contains(err.Error(), "KVM_ENABLE_CAP") {
		t.Errorf("unknown capability: %v", err)
	}
	if err := v.EnableCap(0, make([]uint64, maxCapabilityArgs+1)...); err == nil {
		t.Error("too many arguments were accepted")
	}
	if err := cpus[0].SetCPUID(make([]CPUIDEntry, maxCPUIDEntries+1)); err == nil {
		t.Error("too many CPUID entries were accepted")
	}
	if _, err := v.NewVCPU(0); err == nil || !strings.Contains(err.Error(), "KVM_CREATE_VCPU") {
		t.Errorf("a second vCPU 0: %v", err)
	}
}

func TestTheHostSaysWhatItSupports(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NoLeaks(t)
	s, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	e, err := s.SupportedCPUID()
	if err != nil || len(e) == 0 || len(e) == maxCPUIDEntries {
		t.Errorf("%d CPUID entries, %v", len(e), err)
	}
	if s.Has(Capability(0x7fff)) != 0 {
		t.Error("the host has a capability that does not exist")
	}
	if s.Has(0) == 0 { // KVM_CAP_IRQCHIP
		t.Error("the host has no in-kernel interrupt controllers")
	}
}
