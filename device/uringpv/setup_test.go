// SPDX-License-Identifier: Apache-2.0

package uringpv_test

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/devicetest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

const (
	gib = 1 << 30

	lists = 0x6000 // where tests keep lists of files and buffers
)

func TestSetupRefuses(t *testing.T) {
	const ram = 4*gib + 1<<20 // two regions; the table has borders at 1, 2 and 5 GiB
	g, f := newGuest(t, ram)
	g.Poke(lists, binary.LittleEndian.AppendUint32(nil, 2))
	g.Poke(lists+4, binary.LittleEndian.AppendUint32(nil, 3)) // there are three files
	other, _ := devicetest.RingAt(0x80000, 8)
	if _, errno := g.Setup(3, other); errno != 0 {
		t.Fatal(errno)
	}
	buffers := func(list ...abi.Range) func(*abi.RingSetup) {
		return func(s *abi.RingSetup) {
			for i := range list {
				g.Poke(lists+0x100+memmap.Addr(16*i), abi.Encode(&list[i]))
			}
			s.BuffersAddr, s.NrBuffers = lists+0x100, uint32(len(list))
		}
	}
	for _, tt := range []struct {
		name   string
		want   unix.Errno
		change func(*abi.RingSetup)
	}{
		{"no SQ entries", unix.EINVAL, func(s *abi.RingSetup) { s.Params.SQEntries = 0 }},
		{"too many SQ entries", unix.EINVAL, func(s *abi.RingSetup) { s.Params.SQEntries = 257 }},
		{"no CQ entries", unix.EINVAL, func(s *abi.RingSetup) { s.Params.Flags = hostring.SetupCQSize }},
		{"too many CQ entries", unix.EINVAL, func(s *abi.RingSetup) { s.Params.Flags, s.Params.CQEntries = hostring.SetupCQSize, 513 }},
		{"fewer CQ entries than SQ entries", unix.EINVAL, func(s *abi.RingSetup) { s.Params.Flags, s.Params.CQEntries = hostring.SetupCQSize, 4 }},
		{"no SQ entries, clamped", unix.EINVAL, func(s *abi.RingSetup) { s.Params.Flags, s.Params.SQEntries = hostring.SetupClamp, 0 }},
		{"setup flag not offered", unix.EINVAL, func(s *abi.RingSetup) { s.Params.Flags = hostring.SetupSubmitAll }},
		{"NO_MMAP", unix.EINVAL, func(s *abi.RingSetup) { s.Params.Flags = hostring.SetupNoMmap }},
		{"setup flag unknown", unix.EINVAL, func(s *abi.RingSetup) { s.Params.Flags = 1 << 31 }},
		{"sq_thread_cpu", unix.EINVAL, func(s *abi.RingSetup) { s.Params.SQThreadCPU = 1 }},
		{"features", unix.EINVAL, func(s *abi.RingSetup) { s.Params.Features = 1 }},
		{"wq_fd", unix.EINVAL, func(s *abi.RingSetup) { s.Params.WQFD = 1 }},
		{"params.resv", unix.EINVAL, func(s *abi.RingSetup) { s.Params.Resv[2] = 1 }},
		{"sq_off", unix.EINVAL, func(s *abi.RingSetup) { s.Params.SQOff.UserAddr = 1 }},
		{"cq_off", unix.EINVAL, func(s *abi.RingSetup) { s.Params.CQOff.Head = 1 }},
		{"flags", unix.EINVAL, func(s *abi.RingSetup) { s.Flags = 1 }},
		{"resv", unix.EINVAL, func(s *abi.RingSetup) { s.Resv[3] = 1 }},

		{"rings unaligned", unix.EINVAL, func(s *abi.RingSetup) { s.RingsAddr += 64 }},
		{"rings' length unaligned", unix.EINVAL, func(s *abi.RingSetup) { s.RingsLen += 64 }},
		{"rings too small", unix.EINVAL, func(s *abi.RingSetup) { s.RingsLen -= 4096 }},
		{"no rings", unix.EINVAL, func(s *abi.RingSetup) { s.RingsLen = 0 }},
		{"rings too small for the rounded entries", unix.EINVAL, func(s *abi.RingSetup) { s.Params.SQEntries = 129; s.SQEsAddr, s.SQEsLen = 0x100000, 0x10000 }},
		{"SQEs unaligned", unix.EINVAL, func(s *abi.RingSetup) { s.SQEsAddr += 8 }},
		{"SQEs' length unaligned", unix.EINVAL, func(s *abi.RingSetup) { s.SQEsLen += 64 }},
		{"SQEs too small", unix.EINVAL, func(s *abi.RingSetup) { s.SQEsLen = 0 }},
		{"areas the same", unix.EINVAL, func(s *abi.RingSetup) { s.SQEsAddr = s.RingsAddr }},
		{"areas overlap", unix.EINVAL, func(s *abi.RingSetup) { s.RingsLen, s.SQEsAddr = 0x10000, s.RingsAddr+0xf000 }},
		{"rings over another ring", unix.EINVAL, func(s *abi.RingSetup) { s.RingsAddr = other.SQEsAddr }},
		{"SQEs over another ring", unix.EINVAL, func(s *abi.RingSetup) { s.SQEsAddr, s.SQEsLen = other.RingsAddr-0x10000, 0x20000 }},
		{"rings behind RAM", unix.EFAULT, func(s *abi.RingSetup) { s.RingsAddr = 5*gib + 1<<20 }},
		{"rings across the end of RAM", unix.EFAULT, func(s *abi.RingSetup) { s.RingsAddr, s.RingsLen = 5*gib+1<<20-4096, 8192 }},
		{"rings in the hole", unix.EFAULT, func(s *abi.RingSetup) { s.RingsAddr = uint64(memmap.HoleStart) }},
		{"rings across the hole", unix.EFAULT, func(s *abi.RingSetup) { s.RingsAddr, s.RingsLen = 3*gib-4096, gib+8192 }},
		{"rings across two table entries", unix.EINVAL, func(s *abi.RingSetup) { s.RingsAddr, s.RingsLen = gib-4096, 8192 }},
		{"rings beyond everything", unix.EFAULT, func(s *abi.RingSetup) { s.RingsAddr = ^uint64(4095) }},
		{"rings' end wraps around", unix.EFAULT, func(s *abi.RingSetup) { s.RingsLen = -s.RingsAddr }},
		{"rings' end wraps around further", unix.EFAULT, func(s *abi.RingSetup) { s.RingsLen = ^uint64(4095) }},
		{"SQEs behind RAM", unix.EFAULT, func(s *abi.RingSetup) { s.SQEsAddr = 1 << 60 }},
		{"SQEs across two table entries", unix.EINVAL, func(s *abi.RingSetup) { s.SQEsAddr, s.SQEsLen = 2*gib-4096, 8192 }},

		{"unknown file", unix.EBADF, func(s *abi.RingSetup) { s.FilesAddr, s.NrFiles = lists, 2 }},
		{"too many files", unix.EINVAL, func(s *abi.RingSetup) { s.FilesAddr, s.NrFiles = lists, 9 }},
		{"far too many files", unix.EINVAL, func(s *abi.RingSetup) { s.FilesAddr, s.NrFiles = lists, 0xffffffff }},
		{"list of files unaligned", unix.EINVAL, func(s *abi.RingSetup) { s.FilesAddr, s.NrFiles = lists+2, 1 }},
		{"list of files not in RAM", unix.EFAULT, func(s *abi.RingSetup) { s.FilesAddr, s.NrFiles = uint64(memmap.HoleStart)-4, 2 }},
		{"too many buffers", unix.EINVAL, func(s *abi.RingSetup) { s.BuffersAddr, s.NrBuffers = lists, 17 }},
		{"far too many buffers", unix.EINVAL, func(s *abi.RingSetup) { s.BuffersAddr, s.NrBuffers = lists, 0xffffffff }},
		{"list of buffers unaligned", unix.EINVAL, func(s *abi.RingSetup) { s.BuffersAddr, s.NrBuffers = lists+4, 1 }},
		{"list of buffers not in RAM", unix.EFAULT, func(s *abi.RingSetup) { s.BuffersAddr, s.NrBuffers = ^uint64(7), 1 }},
		{"buffer empty", unix.EINVAL, buffers(abi.Range{Addr: 0x1000})},
		{"second buffer empty", unix.EINVAL, buffers(abi.Range{Addr: 0x1000, Len: 0x1000}, abi.Range{Addr: 0x1000})},
		{"buffer unaligned", unix.EINVAL, buffers(abi.Range{Addr: 0x1200, Len: 0x1000})},
		{"buffer's length unaligned", unix.EINVAL, buffers(abi.Range{Addr: 0x1000, Len: 0x1200})},
		{"buffer too long", unix.EINVAL, buffers(abi.Range{Addr: 0, Len: gib + 4096})},
		{"buffer across two table entries", unix.EINVAL, buffers(abi.Range{Addr: gib - 4096, Len: 8192})},
		{"buffer in the hole", unix.EFAULT, buffers(abi.Range{Addr: uint64(memmap.HoleStart), Len: 4096})},
		{"buffer into the hole", unix.EFAULT, buffers(abi.Range{Addr: uint64(memmap.HoleStart) - 4096, Len: 8192})},
		{"buffer's end wraps around", unix.EFAULT, buffers(abi.Range{Addr: ^uint64(4095), Len: 8192})},
		{"buffers longer than RAM together", unix.ENOMEM, buffers(abi.Range{Len: gib}, abi.Range{Len: gib}, abi.Range{Len: gib}, abi.Range{Len: gib}, abi.Range{Len: gib})},

		{"no such vector", unix.EINVAL, func(s *abi.RingSetup) { s.Vector = 4 }},
		{"almost NO_VECTOR", unix.EINVAL, func(s *abi.RingSetup) { s.Vector = abi.NoVector - 1 }},
		{"opcode not offered", unix.EACCES, func(s *abi.RingSetup) { s.Opcodes = abi.OpcodesOf(hostring.OpNop, hostring.OpRead) }},
		{"unknown opcode", unix.EACCES, func(s *abi.RingSetup) { s.Opcodes = abi.OpcodesOf(255) }},
	} {
		s, _ := devicetest.RingAt(0x20000, 8)
		tt.change(&s)
		if _, got := g.Setup(1, s); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	for _, index := range []uint32{4, 64, 0xffffffff} {
		s, _ := devicetest.RingAt(0x20000, 8)
		if _, errno := g.Setup(index, s); errno != unix.EINVAL {
			t.Errorf("ring %d: %v, want EINVAL", index, errno)
		}
	}
	s, _ := devicetest.RingAt(0x20000, 8)
	if _, errno := g.Setup(3, s); errno != unix.EBUSY {
		t.Errorf("a ring that exists: %v, want EBUSY", errno)
	}
	if len(f.specs) != 1 {
		t.Errorf("the backend was asked for %d rings", len(f.specs))
	}
}

func TestSetupAccepts(t *testing.T) {
	const ram = 4*gib + 1<<20
	const clamp, cqsize, sqpoll = hostring.SetupClamp, hostring.SetupCQSize, hostring.SetupSQPoll
	for _, tt := range []struct {
		name   string
		change func(*abi.RingSetup)
		sq, cq uint32
	}{
		{"as it is", func(*abi.RingSetup) {}, 8, 16},
		{"one entry", func(s *abi.RingSetup) { s.Params.SQEntries = 1 }, 1, 2},
		{"rounded up", func(s *abi.RingSetup) { s.Params.SQEntries = 5 }, 8, 16},
		{"all there is", func(s *abi.RingSetup) { s.Params.SQEntries = 256 }, 256, 512},
		{"cq_entries without CQSIZE say nothing", func(s *abi.RingSetup) { s.Params.CQEntries = 0xffffffff }, 8, 16},
		{"CQ as small as the SQ", func(s *abi.RingSetup) { s.Params.Flags, s.Params.CQEntries = cqsize, 8 }, 8, 8},
		{"CQ rounded up to the SQ", func(s *abi.RingSetup) { s.Params.Flags, s.Params.SQEntries, s.Params.CQEntries = cqsize, 6, 5 }, 8, 8},
		{"large CQ", func(s *abi.RingSetup) { s.Params.Flags, s.Params.CQEntries = cqsize, 511 }, 8, 512},
		{"clamped", func(s *abi.RingSetup) { s.Params.Flags, s.Params.SQEntries = clamp, 1<<31+1 }, 256, 512},
		{"both clamped", func(s *abi.RingSetup) {
			s.Params.Flags, s.Params.SQEntries, s.Params.CQEntries = clamp|cqsize, 0xffffffff, 0xffffffff
		}, 256, 512},
		{"nothing to clamp", func(s *abi.RingSetup) { s.Params.Flags = clamp }, 8, 16},
		{"idle without SQPOLL says nothing", func(s *abi.RingSetup) { s.Params.SQThreadIdle = 5 }, 8, 16},
		{"larger areas", func(s *abi.RingSetup) { s.RingsAddr, s.RingsLen = 0x200000, 0x300000 }, 8, 16},
		{"first page", func(s *abi.RingSetup) { s.SQEsAddr = 0 }, 8, 16},
		{"last page below the hole", func(s *abi.RingSetup) { s.SQEsAddr, s.SQEsLen = 3*gib-4096, 4096 }, 8, 16},
		{"first page above the hole", func(s *abi.RingSetup) { s.SQEsAddr = 4 * gib }, 8, 16},
		{"last page", func(s *abi.RingSetup) { s.SQEsAddr, s.SQEsLen = 5*gib+1<<20-4096, 4096 }, 8, 16},
		{"up to a border of the table", func(s *abi.RingSetup) { s.SQEsAddr, s.SQEsLen = gib-4096, 4096 }, 8, 16},
		{"vector", func(s *abi.RingSetup) { s.Vector = 3 }, 8, 16},
		{"SQEs in ring order", func(s *abi.RingSetup) { s.Params.Flags = hostring.SetupNoSQArray | sqpoll }, 8, 16},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, f := newGuest(t, ram)
			s, _ := devicetest.RingAt(0x20000, 256)
			s.Params.SQEntries = 8
			tt.change(&s)
			// The areas hold something before.
			g.Poke(memmap.Addr(s.RingsAddr+s.RingsLen-8), []byte{1, 2, 3, 4, 5, 6, 7, 8})
			g.Poke(memmap.Addr(s.SQEsAddr), []byte{1, 2, 3, 4})
			out, errno := g.Setup(1, s)
			if errno != 0 {
				t.Fatal(errno)
			}
			f.check(t)
			spec := f.specs[0]
			if spec.SQEntries != tt.sq || spec.CQEntries != tt.cq || out.Params.SQEntries != tt.sq || out.Params.CQEntries != tt.cq {
				t.Errorf("%d and %d entries, the guest is told %d and %d; want %d and %d", spec.SQEntries, spec.CQEntries, out.Params.SQEntries, out.Params.CQEntries, tt.sq, tt.cq)
			}
			if spec.Index != 1 || spec.Flags != s.Params.Flags || spec.DoorbellFD != g.Device.DoorbellFD(1) || len(spec.Files) != 3 || !spec.WholeRAM {
				t.Errorf("%+v", spec)
			}
			if s.Vector == abi.NoVector && spec.VectorFD != -1 || s.Vector != abi.NoVector && spec.VectorFD != g.Device.VectorFD(int(s.Vector)) {
				t.Errorf("vector %#x is eventfd %d", s.Vector, spec.VectorFD)
			}
			// Zeroed in full, also where the backend has no business.
			if s.RingsLen > 0x100000 {
				if b := g.Peek(memmap.Addr(s.RingsAddr+s.RingsLen-8), 8); binary.LittleEndian.Uint64(b) != 0 {
					t.Errorf("the end of the rings' area is % x", b)
				}
			}
			// The guest sees what is its business, the rest is zero.
			want := s
			want.Params = abi.Params{
				SQEntries: tt.sq, CQEntries: tt.cq, Flags: s.Params.Flags, Features: f.caps.Features,
				SQOff: abi.SQOffsets{Tail: 4, RingMask: 16, RingEntries: 24, Flags: 36, Dropped: 32, Array: 64 + 16*tt.cq},
				CQOff: abi.CQOffsets{Head: 8, Tail: 12, RingMask: 20, RingEntries: 28, Overflow: 44, CQEs: 64, Flags: 40},
			}
			if out != want {
				t.Errorf("got  %+v\nwant %+v", out, want)
			}
		})
	}
}

func TestGuestNarrowsFilesBuffersAndOpcodes(t *testing.T) {
	g, f := newGuest(t, 1<<20)
	var list []byte
	for _, i := range []uint32{2, 0, 2, 1, 1, 0, 2, 2} { // repeated as it likes
		list = binary.LittleEndian.AppendUint32(list, i)
	}
	g.Poke(lists, list)
	ranges := []memmap.Range{{Start: 0x40000, Length: 0x3000}, {Start: 0x41000, Length: 0x1000}, {Start: 1<<20 - 4096, Length: 4096}}
	for i, r := range ranges {
		g.Poke(lists+0x100+memmap.Addr(16*i), abi.Encode(&abi.Range{Addr: uint64(r.Start), Len: r.Length}))
	}
	s, _ := devicetest.RingAt(0x20000, 8)
	s.FilesAddr, s.NrFiles = lists, 8
	s.BuffersAddr, s.NrBuffers = lists+0x100, 3
	s.Opcodes = abi.OpcodesOf(hostring.OpReadFixed)
	if _, errno := g.Setup(0, s); errno != 0 {
		t.Fatal(errno)
	}
	spec := f.specs[0]
	names := ""
	for _, file := range spec.Files {
		names += file.Name
	}
	if names != "cacbbacc" {
		t.Errorf("files %q", names)
	}
	if spec.WholeRAM || len(spec.Buffers) != 3 || spec.Buffers[0] != ranges[0] || spec.Buffers[1] != ranges[1] || spec.Buffers[2] != ranges[2] {
		t.Errorf("buffers %v", spec.Buffers)
	}
	if spec.Policy.Opcodes != s.Opcodes || spec.Policy.SQEFlags != f.caps.SQEFlags || spec.Policy.SQEFlagsRequired != f.caps.SQEFlagsRequired {
		t.Errorf("policy %+v", spec.Policy)
	}
}

func TestPollingTimeIsTheHostsToBound(t *testing.T) {
	for _, tt := range []struct {
		host  time.Duration
		guest uint32 // ms
		want  time.Duration
	}{
		{0, 0, 0}, // the backend's default
		{0, 1, time.Millisecond},
		{0, 1000, time.Second},
		{0, 1001, time.Second},
		{0, 0xffffffff, time.Second},
		{50 * time.Millisecond, 0, 50 * time.Millisecond},
		{50 * time.Millisecond, 20, 20 * time.Millisecond},
		{50 * time.Millisecond, 51, 50 * time.Millisecond},
		{30 * time.Second, 20_000, 20 * time.Second},
	} {
		g, f := newGuest(t, memmap.MinRAM, func(c *uringpv.Config, _ *fake) { c.SQThreadIdle = tt.host })
		s, _ := devicetest.RingAt(0x20000, 8)
		s.Params.Flags, s.Params.SQThreadIdle = hostring.SetupSQPoll, tt.guest
		out, errno := g.Setup(0, s)
		if errno != 0 {
			t.Fatal(errno)
		}
		if spec := f.specs[0]; spec.SQThreadIdle != tt.want || spec.SQThreadCPU != 1 || out.Params.SQThreadIdle != uint32(tt.want/time.Millisecond) {
			t.Errorf("host %v, guest %d ms: %v on CPU %d, the guest is told %d ms; want %v on CPU 1", tt.host, tt.guest, spec.SQThreadIdle, spec.SQThreadCPU, out.Params.SQThreadIdle, tt.want)
		}
	}
}

func TestHostsRefusalLeavesNoRing(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	for _, tt := range []struct {
		err  error
		want unix.Errno
	}{
		{&hostring.Error{Call: "io_uring_register", Op: "IORING_REGISTER_BUFFERS", Errno: unix.ENOMEM}, unix.ENOMEM},
		{unix.EPERM, unix.EPERM},
		{errFlames, unix.EIO},
		{unix.Errno(1 << 20), unix.EIO},
	} {
		f.newRing = func(uringpv.RingSpec) error { return tt.err }
		s, _ := devicetest.RingAt(0x20000, 8)
		if _, errno := g.Setup(0, s); errno != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, errno, tt.want)
		}
		if errno := g.Destroy(0); errno != unix.ENXIO {
			t.Errorf("%v: destroy: %v, want ENXIO", tt.err, errno)
		}
		if got := g.Read32(abi.RegStatus); got != abi.StatusReady {
			t.Errorf("%v: STATUS %#x", tt.err, got)
		}
	}
	f.newRing = nil
	setUp(t, g, 0)
}

func TestExtraOpcodesAreForRingsThatNameThem(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	for i, tt := range []struct{ named, want abi.Opcodes }{
		{abi.Opcodes{}, f.caps.Opcodes},
		{abi.OpcodesOf(hostring.OpFallocate), abi.OpcodesOf(hostring.OpFallocate)},
		{abi.OpcodesOf(hostring.OpNop, hostring.OpFallocate), abi.OpcodesOf(hostring.OpNop, hostring.OpFallocate)},
	} {
		s, _ := devicetest.RingAt(0x10000+memmap.Addr(i)*0x4000, 8)
		s.Opcodes = tt.named
		if _, errno := g.Setup(uint32(i), s); errno != 0 {
			t.Fatalf("opcodes %v: %v", tt.named.List(), errno)
		}
		if got := f.specs[i].Policy.Opcodes; got != tt.want {
			t.Errorf("opcodes %v: the ring has %v, want %v", tt.named.List(), got.List(), tt.want.List())
		}
	}
}

func TestIOPollNeedsSQPoll(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	s, _ := devicetest.RingAt(0x10000, 8)
	s.Params.Flags = hostring.SetupIOPoll
	if _, errno := g.Setup(0, s); errno != unix.EINVAL {
		t.Errorf("IOPOLL alone: %v", errno)
	}
	s.Params.Flags |= hostring.SetupSQPoll
	if _, errno := g.Setup(0, s); errno != 0 || f.specs[0].Flags != s.Params.Flags {
		t.Errorf("with SQPOLL: %v", errno)
	}
}
