// SPDX-License-Identifier: Apache-2.0

package uringpv_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/devicetest"
	"github.com/uringpv/uringpv/memmap"
)

// counter is what an eventfd holds, and takes it; 0 if it is not readable.
func counter(fd int) byte {
	var b [8]byte
	_, _ = unix.Read(fd, b[:])
	return b[0]
}

func TestRingComesAndGoes(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	for range 100 {
		setUp(t, g, 2)
		if errno := g.Destroy(2); errno != 0 {
			t.Fatal(errno)
		}
		if errno := g.Destroy(2); errno != unix.ENXIO {
			t.Fatalf("destroyed twice: %v", errno)
		}
	}
	if len(f.specs) != 100 {
		t.Errorf("%d rings", len(f.specs))
	}
	for _, index := range []uint32{0, 4, 0xffffffff} {
		if errno := g.Destroy(index); errno != unix.ENXIO {
			t.Errorf("ring %d: %v, want ENXIO", index, errno)
		}
	}
}

func TestStuckRingStaysUntilItIsDestroyed(t *testing.T) {
	for _, how := range []struct {
		name  string
		close func(context.Context, int) error
	}{
		{"ETIMEDOUT", stuck},
		{"context's error", func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }},
	} {
		t.Run(how.name, func(t *testing.T) {
			g, f := newGuest(t, memmap.MinRAM)
			g.Device.SetTimeout(20 * time.Millisecond)
			s := setUp(t, g, 1)
			setUp(t, g, 0)
			f.close = how.close
			start := time.Now()
			for range 2 {
				if errno := g.Destroy(1); errno != unix.ETIMEDOUT {
					t.Fatalf("%v, want ETIMEDOUT", errno)
				}
			}
			if took := time.Since(start); took < 40*time.Millisecond || took > 2*time.Second {
				t.Errorf("waited %v for two times 20 ms", took)
			}
			// It takes nothing any more, and its memory is still in use.
			if errno := g.Enter(1, abi.Enter{}); errno != unix.ENXIO {
				t.Errorf("RING_ENTER: %v, want ENXIO", errno)
			}
			if _, errno := devicetest.Get[abi.RingStats](g, abi.CmdRingStats, 1); errno != unix.ENXIO {
				t.Errorf("RING_STATS: %v, want ENXIO", errno)
			}
			again, _ := devicetest.RingAt(0x80000, 8)
			if _, errno := g.Setup(1, again); errno != unix.EBUSY {
				t.Errorf("RING_SETUP: %v, want EBUSY", errno)
			}
			again, _ = devicetest.RingAt(memmap.Addr(s.RingsAddr), 8)
			if _, errno := g.Setup(2, again); errno != unix.EINVAL {
				t.Errorf("RING_SETUP of another ring over its areas: %v, want EINVAL", errno)
			}
			if errno := g.Reset(); errno != unix.ETIMEDOUT {
				t.Errorf("RESET: %v, want ETIMEDOUT", errno)
			}
			if got := g.Read32(abi.RegStatus); got != abi.StatusReady {
				t.Errorf("STATUS %#x: a stuck disk is no failure", got)
			}
			f.close = nil
			if errno := g.Destroy(1); errno != 0 {
				t.Errorf("%v once the I/O is done", errno)
			}
			if errno := g.Destroy(0); errno != 0 {
				t.Errorf("the other ring: %v", errno)
			}
			setUp(t, g, 1)
		})
	}
}

func TestResetEndsAllRingsEvenIfOneIsStuck(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	g.Device.SetTimeout(50 * time.Millisecond)
	for i := range uint32(4) {
		setUp(t, g, i)
	}
	f.close = func(ctx context.Context, ring int) error {
		if ring == 1 {
			return stuck(ctx, ring)
		}
		return nil
	}
	if errno := g.Reset(); errno != unix.ETIMEDOUT {
		t.Errorf("RESET: %v, want ETIMEDOUT", errno)
	}
	if len(f.live) != 1 || f.ring(1) == nil {
		t.Errorf("%d rings are left, want ring 1 alone", len(f.live))
	}
	f.close = nil
	if errno := g.Reset(); errno != 0 {
		t.Fatal(errno)
	}
	if n := len(f.live); n != 0 {
		t.Errorf("%d rings are left", n)
	}
	if got := g.Read64(abi.RegAdminAddr); got != uint64(devicetest.CmdAddr) {
		t.Errorf("ADMIN_ADDR %#x: RESET must keep it", got)
	}
	if errno := g.Raw(abi.Cmd{Op: abi.CmdReset, Index: 1}); errno != unix.EINVAL {
		t.Errorf("RESET with an index: %v, want EINVAL", errno)
	}
}

func TestInterruptEndsWaits(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	g.Device.SetTimeout(time.Hour)
	setUp(t, g, 0)
	waiting := make(chan struct{})
	f.close = func(ctx context.Context, ring int) error {
		close(waiting)
		return stuck(ctx, ring)
	}
	done := make(chan unix.Errno)
	go func() { done <- g.Destroy(0) }()
	<-waiting
	// Registers answer while a command waits.
	if got := g.Read32(abi.RegStatus); got != abi.StatusReady {
		t.Errorf("STATUS %#x", got)
	}
	g.Device.Doorbell(0)
	_ = g.Device.Stats()
	g.Device.Interrupt()
	select {
	case errno := <-done:
		if errno != unix.ETIMEDOUT {
			t.Errorf("%v, want ETIMEDOUT", errno)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("RING_DESTROY still waits")
	}
	f.close = nil
	s, _ := devicetest.RingAt(0x80000, 8)
	if _, errno := g.Setup(1, s); errno != unix.EINTR {
		t.Errorf("RING_SETUP on a machine that is being stopped: %v, want EINTR", errno)
	}
	g.Device.SetTimeout(time.Minute)
}

// TestInterruptEndsTheMakingOfARing: the backend may be waiting for the host.
func TestInterruptEndsTheMakingOfARing(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	making, stop := make(chan struct{}), make(chan struct{})
	f.newRing = func(uringpv.RingSpec) error {
		close(making)
		<-stop
		return errFlames
	}
	f.interrupt = func() { close(stop) }
	done := make(chan unix.Errno)
	go func() {
		s, _ := devicetest.RingAt(0x20000, 8)
		_, errno := g.Setup(0, s)
		done <- errno
	}()
	<-making
	g.Device.Interrupt()
	if errno := <-done; errno != unix.EINTR {
		t.Errorf("%v, want EINTR", errno)
	}
}

func TestCloseWaitsAndMayBeRepeated(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	g.Device.SetTimeout(10 * time.Millisecond)
	setUp(t, g, 0)
	setUp(t, g, 3)
	f.close = stuck
	err := g.Device.Close()
	if !errors.Is(err, unix.ETIMEDOUT) || strings.Contains(err.Error(), "\n") ||
		!strings.Contains(err.Error(), "ring 0") || !strings.Contains(err.Error(), "ring 3") {
		t.Errorf("%v", err)
	}
	if f.closed != 0 {
		t.Error("the backend is closed while rings are alive")
	}
	if got := g.Read32(abi.RegStatus); got != 0 {
		t.Errorf("STATUS %#x", got)
	}
	// The descriptors are still theirs.
	if _, err := unix.FcntlInt(uintptr(f.specs[0].DoorbellFD), unix.F_GETFD, 0); err != nil {
		t.Errorf("the doorbell is closed: %v", err)
	}
	f.close = nil
	if err := g.Device.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseCollectsErrors(t *testing.T) {
	m := devicetest.Memory(t, memmap.MinRAM)
	f := newFake(m)
	f.closing = errFlames
	d, err := uringpv.New(uringpv.Config{Rings: 1, MaxEntries: 8, Memory: m, Backend: f})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); !errors.Is(err, errFlames) {
		t.Errorf("%v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("the second time: %v", err)
	}
}

func TestHostFaultFailsTheDeviceUntilReset(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	setUp(t, g, 0)
	setUp(t, g, 1)
	f.specs[0].Stopped(errFlames)
	if got := g.Read32(abi.RegStatus); got != abi.StatusReady|abi.StatusFailed {
		t.Errorf("STATUS %#x", got)
	}
	for _, cmd := range commands {
		if cmd.op == abi.CmdReset {
			continue
		}
		if errno, _ := g.Do(cmd.op, 1, make([]byte, cmd.size)); errno != unix.EIO {
			t.Errorf("%s: %v, want EIO", cmd.name, errno)
		}
	}
	// A RESET that fails revives nothing.
	f.close = func(context.Context, int) error { return errFlames }
	if errno := g.Reset(); errno != unix.EIO {
		t.Errorf("RESET: %v, want EIO", errno)
	}
	if got := g.Read32(abi.RegStatus); got != abi.StatusReady|abi.StatusFailed {
		t.Errorf("STATUS %#x", got)
	}
	f.close = nil
	if errno := g.Reset(); errno != 0 {
		t.Fatal(errno)
	}
	if got := g.Read32(abi.RegStatus); got != abi.StatusReady {
		t.Errorf("STATUS %#x after RESET", got)
	}
	setUp(t, g, 0)
}

func TestDestroyThatFailsOnTheHostFailsTheDevice(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	setUp(t, g, 0)
	f.close = func(context.Context, int) error { return unix.EOWNERDEAD }
	if errno := g.Destroy(0); errno != unix.EOWNERDEAD {
		t.Errorf("%v", errno)
	}
	if got := g.Read32(abi.RegStatus); got != abi.StatusReady|abi.StatusFailed {
		t.Errorf("STATUS %#x", got)
	}
}

func TestRingThatItsGuestHasLostIsTheOnlyOneLost(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	setUp(t, g, 0)
	setUp(t, g, 1)
	f.specs[0].Stopped(&uringpv.GuestError{Errno: unix.EOVERFLOW, Reason: "70000 CQEs held back"})
	if got := g.Read32(abi.RegStatus); got != abi.StatusReady {
		t.Errorf("STATUS %#x", got)
	}
	if errno := g.Enter(0, abi.Enter{}); errno != unix.ENXIO {
		t.Errorf("RING_ENTER: %v, want ENXIO", errno)
	}
	if _, errno := devicetest.Get[abi.RingStats](g, abi.CmdRingStats, 0); errno != unix.ENXIO {
		t.Errorf("RING_STATS: %v, want ENXIO", errno)
	}
	if errno := g.Enter(1, abi.Enter{}); errno != 0 {
		t.Errorf("the other ring: %v", errno)
	}
	if errno := g.Destroy(0); errno != 0 {
		t.Errorf("RING_DESTROY: %v", errno)
	}
	setUp(t, g, 0)
	if errno := g.Enter(0, abi.Enter{}); errno != 0 {
		t.Errorf("set up again: %v", errno)
	}
}

// A ring may stop while it is being made.
func TestRingThatStopsAtOnceIsStopped(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	f.newRing = func(s uringpv.RingSpec) error {
		s.Stopped(&uringpv.GuestError{Errno: unix.EOVERFLOW, Reason: "test"})
		return nil
	}
	setUp(t, g, 0)
	if errno := g.Enter(0, abi.Enter{}); errno != unix.ENXIO {
		t.Errorf("%v, want ENXIO", errno)
	}
}

func TestDoorbellOfARingThatIsNotThereDoesNothing(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	for _, ring := range []int{-1 << 62, -1, 0, 3, 4, 1 << 62} {
		g.Device.Doorbell(ring)
	}
	setUp(t, g, 0) // the fake looks whether the eventfd is drained
	f.check(t)
	g.Device.Doorbell(0)
	g.Device.Doorbell(0)
	if n := counter(f.specs[0].DoorbellFD); n != 2 {
		t.Errorf("the doorbell has counted %d", n)
	}
	// A guest that never stops ringing blocks nobody.
	if _, err := unix.Write(f.specs[0].DoorbellFD, []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	g.Device.Doorbell(0)
}

func TestEventfdsAreDistinctNonBlockingAndCloseOnExec(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM)
	seen := map[int]bool{}
	for i := range g.Device.Rings() {
		for _, fd := range []int{g.Device.DoorbellFD(i), g.Device.VectorFD(i)} {
			fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			cl, err2 := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			if err != nil || err2 != nil || fl&unix.O_NONBLOCK == 0 || cl&unix.FD_CLOEXEC == 0 || seen[fd] {
				t.Errorf("eventfd %d: %v, %v, flags %#x, %#x, seen before: %v", fd, err, err2, fl, cl, seen[fd])
			}
			seen[fd] = true
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d eventfds", len(seen))
	}
}

func TestStats(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	fill := func(r *fakeRing, n uint64) {
		r.SQEs.Add(n)
		r.CQEs.Add(n + 1)
		r.Doorbells.Add(n + 2)
		r.Errors.Add(n + 3) // not a counter that the fake claims to know
		r.Counters.SystemCalls.Add(n)
	}
	setUp(t, g, 0)
	setUp(t, g, 1)
	fill(f.ring(0), 10)
	fill(f.ring(1), 100)
	got, errno := devicetest.Get[abi.RingStats](g, abi.CmdRingStats, 0)
	if want := (abi.RingStats{Valid: f.caps.Stats, SQEs: 10, CQEs: 11, Doorbells: 12}); errno != 0 || got != want {
		t.Errorf("%v, %+v\nwant %+v", errno, got, want)
	}
	if _, errno := devicetest.Get[abi.RingStats](g, abi.CmdRingStats, 2); errno != unix.ENXIO {
		t.Errorf("no such ring: %v", errno)
	}
	// The device remembers rings that are gone; a new one starts from zero.
	if errno := g.Destroy(0); errno != 0 {
		t.Fatal(errno)
	}
	setUp(t, g, 0)
	if got, _ := devicetest.Get[abi.RingStats](g, abi.CmdRingStats, 0); got.SQEs != 0 {
		t.Errorf("a new ring has counted %d SQEs", got.SQEs)
	}
	fill(f.ring(0), 1000)
	s := g.Device.Stats()
	if s.Rings[0].SQEs != 1010 || s.Rings[1].SQEs != 100 || s.Rings[2].SQEs != 0 || s.Total.SQEs != 1110 || s.Total.CQEs != 1113 || s.Total.Doorbells != 1116 || s.Valid != f.caps.Stats {
		t.Errorf("%+v", s)
	}
	if s.SystemCalls != 1110 || g.Device.SystemCalls() != 1110 {
		t.Errorf("%d system calls", s.SystemCalls)
	}
	g.Device.Doorbell(0)
	if n := g.Device.SystemCalls(); n != 1111 {
		t.Errorf("%d system calls after a doorbell by software", n)
	}
	if s.Commands == 0 {
		t.Error("no commands counted")
	}
}

func TestSystemCallsNeedsNoMemory(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM)
	setUp(t, g, 0)
	if n := testing.AllocsPerRun(100, func() { g.Device.SystemCalls() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { g.Device.Doorbell(0) }); n != 0 {
		t.Errorf("Doorbell: %v allocations", n)
	}
	var p [4]byte
	if n := testing.AllocsPerRun(100, func() { g.Device.ReadRegister(abi.RegStatus, p[:]) }); n != 0 {
		t.Errorf("ReadRegister: %v allocations", n)
	}
}

func TestCommandsOfSeveralVCPUsRunOneByOne(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	setUp(t, g, 3)
	var inside sync.Mutex
	f.enter = func(uint32, uint32) error {
		if !inside.TryLock() {
			t.Error("two commands at once")
			return nil
		}
		defer inside.Unlock()
		time.Sleep(10 * time.Microsecond)
		return nil
	}
	// A page for each vCPU; they share ADMIN_ADDR, so each may run another's.
	g.Poke(0x8000, abi.Encode(&abi.Enter{}))
	var vcpus sync.WaitGroup
	for i := range 8 {
		at := memmap.Addr(0x4000 + 64*i)
		g.Poke(at, abi.Encode(&abi.Cmd{Op: []uint32{abi.CmdRingEnter, abi.CmdRingStats, abi.CmdIdentify, abi.CmdRingSetup}[i%4], Index: 3, Addr: 0x8000 + uint64(i%4)*0x400, Len: []uint32{16, 128, 128, 256}[i%4]}))
		vcpus.Go(func() {
			for range 200 {
				g.Write32(abi.RegAdminAddr, uint32(at))
				g.Write32(abi.RegAdminAddr+4, 0)
				g.Write32(abi.RegAdminDoorbell, 1)
				_ = g.Read32(abi.RegAdminError)
				_ = g.Read64(abi.RegAdminAddr)
				g.Device.Doorbell(3)
				_ = g.Device.Stats()
			}
		})
	}
	vcpus.Wait()
	if n := g.Device.Stats().Commands; n != 1601 {
		t.Errorf("%d commands executed, want 1601", n)
	}
}

func TestLogDoesNotGrowWithTheGuestsMischief(t *testing.T) {
	var out bytes.Buffer
	g, f := newGuest(t, memmap.MinRAM, func(c *uringpv.Config, _ *fake) {
		c.Logger = slog.New(slog.NewTextHandler(&out, nil))
	})
	f.newRing = func(uringpv.RingSpec) error { return unix.ENOMEM }
	s, _ := devicetest.RingAt(0x20000, 8)
	for range 1000 {
		if _, errno := g.Setup(0, s); errno != unix.ENOMEM {
			t.Fatal(errno)
		}
		g.Raw(abi.Cmd{Op: 77})
	}
	if n := strings.Count(out.String(), "\n"); n < 1 || n > 20 {
		t.Errorf("%d lines in the log:\n%.2000s", n, out.String())
	}
	if !strings.Contains(out.String(), "cannot allocate memory") || !strings.Contains(out.String(), "device=disk0") {
		t.Errorf("log:\n%.1000s", out.String())
	}
}

func TestDriversAuthorIsToldWhy(t *testing.T) {
	var out bytes.Buffer
	g, _ := newGuest(t, memmap.MinRAM, func(c *uringpv.Config, _ *fake) {
		c.Logger = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	if g.Device.Backend() != abi.BackendRelay {
		t.Errorf("backend %v", g.Device.Backend())
	}
	s, _ := devicetest.RingAt(0x20000, 8)
	s.RingsLen = 100
	if _, errno := g.Setup(0, s); errno != unix.EINVAL {
		t.Fatal(errno)
	}
	for _, want := range []string{"level=DEBUG", "command=RING_SETUP", "must be whole pages of 4096", "invalid argument"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, out.String())
		}
	}
}

func TestLogSaysHowMuchItLeftOut(t *testing.T) {
	var out bytes.Buffer
	g, f := newGuest(t, memmap.MinRAM, func(c *uringpv.Config, _ *fake) {
		c.Logger = slog.New(slog.NewTextHandler(&out, nil))
	})
	f.newRing = func(uringpv.RingSpec) error { return unix.ENOMEM }
	s, _ := devicetest.RingAt(0x20000, 8)
	fail := func() {
		if _, errno := g.Setup(0, s); errno != unix.ENOMEM {
			t.Fatal(errno)
		}
	}
	for range 4 {
		fail()
	}
	time.Sleep(1100 * time.Millisecond)
	fail()
	if !strings.Contains(out.String(), "warnings_dropped=3") {
		t.Errorf("log:\n%s", out.String())
	}
}
