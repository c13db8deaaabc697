// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/uringpv/uringpv/internal/shm"
	"github.com/uringpv/uringpv/internal/testutil"
)

// newRing makes a ring that goes with the test.
func newRing(t testing.TB, c Config) *Ring {
	t.Helper()
	testutil.NeedIOUring(t)
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// shared is n bytes of a shared memfd mapping that goes with the test.
func shared(t testing.TB, n int) ([]byte, shm.View) {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(n)); err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(fd, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	v, err := shm.Of(b)
	if err != nil {
		t.Fatal(err)
	}
	return b, v
}

// one submits an SQE and waits for its CQE.
func one(t testing.TB, r *Ring, fill func(*SQE)) CQE {
	t.Helper()
	sqe, ok := r.SQE()
	if !ok {
		t.Fatal("no free SQE")
	}
	fill(sqe)
	if _, err := r.Submit(); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitCQE(); err != nil {
		t.Fatal(err)
	}
	var c [1]CQE
	if n := r.Reap(c[:]); n != 1 {
		t.Fatalf("reaped %d CQEs, want 1", n)
	}
	return c[0]
}

func TestNopStorm(t *testing.T) {
	testutil.NoLeaks(t)
	for name, flags := range map[string]uint32{"entered": 0, "polled": SetupSQPoll, "no array": SetupNoSQArray} {
		t.Run(name, func(t *testing.T) {
			r := newRing(t, Config{Entries: 64, Flags: flags, SQThreadIdle: 10 * time.Millisecond})
			const total = 20_000
			seen := make([]bool, total)
			var cqes [64]CQE
			for next, done := 0, 0; done < total; {
				for next < total && next-done < 64 {
					sqe, ok := r.SQE()
					if !ok {
						break
					}
					sqe.Opcode, sqe.UserData = OpNop, uint64(next)
					next++
				}
				if _, err := r.Submit(); err != nil {
					t.Fatal(err)
				}
				for _, c := range cqes[:r.Reap(cqes[:])] {
					if c.Res != 0 || seen[c.UserData] {
						t.Fatalf("CQE %+v: result not 0 or seen twice", c)
					}
					seen[c.UserData] = true
					done++
				}
			}
		})
	}
}

// Whatever the order of pushes, flushes, submissions and reaps, each request
// completes exactly once.
func TestEachRequestCompletesOnce(t *testing.T) {
	testutil.NeedIOUring(t)
	rapid.Check(t, func(rt *rapid.T) {
		entries := uint32(1) << rapid.IntRange(0, 6).Draw(rt, "entries")
		r, err := New(Config{Entries: entries})
		if err != nil {
			rt.Fatal(err)
		}
		defer r.Close()
		open := map[uint64]bool{}
		next := uint64(0)
		reap := func() {
			var c [7]CQE
			for _, c := range c[:r.Reap(c[:])] {
				if !open[c.UserData] {
					rt.Fatalf("completion of %d, which is not in flight", c.UserData)
				}
				delete(open, c.UserData)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"push": func(*rapid.T) {
				if len(open) >= int(2*entries) {
					return
				}
				if sqe, ok := r.SQE(); ok {
					sqe.Opcode, sqe.UserData = OpNop, next
					open[next] = true
					next++
				}
			},
			"flush": func(*rapid.T) { r.Flush() },
			"submit": func(t *rapid.T) {
				if _, err := r.Submit(); err != nil {
					t.Fatal(err)
				}
			},
			"reap": func(*rapid.T) { reap() },
		})
		if _, err := r.Submit(); err != nil {
			rt.Fatal(err)
		}
		for len(open) > 0 {
			if err := r.WaitCQE(); err != nil {
				rt.Fatal(err)
			}
			reap()
		}
	})
}

func TestFixedBuffersAndFiles(t *testing.T) {
	testutil.NoLeaks(t)
	path := testutil.ScratchFile(t, 1<<20)
	want := make([]byte, 1<<20)
	_, _ = rand.Read(want)
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, flags := range map[string]uint32{"entered": 0, "polled": SetupSQPoll} {
		t.Run(name, func(t *testing.T) {
			b, v := shared(t, 1<<16)
			r := newRing(t, Config{Entries: 8, Flags: flags})
			if err := r.RegisterBuffers([]Buffer{{v.Addr(), 1 << 15}, {v.Addr() + 1<<15, 1 << 15}}); err != nil {
				t.Fatal(err)
			}
			if err := r.RegisterFilesSparse(4); err != nil {
				t.Fatal(err)
			}
			if err := r.UpdateFiles(2, []int32{int32(f.Fd())}); err != nil {
				t.Fatal(err)
			}
			read := func(fd int32, buf uint16, addr uint64, n uint32, off uint64) int32 {
				return one(t, r, func(s *SQE) {
					*s = SQE{Opcode: OpReadFixed, Flags: SQEFixedFile, FD: fd, BufIndex: buf, Addr: addr, Len: n, Off: off}
				}).Res
			}
			base := uint64(v.Addr())
			if n := read(2, 1, base+1<<15, 1<<15, 4096); n != 1<<15 {
				t.Fatalf("read gives %d", n)
			}
			if !bytes.Equal(b[1<<15:], want[4096:4096+1<<15]) {
				t.Error("the bytes read are not the file's")
			}
			if n := read(0, 0, base, 512, 0); n != -int32(unix.EBADF) {
				t.Errorf("empty file entry gives %d, want -EBADF", n)
			}
			if n := read(2, 0, base+1<<15-512, 1024, 0); n != -int32(unix.EFAULT) {
				t.Errorf("straddling two buffers gives %d, want -EFAULT", n)
			}
			copy(b, "written by io_uring")
			c := one(t, r, func(s *SQE) {
				*s = SQE{Opcode: OpWriteFixed, Flags: SQEFixedFile, FD: 2, Addr: base, Len: 19, Off: 100}
			})
			got := make([]byte, 19)
			if _, err := f.ReadAt(got, 100); err != nil || c.Res != 19 || string(got) != "written by io_uring" {
				t.Errorf("write gives %d, file holds %q, %v", c.Res, got, err)
			}
			copy(want[100:], got)
			if c := one(t, r, func(s *SQE) {
				*s = SQE{Opcode: OpFsync, Flags: SQEFixedFile, FD: 2, OpFlags: FsyncDatasync}
			}); c.Res != 0 {
				t.Errorf("fsync gives %d", c.Res)
			}
		})
	}
}

func TestEventfdAndItsMask(t *testing.T) {
	r := newRing(t, Config{Entries: 8})
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := r.RegisterEventfd(fd); err != nil {
		t.Fatal(err)
	}
	nop := func(s *SQE) { s.Opcode = OpNop }
	var b [8]byte
	one(t, r, nop)
	if _, err := unix.Read(fd, b[:]); err != nil {
		t.Errorf("no signal after a completion: %v", err)
	}
	r.DisableEventfd(true)
	one(t, r, nop)
	if _, err := unix.Read(fd, b[:]); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("masked completion: read gives %v, want EAGAIN", err)
	}
	r.DisableEventfd(false)
	one(t, r, nop)
	if _, err := unix.Read(fd, b[:]); err != nil {
		t.Errorf("no signal after unmasking: %v", err)
	}
}

func TestRestrictions(t *testing.T) {
	r := newRing(t, Config{Entries: 8, Flags: SetupRDisabled})
	if _, err := r.Enter(0, 0, EnterGetevents); !errors.Is(err, unix.EBADFD) {
		t.Errorf("enter on a disabled ring: %v, want EBADFD", err)
	}
	if err := r.RegisterRestrictions(Restrictions{RegisterOps: []uint8{RegisterEnableRings, RegisterProbe}, SQEOps: []uint8{OpNop},
		SQEFlagsAllowed: SQEFixedFile | SQEAsync, SQEFlagsRequired: SQEFixedFile}); err != nil {
		t.Fatal(err)
	}
	if err := r.Enable(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		sqe  SQE
		want int32
	}{
		{"allowed", SQE{Opcode: OpNop, Flags: SQEFixedFile}, 0},
		{"required flag missing", SQE{Opcode: OpNop}, -int32(unix.EACCES)},
		{"flag not allowed", SQE{Opcode: OpNop, Flags: SQEFixedFile | SQEIODrain}, -int32(unix.EACCES)},
		{"opcode not allowed", SQE{Opcode: OpFsync, Flags: SQEFixedFile}, -int32(unix.EACCES)},
	} {
		if got := one(t, r, func(s *SQE) { *s = c.sqe }).Res; got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	if err := r.RegisterFilesSparse(1); !errors.Is(err, unix.EACCES) {
		t.Errorf("register on a restricted ring: %v, want EACCES", err)
	}
	var e *Error
	if err := r.RegisterFilesSparse(1); !errors.As(err, &e) || e.Call != "io_uring_register" || e.Op != "IORING_REGISTER_FILES2" {
		t.Errorf("error %v does not carry its call", err)
	}
}

func TestRingsInCallerMemory(t *testing.T) {
	for name, flags := range map[string]uint32{"array": 0, "no array": SetupNoSQArray, "polled": SetupSQPoll} {
		t.Run(name, func(t *testing.T) {
			_, v := shared(t, 4<<20)
			rings, _ := v.Slice(0, 1<<20)
			sqes, _ := v.Slice(1<<20, 1<<20)
			r := newRing(t, Config{Entries: 4096, Flags: flags | SetupNoMmap, Rings: rings, SQEs: sqes})
			for i := range uint64(10_000) {
				if c := one(t, r, func(s *SQE) { s.UserData = i }); c.UserData != i || c.Res != 0 {
					t.Fatalf("CQE %+v, want user data %d", c, i)
				}
			}
		})
	}
}

func TestOverflowLosesNothing(t *testing.T) {
	r := newRing(t, Config{Entries: 4, CQEntries: 4, Flags: SetupCQSize})
	const total = 50
	for range total {
		sqe, ok := r.SQE()
		if !ok {
			t.Fatal("no free SQE")
		}
		sqe.UserData = 7
		if _, err := r.Submit(); err != nil {
			t.Fatal(err)
		}
	}
	if !r.Overflowed() {
		t.Error("50 CQEs in a ring of 4 and no overflow flag")
	}
	info, err := r.Info()
	if err != nil {
		t.Fatal(err)
	}
	if info.CachedSQHead != total {
		t.Errorf("kernel counts %d SQEs, want %d", info.CachedSQHead, total)
	}
	got := 0
	var c [8]CQE
	for deadline := time.Now().Add(5 * time.Second); got < total && time.Now().Before(deadline); {
		got += r.Reap(c[:])
		if r.Overflowed() {
			if _, err := r.Enter(0, 0, EnterGetevents); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got != total || r.OverflowCount() != 0 {
		t.Errorf("reaped %d of %d, %d lost", got, total, r.OverflowCount())
	}
}

func TestSleptThreadNeedsWakeup(t *testing.T) {
	r := newRing(t, Config{Entries: 4, Flags: SetupSQPoll, SQThreadIdle: time.Millisecond})
	one(t, r, func(s *SQE) {})
	for deadline := time.Now().Add(5 * time.Second); !r.NeedWakeup(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the SQ thread does not go to sleep")
		}
	}
	if c := one(t, r, func(s *SQE) { s.UserData = 5 }); c.UserData != 5 {
		t.Errorf("CQE %+v", c)
	}
	if info, err := r.Info(); err != nil || info.SQThread <= 0 || info.CachedSQHead != 2 || info.CachedCQTail != 2 {
		t.Errorf("info %+v, %v", info, err)
	}
}

func TestCloneBuffers(t *testing.T) {
	b, v := shared(t, 8192)
	src := newRing(t, Config{Entries: 1})
	if err := src.RegisterBuffers([]Buffer{{v.Addr(), 8192}}); err != nil {
		t.Fatal(err)
	}
	dst := newRing(t, Config{Entries: 1})
	if err := dst.CloneBuffers(src); errors.Is(err, unix.EINVAL) {
		t.Skip("SKIPPED, NOT TESTED: this kernel cannot clone buffers (Linux 6.12)")
	} else if err != nil {
		t.Fatal(err)
	}
	path := testutil.ScratchFile(t, 0)
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if c := one(t, dst, func(s *SQE) {
		*s = SQE{Opcode: OpReadFixed, FD: int32(f.Fd()), Addr: uint64(v.Addr()), Len: 5}
	}); c.Res != 5 || string(b[:5]) != "hello" {
		t.Errorf("read through a cloned buffer: %d, %q", c.Res, b[:5])
	}
}

func TestSyncCancelEndsABlockedRead(t *testing.T) {
	r := newRing(t, Config{Entries: 4})
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	_, v := shared(t, 4096)
	sqe, _ := r.SQE()
	*sqe = SQE{Opcode: OpRead, FD: int32(p[0]), Addr: uint64(v.Addr()), Len: 1}
	if _, err := r.Submit(); err != nil {
		t.Fatal(err)
	}
	if err := r.SyncCancelAll(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitCQE(); err != nil {
		t.Fatal(err)
	}
	var c [1]CQE
	if r.Reap(c[:]); c[0].Res != -int32(unix.ECANCELED) {
		t.Errorf("result %d, want -ECANCELED", c[0].Res)
	}
}

func TestProbeAndFeatures(t *testing.T) {
	r := newRing(t, Config{Entries: 1})
	ops, err := r.Probe()
	if err != nil {
		t.Fatal(err)
	}
	if !ops[OpNop] || !ops[OpReadFixed] || ops[255] {
		t.Errorf("probe: NOP %v, READ_FIXED %v, opcode 255 %v", ops[OpNop], ops[OpReadFixed], ops[255])
	}
	if err := Available(); err != nil {
		t.Fatal(err)
	}
	for _, f := range ProbeFeatures() {
		t.Logf("%-45s Linux %-5s %v %v", f.Name, f.Since, f.Result, f.Why)
		if f.Result == Yes && f.Why != nil || f.Result != Yes && f.Why == nil {
			t.Errorf("%s: result %v with reason %v", f.Name, f.Result, f.Why)
		}
	}
	if f, ok := ProbeFeature("setup"); !ok || f.Result != Yes {
		t.Errorf("setup: %+v", f)
	}
	if _, ok := ProbeFeature("teleport"); ok {
		t.Error("found a feature that does not exist")
	}
}

func TestErrorsNameTheCall(t *testing.T) {
	testutil.NeedIOUring(t)
	testutil.NoLeaks(t)
	_, err := New(Config{Entries: 0})
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "io_uring_setup") {
		t.Errorf("0 entries: %v", err)
	}
	if _, err = New(Config{Entries: 4, Flags: SetupNoMmap}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("NO_MMAP without memory: %v", err)
	}
}

func TestSubmitAndReapAllocateNothing(t *testing.T) {
	r := newRing(t, Config{Entries: 32, Flags: SetupSQPoll})
	var c [32]CQE
	if n := testing.AllocsPerRun(200, func() {
		for range 32 {
			sqe, ok := r.SQE()
			if !ok {
				break
			}
			sqe.Opcode = OpNop
		}
		_, _ = r.Submit()
		for r.Pending() > 0 || r.Ready() > 0 {
			r.Reap(c[:])
		}
	}); n != 0 {
		t.Errorf("%v allocations a batch, want none", n)
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add("SqMask:\t0x3\nSqHead:\t1\nCachedSqHead:\t1\nCachedCqTail:\t9\nSqThread:\t77\n")
	f.Add("CachedSqHead: 99999999999\n")
	f.Fuzz(func(t *testing.T, s string) {
		info, err := parseInfo(strings.NewReader(s))
		if err == nil && (!strings.Contains(s, "CachedSqHead:") || !strings.Contains(s, "CachedCqTail:")) {
			t.Errorf("%q parsed as %+v", s, info)
		}
	})
}

func BenchmarkNop(b *testing.B) {
	for name, c := range map[string]Config{"entered": {Entries: 32}, "polled": {Entries: 32, Flags: SetupSQPoll}} {
		b.Run(name, func(b *testing.B) {
			r := newRing(b, c)
			var out [32]CQE
			b.ReportAllocs()
			for done := 0; done < b.N; {
				for {
					sqe, ok := r.SQE()
					if !ok {
						break
					}
					sqe.Opcode = OpNop
				}
				if _, err := r.Submit(); err != nil {
					b.Fatal(err)
				}
				done += r.Reap(out[:])
			}
		})
	}
}

// BenchmarkRing is what a request costs on the host's rings, in batches of 32,
// without the system call and what the kernel does.
func BenchmarkRing(b *testing.B) {
	const batch = 32
	r := newRing(b, Config{Entries: batch})
	var out [batch]CQE
	var spent time.Duration
	b.ReportAllocs()
	for left := b.N; left > 0; left -= batch {
		n := min(batch, left)
		begin := time.Now()
		for range n {
			sqe, ok := r.SQE()
			if !ok {
				b.Fatal("no room")
			}
			sqe.Opcode = OpNop
		}
		pending := r.Flush()
		spent += time.Since(begin)
		if _, err := r.Enter(pending, 0, 0); err != nil {
			b.Fatal(err)
		}
		begin = time.Now()
		got := r.Reap(out[:])
		spent += time.Since(begin)
		if got != n {
			b.Fatalf("%d completions, want %d", got, n)
		}
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/op")
}
