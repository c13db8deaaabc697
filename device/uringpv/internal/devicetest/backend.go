// SPDX-License-Identifier: Apache-2.0

package devicetest

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/disk"
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
	return [][]byte{
		{3, 0, 0, 3, 0, 0, 6, 0, 0, 16, 6, 1, 0, 0, 3, 0, 0, 3, 0, 0},                    // a ring, entered, destroyed, made again
		{3, 0, 0, 3, 1, 0, 3, 1, 32, 7, 2, 0, 3, 2, 32, 7, 2, 0, 6, 2, 0, 0, 6, 2, 0, 0}, // polled; overlaps; RESET
		append([]byte{1, 1, 0, 200}, make([]byte, 200)...),                               // IDENTIFY
		{3, 1, 0, 1, 0, 3, 5, 0, 2, 6, 8, 1, 11, 16, 0, 0, 0, 0, 0, 0, 0},                // lists and opcodes
		append([]byte{0}, register...),
		buffer,
	}
}
