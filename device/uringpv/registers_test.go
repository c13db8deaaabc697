// SPDX-License-Identifier: Apache-2.0

package uringpv_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/memmap"
)

func TestRegistersReadAsDocumented(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM)
	base := uint64(g.Memory.Base())
	for _, tt := range []struct {
		off  uint64
		want uint32
	}{
		{abi.RegMagic, 0x31765075},
		{abi.RegVersion, 0x10002},
		{abi.RegStatus, abi.StatusReady},
		{abi.RegNumRings, 4},
		{abi.RegAddrBase, uint32(base)},
		{abi.RegAddrBase + 4, uint32(base >> 32)},
		{abi.RegAdminAddr, 0},
		{abi.RegAdminAddr + 4, 0},
		{abi.RegAdminDoorbell, 0},
		{abi.RegAdminError, 0},
		{0x28, 0}, {0xffc, 0}, {0x1000, 0}, {^uint64(3), 0},
	} {
		if got := g.Read32(tt.off); got != tt.want {
			t.Errorf("register %#x: %#x, want %#x", tt.off, got, tt.want)
		}
	}
	if got := g.Read64(abi.RegAddrBase); got != base {
		t.Errorf("ADDR_BASE %#x, want %#x", got, base)
	}
}

func TestAdminAddrInHalvesAndWhole(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM)
	g.Write32(abi.RegAdminAddr+4, 0x12345678)
	g.Write32(abi.RegAdminAddr, 0x9abcdef0)
	if got := g.Read64(abi.RegAdminAddr); got != 0x123456789abcdef0 {
		t.Errorf("%#x", got)
	}
	g.Write32(abi.RegAdminAddr, 1)
	if got := g.Read64(abi.RegAdminAddr); got != 0x1234567800000001 {
		t.Errorf("%#x", got)
	}
	g.Write64(abi.RegAdminAddr, 0xfedcba9876543210)
	if lo, hi := g.Read32(abi.RegAdminAddr), g.Read32(abi.RegAdminAddr+4); lo != 0x76543210 || hi != 0xfedcba98 {
		t.Errorf("%#x %#x", hi, lo)
	}
}

func TestOtherAccessesReadZeroAndAreIgnored(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM)
	g.Write64(abi.RegAdminAddr, 0x1040)
	registers := func() (all []byte) {
		for off := uint64(0); off < 0x28; off += 4 {
			all = binary.LittleEndian.AppendUint32(all, g.Read32(off))
		}
		return all
	}
	before, commands := registers(), g.Device.Stats().Commands
	for off := uint64(0); off < 0x1008; off++ {
		for _, width := range []int{0, 1, 2, 3, 4, 5, 8, 16} {
			if width == 4 && off%4 == 0 && off < 0x28 || width == 8 && (off == abi.RegAddrBase || off == abi.RegAdminAddr) {
				continue
			}
			p := bytes.Repeat([]byte{0xa5}, width)
			g.Device.WriteRegister(off, p)
			g.Device.ReadRegister(off, p)
			if !bytes.Equal(p, make([]byte, width)) {
				t.Fatalf("%d bytes at %#x read % x", width, off, p)
			}
		}
	}
	// The read-only ones, in their right form.
	for _, off := range []uint64{abi.RegMagic, abi.RegVersion, abi.RegStatus, abi.RegNumRings, abi.RegAddrBase, abi.RegAddrBase + 4, abi.RegAdminError} {
		g.Write32(off, 0xa5a5a5a5)
	}
	g.Write64(abi.RegAddrBase, 0xa5a5)
	if after := registers(); !bytes.Equal(before, after) {
		t.Errorf("registers\n% x\nwere\n% x", after, before)
	}
	if n := g.Device.Stats().Commands - commands; n != 0 {
		t.Errorf("%d commands were executed", n)
	}
}

func TestAdminErrorSaysWhyNothingWasAnswered(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM)
	for _, tt := range []struct {
		addr uint64
		want unix.Errno
	}{
		{1, unix.EINVAL}, {0x1020, unix.EINVAL}, {^uint64(0), unix.EINVAL}, {memmap.MinRAM + 8, unix.EINVAL},
		{memmap.MinRAM, unix.EFAULT}, {uint64(memmap.HoleStart), unix.EFAULT}, {^uint64(63), unix.EFAULT}, {1 << 63, unix.EFAULT},
		{memmap.MinRAM - 64, 0}, {0, 0},
	} {
		g.Write64(abi.RegAdminAddr, tt.addr)
		g.Write32(abi.RegAdminDoorbell, 0)
		if got := int32(g.Read32(abi.RegAdminError)); got != -int32(tt.want) {
			t.Errorf("ADMIN_ADDR %#x: ADMIN_ERROR %d, want %d", tt.addr, got, -int32(tt.want))
		}
	}
}

func TestHostsResetClearsRegisters(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	setUp(t, g, 0)
	g.Write64(abi.RegAdminAddr, 3)
	g.Write32(abi.RegAdminDoorbell, 0)
	if err := g.Device.Reset(); err != nil {
		t.Fatal(err)
	}
	if a, e := g.Read64(abi.RegAdminAddr), g.Read32(abi.RegAdminError); a != 0 || e != 0 {
		t.Errorf("ADMIN_ADDR %#x, ADMIN_ERROR %d", a, e)
	}
	if f.ring(0) != nil {
		t.Error("the ring is still there")
	}
	setUp(t, g, 0)
}

func TestClosedDeviceIsDead(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM)
	setUp(t, g, 2)
	if err := g.Device.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := g.Device.Close(); err != nil {
			t.Errorf("Close again: %v", err)
		}
	}
	if err := g.Device.Reset(); err != nil {
		t.Error(err)
	}
	if got := g.Read32(abi.RegStatus); got != 0 {
		t.Errorf("STATUS %#x", got)
	}
	n := g.Device.Stats().Commands
	g.Write32(abi.RegAdminDoorbell, 1)
	g.Device.Doorbell(0)
	if got := g.Device.Stats().Commands; got != n {
		t.Errorf("%d commands executed after Close", got-n)
	}
}
