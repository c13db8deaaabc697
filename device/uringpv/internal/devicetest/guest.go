// SPDX-License-Identifier: Apache-2.0

package devicetest

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/memmap"
)

// Where a Guest keeps its command and its payload, unless told otherwise.
const (
	CmdAddr     memmap.Addr = 0x1000
	PayloadAddr memmap.Addr = 0x2000
)

// Guest is a driver. The pages at CmdAddr and PayloadAddr are its own.
type Guest struct {
	T      testing.TB
	Device *uringpv.Device
	Memory *memmap.Memory
}

// Memory is RAM for a guest, which goes with the test.
func Memory(t testing.TB, size uint64) *memmap.Memory {
	t.Helper()
	l, err := memmap.NewLayout(size)
	if err != nil {
		t.Fatal(err)
	}
	m, err := memmap.New(l, memmap.Options{Name: "test-ram"})
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

// Write32 writes a register.
func (g *Guest) Write32(off uint64, v uint32) {
	g.Device.WriteRegister(off, binary.LittleEndian.AppendUint32(nil, v))
}

// Write64 writes a register.
func (g *Guest) Write64(off uint64, v uint64) {
	g.Device.WriteRegister(off, binary.LittleEndian.AppendUint64(nil, v))
}

// Read32 reads a register.
func (g *Guest) Read32(off uint64) uint32 {
	var b [4]byte
	g.Device.ReadRegister(off, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

// Read64 reads a register.
func (g *Guest) Read64(off uint64) uint64 {
	var b [8]byte
	g.Device.ReadRegister(off, b[:])
	return binary.LittleEndian.Uint64(b[:])
}

// Poke writes guest RAM.
func (g *Guest) Poke(a memmap.Addr, b []byte) {
	g.T.Helper()
	if err := g.Memory.WriteAt(b, a); err != nil {
		g.T.Fatal(err)
	}
}

// Peek reads n bytes of guest RAM.
func (g *Guest) Peek(a memmap.Addr, n int) []byte {
	g.T.Helper()
	b := make([]byte, n)
	if err := g.Memory.ReadAt(b, a); err != nil {
		g.T.Fatal(err)
	}
	return b
}

// unanswered is a result that no command has.
const unanswered = 0x5eed

// Raw puts c at CmdAddr and executes it. The device must answer it.
func (g *Guest) Raw(c abi.Cmd) unix.Errno {
	g.T.Helper()
	c.Result = unanswered
	g.Poke(CmdAddr, abi.Encode(&c))
	g.Write64(abi.RegAdminAddr, uint64(CmdAddr))
	g.Write32(abi.RegAdminDoorbell, 1)
	if e := int32(g.Read32(abi.RegAdminError)); e != 0 {
		g.T.Fatalf("ADMIN_ERROR %d after command %+v", e, c)
	}
	result := int32(binary.LittleEndian.Uint32(g.Peek(CmdAddr+abi.CmdResultOffset, 4)))
	if result > 0 || result <= -4096 {
		g.T.Fatalf("result %d of command %+v: neither 0 nor a negative errno", result, c)
	}
	return unix.Errno(-result)
}

// Do executes a command whose payload is at PayloadAddr, and returns the payload
// as it is then.
func (g *Guest) Do(op, index uint32, payload []byte) (unix.Errno, []byte) {
	g.T.Helper()
	g.Poke(PayloadAddr, payload)
	errno := g.Raw(abi.Cmd{Op: op, Index: index, Addr: uint64(PayloadAddr), Len: uint32(len(payload))})
	return errno, g.Peek(PayloadAddr, len(payload))
}

// Get executes a command that returns a T.
func Get[T abi.Struct](g *Guest, op, index uint32) (T, unix.Errno) {
	g.T.Helper()
	var v T
	errno, out := g.Do(op, index, make([]byte, len(abi.Encode(&v))))
	v, err := abi.Decode[T](out)
	if err != nil {
		g.T.Fatal(err)
	}
	return v, errno
}

// Setup executes RING_SETUP and returns what the device made of s.
func (g *Guest) Setup(index uint32, s abi.RingSetup) (abi.RingSetup, unix.Errno) {
	g.T.Helper()
	errno, out := g.Do(abi.CmdRingSetup, index, abi.Encode(&s))
	s, err := abi.Decode[abi.RingSetup](out)
	if err != nil {
		g.T.Fatal(err)
	}
	return s, errno
}

// Enter executes RING_ENTER.
func (g *Guest) Enter(index uint32, e abi.Enter) unix.Errno {
	g.T.Helper()
	errno, _ := g.Do(abi.CmdRingEnter, index, abi.Encode(&e))
	return errno
}

// Destroy executes RING_DESTROY.
func (g *Guest) Destroy(index uint32) unix.Errno {
	g.T.Helper()
	return g.Raw(abi.Cmd{Op: abi.CmdRingDestroy, Index: index})
}

// Reset executes RESET.
func (g *Guest) Reset() unix.Errno {
	g.T.Helper()
	return g.Raw(abi.Cmd{Op: abi.CmdReset})
}

// RingAt is a RING_SETUP for a ring of entries, a power of two, with its areas
// one behind the other at a, and how many bytes they take.
func RingAt(a memmap.Addr, entries uint32) (abi.RingSetup, uint64) {
	rings := abi.RingsSize(entries, 2*entries)
	sqes := (64*uint64(entries) + memmap.PageSize - 1) &^ (memmap.PageSize - 1)
	s := abi.RingSetup{
		RingsAddr: uint64(a),
		RingsLen:  rings,
		SQEsAddr:  uint64(a) + rings,
		SQEsLen:   sqes,
		Vector:    abi.NoVector,
	}
	s.Params.SQEntries = entries
	return s, rings + sqes
}
