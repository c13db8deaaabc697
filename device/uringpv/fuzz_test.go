// SPDX-License-Identifier: Apache-2.0

package uringpv_test

import (
	"context"
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

func FuzzAdminCommand(f *testing.F) {
	m := devicetest.Memory(f, memmap.MinRAM)
	for _, seed := range devicetest.Seeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzDevice(t, m, func(d *uringpv.Device) { devicetest.Commands(d, m, data) })
	})
}
