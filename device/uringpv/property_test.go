// SPDX-License-Identifier: Apache-2.0

package uringpv_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/devicetest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// words has values that border on something.
func words(t *rapid.T, name string) uint64 {
	return rapid.OneOf(
		rapid.SampledFrom([]uint64{0, 1, 4, 8, 64, 4095, 4096, 4097, 8192, memmap.MinRAM - 4096, memmap.MinRAM - 64, memmap.MinRAM, memmap.MinRAM + 4096,
			uint64(memmap.HoleStart), uint64(memmap.HoleEnd), 1 << 63, ^uint64(4095), ^uint64(7), ^uint64(0)}),
		rapid.Map(rapid.Uint64Range(0, 255), func(page uint64) uint64 { return page * 4096 }),
		rapid.Uint64(),
	).Draw(t, name)
}

// drawSetup is a RING_SETUP that is right in most words.
func drawSetup(t *rapid.T, g *devicetest.Guest) abi.RingSetup {
	s, _ := devicetest.RingAt(memmap.Addr(0x10000)+4096*memmap.Addr(rapid.IntRange(0, 200).Draw(t, "page")), 1<<rapid.IntRange(0, 8).Draw(t, "entries"))
	s.Params.Flags = rapid.SampledFrom([]uint32{0, 0, hostring.SetupSQPoll, hostring.SetupClamp, hostring.SetupCQSize, hostring.SetupNoSQArray | hostring.SetupSQPoll, hostring.SetupIOPoll}).Draw(t, "flags")
	s.Params.CQEntries = rapid.Uint32Range(0, 1024).Draw(t, "cq_entries")
	s.Params.SQThreadIdle = rapid.Uint32().Draw(t, "idle")
	if n := rapid.SampledFrom([]uint32{0, 0, 0, 1, 3, 8, 9}).Draw(t, "nr_files"); n > 0 {
		s.FilesAddr, s.NrFiles = lists, n
		for i := range n {
			g.Poke(lists+4*memmap.Addr(i), binary.LittleEndian.AppendUint32(nil, rapid.SampledFrom([]uint32{0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 0xffffffff}).Draw(t, "file")))
		}
	}
	if n := rapid.SampledFrom([]uint32{0, 0, 0, 1, 4, 16, 17}).Draw(t, "nr_buffers"); n > 0 {
		s.BuffersAddr, s.NrBuffers = lists+0x400, n
		for i := range n {
			r := abi.Range{Addr: 4096 * rapid.Uint64Range(0, 248).Draw(t, "buffer"), Len: 4096 * rapid.Uint64Range(1, 8).Draw(t, "pages")}
			if rapid.IntRange(0, 40).Draw(t, "wild") == 0 {
				r = abi.Range{Addr: words(t, "addr"), Len: words(t, "len")}
			}
			g.Poke(lists+0x400+16*memmap.Addr(i), abi.Encode(&r))
		}
	}
	for range rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "spoilt words") {
		v := words(t, "value")
		switch rapid.IntRange(0, 10).Draw(t, "word") {
		case 0:
			s.RingsAddr = v
		case 1:
			s.RingsLen = v
		case 2:
			s.SQEsAddr = v
		case 3:
			s.SQEsLen = v
		case 4:
			s.FilesAddr = v
		case 5:
			s.BuffersAddr = v
		case 6:
			s.NrFiles, s.NrBuffers = uint32(v), uint32(v>>32)
		case 7:
			s.Vector = uint32(v)
		case 8:
			s.Params.SQEntries = uint32(v)
		case 9:
			binary.LittleEndian.PutUint64(s.Opcodes[:], v)
		case 10:
			s.Resv[0] = v
		}
	}
	return s
}

// drawCommand puts a command and its payload into RAM.
func drawCommand(t *rapid.T, g *devicetest.Guest) abi.Cmd {
	c := abi.Cmd{
		Op:    rapid.SampledFrom([]uint32{0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 9, 10}).Draw(t, "op"),
		Index: rapid.SampledFrom([]uint32{0, 0, 0, 0, 1, 1, 1, 2, 3, 4, 0xffffffff}).Draw(t, "index"),
		Addr:  payloadAddr,
	}
	var payload []byte
	switch c.Op {
	case abi.CmdRingSetup:
		s := drawSetup(t, g)
		payload = abi.Encode(&s)
	case abi.CmdRingRegister:
		payload = abi.Encode(&abi.Register{
			Opcode: rapid.SampledFrom([]uint32{8, 8, 8, 8, 0, 1, 3, 4, 5, 6, 16, 7, 0x80000008}).Draw(t, "opcode"),
			NrArgs: rapid.OneOf(rapid.Uint32Range(0, 280), rapid.Uint32Range(0, 2)).Draw(t, "nr_args"),
			Addr:   words(t, "addr"),
			Offset: rapid.SampledFrom([]uint32{0, 0, 0, 0, 1, 0xffffffff}).Draw(t, "offset"),
		})
	case abi.CmdRingEnter:
		payload = abi.Encode(&abi.Enter{ToSubmit: rapid.Uint32().Draw(t, "to_submit"), Flags: rapid.SampledFrom([]uint32{0, 1, 2, 3, 0, 1, 2, 3, 4}).Draw(t, "flags"), MinComplete: rapid.SampledFrom([]uint32{0, 0, 0, 0, 1}).Draw(t, "min")})
	case abi.CmdIdentify, abi.CmdFileInfo, abi.CmdBufferInfo, abi.CmdRingStats:
		payload = make([]byte, rapid.IntRange(1, 200).Draw(t, "len"))
	}
	c.Len = uint32(len(payload))
	g.Poke(devicetest.PayloadAddr, append(payload, make([]byte, 16)...))
	if rapid.IntRange(0, 9).Draw(t, "spoil") == 0 {
		switch rapid.IntRange(0, 4).Draw(t, "field") {
		case 0:
			c.Addr = words(t, "addr")
		case 1:
			c.Len = rapid.Uint32().Draw(t, "len")
		case 2:
			c.Flags = 1
		case 3:
			c.Resv[2] = 1
		case 4:
			c.Op = rapid.Uint32().Draw(t, "op")
		}
	}
	return c
}

// Whatever a guest commands: the backend gets what RingSpec promises, results
// are errnos, rings are there exactly when the guest was told so, and no byte of
// guest RAM changes but those that the command may change.
func TestAnyCommandsKeepThePromises(t *testing.T) {
	m := devicetest.Memory(t, memmap.MinRAM)
	ram, err := m.Bytes(memmap.Range{Start: 0, Length: memmap.MinRAM})
	if err != nil {
		t.Fatal(err)
	}
	before := make([]byte, len(ram))
	results := map[uint32]map[unix.Errno]int{} // by op: what the runs reached
	rapid.Check(t, func(rt *rapid.T) {
		clear(ram)
		f := newFake(m)
		d, err := uringpv.New(uringpv.Config{Name: "p", Rings: 4, MaxEntries: 256, Memory: m, Backend: f, SQPoll: true, SQThreadCPU: -1,
			Files: []uringpv.File{testFile("a", 1), testFile("b", 2), testFile("c", 3)}})
		if err != nil {
			rt.Fatal(err)
		}
		defer func() {
			f.close = nil
			if err := d.Close(); err != nil {
				rt.Error(err)
			}
		}()
		g := &devicetest.Guest{T: t, Device: d, Memory: m}

		for i := range rapid.Uint32Range(0, 2).Draw(rt, "rings at first") {
			setUp(t, g, i)
		}
		for range rapid.IntRange(4, 30).Draw(rt, "commands") {
			c := drawCommand(rt, g)
			fate := rapid.SampledFrom([]error{nil, nil, nil, unix.ETIMEDOUT, errFlames}).Draw(rt, "fate")
			f.close = func(context.Context, int) error { return fate }

			failed := g.Read32(abi.RegStatus)&abi.StatusFailed != 0
			there := maps.Clone(f.live)
			copy(before, ram)
			errno := g.Raw(c)
			if results[c.Op] == nil {
				results[c.Op] = map[unix.Errno]int{}
			}
			results[c.Op][errno]++

			// What may have changed is taken over, then all is the same.
			allow := func(a, n uint64) { copy(before[a:a+n], ram[a:a+n]) }
			allow(uint64(devicetest.CmdAddr), abi.CmdSize) // Raw wrote it anew
			if errno == 0 {
				switch c.Op {
				case abi.CmdIdentify, abi.CmdFileInfo, abi.CmdBufferInfo, abi.CmdRingStats:
					allow(c.Addr, uint64(c.Len))
				case abi.CmdRingSetup:
					allow(c.Addr, uint64(c.Len))
					s, _ := abi.Decode[abi.RingSetup](ram[c.Addr:][:abi.RingSetupSize])
					allow(s.RingsAddr, s.RingsLen)
					allow(s.SQEsAddr, s.SQEsLen)
				case abi.CmdRingRegister:
					payload := make([]byte, abi.RegisterSize) // a short one goes on with zeros
					copy(payload, before[c.Addr:][:c.Len])
					if probe, _ := abi.Decode[abi.Register](payload); probe.Opcode == regProbe {
						allow(probe.Addr, 16+8*uint64(probe.NrArgs))
					}
				}
			}
			if !bytes.Equal(before, ram) {
				at := 0
				for ram[at] == before[at] {
					at++
				}
				rt.Fatalf("command %+v, %v, has changed the byte at %#x", c, errno, at)
			}

			f.check(rt)
			now := maps.Clone(f.live)
			_, was := there[int(c.Index)]
			_, is := now[int(c.Index)]
			switch {
			case failed && c.Op != abi.CmdReset && c.Op >= 1 && c.Op <= 9 && errno != unix.EIO:
				rt.Fatalf("command %+v on a failed device: %v", c, errno)
			case c.Op == abi.CmdRingSetup && (errno == 0) != (is && !was):
				rt.Fatalf("RING_SETUP %d: %v, the ring was there: %v, is there: %v", c.Index, errno, was, is)
			case c.Op == abi.CmdRingDestroy && errno == 0 && (is || !was),
				c.Op == abi.CmdRingDestroy && errno == unix.ETIMEDOUT && !is:
				rt.Fatalf("RING_DESTROY %d: %v, the ring was there: %v, is there: %v", c.Index, errno, was, is)
			case c.Op == abi.CmdReset && errno == 0 && (len(now) != 0 || g.Read32(abi.RegStatus) != abi.StatusReady):
				rt.Fatalf("RESET leaves %d rings, STATUS %#x", len(now), g.Read32(abi.RegStatus))
			case c.Op != abi.CmdRingSetup && c.Op != abi.CmdRingDestroy && c.Op != abi.CmdReset && !maps.Equal(there, now):
				rt.Fatalf("command %+v changes the rings", c)
			}
		}
	})
	if t.Failed() {
		return
	}
	// The draws must reach success as well as refusal, or they show nothing.
	for op := uint32(1); op <= 9; op++ {
		if results[op][0] == 0 || len(results[op]) < 2 {
			t.Errorf("command %d ended with %v: want successes and refusals", op, results[op])
		}
	}
}

func TestPolicyAllowsWhatRestrictionsAllow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := uringpv.Policy{SQEFlags: rapid.Uint8().Draw(t, "flags")}
		p.SQEFlagsRequired = p.SQEFlags & rapid.Uint8().Draw(t, "required")
		copy(p.Opcodes[:], rapid.SliceOfN(rapid.Uint8(), 32, 32).Draw(t, "opcodes"))
		opcode, flags := rapid.Uint8().Draw(t, "opcode"), rapid.Uint8().Draw(t, "SQE's flags")
		want := slices.Contains(p.Opcodes.List(), opcode)
		for bit := uint8(1); bit != 0; bit <<= 1 {
			if flags&bit != 0 && p.SQEFlags&bit == 0 || flags&bit == 0 && p.SQEFlagsRequired&bit != 0 {
				want = false
			}
		}
		if got := p.Allows(opcode, flags); got != want {
			t.Fatalf("%+v allows opcode %d with flags %#x: %v", p, opcode, flags, got)
		}
	})
}

func TestPolicyIsOnlyEverNarrowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		opcodes := rapid.Custom(func(t *rapid.T) abi.Opcodes {
			return abi.OpcodesOf(rapid.SliceOfN(rapid.Uint8Range(0, 9), 0, 10).Draw(t, "ops")...)
		})
		p := uringpv.Policy{Opcodes: opcodes.Draw(t, "host"), SQEFlags: 3, SQEFlagsRequired: 1, SetupFlags: 7}
		extra := opcodes.Draw(t, "extra")
		extra = extra.Without(&p.Opcodes)
		all := p.Opcodes.Union(&extra)
		want := opcodes.Draw(t, "guest")
		got, ok := p.Narrow(want, extra)
		switch {
		case want.Empty():
			if !ok || got != p {
				t.Fatalf("nothing named: %+v, %v", got, ok)
			}
		case !want.SubsetOf(&all):
			if ok || got != (uringpv.Policy{}) {
				t.Fatalf("widened to %+v", got)
			}
		default:
			p.Opcodes = want
			if !ok || got != p {
				t.Fatalf("%+v, %v, want %+v", got, ok, p)
			}
		}
	})
}

func TestPolicyIsCheckedWithoutMemory(t *testing.T) {
	p := fakeCaps().Policy
	if n := testing.AllocsPerRun(100, func() { p.Allows(hostring.OpReadFixed, hostring.SQEFixedFile) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
