// SPDX-License-Identifier: Apache-2.0

package passthrough

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/internal/direct"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

// newBackend is the backend under test, for ringtest.
func newBackend(t testing.TB, m *memmap.Memory, files []uringpv.File) uringpv.Backend {
	t.Helper()
	b, err := New(Config{Memory: m, Files: files, Logger: slog.New(slog.DiscardHandler)})
	ringtest.Need(t, err)
	return b
}

func TestPassthrough(t *testing.T) { ringtest.Run(t, newBackend) }

func TestSupportedAgreesWithNew(t *testing.T) {
	testutil.NeedIOUring(t)
	err := Supported()
	b, newErr := New(Config{Memory: ringtest.Memory(t, 16<<20)})
	if (err == nil) != (newErr == nil) {
		t.Fatalf("Supported: %v; New: %v", err, newErr)
	}
	ringtest.Need(t, err)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestFloodStopsTheRing has a guest that never takes a CQE, on each kind of ring.
func TestFloodStopsTheRing(t *testing.T) {
	testutil.NoLeaks(t)
	g := ringtest.NewRig(t, newBackend, ringtest.Disk(t, 1<<20, false))
	other := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll})
	for _, m := range ringtest.Modes {
		t.Run(m.Name, func(t *testing.T) {
			d := g.Setup(t, ringtest.Config{SQ: 256, Flags: m.Flags})
			err := d.Flood(20 * time.Second)
			var guest *uringpv.GuestError
			if !errors.As(err, &guest) {
				t.Fatalf("the ring was stopped with %v, want a guest's error", err)
			}
			deadline := time.Now().Add(5 * time.Second)
			for d.Ring.Enter(0, 0) == nil {
				if time.Now().After(deadline) {
					t.Fatal("a stopped ring can still be entered")
				}
				time.Sleep(time.Millisecond)
			}
			if err := d.Ring.Enter(0, 0); !errors.Is(err, unix.ENXIO) {
				t.Errorf("ENTER of a stopped ring: %v, want ENXIO", err)
			}
			if n := d.Ring.Stats().SQEs; n <= direct.MaxBehind {
				t.Errorf("%d SQEs counted before the ring stopped, want more than %d", n, direct.MaxBehind)
			}
			if res := other.Do(t, ringtest.NOP(1)); res != 0 {
				t.Errorf("another ring's NOP: %d", res)
			}
		})
	}
}

// TestWatchdogSleepsWithTheRing: an idle ring costs no system call.
func TestWatchdogSleepsWithTheRing(t *testing.T) {
	g := ringtest.NewRig(t, newBackend, ringtest.Disk(t, 1<<20, false))
	for _, m := range ringtest.Modes[:3] {
		d := g.Setup(t, ringtest.Config{SQ: 8, Flags: m.Flags, Idle: 5 * time.Millisecond})
		d.Do(t, ringtest.NOP(1))
		deadline := time.Now().Add(20 * direct.Interval)
		for quiet := 0; quiet < 3; {
			before := d.Ring.SystemCalls()
			time.Sleep(direct.Interval + direct.Interval/4)
			if quiet++; d.Ring.SystemCalls() != before {
				quiet = 0
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the idle ring still makes system calls", m.Name)
			}
		}
		// And a doorbell wakes it: a flood is seen.
		d.Do(t, ringtest.NOP(2))
		if err := d.Flood(20 * time.Second); err == nil {
			t.Errorf("%s: a flood after the sleep is not seen", m.Name)
		}
	}
}

// TestReservedFileReachesNothing lets a guest wait on the file that the backend
// keeps for itself: that must not keep the ring from its end.
func TestReservedFileReachesNothing(t *testing.T) {
	testutil.NoLeaks(t)
	g := ringtest.NewRig(t, newBackend, ringtest.Disk(t, 1<<20, false))
	for _, m := range ringtest.Modes {
		for _, async := range []uint8{0, hostring.SQEAsync} {
			d := g.Setup(t, ringtest.Config{SQ: 64, Flags: m.Flags})
			for i := range uint64(64) {
				s := hostring.SQE{
					Opcode: hostring.OpReadFixed, Flags: hostring.SQEFixedFile | async, FD: uringpv.ReservedFile,
					Addr: g.Addr(i * 4096), Len: 4096, UserData: i,
				}
				d.MustPut(t, &s)
			}
			d.Submit()
			time.Sleep(5 * time.Millisecond)
			if c, ok := d.Reap(); ok && c.Res > 0 {
				t.Errorf("a read of the reserved file gives %d bytes", c.Res)
			}
			d.Destroy(t)
		}
	}
}

// TestParamsTellNothingOfTheHost: what makes passthrough is not the guest's
// business.
func TestParamsTellNothingOfTheHost(t *testing.T) {
	for name, make := range makes {
		t.Run(name, func(t *testing.T) {
			g := ringtest.NewRig(t, make, ringtest.Disk(t, 1<<20, false))
			for _, m := range ringtest.Modes {
				p := g.Setup(t, ringtest.Config{SQ: 8, Flags: m.Flags}).Params
				if p.Flags != m.Flags || p.Features&^direct.Features != 0 || p.SQThreadCPU != 0 || p.WQFD != 0 ||
					p.SQOff.UserAddr != 0 || p.CQOff.UserAddr != 0 {
					t.Errorf("%s: %+v", m.Name, p)
				}
			}
		})
	}
}

// TestGuestHasNoPrivileges: the real-time I/O class is root's, and the VMM's
// being root does not make it the guest's.
func TestGuestHasNoPrivileges(t *testing.T) {
	for name, make := range makes {
		t.Run(name, func(t *testing.T) {
			g := ringtest.NewRig(t, make, ringtest.Disk(t, 1<<20, false))
			for _, m := range ringtest.Modes {
				d := g.Setup(t, ringtest.Config{SQ: 8, Flags: m.Flags})
				s := hostring.SQE{Opcode: hostring.OpReadFixed, Flags: hostring.SQEFixedFile, Addr: g.Addr(0), Len: 512, IOPrio: 1 << 13}
				for _, async := range []uint8{0, hostring.SQEAsync} {
					s.Flags |= async
					if res := d.Do(t, s); res != -int32(unix.EPERM) {
						t.Errorf("%s: a read in the real-time class gives %d, want -EPERM", m.Name, res)
					}
				}
			}
		})
	}
}

// TestNOPFlagsAreHarmless: restrictions do not see them.
func TestNOPFlagsAreHarmless(t *testing.T) {
	g := ringtest.NewRig(t, newBackend, ringtest.Disk(t, 1<<20, false))
	d := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll})
	for flags := range uint32(64) {
		for _, fd := range []int32{0, 1, 2, uringpv.ReservedFile, -1, 1 << 20} {
			s := ringtest.NOP(uint64(flags))
			s.OpFlags, s.FD, s.Len, s.BufIndex = flags, fd, ^uint32(0), uint16(flags)
			d.Do(t, s) // INJECT_RESULT makes the result the guest's choice
			if res := d.Do(t, ringtest.NOP(1)); res != 0 {
				t.Fatalf("a NOP after one with flags %#x gives %d", flags, res)
			}
		}
	}
}

func TestGrowthBoundWantsOneSize(t *testing.T) {
	testutil.NoLeaks(t)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	m := ringtest.Memory(t, 16<<20)
	small, large := ringtest.Disk(t, 8192, false), ringtest.Disk(t, 16384, false)
	other, reader := ringtest.Disk(t, 8192, false), ringtest.Disk(t, 1<<20, true)
	empty := ringtest.Disk(t, 0, false)
	for _, c := range []struct {
		name  string
		files []uringpv.File
		ok    bool
	}{
		{"no disk", nil, true},
		{"one disk", []uringpv.File{small}, true},
		{"two of one size", []uringpv.File{small, other}, true},
		{"two of different sizes", []uringpv.File{small, large}, false},
		{"a larger one, read-only", []uringpv.File{small, reader}, true},
		{"an empty one", []uringpv.File{empty}, false},
	} {
		b, err := New(Config{Memory: m, Files: c.files})
		if err != nil && !errors.Is(err, ErrGrowth) {
			ringtest.Need(t, err)
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if b != nil {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	// Two devices of one process.
	a, err := New(Config{Memory: m, Files: []uringpv.File{small}})
	ringtest.Need(t, err)
	if _, err := New(Config{Memory: m, Files: []uringpv.File{large}}); !errors.Is(err, ErrGrowth) {
		t.Errorf("a second device with a disk of another size: %v, want ErrGrowth", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	var after unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &after); err != nil || after != before {
		t.Errorf("RLIMIT_FSIZE is %+v (%v) in the end, was %+v", after, err, before)
	}
}

func TestMemlockTooSmallIsSaid(t *testing.T) {
	testutil.NoLeaks(t)
	ringtest.Need(t, Supported())
	m := ringtest.Memory(t, 16<<20)
	ringtest.Unprivileged(t, 1<<20, func() {
		b, err := New(Config{Memory: m})
		if !errors.Is(err, ErrMemlock) || !strings.Contains(err.Error(), "ulimit -l") {
			t.Errorf("New with 1 MiB of lockable memory: %v, want ErrMemlock", err)
		}
		if b != nil {
			b.Close()
		}
	})
}

func TestIntegrityFormat(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	for dir, format := range map[string]string{"none": "none", "pi": "T10-DIF-TYPE1-CRC", "plain": ""} {
		part := filepath.Join(disk, dir, "part1")
		if err := os.MkdirAll(part, 0o700); err != nil {
			t.Fatal(err)
		}
		if format != "" {
			if err := os.Mkdir(filepath.Join(disk, dir, "integrity"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(disk, dir, "integrity", "format"), []byte(format+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want := strings.TrimSuffix(format, "none")
		for _, dev := range []string{filepath.Join(disk, dir), part} {
			if have, err := integrityFormat(dev); err != nil || have != want {
				t.Errorf("%s: %q, %v; want %q", dev, have, err, want)
			}
		}
	}
}

// TestAttributesReachNothing shows that the kernel moves no protection
// information for a file of ours, whatever the pointer: passthrough rests on
// that, as restrictions cannot forbid it.
func TestAttributesReachNothing(t *testing.T) {
	g := ringtest.NewRig(t, newBackend, ringtest.Disk(t, 1<<20, false))
	d := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll})
	// struct io_uring_attr_pi in guest RAM that names guest RAM: all in order,
	// only that the file cannot.
	const attr, info = 8192, 16384
	clear(g.Data[:info+4096])
	le := func(off int, v uint64) {
		for i := range 8 {
			g.Data[off+i] = byte(v >> (8 * i))
		}
	}
	le(attr, 4096<<32)       // flags, app_tag, len
	le(attr+8, g.Addr(info)) // addr
	s := hostring.SQE{
		Opcode: hostring.OpReadFixed, Flags: hostring.SQEFixedFile, Addr: g.Addr(0), Len: 4096,
		Addr3: g.Addr(attr), Pad2: attrFlagPI,
	}
	res := d.Do(t, s)
	if res > 0 {
		t.Skipf("SKIPPED, NOT TESTED: this kernel does not know attributes (Linux 6.14); it reads %d bytes", res)
	}
	if res != -int32(unix.EINVAL) {
		t.Errorf("a read with protection information gives %d, want -EINVAL", res)
	}
}
