// SPDX-License-Identifier: Apache-2.0

package uringpv_test

import (
	"context"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/devicetest"
	"github.com/uringpv/uringpv/memmap"
)

// fuzzDevice runs play against a device on a fake backend and then looks whether
// all is still as it should be.
func fuzzDevice(t *testing.T, m *memmap.Memory, play func(*uringpv.Device)) {
	ram, err := m.Bytes(memmap.Range{Start: 0, Length: memmap.MinRAM})
	if err != nil {
		t.Fatal(err)
	}
	clear(ram) // so that the same input does the same again
	f := newFake(m)
	// Every third Close is stuck, every seventh fails.
	var closes atomic.Int64 // RESET closes rings at the same time
	f.close = func(context.Context, int) error {
		switch n := closes.Add(1); {
		case n%3 == 0:
			return unix.ETIMEDOUT
		case n%7 == 0:
			return errFlames
		}
		return nil
	}
	d, err := uringpv.New(uringpv.Config{Name: "fuzz", Rings: 4, MaxEntries: 128, Memory: m, Backend: f, SQPoll: true,
		Files: []uringpv.File{testFile("a", 1), testFile("b", 2)}})
	if err != nil {
		t.Fatal(err)
	}
	play(d)
	f.close = nil

	// Nothing that was done keeps the guest from starting anew.
	g := &devicetest.Guest{T: t, Device: d, Memory: m}
	if errno := g.Reset(); errno != 0 {
		t.Errorf("RESET: %v", errno)
	}
	if got := g.Read32(abi.RegStatus); got != abi.StatusReady {
		t.Errorf("STATUS %#x", got)
	}
	setUp(t, g, 0)
	if got := g.Read32(abi.RegMagic); got != abi.Magic {
		t.Errorf("MAGIC %#x", got)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	f.check(t)
}

func FuzzRegisters(f *testing.F) {
	m := devicetest.Memory(f, memmap.MinRAM)
	f.Add([]byte{0, abi.RegMagic, 0, 2, 4, abi.RegAdminAddr, 0x00, 0x10, 0, 0, 7})
	f.Add([]byte{2, 3, abi.RegAdminAddr, 1, 2, 3, 4, 5, 6, 7, 8, 7, 5, 0xff, 5, 2})
	reset := abi.Encode(&abi.Cmd{Op: abi.CmdReset})
	f.Add(append(append([]byte{6, 1}, reset...), 7, 7))
	setup, _ := devicetest.RingAt(0x8000, 2)
	var in []byte
	for i := range 4 { // a RING_SETUP in four pieces, at 64, 128, ...; then the command at 0
		in = append(append(in, 6, byte(i+1)), abi.Encode(&setup)[64*i:][:64]...)
	}
	in = append(append(in, 6, 0), abi.Encode(&abi.Cmd{Op: abi.CmdRingSetup, Addr: 64, Len: 256})...)
	f.Add(append(in, 7, 5, 0, 7))
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzDevice(t, m, func(d *uringpv.Device) { devicetest.Registers(d, m, data) })
	})
}

// registerSeeds are inputs of devicetest.Commands: a ring, lists in RAM, and
// RING_REGISTER with each opcode, right and nearly right.
func registerSeeds() (seeds [][]byte) {
	const list = 0x4000
	poke := func(b []byte) []byte {
		in := binary.LittleEndian.AppendUint32([]byte{7}, list)
		return append(append(append(in, byte(len(b))), b...), 0)
	}
	register := func(r abi.Register) []byte {
		return append([]byte{1, abi.CmdRingRegister, 0, abi.RegisterSize}, abi.Encode(&r)...)
	}
	ring := []byte{3, 0, 0, 3, 0, 0}
	files := poke([]byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff})
	buffer := poke(abi.Encode(&abi.Range{Addr: 0x3000, Len: 0x2000}))
	for _, r := range []abi.Register{
		{Opcode: regProbe, NrArgs: 64, Addr: list},
		{Opcode: regFilesUpdate, NrArgs: 2, Addr: list},
		{Opcode: regFilesUpdate, NrArgs: 1, Offset: 1, Addr: list + 8},
		{Opcode: regFilesUpdate, NrArgs: 0xffffffff, Offset: 1, Addr: list},
		{Opcode: unregFiles},
		{Opcode: regEventfd, NrArgs: 1, Addr: 2},
		{Opcode: unregEventfd},
	} {
		seeds = append(seeds, slices.Concat(ring, files, register(r), register(r)))
	}
	for _, r := range []abi.Register{
		{Opcode: regBuffers, NrArgs: 1, Addr: list},
		{Opcode: regBuffersUpdate, NrArgs: 1, Addr: list},
		{Opcode: regBuffersUpdate, NrArgs: 1, Offset: 0xffffffff, Addr: list},
	} {
		seeds = append(seeds, slices.Concat(ring, buffer, register(r), register(abi.Register{Opcode: unregBuffers}), register(r), register(r)))
	}
	return seeds
}

func FuzzAdminCommand(f *testing.F) {
	m := devicetest.Memory(f, memmap.MinRAM)
	for _, seed := range slices.Concat(devicetest.Seeds(), registerSeeds()) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzDevice(t, m, func(d *uringpv.Device) { devicetest.Commands(d, m, data) })
	})
}
