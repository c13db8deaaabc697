// SPDX-License-Identifier: Apache-2.0

package devicetest

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/disk"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// FuzzBackend runs the fuzzed commands of Commands on a device with one of the
// backends that make makes, and a disk to write on. After each run the device
// still resets, sets up a ring and destroys it, and closes with nothing left in
// flight; the disk has not grown.
func FuzzBackend(f *testing.F, make func(testing.TB, *memmap.Memory, []uringpv.File) uringpv.Backend) {
	const size = 1 << 16
	m := Memory(f, memmap.MinRAM)
	ram, err := m.Bytes(memmap.Range{Start: 0, Length: memmap.MinRAM})
	if err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(f.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		f.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		f.Fatal(err)
	}
	d, err := disk.OpenDisk(path, disk.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = d.Close() })

	for _, seed := range Seeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		clear(ram) // so that the same input does the same again
		files := []uringpv.File{d.File(), d.File()}
		dev, err := uringpv.New(uringpv.Config{Name: "fuzz", Rings: 4, MaxEntries: 128, Files: files, Memory: m, Backend: make(t, m, files), SQPoll: true, SQThreadCPU: -1})
		if err != nil {
			t.Fatal(err)
		}
		Commands(dev, m, data)

		g := &Guest{T: t, Device: dev, Memory: m}
		if errno := g.Reset(); errno != 0 {
			t.Errorf("RESET: %v", errno)
		}
		if got := g.Read32(abi.RegStatus); got != abi.StatusReady {
			t.Errorf("STATUS %#x", got)
		}
		s, _ := RingAt(0x10000, 8)
		if _, errno := g.Setup(0, s); errno != 0 {
			t.Errorf("RING_SETUP: %v", errno)
		}
		if errno := g.Destroy(0); errno != 0 {
			t.Errorf("RING_DESTROY: %v", errno)
		}
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
		if n, err := d.Size(); n != size || err != nil {
			t.Errorf("the disk has %d bytes, %v; want %d", n, err, size)
		}
	})
}

// Seeds are inputs of Commands that reach its far corners.
func Seeds() [][]byte {
	register := abi.Encode(&abi.Cmd{Op: abi.CmdRingRegister, Index: 0xffffffff, Addr: ^uint64(7), Len: 0xffffffff})
	// A list of one buffer at 0x4000, and a ring with it.
	buffer := binary.LittleEndian.AppendUint32([]byte{7}, 0x4000)
	buffer = append(append(buffer, abi.RangeSize), abi.Encode(&abi.Range{Addr: 0x1000, Len: 0x2000})...)
	buffer = append(buffer, 0, 3, 0, 0, 1, 0, 1, 6, 0, 1)
	return append(registerSeeds(), [][]byte{
		{3, 0, 0, 3, 0, 0, 6, 0, 0, 16, 6, 1, 0, 0, 3, 0, 0, 3, 0, 0},                    // a ring, entered, destroyed, made again
		{3, 0, 0, 3, 1, 0, 3, 1, 32, 7, 2, 0, 3, 2, 32, 7, 2, 0, 6, 2, 0, 0, 6, 2, 0, 0}, // polled; overlaps; RESET
		append([]byte{1, 1, 0, 200}, make([]byte, 200)...),                               // IDENTIFY
		{3, 1, 0, 1, 0, 3, 5, 0, 2, 6, 8, 1, 11, 16, 0, 0, 0, 0, 0, 0, 0},                // lists and opcodes
		append([]byte{0}, register...),
		buffer,
	}...)
}

// registerSeeds are inputs of Commands: a ring, lists in RAM, and
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
		{Opcode: uint32(hostring.RegisterProbe), NrArgs: 64, Addr: list},
		{Opcode: uint32(hostring.RegisterFilesUpdate), NrArgs: 2, Addr: list},
		{Opcode: uint32(hostring.RegisterFilesUpdate), NrArgs: 1, Offset: 1, Addr: list + 8},
		{Opcode: uint32(hostring.RegisterFilesUpdate), NrArgs: 0xffffffff, Offset: 1, Addr: list},
		{Opcode: uint32(hostring.UnregisterFiles)},
		{Opcode: uint32(hostring.RegisterEventfd), NrArgs: 1, Addr: 2},
		{Opcode: uint32(hostring.UnregisterEventfd)},
	} {
		seeds = append(seeds, slices.Concat(ring, files, register(r), register(r)))
	}
	for _, r := range []abi.Register{
		{Opcode: uint32(hostring.RegisterBuffers), NrArgs: 1, Addr: list},
		{Opcode: uint32(hostring.RegisterBuffersUpdate), NrArgs: 1, Addr: list},
		{Opcode: uint32(hostring.RegisterBuffersUpdate), NrArgs: 1, Offset: 0xffffffff, Addr: list},
	} {
		seeds = append(seeds, slices.Concat(ring, buffer, register(r), register(abi.Register{Opcode: uint32(hostring.UnregisterBuffers)}), register(r), register(r)))
	}
	return seeds
}
