// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/uringpv/uringpv/internal/feature"
	"github.com/uringpv/uringpv/internal/testutil"
)

// program is a guest of this code.
func program(code ...byte) []byte { return elfProgram(code) }

// Machine code of the small guests. An exit writes eax to the exit port.
var (
	exit0 = []byte{0x31, 0xc0, 0xe7, portExit}                   // xor eax,eax; out 0xf4,eax
	spin  = []byte{0xeb, 0xfe}                                   // jmp .
	halt  = []byte{0xfa, 0xf4, 0xeb, 0xfd}                       // cli; hlt; jmp -1
	exit7 = []byte{0xb8, 7, 0, 0, 0, 0xe7, portExit, 0xeb, 0xfe} // mov eax,7; out 0xf4,eax
)

// run runs code on a machine of cpus vCPUs, and returns how it ended and what it
// wrote to the console.
func run(t testing.TB, ctx context.Context, cpus int, code ...byte) (Exit, string, error) {
	t.Helper()
	var out bytes.Buffer
	vm, err := New(Config{Memory: 16 << 20, CPUs: cpus, Guest: Guest{ELF: program(code...)}, Console: &out})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
	}()
	exit, err := vm.Run(ctx)
	return exit, out.String(), err
}

func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestGuestWritesToTheConsoleAndExits(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NoLeaks(t)
	// lea rsi,[rip+14]; mov ecx,6; mov dx,0xe9; rep outsb; exit 7; "hello\n"
	code := join([]byte{0x48, 0x8d, 0x35, 20, 0, 0, 0, 0xb9, 6, 0, 0, 0, 0x66, 0xba, 0xe9, 0, 0xf3, 0x6e}, exit7, []byte("hello\n"))
	exit, out, err := run(t, limit(t), 1, code...)
	if err != nil || exit.Code != 7 || out != "hello\n" {
		t.Errorf("exit %+v, output %q, %v", exit, out, err)
	}
}

func TestSeveralVCPUsStopTogether(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NoLeaks(t)
	if _, _, err := run(t, limit(t), 4, exit0...); err != nil {
		t.Error(err)
	}
}

func TestCancelStopsAGuestPromptly(t *testing.T) {
	testutil.NeedKVM(t)
	for name, code := range map[string][]byte{"spinning": spin, "halted": halt} {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			why := errors.New("enough")
			ctx, cancel := context.WithCancelCause(context.Background())
			var at time.Time
			time.AfterFunc(50*time.Millisecond, func() { at = time.Now(); cancel(why) })
			_, _, err := run(t, ctx, 2, code...)
			if !errors.Is(err, why) {
				t.Errorf("error %v, want the context's cause", err)
			}
			if d := time.Since(at); d > 2*time.Second {
				t.Errorf("it took %v to stop", d)
			}
		})
	}
}

func TestCrashIsReported(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NoLeaks(t)
	// ud2 without an IDT: #UD, #DF, triple fault. On a KVM that emulates CPL 0 it
	// may be an emulation failure; both are a crash.
	_, _, err := run(t, limit(t), 1, 0x90, 0x0f, 0x0b)
	var crash *GuestCrash
	if !errors.As(err, &crash) {
		t.Fatalf("error %v, want a *GuestCrash", err)
	}
	t.Logf("%v\n%s", err, crash.Report)
	if strings.Contains(crash.Report, "its registers are lost") {
		if kind := feature.ProbeKVM().Kind; kind != "kvm-amd" {
			t.Errorf("%s has registers after a triple fault", kind)
		}
		return
	}
	for _, want := range []string{"rip 0000000000200001", "ud2", "cr3 0000000000001000", "CPL 0"} {
		if !strings.Contains(crash.Report, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
}

func TestAccessesToNothingAreHarmless(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NoLeaks(t)
	code := join(
		[]byte{0xb8, 0, 0, 0, 0xd0},                            // mov eax,0xd0000000
		[]byte{0x8b, 0x18, 0x48, 0x8b, 0x48, 3},                // mov ebx,[rax]; mov rcx,[rax+3]
		[]byte{0x89, 0x18, 0xc6, 0x40, 1, 5},                   // mov [rax],ebx; mov byte [rax+1],5
		[]byte{0x66, 0xba, 0x34, 0x12, 0xed, 0xee, 0x66, 0xef}, // mov dx,0x1234; in eax,dx; out dx,al; out dx,ax
		[]byte{0x89, 0xd8, 0xff, 0xc0},                         // mov eax,ebx; inc eax: all ones give 0
		[]byte{0xe7, portExit, 0xeb, 0xfe},
	)
	exit, _, err := run(t, limit(t), 1, code...)
	if err != nil || exit.Code != 0 {
		t.Errorf("exit %+v, %v: reads of nothing must give all ones", exit, err)
	}
}

func TestCountersReachTheGuest(t *testing.T) {
	testutil.NeedKVM(t)
	// out 0xf8,eax; mov eax,[0xb000+24] (system calls), exit with it
	code := join([]byte{0xe7, portCounters, 0x8b, 0x04, 0x25, 0x20, 0xb0, 0, 0, 0xe7, portExit, 0xeb, 0xfe})
	exit, _, err := run(t, limit(t), 1, code...)
	if err != nil || exit.Code == 0 {
		t.Errorf("exit %+v, %v: the host's clock must not be 0", exit, err)
	}
}

func TestManyMachinesLeaveNothing(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NoLeaks(t)
	for range 20 {
		if _, _, err := run(t, limit(t), 2, exit0...); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadConfigsAreRefused(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NoLeaks(t)
	good := Config{Memory: 16 << 20, CPUs: 1, Guest: Guest{ELF: program(exit0...)}}
	for name, spoil := range map[string]func(*Config){
		"no CPU":         func(c *Config) { c.CPUs = 0 },
		"too many CPUs":  func(c *Config) { c.CPUs = 1000 },
		"little memory":  func(c *Config) { c.Memory = 4096 },
		"odd memory":     func(c *Config) { c.Memory++ },
		"no guest":       func(c *Config) { c.Guest.ELF = nil },
		"no program":     func(c *Config) { c.Guest.ELF = []byte("hello") },
		"unknown device": func(c *Config) { c.Devices = []DeviceConfig{{Name: "x", Backend: "best", Rings: 1}} },
		"no rings":       func(c *Config) { c.Devices = []DeviceConfig{{Name: "x", Backend: ChooseRelay, MaxEntries: 64}} },
	} {
		c := good
		spoil(&c)
		if vm, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
			_ = vm.Close()
		}
	}
}

func BenchmarkStartAndStop(b *testing.B) {
	testutil.NeedKVM(b)
	for b.Loop() {
		if _, _, err := run(b, context.Background(), 1, exit0...); err != nil {
			b.Fatal(err)
		}
	}
}
