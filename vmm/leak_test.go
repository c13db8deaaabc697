// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/vmm/boot"
)

// leftMapped is what /proc/self/maps has of a machine: RAM and kvm_run.
func leftMapped(t testing.TB) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "guest-ram") || strings.Contains(line, "kvm-vcpu") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// threads is the number of this process's threads.
func threads(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestFiftyMachinesLeaveNoThreadAndNoMapping(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	testutil.NoLeaks(t)
	const cpus = 4
	before := 0
	for i := range 50 {
		c := Config{
			Memory: 16 << 20, CPUs: cpus, Guest: Guest{ELF: program(exit0...)},
			Devices: []DeviceConfig{{Name: "test", Backend: ChooseRelay, Rings: 4, MaxEntries: 64, SQThreadCPU: -1}},
		}
		vm, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		if len(leftMapped(t)) == 0 {
			t.Fatal("a machine's mappings are not found: this test would see nothing")
		}
		if _, err := vm.Run(limit(t)); err != nil {
			t.Fatal(err)
		}
		if err := vm.Close(); err != nil {
			t.Fatal(err)
		}
		if left := leftMapped(t); len(left) > 0 {
			t.Fatalf("machine %d left mapped:\n%s", i, strings.Join(left, "\n"))
		}
		if i == 4 { // the runtime keeps some threads for later
			before = threads(t)
		}
	}
	if n := threads(t); n > before+2*cpus {
		t.Errorf("%d threads after 5 machines, %d after 50", before, n)
	}
}

// Whatever step of New fails, nothing of the earlier ones stays. The limit of
// descriptors makes each fail in turn.
func TestAMachineThatCannotBeMadeLeavesNothing(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	testutil.NoLeaks(t)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
	}
	defer restore()
	made := false
	failed := 0
	for extra := uint64(0); !made && extra < 64; extra++ {
		next, err := unix.Dup(0) // the lowest free descriptor
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Close(next); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(next) + extra, Max: was.Max}); err != nil {
			t.Fatal(err)
		}
		vm, err := New(Config{
			Memory: 16 << 20, CPUs: 2, Guest: Guest{ELF: program(exit0...)},
			Devices: []DeviceConfig{{Name: "test", Backend: ChooseRelay, Rings: 2, MaxEntries: 64, SQThreadCPU: -1}},
		})
		restore()
		if err == nil {
			made = true
			if err := vm.Close(); err != nil {
				t.Error(err)
			}
			continue
		}
		failed++
		if !errors.Is(err, unix.EMFILE) {
			t.Errorf("with %d descriptors: %v, want EMFILE in it", extra, err)
		}
		if left := leftMapped(t); len(left) > 0 {
			t.Fatalf("with %d descriptors, left mapped:\n%s", extra, strings.Join(left, "\n"))
		}
	}
	if !made || failed < 8 {
		t.Errorf("made %v after %d failures: too few steps were tried", made, failed)
	}
}

func TestCountersAreWhole(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NoLeaks(t)
	a := (&asm{}).out32(0x1234, 0).out32(portCounters, 0).eax(0).exit()
	vm := machine(t, Config{CPUs: 1, Guest: Guest{ELF: program(a.code...)}}, nil)
	before := time.Since(vm.made)
	if _, err := vm.Run(limit(t)); err != nil {
		t.Fatal(err)
	}
	after := time.Since(vm.made)
	b := make([]byte, 64)
	if err := vm.memory.ReadAt(b, boot.CountersAddr); err != nil {
		t.Fatal(err)
	}
	var words [8]uint64
	for i := range words {
		for j := range 8 {
			words[i] |= uint64(b[8*i+j]) << (8 * j)
		}
	}
	exits, irqExits, calls, ns := words[0], words[1], words[3], words[4]
	if vm.Stats().HaveKVM && (exits <= irqExits || exits > 1000) {
		t.Errorf("%d exits, %d of them for the host's interrupts", exits, irqExits)
	}
	// One KVM_RUN before the first port, and what the runtime's signals cost.
	if calls < 1 || calls > 100 {
		t.Errorf("%d system calls", calls)
	}
	if ns < uint64(before) || ns > uint64(after) {
		t.Errorf("the clock is %d ns, was %d before the run and %d after it", ns, before, after)
	}
	if !bytes.Equal(b[40:], make([]byte, 24)) {
		t.Errorf("reserved words are %x", b[40:])
	}
}
