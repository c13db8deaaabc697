// SPDX-License-Identifier: Apache-2.0

package devicetest

import (
	"encoding/binary"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/memmap"
)

// input deals out fuzz bytes; when there are no more, zeros.
type input struct{ b []byte }

func (in *input) u8() uint8 {
	if len(in.b) == 0 {
		return 0
	}
	v := in.b[0]
	in.b = in.b[1:]
	return v
}

func (in *input) bytes(n int) []byte {
	n = min(n, len(in.b))
	b := in.b[:n]
	in.b = in.b[n:]
	return b
}

func (in *input) u32() uint32 {
	var b [4]byte
	copy(b[:], in.bytes(4))
	return binary.LittleEndian.Uint32(b[:])
}

func (in *input) u64() uint64 {
	var b [8]byte
	copy(b[:], in.bytes(8))
	return binary.LittleEndian.Uint64(b[:])
}

// width is mostly one that registers have.
func (in *input) width() int {
	return []int{4, 4, 4, 8, 8, 1, 2, 16}[in.u8()%8]
}

// Registers makes register accesses and doorbells of data, a few bytes each,
// and writes of guest RAM between them.
func Registers(d *uringpv.Device, m *memmap.Memory, data []byte) {
	in := &input{data}
	for len(in.b) > 0 {
		switch in.u8() % 8 {
		case 0, 1:
			d.ReadRegister(uint64(in.u8()), make([]byte, in.width()))
		case 2, 3:
			p := make([]byte, in.width())
			off := uint64(in.u8())
			copy(p, in.bytes(len(p)))
			d.WriteRegister(off, p)
		case 4: // offsets far away
			p := make([]byte, in.width())
			off := in.u64()
			d.ReadRegister(off, p)
			d.WriteRegister(off, p)
		case 5:
			d.Doorbell(int(int8(in.u8())))
		case 6: // something to execute, where ADMIN_ADDR may point
			slot := memmap.Addr(in.u8()) * 64
			_ = m.WriteAt(in.bytes(64), slot) // outside RAM nothing is written
			p := binary.LittleEndian.AppendUint64(nil, uint64(slot))
			d.WriteRegister(abi.RegAdminAddr, p)
		case 7:
			d.WriteRegister(abi.RegAdminDoorbell, make([]byte, 4))
		}
	}
}

// Commands makes admin commands of data: wild ones, and some that are right but
// for a few words, so that the far corners are reached too. RAM is m's, at least
// 1 MiB of it.
func Commands(d *uringpv.Device, m *memmap.Memory, data []byte) {
	in := &input{data}
	run := func(c abi.Cmd) {
		_ = m.WriteAt(abi.Encode(&c), CmdAddr)
		d.WriteRegister(abi.RegAdminAddr, binary.LittleEndian.AppendUint64(nil, uint64(CmdAddr)))
		d.WriteRegister(abi.RegAdminDoorbell, make([]byte, 4))
	}
	for len(in.b) > 0 {
		switch in.u8() % 8 {
		case 0: // any 64 bytes
			var raw [abi.CmdSize]byte
			copy(raw[:], in.bytes(len(raw)))
			_ = m.WriteAt(raw[:], CmdAddr)
			d.WriteRegister(abi.RegAdminAddr, binary.LittleEndian.AppendUint64(nil, uint64(CmdAddr)))
			d.WriteRegister(abi.RegAdminDoorbell, make([]byte, 4))
		case 1, 2: // any payload for a command that exists
			c := abi.Cmd{Op: uint32(in.u8() % 11), Index: uint32(in.u8() % 8), Addr: uint64(PayloadAddr)}
			payload := in.bytes(int(in.u8()))
			_ = m.WriteAt(payload, PayloadAddr)
			c.Len = uint32(len(payload))
			run(c)
		case 3, 4, 5: // a ring that is nearly right
			index := uint32(in.u8() % 8)
			// Places may overlap those of the rings before.
			s, _ := RingAt(memmap.Addr(0x10000)+memmap.Addr(in.u8())*memmap.PageSize, 1<<(in.u8()%8))
			s.Params.Flags = uint32(in.u8())
			in.spoil(&s)
			_ = m.WriteAt(abi.Encode(&s), PayloadAddr)
			run(abi.Cmd{Op: abi.CmdRingSetup, Index: index, Addr: uint64(PayloadAddr), Len: abi.RingSetupSize})
		case 6: // what is done to rings
			op := []uint32{abi.CmdRingEnter, abi.CmdRingDestroy, abi.CmdReset, abi.CmdRingStats, abi.CmdRingRegister}[in.u8()%5]
			run(abi.Cmd{Op: op, Index: uint32(in.u8() % 8), Addr: uint64(PayloadAddr), Len: uint32(in.u8())})
		case 7: // any bytes anywhere
			a := memmap.Addr(in.u32() & 0x1fffff)
			_ = m.WriteAt(in.bytes(int(in.u8())), a)
			d.Doorbell(int(in.u8() % 8))
		}
	}
}

// spoil changes some words of s, and gives it lists of files and buffers.
func (in *input) spoil(s *abi.RingSetup) {
	const listAddr = 0x4000
	for n := in.u8() % 4; n > 0; n-- {
		switch in.u8() % 12 {
		case 0:
			s.RingsAddr = in.u64()
		case 1:
			s.RingsLen = in.u64()
		case 2:
			s.SQEsAddr = in.u64()
		case 3:
			s.SQEsLen = in.u64()
		case 4:
			s.SQEsAddr = s.RingsAddr + uint64(in.u8())<<8
		case 5:
			s.FilesAddr, s.NrFiles = listAddr+uint64(in.u8()), uint32(in.u8())
		case 6:
			s.BuffersAddr, s.NrBuffers = listAddr+8*uint64(in.u8()), uint32(in.u8())
		case 7:
			s.FilesAddr, s.NrFiles = in.u64(), in.u32()
		case 8:
			s.BuffersAddr, s.NrBuffers = in.u64(), in.u32()
		case 9:
			s.Params.SQEntries, s.Params.CQEntries = in.u32(), in.u32()
		case 10:
			s.Vector, s.Params.SQThreadIdle = uint32(in.u8()), in.u32()
		case 11:
			copy(s.Opcodes[:], in.bytes(8))
		}
	}
}
