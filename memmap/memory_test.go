// SPDX-License-Identifier: Apache-2.0

package memmap_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/uringpv/uringpv/internal/shm"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

const (
	small = 8 << 20
	// split has RAM on both sides of the hole; most of it is never touched.
	split = uint64(memmap.HoleStart) + small
)

func memory(t testing.TB, ram uint64) *memmap.Memory {
	t.Helper()
	m, err := memmap.New(layout(t, ram), memmap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// readable says whether the kernel can read the byte at a host address.
func readable(t testing.TB, addr uintptr) bool {
	t.Helper()
	var b [1]byte
	_, err := unix.ProcessVMReadv(os.Getpid(), []unix.Iovec{{Base: &b[0], Len: 1}}, []unix.RemoteIovec{{Base: addr, Len: 1}}, 0)
	if err != nil && !errors.Is(err, unix.EFAULT) {
		t.Fatalf("process_vm_readv at %#x: %v", addr, err)
	}
	return err == nil
}

// mapped lists what this process has mapped in the slots of guest RAM.
func mapped(t testing.TB) (out []string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var start uintptr
		if _, err := fmt.Sscanf(line, "%x-", &start); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if start >= memmap.AddrBase && start < memmap.AddrBase+memmap.Slots*memmap.SlotSize {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func TestRAMIsAtBasePlusGPAWithNothingAround(t *testing.T) {
	testutil.NoLeaks(t)
	m := memory(t, split)
	if m.Base() != memmap.AddrBase {
		t.Errorf("the only guest of a process is at %#x", m.Base())
	}
	for _, tt := range []struct {
		gpa  memmap.Addr
		want bool
	}{
		{0, true}, {memmap.HoleStart - 1, true}, {memmap.HoleStart, false}, {memmap.HoleEnd - 1, false}, {memmap.HoleEnd, true},
		{memmap.HoleEnd + small - 1, true}, {memmap.HoleEnd + small, false}, {memmap.SlotSize - 1, false},
	} {
		if got := readable(t, m.Base()+uintptr(tt.gpa)); got != tt.want {
			t.Errorf("GPA %s readable on the host: %v", tt.gpa, got)
		}
	}
	for _, r := range m.Layout().Regions() {
		hva, err := m.HostAddr(r.Range)
		if err != nil || hva != m.Base()+uintptr(r.Start) {
			t.Errorf("region %s at %#x, %v", r, hva, err)
		}
		v, err := m.View(r.Range)
		if err != nil || v.Addr() != hva || v.Len() != r.Length {
			t.Errorf("view of %s: %d bytes at %#x, %v", r, v.Len(), v.Addr(), err)
		}
	}
	// Nothing else may come to lie in the slot either.
	p, err := unix.MmapPtr(-1, 0, nil, memmap.PageSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	if a := uintptr(p); a >= m.Base() && a < m.Base()+memmap.SlotSize {
		t.Errorf("the kernel mapped something at %#x, inside the slot", a)
	}
	if err := unix.MunmapPtr(p, memmap.PageSize); err != nil {
		t.Error(err)
	}
}

func TestTheFileIsTheRAM(t *testing.T) {
	m := memory(t, split)
	for _, tt := range []struct {
		gpa memmap.Addr
		off int64
	}{{0x1234, 0x1234}, {memmap.HoleEnd + 0x1234, int64(memmap.HoleStart) + 0x1234}} {
		want := []byte("in both")
		if err := m.WriteAt(want, tt.gpa); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := unix.Pread(m.FD(), got, tt.off); err != nil || !bytes.Equal(got, want) {
			t.Errorf("GPA %s is not byte %#x of the file: %q, %v", tt.gpa, tt.off, got, err)
		}
	}
}

func TestNobodyCanResizeOrExecuteTheFile(t *testing.T) {
	m := memory(t, small)
	for _, size := range []int64{0, small - memmap.PageSize, small + memmap.PageSize} {
		if err := unix.Ftruncate(m.FD(), size); !errors.Is(err, unix.EPERM) {
			t.Errorf("resize to %d: %v", size, err)
		}
	}
	if _, err := unix.FcntlInt(uintptr(m.FD()), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); !errors.Is(err, unix.EPERM) {
		t.Errorf("another seal: %v", err)
	}
	if flags, err := unix.FcntlInt(uintptr(m.FD()), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("not close-on-exec: %#x, %v", flags, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(m.FD(), &st); err != nil || st.Size != small {
		t.Errorf("%d bytes, %v", st.Size, err)
	}
	seals, err := unix.FcntlInt(uintptr(m.FD()), unix.F_GET_SEALS, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Kernels before 6.3 know no such seal.
	if seals&unix.F_SEAL_EXEC != 0 && st.Mode&0o111 != 0 {
		t.Errorf("executable: mode %o, seals %#x", st.Mode, seals)
	}
	if name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", m.FD())); err != nil || !strings.HasPrefix(name, "/memfd:guest-ram") {
		t.Errorf("named %q, %v", name, err)
	}
}

// Any mix of reads and writes at any addresses does what it does to plain
// memory, or is refused as a whole.
func TestReadsAndWritesAreAsOnPlainMemory(t *testing.T) {
	m := memory(t, split)
	regions := m.Layout().Regions()
	rapid.Check(t, func(t *rapid.T) {
		model := map[memmap.Addr]byte{} // what differs from zero
		touched := map[memmap.Addr]int{}
		defer func() {
			for a, n := range touched {
				if err := m.WriteAt(make([]byte, n), a); err != nil {
					t.Fatal(err)
				}
			}
		}()
		inRAM := func(a memmap.Addr, n uint64) bool {
			for _, r := range regions {
				if r.Contains(memmap.Range{Start: a, Length: n}) {
					return true
				}
			}
			return false
		}
		refused := func(err error, op string, a memmap.Addr, n int) bool {
			var e *memmap.Error
			return errors.Is(err, memmap.ErrNotRAM) && errors.As(err, &e) &&
				e.Op == op && e.Range == memmap.Range{Start: a, Length: uint64(n)}
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				a := memmap.Addr(word().Draw(t, "addr"))
				src := rapid.SliceOfN(rapid.Byte(), 0, 5000).Draw(t, "bytes")
				err := m.WriteAt(src, a)
				if !inRAM(a, uint64(len(src))) {
					if !refused(err, "write", a, len(src)) {
						t.Fatalf("write of %d at %s: %v", len(src), a, err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				touched[a] = max(touched[a], len(src))
				for i, b := range src {
					model[a+memmap.Addr(i)] = b
				}
			},
			"read": func(t *rapid.T) {
				a := memmap.Addr(word().Draw(t, "addr"))
				n := rapid.IntRange(0, 9000).Draw(t, "n")
				got := bytes.Repeat([]byte{0xa5}, n)
				err := m.ReadAt(got, a)
				if !inRAM(a, uint64(n)) {
					if !refused(err, "read", a, n) || !bytes.Equal(got, bytes.Repeat([]byte{0xa5}, n)) {
						t.Fatalf("read of %d at %s: %v, or it wrote to the buffer", n, a, err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				for i, b := range got {
					if want := model[a+memmap.Addr(i)]; b != want {
						t.Fatalf("byte at %s is %#x, want %#x", a+memmap.Addr(i), b, want)
					}
				}
			},
		})
	})
}

func TestViewsAndSlicesAreOfTheRangeAsked(t *testing.T) {
	m := memory(t, split)
	rapid.Check(t, func(t *rapid.T) {
		r := guestRange().Draw(t, "range")
		in := m.Layout().Contains(r)
		v, err := m.View(r)
		switch {
		case !in:
			if !errors.Is(err, memmap.ErrNotRAM) {
				t.Fatalf("view of %s: %v", r, err)
			}
		case !r.Start.Aligned(8):
			if !errors.Is(err, shm.ErrUnaligned) {
				t.Fatalf("view of %s: %v", r, err)
			}
		case err != nil || v.Len() != r.Length || r.Length > 0 && v.Addr() != m.Base()+uintptr(r.Start):
			t.Fatalf("view of %s: %d bytes at %#x, %v", r, v.Len(), v.Addr(), err)
		}
		b, err := m.Bytes(r)
		if in != (err == nil) || in && (uint64(len(b)) != r.Length || uint64(cap(b)) != r.Length) {
			t.Fatalf("bytes of %s: %d of %d, %v", r, len(b), cap(b), err)
		}
		hva, err := m.HostAddr(r)
		if in != (err == nil) || in && hva != m.Base()+uintptr(r.Start) {
			t.Fatalf("host address of %s: %#x, %v", r, hva, err)
		}
	})
}

// checkFromUser holds FromUser to its promise for one pair of words.
func checkFromUser(t testing.TB, m *memmap.Memory, addr, length uint64) {
	t.Helper()
	r, ok := m.FromUser(addr, length)
	base := uint64(m.Base())
	want := addr >= base && m.Layout().Contains(memmap.Range{Start: memmap.Addr(addr - base), Length: length})
	if ok != want {
		t.Fatalf("FromUser(%#x, %#x): %s, %v", addr, length, r, ok)
	}
	if !ok {
		if r != (memmap.Range{}) {
			t.Fatalf("FromUser(%#x, %#x) refuses, and gives %s", addr, length, r)
		}
		return
	}
	if uint64(r.Start)+base != addr || r.Length != length {
		t.Fatalf("FromUser(%#x, %#x) is %s", addr, length, r)
	}
	// The promise itself: what it takes is memory of this guest's, to the last
	// byte, as the kernel sees it.
	if length > 0 && (!readable(t, uintptr(addr)) || !readable(t, uintptr(addr+length-1))) {
		t.Fatalf("FromUser(%#x, %#x) takes what is not mapped", addr, length)
	}
}

func TestFromUserTakesOnlyRAM(t *testing.T) {
	m := memory(t, split)
	base := uint64(m.Base())
	for _, tt := range []struct {
		addr, length uint64
		want         bool
	}{
		{base, 1, true}, {base, uint64(memmap.HoleStart), true}, {base + uint64(memmap.HoleEnd), small, true},
		{0, 1, false}, {base - 1, 1, false}, {base - 1, 2, false}, {base, uint64(memmap.HoleStart) + 1, false},
		{base + uint64(memmap.HoleStart) - 1, 2, false}, {base + uint64(memmap.HoleStart), 1, false},
		{base + uint64(memmap.HoleEnd) - 1, 1, false}, {base + uint64(memmap.HoleEnd), small + 1, false},
		{base + memmap.SlotSize, 1, false}, // the next guest's
		{base, math.MaxUint64, false}, {base + 1, math.MaxUint64, false}, {base + 16, math.MaxUint64 - base - 15, false},
		{math.MaxUint64, 1, false}, {math.MaxUint64, math.MaxUint64, false},
		{0x1000, 8, false}, // a GPA without ADDR_BASE
		{base, 0, true}, {base + uint64(memmap.HoleStart), 0, true}, {base + uint64(memmap.HoleStart) + 1, 0, false},
	} {
		if r, ok := m.FromUser(tt.addr, tt.length); ok != tt.want {
			t.Errorf("FromUser(%#x, %#x): %s, %v", tt.addr, tt.length, r, ok)
		}
		checkFromUser(t, m, tt.addr, tt.length)
	}
	rapid.Check(t, func(rt *rapid.T) {
		addr := rapid.OneOf(word(), rapid.Map(word(), func(w uint64) uint64 { return w + base })).Draw(rt, "addr")
		checkFromUser(t, m, addr, word().Draw(rt, "length"))
	})
}

func FuzzFromUser(f *testing.F) {
	m := memory(f, split)
	base := uint64(m.Base())
	f.Add(base, uint64(1))
	f.Add(base+uint64(memmap.HoleStart)-8, uint64(9))
	f.Add(base-1, uint64(math.MaxUint64))
	f.Add(uint64(math.MaxUint64), uint64(1))
	f.Fuzz(func(t *testing.T, addr, length uint64) { checkFromUser(t, m, addr, length) })
}

func TestGuestsOfAProcessAreApart(t *testing.T) {
	testutil.NoLeaks(t)
	a, b := memory(t, small), memory(t, small)
	if a.Base() != memmap.AddrBase || b.Base() != memmap.AddrBase+memmap.SlotSize {
		t.Errorf("at %#x and %#x", a.Base(), b.Base())
	}
	if err := a.WriteAt([]byte{1}, 0); err != nil {
		t.Fatal(err)
	}
	got := []byte{0xff}
	if err := b.ReadAt(got, 0); err != nil || got[0] != 0 {
		t.Errorf("one guest's byte is in the other: %d, %v", got[0], err)
	}
	if _, ok := a.FromUser(uint64(b.Base()), 1); ok {
		t.Error("one guest can name the other's RAM")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	// The lowest slot is free again, and the first taken.
	if c := memory(t, small); c.Base() != memmap.AddrBase {
		t.Errorf("the next guest is at %#x", c.Base())
	}
}

func TestSlotsRunOutWithAnError(t *testing.T) {
	testutil.NoLeaks(t)
	l := layout(t, memmap.MinRAM)
	for i := range memmap.Slots {
		m, err := memmap.New(l, memmap.Options{})
		if err != nil {
			t.Fatalf("guest %d: %v", i, err)
		}
		defer m.Close()
	}
	if m, err := memmap.New(l, memmap.Options{}); !errors.Is(err, memmap.ErrNoSlot) {
		t.Errorf("guest %d: %v, %v", memmap.Slots, m, err)
	}
}

func TestClosedMemoryRefusesAndLeavesNothing(t *testing.T) {
	testutil.NoLeaks(t)
	before := len(mapped(t))
	m := memory(t, split)
	if len(mapped(t)) == before {
		t.Fatal("nothing is mapped: this test looks at the wrong place")
	}
	r := memmap.Range{Start: 0x1000, Length: 8}
	for range 2 {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if now := mapped(t); len(now) != before {
		t.Errorf("still mapped: %v", now)
	}
	_, viewErr := m.View(r)
	_, bytesErr := m.Bytes(r)
	_, addrErr := m.HostAddr(r)
	for name, err := range map[string]error{
		"read": m.ReadAt(make([]byte, 8), r.Start), "write": m.WriteAt(make([]byte, 8), r.Start),
		"view": viewErr, "bytes": bytesErr, "address": addrErr,
	} {
		if !errors.Is(err, memmap.ErrClosed) || errors.Is(err, memmap.ErrNotRAM) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if m.FD() != -1 {
		t.Errorf("descriptor %d after Close", m.FD())
	}
}

// Each failure of New says what it is about and leaves nothing: no mapping, no
// descriptor, no slot.
func TestNewFailsCleanly(t *testing.T) {
	testutil.NoLeaks(t)
	before := len(mapped(t))
	for _, tt := range []struct {
		name   string
		layout memmap.Layout
		o      memmap.Options
		want   string
	}{
		{"no layout", memmap.Layout{}, memmap.Options{}, "NewLayout"},
		{"NUL in the name", layout(t, small), memmap.Options{Name: "a\x00b"}, "name"},
		{"long name", layout(t, small), memmap.Options{Name: strings.Repeat("x", 300)}, "249 bytes"},
		{"half a huge page", layout(t, small+memmap.PageSize), memmap.Options{HugePages: true}, "multiple of 2097152"},
	} {
		if _, err := memmap.New(tt.layout, tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if now := mapped(t); len(now) != before {
		t.Errorf("left mapped: %v", now)
	}
	if m := memory(t, small); m.Base() != memmap.AddrBase {
		t.Errorf("a slot is lost: the next guest is at %#x", m.Base())
	}
}

// With enough free pages in the host's pool RAM is made of them; with too few
// the error says how to get them.
func TestHugePagesOrAClearError(t *testing.T) {
	testutil.NoLeaks(t)
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	free, size := 0, 0
	for line := range strings.Lines(string(info)) {
		_, _ = fmt.Sscanf(line, "HugePages_Free: %d", &free)
		_, _ = fmt.Sscanf(line, "Hugepagesize: %d kB", &size)
	}
	t.Logf("this host has %d free huge pages, of %d KiB by default", free, size)
	m, err := memmap.New(layout(t, small), memmap.Options{HugePages: true})
	if err != nil {
		if size == 2048 && free >= small/(2<<20) {
			t.Errorf("with %d free huge pages: %v", free, err)
		}
		if !strings.Contains(err.Error(), "nr_hugepages") && !strings.Contains(err.Error(), "without huge pages") {
			t.Errorf("%v does not say what to do", err)
		}
		return
	}
	defer m.Close()
	if err := m.WriteAt([]byte{1}, small-1); err != nil {
		t.Error(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(m.FD(), &st); err != nil || st.Blksize != 2<<20 {
		t.Errorf("pages of %d bytes, %v", st.Blksize, err)
	}
}

func TestCheckedAccessAllocatesNothing(t *testing.T) {
	m := memory(t, split)
	base := uint64(m.Base())
	l := m.Layout()
	var b [96]byte
	if n := testing.AllocsPerRun(100, func() {
		r, _ := m.FromUser(base+0x1000, 64)
		l.BufferOf(r)
		l.Contains(r)
		m.FromUser(math.MaxUint64, 1)
		v, _ := m.View(r)
		w, _ := v.Uint32(4)
		w.Load()
		_, _ = m.HostAddr(r)
		_, _ = m.Bytes(r)
		_ = m.ReadAt(b[:], 0x1003)
		_ = m.WriteAt(b[:], memmap.HoleEnd)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFromUser(b *testing.B) {
	m := memory(b, split)
	addr := uint64(m.Base()) + uint64(memmap.HoleEnd)
	for b.Loop() {
		r, ok := m.FromUser(addr, 4096)
		if _, found := m.Layout().BufferOf(r); !ok || !found {
			b.Fatal("not in RAM")
		}
	}
}

func BenchmarkView(b *testing.B) {
	m := memory(b, split)
	for b.Loop() {
		if _, err := m.View(memmap.Range{Start: 0x1000, Length: 4096}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestPopulateFindsEveryPage(t *testing.T) {
	m, err := memmap.New(layout(t, 16<<20), memmap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WriteAt([]byte("kept"), 5<<20); err != nil {
		t.Fatal(err)
	}
	<-m.Populate()
	var st unix.Stat_t
	if err := unix.Fstat(m.FD(), &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 != 16<<20 {
		t.Errorf("%d bytes of 16 MiB are in memory", st.Blocks*512)
	}
	got := make([]byte, 4)
	if err := m.ReadAt(got, 5<<20); err != nil || string(got) != "kept" {
		t.Errorf("what was there is %q, %v", got, err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	<-m.Populate()
}

// Close does not wait for gigabytes, and not for what nobody began.
func TestCloseEndsPopulating(t *testing.T) {
	for _, begin := range []bool{true, false} {
		m, err := memmap.New(layout(t, 2<<30), memmap.Options{})
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Dup(m.FD())
		if err != nil {
			t.Fatal(err)
		}
		if begin {
			m.Populate()
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		<-m.Populate()
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		if st.Blocks*512 >= 2<<30 {
			t.Error("all guest RAM was populated")
		}
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
	}
}
