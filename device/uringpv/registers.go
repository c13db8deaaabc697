// SPDX-License-Identifier: Apache-2.0

package uringpv

import (
	"encoding/binary"

	"github.com/uringpv/uringpv/device/uringpv/abi"
)

// ReadRegister fills p with what the guest reads at off in BAR 0. Accesses that
// docs/protocol.md, section 2, does not list give zeros. It never blocks.
func (d *Device) ReadRegister(off uint64, p []byte) {
	clear(p)
	switch {
	case len(p) == 4 && off%4 == 0:
		binary.LittleEndian.PutUint32(p, d.read32(off))
	case len(p) == 8 && off == abi.RegAddrBase:
		binary.LittleEndian.PutUint64(p, d.addrBase())
	case len(p) == 8 && off == abi.RegAdminAddr:
		binary.LittleEndian.PutUint64(p, d.adminAddr.Load())
	}
}

// read32 is a u32 register, or half of a u64 one.
func (d *Device) read32(off uint64) uint32 {
	switch off {
	case abi.RegMagic:
		return abi.Magic
	case abi.RegVersion:
		return abi.Version
	case abi.RegStatus:
		return d.status.Load()
	case abi.RegNumRings:
		return uint32(len(d.rings))
	case abi.RegAddrBase:
		return uint32(d.addrBase())
	case abi.RegAddrBase + 4:
		return uint32(d.addrBase() >> 32)
	case abi.RegAdminAddr:
		return uint32(d.adminAddr.Load())
	case abi.RegAdminAddr + 4:
		return uint32(d.adminAddr.Load() >> 32)
	case abi.RegAdminError:
		return uint32(d.adminError.Load())
	}
	return 0
}

func (d *Device) addrBase() uint64 { return uint64(d.memory.Base()) }

// WriteRegister is the guest's write of p at off in BAR 0. Accesses that
// docs/protocol.md, section 2, does not list are ignored. A write to
// ADMIN_DOORBELL returns when the command is executed: RING_DESTROY and RESET
// wait up to five seconds for I/O in flight, and commands of other vCPUs wait
// for their turn; Interrupt ends all of these waits.
func (d *Device) WriteRegister(off uint64, p []byte) {
	switch {
	case len(p) == 4 && off == abi.RegAdminDoorbell:
		d.runCommand()
	case len(p) == 4 && off == abi.RegAdminAddr:
		d.updateAdminAddr(0xffffffff, uint64(binary.LittleEndian.Uint32(p)))
	case len(p) == 4 && off == abi.RegAdminAddr+4:
		d.updateAdminAddr(0xffffffff<<32, uint64(binary.LittleEndian.Uint32(p))<<32)
	case len(p) == 8 && off == abi.RegAdminAddr:
		d.adminAddr.Store(binary.LittleEndian.Uint64(p))
	}
}

// updateAdminAddr sets the bits of mask in ADMIN_ADDR. Two vCPUs may write its
// two halves at once.
func (d *Device) updateAdminAddr(mask, value uint64) {
	for {
		old := d.adminAddr.Load()
		if d.adminAddr.CompareAndSwap(old, old&^mask|value) {
			return
		}
	}
}
