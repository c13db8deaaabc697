// SPDX-License-Identifier: Apache-2.0

package uringpv_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/devicetest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

const payloadAddr = uint64(devicetest.PayloadAddr)

// commands has each command with the size of its payload, and how to make it
// succeed on ring 0, file 0, buffer 0.
var commands = []struct {
	name    string
	op      uint32
	size    uint32
	payload func() []byte
}{
	{"IDENTIFY", abi.CmdIdentify, abi.IdentitySize, nil},
	{"FILE_INFO", abi.CmdFileInfo, abi.FileSize, nil},
	{"BUFFER_INFO", abi.CmdBufferInfo, abi.RangeSize, nil},
	{"RING_SETUP", abi.CmdRingSetup, abi.RingSetupSize, func() []byte {
		s, _ := devicetest.RingAt(0x20000, 8)
		return abi.Encode(&s)
	}},
	{"RING_REGISTER", abi.CmdRingRegister, abi.RegisterSize, func() []byte {
		return abi.Encode(&abi.Register{Opcode: uint32(hostring.RegisterProbe), Addr: 0x8000})
	}},
	{"RING_ENTER", abi.CmdRingEnter, abi.EnterSize, nil},
	{"RING_DESTROY", abi.CmdRingDestroy, 0, nil},
	{"RESET", abi.CmdReset, 0, nil},
	{"RING_STATS", abi.CmdRingStats, abi.RingStatsSize, nil},
}

// setUp makes a small ring at index, away from the others.
func setUp(t testing.TB, g *devicetest.Guest, index uint32) abi.RingSetup {
	t.Helper()
	s, _ := devicetest.RingAt(0x10000+memmap.Addr(index)*0x4000, 8)
	out, errno := g.Setup(index, s)
	if errno != 0 {
		t.Fatalf("RING_SETUP of ring %d: %v", index, errno)
	}
	return out
}

func TestErrorsOfEveryCommand(t *testing.T) {
	for _, cmd := range commands {
		t.Run(cmd.name, func(t *testing.T) {
			g, _ := newGuest(t, memmap.MinRAM)
			if cmd.op != abi.CmdRingSetup {
				setUp(t, g, 0)
			}
			payload := make([]byte, 4096)
			if cmd.payload != nil {
				copy(payload, cmd.payload())
			}
			for _, tt := range []struct {
				name   string
				want   unix.Errno
				change func(*abi.Cmd)
			}{
				{"flags", unix.EINVAL, func(c *abi.Cmd) { c.Flags = 1 << 31 }},
				{"resv0", unix.EINVAL, func(c *abi.Cmd) { c.Resv0 = 1 }},
				{"resv", unix.EINVAL, func(c *abi.Cmd) { c.Resv[3] = 1 }},
				{"addr unaligned", unix.EINVAL, func(c *abi.Cmd) { c.Addr += 4 }},
				{"addr behind RAM", unix.EFAULT, func(c *abi.Cmd) { c.Addr, c.Len = memmap.MinRAM, 256 }},
				{"addr across the end of RAM", unix.EFAULT, func(c *abi.Cmd) { c.Addr, c.Len = memmap.MinRAM-128, 136 }},
				{"addr at the end of everything", unix.EFAULT, func(c *abi.Cmd) { c.Addr, c.Len = ^uint64(7), 256 }},
				{"len above 4096", unix.E2BIG, func(c *abi.Cmd) { c.Len = 4097 }},
				{"len of 4 GiB", unix.E2BIG, func(c *abi.Cmd) { c.Len = 0xffffffff }},
			} {
				c := abi.Cmd{Op: cmd.op, Addr: payloadAddr, Len: cmd.size}
				tt.change(&c)
				g.Poke(devicetest.PayloadAddr, payload)
				if got := g.Raw(c); got != tt.want {
					t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
				}
			}
			if cmd.size > 0 {
				if got := g.Raw(abi.Cmd{Op: cmd.op, Addr: payloadAddr}); got != unix.EINVAL {
					t.Errorf("no payload: %v, want EINVAL", got)
				}
			}

			long := append([]byte(nil), payload...)
			long[cmd.size] = 1
			g.Poke(devicetest.PayloadAddr, long)
			if got := g.Raw(abi.Cmd{Op: cmd.op, Addr: payloadAddr, Len: cmd.size + 1}); got != unix.E2BIG {
				t.Errorf("something unknown in the payload: %v, want E2BIG", got)
			}
			// Zeros behind what is known are fine, up to the most there can be.
			g.Poke(devicetest.PayloadAddr, payload)
			if got := g.Raw(abi.Cmd{Op: cmd.op, Addr: payloadAddr, Len: 4096}); got != 0 {
				t.Errorf("a payload of 4096 bytes: %v", got)
			}
		})
	}
}

func TestUnknownCommandsAreInvalid(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM)
	for _, op := range []uint32{0, 10, 11, 255, 1 << 16, 1 << 31, 0xffffffff} {
		if got := g.Raw(abi.Cmd{Op: op}); got != unix.EINVAL {
			t.Errorf("op %d: %v", op, got)
		}
	}
}

func TestShorterPayloadIsTakenAsZerosAndCut(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM)
	full, errno := devicetest.Get[abi.Identity](g, abi.CmdIdentify, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	want := abi.Encode(&full)
	for _, n := range []int{1, 7, 8, 60, 127, 128, 200} {
		g.Poke(devicetest.PayloadAddr, bytes.Repeat([]byte{0xa5}, 256))
		g.Poke(devicetest.PayloadAddr+128, make([]byte, 128))
		if errno := g.Raw(abi.Cmd{Op: abi.CmdIdentify, Addr: payloadAddr, Len: uint32(n)}); errno != 0 {
			t.Errorf("%d bytes: %v", n, errno)
		}
		got := g.Peek(devicetest.PayloadAddr, 128)
		k := min(n, 128)
		if !bytes.Equal(got[:k], want[:k]) || !bytes.Equal(got[k:], bytes.Repeat([]byte{0xa5}, 128-k)) {
			t.Errorf("payload of %d bytes: got % x", n, got)
		}
	}
	// 176 bytes of RING_SETUP: vector 0, no opcodes named.
	s, _ := devicetest.RingAt(0x10000, 8)
	errno, _ = g.Do(abi.CmdRingSetup, 0, abi.Encode(&s)[:176])
	if errno != 0 {
		t.Errorf("short RING_SETUP: %v", errno)
	}
}

func TestResultIsWrittenLast(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM)
	want, _ := devicetest.Get[abi.Identity](g, abi.CmdIdentify, 0)
	// The payload is the command itself: what was written last is seen.
	if errno := g.Raw(abi.Cmd{Op: abi.CmdIdentify, Addr: uint64(devicetest.CmdAddr), Len: abi.IdentitySize}); errno != 0 {
		t.Errorf("result %v", errno)
	}
	want.Backend = 0 // where the result is
	got, err := abi.Decode[abi.Identity](g.Peek(devicetest.CmdAddr, abi.IdentitySize))
	if err != nil || got != want {
		t.Errorf("%+v, %v\nwant %+v", got, err, want)
	}
}

func TestIdentify(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	got, errno := devicetest.Get[abi.Identity](g, abi.CmdIdentify, 0)
	want := abi.Identity{
		Version: 0x10002, Backend: abi.BackendRelay, AddrBase: uint64(g.Memory.Base()),
		NumRings: 4, NumVectors: 4, NumFiles: 3, NumBuffers: 1,
		MaxSQEntries: 256, MaxCQEntries: 512,
		SetupFlags: f.caps.SetupFlags, RingFeatures: f.caps.Features, SQEFlags: uint32(f.caps.SQEFlags), SQEFlagsRequired: uint32(f.caps.SQEFlagsRequired),
		MaxRingFiles: 8, MaxRingBuffers: 16, Opcodes: f.caps.Opcodes, OpcodesExtra: f.caps.Extra,
	}
	copy(want.Name[:], "disk0")
	if errno != 0 || got != want {
		t.Errorf("%v, %+v\nwant %+v", errno, got, want)
	}
	if _, errno := devicetest.Get[abi.Identity](g, abi.CmdIdentify, 1); errno != unix.EINVAL {
		t.Errorf("index 1: %v, want EINVAL", errno)
	}
}

func TestIdentifyOffersNoMoreThanHostAndBackend(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM, func(c *uringpv.Config, f *fake) {
		c.SQPoll = false
		c.MaxEntries = 1 << 15
		c.Name = strings.Repeat("é", 40)
	})
	id, errno := devicetest.Get[abi.Identity](g, abi.CmdIdentify, 0)
	if errno != 0 || id.SetupFlags&hostring.SetupSQPoll != 0 || id.MaxSQEntries != 4096 || id.MaxCQEntries != 8192 {
		t.Errorf("%v, %+v", errno, id)
	}
	if got := abi.TextOf(id.Name[:]); got != strings.Repeat("é", 15) {
		t.Errorf("name %q", got)
	}
	s, _ := devicetest.RingAt(0x10000, 8)
	s.Params.Flags = hostring.SetupSQPoll
	if _, errno := g.Setup(0, s); errno != unix.EINVAL {
		t.Errorf("SQPOLL where the host does not allow it: %v, want EINVAL", errno)
	}
}

func TestFileInfo(t *testing.T) {
	size, sizeErr := int64(1000), error(nil)
	g, _ := newGuest(t, memmap.MinRAM, func(c *uringpv.Config, _ *fake) {
		c.Files = []uringpv.File{
			{Kind: abi.FileDisk, Name: "plain", Serial: "1", BlockSize: 512, DIOMemAlign: 4096, DIOOffsetAlign: 4096, Size: func() (int64, error) { return size, sizeErr }},
			{Kind: abi.FileRegular, Name: strings.Repeat("n", 100), Serial: strings.Repeat("s", 100), BlockSize: 4096, DIOMemAlign: 512, DIOOffsetAlign: 4096,
				ReadOnly: true, Direct: true, BlockDevice: true, Size: func() (int64, error) { return 1 << 40, nil }},
		}
	})
	want := abi.File{Kind: abi.FileDisk, Size: 1000, BlockSize: 512, DIOMemAlign: 1, DIOOffsetAlign: 1}
	copy(want.Name[:], "plain")
	copy(want.Serial[:], "1")
	if got, errno := devicetest.Get[abi.File](g, abi.CmdFileInfo, 0); errno != 0 || got != want {
		t.Errorf("%v, %+v\nwant %+v", errno, got, want)
	}
	size = 2000 // the file grows
	if got, _ := devicetest.Get[abi.File](g, abi.CmdFileInfo, 0); got.Size != 2000 {
		t.Errorf("size %d, want 2000", got.Size)
	}
	want = abi.File{Kind: abi.FileRegular, Flags: abi.FileReadonly | abi.FileDirect | abi.FileBlockdev, Size: 1 << 40, BlockSize: 4096, DIOMemAlign: 512, DIOOffsetAlign: 4096}
	copy(want.Name[:], strings.Repeat("n", 63))
	copy(want.Serial[:], strings.Repeat("s", 31))
	if got, errno := devicetest.Get[abi.File](g, abi.CmdFileInfo, 1); errno != 0 || got != want {
		t.Errorf("%v, %+v\nwant %+v", errno, got, want)
	}
	for _, index := range []uint32{2, 255, 0xffffffff} {
		if _, errno := devicetest.Get[abi.File](g, abi.CmdFileInfo, index); errno != unix.EBADF {
			t.Errorf("file %d: %v, want EBADF", index, errno)
		}
	}
	sizeErr = &uringpv.HostError{Op: "fstat", Err: unix.ESTALE}
	if _, errno := devicetest.Get[abi.File](g, abi.CmdFileInfo, 0); errno != unix.ESTALE {
		t.Errorf("size unknown: %v, want ESTALE", errno)
	}
}

func TestFileInfoTellsKindAndFlags(t *testing.T) {
	peer := &unix.SockaddrUnix{Name: "/x"}
	files := []uringpv.File{
		{Name: "s", Kind: abi.FileStream, BlockSize: 1},
		{Name: "u", Kind: abi.FileStream, Unconnected: true, Peer: peer},
		{Name: "d", Kind: abi.FileDgram, AnyPeer: true},
		{Name: "l", Kind: abi.FileListener},
		{Name: "r", Kind: abi.FilePipe, ReadOnly: true},
		{Name: "w", Kind: abi.FilePipe, WriteOnly: true},
		{Name: "e", Kind: abi.FileEventfd},
		{Name: "t", Kind: abi.FileTap},
	}
	flags := []uint32{0, abi.FileUnconnected, 0, 0, abi.FileReadonly, abi.FileWriteonly, 0, 0}
	g, _ := newGuest(t, memmap.MinRAM, func(c *uringpv.Config, _ *fake) { c.Files = files })
	for i, f := range files {
		want := abi.File{Kind: f.Kind, Flags: flags[i], BlockSize: f.BlockSize, DIOMemAlign: 1, DIOOffsetAlign: 1}
		copy(want.Name[:], f.Name)
		if got, errno := devicetest.Get[abi.File](g, abi.CmdFileInfo, uint32(i)); errno != 0 || got != want {
			t.Errorf("%v, %+v\nwant %+v", errno, got, want)
		}
	}
}

func TestDeniedOpcodesAreNotOffered(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM, func(c *uringpv.Config, _ *fake) {
		c.Deny = abi.OpcodesOf(hostring.OpFsync, hostring.OpFallocate, hostring.OpSocket)
	})
	left := abi.OpcodesOf(hostring.OpNop, hostring.OpReadFixed, hostring.OpWriteFixed)
	id, errno := devicetest.Get[abi.Identity](g, abi.CmdIdentify, 0)
	if errno != 0 || id.Opcodes != left || !id.OpcodesExtra.Empty() {
		t.Errorf("%v: opcodes %v, extra %v", errno, id.Opcodes.List(), id.OpcodesExtra.List())
	}
	for _, op := range []uint8{hostring.OpFsync, hostring.OpFallocate} {
		s, _ := devicetest.RingAt(0x10000, 8)
		s.Opcodes = abi.OpcodesOf(op)
		if _, errno := g.Setup(0, s); errno != unix.EACCES {
			t.Errorf("a ring with opcode %d: %v, want EACCES", op, errno)
		}
	}
	setUp(t, g, 0)
	if got := f.ring(0).spec.Policy.Opcodes; got != left {
		t.Errorf("the ring may %v, want %v", got.List(), left.List())
	}
}

func TestDeniedFlagsAreNotOffered(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM, func(c *uringpv.Config, _ *fake) {
		c.DenyFlags = hostring.SQEAsync | hostring.SQEIOLink // the backend has only one of them
	})
	id, errno := devicetest.Get[abi.Identity](g, abi.CmdIdentify, 0)
	if errno != 0 || id.SQEFlags != uint32(hostring.SQEFixedFile) || id.SQEFlagsRequired != uint32(hostring.SQEFixedFile) {
		t.Errorf("%v: SQE flags %#x, required %#x", errno, id.SQEFlags, id.SQEFlagsRequired)
	}
	setUp(t, g, 0)
	if got := f.ring(0).spec.Policy.SQEFlags; got != hostring.SQEFixedFile {
		t.Errorf("the ring may have SQE flags %#x", got)
	}
}

func TestBufferTableCoversAllRAM(t *testing.T) {
	const gib = 1 << 30
	g, _ := newGuest(t, 4*gib+memmap.PageSize)
	id, _ := devicetest.Get[abi.Identity](g, abi.CmdIdentify, 0)
	want := []abi.Range{{Addr: 0, Len: gib}, {Addr: gib, Len: gib}, {Addr: 2 * gib, Len: gib}, {Addr: 4 * gib, Len: gib}, {Addr: 5 * gib, Len: memmap.PageSize}}
	if int(id.NumBuffers) != len(want) {
		t.Fatalf("%d buffers, want %d", id.NumBuffers, len(want))
	}
	for i, w := range want {
		if got, errno := devicetest.Get[abi.Range](g, abi.CmdBufferInfo, uint32(i)); errno != 0 || got != w {
			t.Errorf("buffer %d: %v, %+v, want %+v", i, errno, got, w)
		}
	}
	for _, index := range []uint32{5, 0xffffffff} {
		if _, errno := devicetest.Get[abi.Range](g, abi.CmdBufferInfo, index); errno != unix.EINVAL {
			t.Errorf("buffer %d: %v, want EINVAL", index, errno)
		}
	}
}

func TestProbeSaysWhatTheRingMay(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM)
	s, _ := devicetest.RingAt(0x10000, 8)
	s.Opcodes = abi.OpcodesOf(hostring.OpReadFixed, hostring.OpNop)
	if _, errno := g.Setup(1, s); errno != 0 {
		t.Fatal(errno)
	}
	const at = 0x8004 // a probe has words of four bytes
	for _, n := range []uint32{0, 1, 5, 6, 256} {
		g.Poke(at, bytes.Repeat([]byte{0xa5}, 16+8*256))
		errno, _ := g.Do(abi.CmdRingRegister, 1, abi.Encode(&abi.Register{Opcode: uint32(hostring.RegisterProbe), NrArgs: n, Addr: at}))
		if errno != 0 {
			t.Fatalf("%d opcodes: %v", n, errno)
		}
		b := g.Peek(at, 16+8*256)
		if b[0] != hostring.OpReadFixed || b[1] != uint8(min(n, 5)) || !bytes.Equal(b[2:16], make([]byte, 14)) {
			t.Errorf("header % x for %d opcodes", b[:16], n)
		}
		for op := range min(n, 5) {
			e := b[16+8*op:][:8]
			want := make([]byte, 8)
			want[0] = uint8(op)
			if op == uint32(hostring.OpReadFixed) || op == uint32(hostring.OpNop) {
				want[2] = 1
			}
			if !bytes.Equal(e, want) {
				t.Errorf("opcode %d: % x, want % x", op, e, want)
			}
		}
		if rest := b[16+8*n:]; !bytes.Equal(rest, bytes.Repeat([]byte{0xa5}, len(rest))) {
			t.Errorf("%d opcodes: wrote behind the room for them", n)
		}
	}
	for _, tt := range []struct {
		name  string
		index uint32
		reg   abi.Register
		want  unix.Errno
	}{
		{"no ring", 0, abi.Register{Opcode: 8, Addr: at}, unix.ENXIO},
		{"no such index", 4, abi.Register{Opcode: 8, Addr: at}, unix.ENXIO},
		{"another opcode", 1, abi.Register{Opcode: 2, Addr: at}, unix.EINVAL},
		{"use of a registered ring", 1, abi.Register{Opcode: 8 | 1<<31, Addr: at}, unix.EINVAL},
		{"too many", 1, abi.Register{Opcode: 8, NrArgs: 257, Addr: at}, unix.EINVAL},
		{"far too many", 1, abi.Register{Opcode: 8, NrArgs: 0xffffffff, Addr: at}, unix.EINVAL},
		{"unaligned", 1, abi.Register{Opcode: 8, NrArgs: 1, Addr: at + 2}, unix.EINVAL},
		{"not in RAM", 1, abi.Register{Opcode: 8, NrArgs: 1, Addr: memmap.MinRAM}, unix.EFAULT},
		{"half in RAM", 1, abi.Register{Opcode: 8, NrArgs: 1, Addr: memmap.MinRAM - 16}, unix.EFAULT},
	} {
		if errno, _ := g.Do(abi.CmdRingRegister, tt.index, abi.Encode(&tt.reg)); errno != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, errno, tt.want)
		}
	}
}

func TestEnter(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	type call struct{ toSubmit, flags uint32 }
	var calls []call
	var answer error
	f.enter = func(toSubmit, flags uint32) error {
		calls = append(calls, call{toSubmit, flags})
		return answer
	}
	setUp(t, g, 3)
	for _, tt := range []struct {
		name  string
		index uint32
		enter abi.Enter
		want  unix.Errno
	}{
		{"plain", 3, abi.Enter{ToSubmit: 7}, 0},
		{"flush", 3, abi.Enter{Flags: hostring.EnterGetevents}, 0},
		{"wake", 3, abi.Enter{ToSubmit: 0xffffffff, Flags: hostring.EnterGetevents | hostring.EnterSQWakeup}, 0},
		{"no ring", 2, abi.Enter{}, unix.ENXIO},
		{"no such index", 4, abi.Enter{}, unix.ENXIO},
		{"no such index at all", 0xffffffff, abi.Enter{}, unix.ENXIO},
		{"wait", 3, abi.Enter{MinComplete: 1}, unix.EINVAL},
		{"SQ_WAIT", 3, abi.Enter{Flags: hostring.EnterSQWait}, unix.EINVAL},
		{"EXT_ARG", 3, abi.Enter{Flags: hostring.EnterExtArg}, unix.EINVAL},
		{"REGISTERED_RING", 3, abi.Enter{Flags: hostring.EnterRegisteredRing | hostring.EnterGetevents}, unix.EINVAL},
		{"reserved", 3, abi.Enter{Resv: 1}, unix.EINVAL},
	} {
		if errno := g.Enter(tt.index, tt.enter); errno != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, errno, tt.want)
		}
	}
	if len(calls) != 3 || calls[0] != (call{7, 0}) || calls[1] != (call{0, 1}) || calls[2] != (call{0xffffffff, 3}) {
		t.Errorf("calls %v", calls)
	}
	answer = unix.EBUSY
	if errno := g.Enter(3, abi.Enter{}); errno != unix.EBUSY {
		t.Errorf("%v, want EBUSY", errno)
	}
	answer = errFlames // no errno in it
	if errno := g.Enter(3, abi.Enter{}); errno != unix.EIO {
		t.Errorf("%v, want EIO", errno)
	}
}

func TestConfigThatMakesNoSenseIsRefused(t *testing.T) {
	m := devicetest.Memory(t, memmap.MinRAM)
	big := devicetest.Memory(t, 4<<30)
	for _, tt := range []struct {
		name, says string
		change     func(*uringpv.Config, *fake)
	}{
		{"no memory", "needs guest memory", func(c *uringpv.Config, _ *fake) { c.Memory = nil }},
		{"no backend", "and a backend", func(c *uringpv.Config, _ *fake) { c.Backend = nil }},
		{"no rings", "must be 1 to 64", func(c *uringpv.Config, _ *fake) { c.Rings = 0 }},
		{"too many rings", "must be 1 to 64", func(c *uringpv.Config, _ *fake) { c.Rings = 65 }},
		{"no entries", "must be a power of two", func(c *uringpv.Config, _ *fake) { c.MaxEntries = 0 }},
		{"odd entries", "100 ring entries: must be a power of two", func(c *uringpv.Config, _ *fake) { c.MaxEntries = 100 }},
		{"negative idle", "whole milliseconds", func(c *uringpv.Config, _ *fake) { c.SQThreadIdle = -1e6 }},
		{"fractional idle", "whole milliseconds", func(c *uringpv.Config, _ *fake) { c.SQThreadIdle = 1500e3 }},
		{"endless idle", "whole milliseconds", func(c *uringpv.Config, _ *fake) { c.SQThreadIdle = 1e6 << 32 }},
		{"too many files", "9 files: backend relay can have 8", func(c *uringpv.Config, _ *fake) { c.Files = make([]uringpv.File, 9) }},
		{"too much RAM", "takes 4 buffers: backend relay can have 3", func(c *uringpv.Config, f *fake) { c.Memory, f.caps.MaxBuffers = big, 3 }},
		{"a file of no kind", `file 1, "b": kind 0: must be 1 to 8`, func(c *uringpv.Config, _ *fake) {
			c.Files = []uringpv.File{testFile("a", 1), testFile("b", 1)}
			c.Files[1].Kind = 0
		}},
		{"a file of an unknown kind", "kind 9: must be 1 to 8", func(c *uringpv.Config, _ *fake) { c.Files = []uringpv.File{{Kind: 9}} }},
		{"a disk without a size", "disks and regular files have one", func(c *uringpv.Config, _ *fake) { c.Files = []uringpv.File{{Kind: abi.FileDisk}} }},
		{"a socket with a size", "others do not", func(c *uringpv.Config, _ *fake) {
			c.Files = []uringpv.File{testFile("a", 1)}
			c.Files[0].Kind = abi.FileStream
		}},
		{"a pipe without a direction", "at once", func(c *uringpv.Config, _ *fake) {
			c.Files = []uringpv.File{{Kind: abi.FilePipe, ReadOnly: true, WriteOnly: true}}
		}},
		{"nobody to connect to", "with a peer", func(c *uringpv.Config, _ *fake) { c.Files = []uringpv.File{{Kind: abi.FileStream, Unconnected: true}} }},
		{"a pipe to connect", "stream or a datagram socket", func(c *uringpv.Config, _ *fake) {
			c.Files = []uringpv.File{{Kind: abi.FilePipe, Unconnected: true, Peer: &unix.SockaddrUnix{Name: "x"}}}
		}},
		{"a stream to any peer", "any peer", func(c *uringpv.Config, _ *fake) { c.Files = []uringpv.File{{Kind: abi.FileStream, AnyPeer: true}} }},
		{"everything denied", "all opcodes that its rings have are denied", func(c *uringpv.Config, f *fake) { c.Deny = f.caps.Opcodes }},
		{"a flag denied that must be", "SQE flags 0x1 are denied, and every SQE must carry them", func(c *uringpv.Config, _ *fake) { c.DenyFlags = hostring.SQEFixedFile | hostring.SQEAsync }},
		{"an opcode denied that names no file", "must be of those that name a file", func(c *uringpv.Config, f *fake) {
			f.caps.FilePolicy = true
			c.Files = []uringpv.File{{Kind: abi.FilePipe, Deny: abi.OpcodesOf(hostring.OpWrite, hostring.OpNop)}}
		}},
		{"opcodes denied for a file", "looks at no SQE", func(c *uringpv.Config, _ *fake) {
			c.Files = []uringpv.File{{Kind: abi.FilePipe, Deny: abi.OpcodesOf(hostring.OpWrite)}}
		}},
		{"nothing allowed", "allows no opcode", func(_ *uringpv.Config, f *fake) { f.caps.Opcodes = abi.Opcodes{} }},
		{"contradiction", "requires SQE flags 0x1", func(_ *uringpv.Config, f *fake) { f.caps.SQEFlags = 0 }},
		{"backend's entries", "rings of 48 entries", func(_ *uringpv.Config, f *fake) { f.caps.MaxEntries = 48 }},
		{"backend's files", "256 files", func(_ *uringpv.Config, f *fake) { f.caps.MaxFiles = 256 }},
		{"backend's buffers", "0 buffers", func(_ *uringpv.Config, f *fake) { f.caps.MaxBuffers = 0 }},
	} {
		f := newFake(m)
		c := uringpv.Config{Name: "x", Rings: 1, MaxEntries: 8, Memory: m, Backend: f}
		tt.change(&c, f)
		d, err := uringpv.New(c)
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want a line that says %q", tt.name, err, tt.says)
		}
		if d != nil {
			_ = d.Close()
		}
		if f.closed != 0 {
			t.Errorf("%s: the backend was closed, but it is the caller's still", tt.name)
		}
	}
}

func TestGuestFaultsAndHostFaultsAreOfDifferentTypes(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	setUp(t, g, 0)
	f.close = stuck
	g.Device.SetTimeout(1)
	err := g.Device.Reset()
	var host *uringpv.HostError
	var guest *uringpv.GuestError
	if !errors.As(err, &host) || errors.As(err, &guest) || !errors.Is(err, unix.ETIMEDOUT) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
}

// The payload's list is read once: what a guest changes while the command runs
// does not count.
func TestCommandWorksOnAPrivateCopy(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	const lists = 0x6000
	s, n := devicetest.RingAt(0x10000, 8)
	s.FilesAddr, s.NrFiles = lists, 2
	s.BuffersAddr, s.NrBuffers = lists+64, 1
	g.Poke(lists, []byte{2, 0, 0, 0, 1, 0, 0, 0})
	g.Poke(lists+64, abi.Encode(&abi.Range{Addr: 0x40000, Len: 0x1000}))
	f.newRing = func(spec uringpv.RingSpec) error {
		g.Poke(devicetest.CmdAddr, bytes.Repeat([]byte{0xff}, 64))
		g.Poke(devicetest.PayloadAddr, bytes.Repeat([]byte{0xff}, abi.RingSetupSize))
		g.Poke(lists, bytes.Repeat([]byte{0xff}, 128))
		if len(spec.Files) != 2 || spec.Files[0].Name != "c" || spec.Files[1].Name != "b" || len(spec.Buffers) != 1 || spec.Buffers[0] != (memmap.Range{Start: 0x40000, Length: 0x1000}) || spec.WholeRAM {
			t.Errorf("%+v", spec)
		}
		return nil
	}
	out, errno := g.Setup(0, s)
	if errno != 0 {
		t.Fatal(errno)
	}
	if out.RingsAddr != s.RingsAddr || out.SQEsAddr+out.SQEsLen != s.RingsAddr+n || out.NrFiles != 2 {
		t.Errorf("%+v is answered with what the guest wrote later: %+v", s, out)
	}
	if r := int32(binary.LittleEndian.Uint32(g.Peek(devicetest.CmdAddr+4, 4))); r != 0 {
		t.Errorf("result %d", r)
	}
}
