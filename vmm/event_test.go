// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/uringpv/uringpv/internal/feature"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/vmm/boot"
)

// fault is machine code that raises #PF: mov rax,0x7f0000000000; mov eax,[rax].
var fault = []byte{0x48, 0xb8, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0x8b, 0x00}

// idtOf is what code after an lidt has to be followed by: the register's value.
func idtOf(limit uint16, base uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(nil, limit), base)
}

// A guest has had its exception when it writes to a device. What the processor
// still says of it must not end the machine. Each round writes to a page that KVM
// does not know yet; the first has exits between the exception and the write.
func TestMMIOAfterAnException(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NoLeaks(t)
	const vector, gate, rounds = 14, 16, 16
	begin := []byte{0xb9, rounds, 0, 0, 0, 0x0f, 0x01, 0x1d, 0, 0, 0, 0} // mov ecx,rounds; lidt [rip+...]
	// mov edx,ecx; shl edx,12; mov eax,0xd0000000; mov [rax+rdx],eax
	mmio := []byte{0x89, 0xca, 0xc1, 0xe2, 12, 0xb8, 0, 0, 0, 0xd0, 0x89, 0x04, 0x10}
	back := []byte{0xff, 0xc9, 0x75, 0} // dec ecx; jnz fault
	back[3] = byte(-(len(fault) + len(mmio) + len(back)))
	begin[8] = byte(len(fault) + len(mmio) + len(back) + len(exit7))
	handler := boot.ImageStart + len(begin) + len(fault)
	code := join(begin, fault, mmio, back, exit7)
	table := uint64(boot.ImageStart + len(code) + 10)
	code = join(code, idtOf(vector*gate+gate-1, table-vector*gate), interruptGate(uint32(handler)))
	exit, _, err := run(t, limit(t), 1, code...)
	if err != nil || exit.Code != 7 {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

// Gates that are not in RAM: the exception cannot be delivered, and the guest
// does not go on. On AMD's processors Linux tells of it from 6.14 on; before,
// KVM tries without end, and the machine can be stopped.
func TestAnExceptionThatCannotBeDeliveredIsACrash(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NoLeaks(t)
	release, err := feature.KernelRelease()
	if err != nil {
		t.Fatal(err)
	}
	v, err := feature.ParseVersion(release)
	if err != nil {
		t.Fatal(err)
	}
	amd := feature.ProbeKVM().Kind == "kvm-amd"
	for name, raise := range map[string][]byte{"fault": fault, "int3": {0xcc}, "int": {0xcd, 0x80}} {
		t.Run(name, func(t *testing.T) {
			ctx := limit(t)
			spins := amd && v.Before(feature.Version{Major: 6, Minor: 14})
			if spins {
				var cancel func()
				ctx, cancel = context.WithTimeout(ctx, time.Second)
				defer cancel()
			}
			code := join([]byte{0x0f, 0x01, 0x1d, byte(len(raise) + len(exit7)), 0, 0, 0}, // lidt [rip+...]
				raise, exit7, idtOf(0xfff, 0xd000_0000))
			exit, _, err := run(t, ctx, 1, code...)
			if spins && errors.Is(err, context.DeadlineExceeded) {
				return
			}
			var crash *GuestCrash
			if !errors.As(err, &crash) {
				t.Fatalf("exit %+v, %v, want a *GuestCrash", exit, err)
			}
			t.Logf("%v\n%s", err, crash.Report)
		})
	}
}
