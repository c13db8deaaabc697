// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

// stubborn is a backend whose rings, and itself, do not close at once.
type stubborn struct {
	ringErrs []error // of a ring's Close, one after the other; then nil
	closeErr error   // of the backend's
}

func (*stubborn) Kind() abi.Backend { return abi.BackendRelay }

func (*stubborn) Capabilities() uringpv.Capabilities {
	return uringpv.Capabilities{
		Policy:     uringpv.Policy{Opcodes: abi.OpcodesOf(hostring.OpNop)},
		MaxEntries: 64, MaxFiles: 1, MaxBuffers: 1,
	}
}

func (b *stubborn) NewRing(uringpv.RingSpec) (uringpv.Ring, error) { return stubbornRing{b}, nil }
func (b *stubborn) Close() error                                   { return b.closeErr }

type stubbornRing struct{ b *stubborn }

func (stubbornRing) Params() hostring.Params      { return hostring.Params{} }
func (stubbornRing) Enter(_, _ uint32) error      { return nil }
func (stubbornRing) Stats() (s uringpv.RingStats) { return s }
func (stubbornRing) SystemCalls() uint64          { return 0 }

func (stubbornRing) UpdateFiles(int, []*uringpv.File) error  { return nil }
func (stubbornRing) UpdateBuffers(int, []memmap.Range) error { return nil }
func (stubbornRing) SetVector(int) error                     { return nil }

func (r stubbornRing) Close(context.Context) error {
	if len(r.b.ringErrs) == 0 {
		return nil
	}
	err := r.b.ringErrs[0]
	r.b.ringErrs = r.b.ringErrs[1:]
	return err
}

// stubbornMachine has a device with one ring on the backend b.
func stubbornMachine(t *testing.T, b *stubborn) *VM {
	t.Helper()
	testutil.NeedKVM(t)
	vm, err := New(Config{Memory: 16 << 20, CPUs: 1, Guest: Guest{ELF: program(exit0...)}})
	if err != nil {
		t.Fatal(err)
	}
	dev, err := uringpv.New(uringpv.Config{Name: "stubborn", Rings: 1, MaxEntries: 64, Memory: vm.memory, Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	vm.devices = []*device{{Device: dev, chosen: Chosen{Device: "stubborn"}}}
	const cmd, payload = memmap.Addr(0x300000), memmap.Addr(0x301000)
	setup := abi.RingSetup{
		Params:    abi.Params{SQEntries: 8},
		RingsAddr: 0x310000, RingsLen: abi.RingsSize(8, 16), SQEsAddr: 0x320000, SQEsLen: 4096, Vector: abi.NoVector,
	}
	for at, p := range map[memmap.Addr][]byte{
		payload: abi.Encode(&setup),
		cmd:     abi.Encode(&abi.Cmd{Op: abi.CmdRingSetup, Addr: uint64(payload), Len: abi.RingSetupSize}),
	} {
		if err := vm.memory.WriteAt(p, at); err != nil {
			t.Fatal(err)
		}
	}
	dev.WriteRegister(abi.RegAdminAddr, []byte{0, 0, 0x30, 0, 0, 0, 0, 0})
	dev.WriteRegister(abi.RegAdminDoorbell, []byte{1, 0, 0, 0})
	var result [4]byte
	if err := vm.memory.ReadAt(result[:], cmd+abi.CmdResultOffset); err != nil || result != [4]byte{} {
		t.Fatalf("RING_SETUP gave %x, %v", result, err)
	}
	return vm
}

// mapped says whether guest RAM is still there.
func mapped(vm *VM) bool { return vm.memory.ReadAt(make([]byte, 8), 0x300000) == nil }

// While a ring may still write to guest RAM, whatever the reason, that address
// space must not become another guest's.
func TestCloseKeepsTheMemoryWhileARingUsesIt(t *testing.T) {
	for name, why := range map[string]error{"stuck I/O": unix.ETIMEDOUT, "a fault of the host": unix.EIO} {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			vm := stubbornMachine(t, &stubborn{ringErrs: []error{why, why}})
			for i := 0; mapped(vm) && i < 5; i++ {
				err := vm.Close()
				if err == nil {
					break
				}
				if !errors.Is(err, why) {
					t.Errorf("error %v, want %v in it", err, why)
				}
				if !errors.Is(err, ErrMemoryInUse) {
					t.Errorf("error %v does not say that the memory is in use", err)
				}
				if !mapped(vm) {
					t.Error("guest RAM is gone while a ring uses it")
				}
			}
			if err := vm.Close(); err != nil || mapped(vm) {
				t.Errorf("at last: %v, RAM mapped %v", err, mapped(vm))
			}
		})
	}
}

// An error that comes after the last ring's end holds nothing up.
func TestCloseGoesOnWhenOnlyTheBackendComplains(t *testing.T) {
	testutil.NoLeaks(t)
	vm := stubbornMachine(t, &stubborn{closeErr: unix.EBADF})
	err := vm.Close()
	if !errors.Is(err, unix.EBADF) || errors.Is(err, ErrMemoryInUse) || mapped(vm) {
		t.Errorf("error %v, RAM mapped %v: want the backend's error and no RAM", err, mapped(vm))
	}
	if err := vm.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}
