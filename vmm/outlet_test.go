// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/vmm/serial"
)

// toCOM1 is code that writes a byte to COM1 n times.
func toCOM1(n uint32) []byte {
	a := (&asm{}).emit(0x66, 0xba, serial.COM1&0xff, serial.COM1>>8, 0xb0, 'x', 0xb9).imm32(n) // mov dx, COM1; mov al, 'x'; mov ecx, n
	return a.emit(0xee, 0xff, 0xc9, 0x75, 0xfb).code                                           // l: out dx, al; dec ecx; jnz l
}

// reader takes what is written when it is told to, or now and then.
type reader struct {
	begun chan struct{} // a write has begun
	may   chan struct{} // until this is closed it does not end
	n     int
}

func (r *reader) Write(p []byte) (int, error) {
	if r.n == 0 {
		close(r.begun)
	}
	<-r.may
	r.n += len(p)
	time.Sleep(time.Millisecond)
	return len(p), nil
}

// A reader of COM1 that does not read holds up the guest, which writes on two vCPUs at
// once, but not the end of its run, nor its input.
func TestAReaderThatDoesNotReadDoesNotHoldUpTheEnd(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NoLeaks(t)
	r := &reader{begun: make(chan struct{}), may: make(chan struct{})}
	ap := []byte{0xba, serial.COM1 & 0xff, serial.COM1 >> 8, 0xb0, 'y', 0xee, 0xeb, 0xfd} // mov dx, COM1; mov al, 'y'; l: out dx, al; jmp l
	a := (&asm{}).start().wake(1).emit(toCOM1(1 << 30)...)
	vm := machine(t, Config{CPUs: 2, Guest: Guest{ELF: program(a.code...)}, Serial: r}, ap)
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(limit(t))
	ended := make(chan error, 1)
	go func() {
		_, err := vm.Run(ctx)
		ended <- err
	}()
	<-r.begun
	for len(vm.serialOut.bytes) < outletSize {
		time.Sleep(time.Millisecond)
	}
	if said := strings.Join(vm.tail.all(), ""); !strings.Contains(said, "x") || !strings.Contains(said, "y") {
		t.Errorf("not both vCPUs have written before the reader was %d bytes behind", outletSize)
	}
	if n := vm.SerialInput([]byte("abc")); n != 3 {
		t.Errorf("took %d bytes of input", n)
	}
	cancel(why)
	select {
	case err := <-ended:
		if !errors.Is(err, why) {
			t.Errorf("error %v, want the context's cause", err)
		}
	case <-time.After(15 * time.Second):
		t.Error("the run has not ended")
	}
	close(r.may)
	<-vm.serialOut.done
}

// A slow reader gets all, also what the guest wrote last.
func TestASlowReaderGetsAll(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NoLeaks(t)
	const n = 3*outletSize + 17
	r := &reader{begun: make(chan struct{}), may: make(chan struct{})}
	close(r.may)
	vm := closedAtEnd(t, Config{Memory: 16 << 20, CPUs: 1, Guest: Guest{ELF: program(join(toCOM1(n), exit0)...)}, Serial: r})
	if _, err := vm.Run(limit(t)); err != nil || r.n != n {
		t.Errorf("%d bytes of %d, %v", r.n, n, err)
	}
}
