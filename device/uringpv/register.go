// SPDX-License-Identifier: Apache-2.0

package uringpv

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// ringRegister is RING_REGISTER (docs/protocol.md, section 3). What a guest may
// not do changes nothing; where the host fails, a part may have changed.
func (d *Device) ringRegister(index uint32, payload []byte) ([]byte, error) {
	r, err := d.ringAt(index)
	if err != nil {
		return nil, err
	}
	reg, err := abi.Decode[abi.Register](payload)
	if err != nil {
		return nil, guestErrorf(unix.E2BIG, "%v", err)
	}
	if reg.Resv != 0 {
		return nil, guestErrorf(unix.EINVAL, "a reserved field is not zero")
	}
	run := map[uint32]func(*ring, *abi.Register) error{
		uint32(hostring.RegisterProbe):         d.registerProbe,
		uint32(hostring.RegisterFilesUpdate):   d.updateFiles,
		uint32(hostring.UnregisterFiles):       d.unregisterFiles,
		uint32(hostring.RegisterBuffers):       d.registerBuffers,
		uint32(hostring.RegisterBuffersUpdate): d.updateBuffers,
		uint32(hostring.UnregisterBuffers):     d.unregisterBuffers,
		uint32(hostring.RegisterEventfd):       d.registerVector,
		uint32(hostring.UnregisterEventfd):     d.unregisterVector,
	}[reg.Opcode]
	if run == nil {
		return nil, guestErrorf(unix.EINVAL, "register opcode %d: the device knows no such", reg.Opcode)
	}
	if reg.Offset != 0 && reg.Opcode != uint32(hostring.RegisterFilesUpdate) && reg.Opcode != uint32(hostring.RegisterBuffersUpdate) {
		return nil, guestErrorf(unix.EINVAL, "offset %d with register opcode %d: must be 0", reg.Offset, reg.Opcode)
	}
	return nil, run(r, &reg)
}

// within says what is wrong with entries [off, off+n) of a table that has size.
func within(what string, off, n uint32, size int) error {
	if n == 0 || uint64(off)+uint64(n) > uint64(size) {
		return guestErrorf(unix.EINVAL, "%d %s from %d on: the ring's table has %d", n, what, off, size)
	}
	return nil
}

// noArgument says what is wrong with a command that has none.
func noArgument(reg *abi.Register) error {
	if reg.Addr != 0 || reg.NrArgs != 0 {
		return guestErrorf(unix.EINVAL, "register opcode %d has no argument", reg.Opcode)
	}
	return nil
}

// onHost is what a backend's error is to the guest.
func onHost(what string, r *ring, err error) error {
	if err == nil {
		return nil
	}
	return &HostError{fmt.Sprintf("%s of ring %d", what, r.index), err}
}

// updateFiles is IORING_REGISTER_FILES_UPDATE.
func (d *Device) updateFiles(r *ring, reg *abi.Register) error {
	if err := within("files", reg.Offset, reg.NrArgs, r.slots); err != nil {
		return err
	}
	list, err := d.list("files", reg.Addr, reg.NrArgs, uint32(r.slots), 4)
	if err != nil {
		return err
	}
	files := make([]*File, reg.NrArgs)
	for i := range files {
		switch f := binary.LittleEndian.Uint32(list[4*i:]); {
		case f == abi.SlotEmpty:
			files[i] = NoFile
		case f == abi.SlotKeep:
		case f < uint32(len(d.files)):
			files[i] = &d.files[f]
		default:
			return guestErrorf(unix.EBADF, "file %d of the ring is to be file %d of the device: there are %d", int(reg.Offset)+i, f, len(d.files))
		}
	}
	return onHost("files", r, r.backend.UpdateFiles(int(reg.Offset), files))
}

// unregisterFiles is IORING_UNREGISTER_FILES: every entry becomes empty.
func (d *Device) unregisterFiles(r *ring, reg *abi.Register) error {
	if err := noArgument(reg); err != nil {
		return err
	}
	if r.slots == 0 {
		return guestErrorf(unix.ENXIO, "ring %d has no file table", r.index)
	}
	return onHost("files", r, r.backend.UpdateFiles(0, slices.Repeat([]*File{NoFile}, r.slots)))
}

// registerBuffers is IORING_REGISTER_BUFFERS, for a ring that has none.
func (d *Device) registerBuffers(r *ring, reg *abi.Register) error {
	if r.hasBuffers() {
		return guestErrorf(unix.EBUSY, "ring %d has buffers", r.index)
	}
	return d.changeBuffers(r, reg)
}

// updateBuffers is IORING_REGISTER_BUFFERS_UPDATE.
func (d *Device) updateBuffers(r *ring, reg *abi.Register) error {
	return d.changeBuffers(r, reg)
}

// changeBuffers puts the ranges of a list into the ring's table.
func (d *Device) changeBuffers(r *ring, reg *abi.Register) error {
	if err := within("buffers", reg.Offset, reg.NrArgs, len(r.buffers)); err != nil {
		return err
	}
	list, err := d.list("buffers", reg.Addr, reg.NrArgs, uint32(len(r.buffers)), abi.RangeSize)
	if err != nil {
		return err
	}
	most := d.memory.Layout().Size() // less what stays
	for i, n := range r.buffers {
		if i < int(reg.Offset) || i >= int(reg.Offset+reg.NrArgs) {
			most -= min(most, n) // after failures of the host the notes may be of more than there is
		}
	}
	ranges, err := d.ranges(list, most, true)
	if err != nil {
		return err
	}
	return d.setBuffers(r, int(reg.Offset), ranges)
}

// unregisterBuffers is IORING_UNREGISTER_BUFFERS: every entry becomes empty.
func (d *Device) unregisterBuffers(r *ring, reg *abi.Register) error {
	if err := noArgument(reg); err != nil {
		return err
	}
	if !r.hasBuffers() {
		return guestErrorf(unix.ENXIO, "ring %d has no buffers", r.index)
	}
	return d.setBuffers(r, 0, make([]memmap.Range, len(r.buffers)))
}

// setBuffers has the backend change its table, and takes note.
func (d *Device) setBuffers(r *ring, index int, ranges []memmap.Range) error {
	err := r.backend.UpdateBuffers(index, ranges)
	for i, g := range ranges {
		n := &r.buffers[index+i]
		if err != nil {
			// The host has the old one or the new one: what they are together
			// must stay within bounds either way.
			*n = max(*n, g.Length)
			continue
		}
		*n = g.Length
	}
	return onHost("buffers", r, err)
}

// hasBuffers says whether any entry of r's table holds one.
func (r *ring) hasBuffers() bool {
	return slices.ContainsFunc(r.buffers, func(n uint64) bool { return n != 0 })
}

// registerVector is IORING_REGISTER_EVENTFD.
func (d *Device) registerVector(r *ring, reg *abi.Register) error {
	switch {
	case reg.NrArgs != 1 || reg.Addr >= uint64(len(d.vectors)):
		return guestErrorf(unix.EINVAL, "vector %d of %d: there are %d, and a ring has one", reg.Addr, reg.NrArgs, len(d.vectors))
	case r.vector:
		return guestErrorf(unix.EBUSY, "ring %d has a vector", r.index)
	}
	if err := r.backend.SetVector(d.vectors[reg.Addr]); err != nil {
		return onHost("vector", r, err)
	}
	r.vector = true
	return nil
}

// unregisterVector is IORING_UNREGISTER_EVENTFD.
func (d *Device) unregisterVector(r *ring, reg *abi.Register) error {
	if err := noArgument(reg); err != nil {
		return err
	}
	if !r.vector {
		return guestErrorf(unix.ENXIO, "ring %d has no vector", r.index)
	}
	if err := r.backend.SetVector(-1); err != nil {
		return onHost("vector", r, err)
	}
	r.vector = false
	return nil
}

// registerProbe is IORING_REGISTER_PROBE.
func (d *Device) registerProbe(r *ring, reg *abi.Register) error {
	if reg.NrArgs > 8*abi.OpcodeBytes {
		return guestErrorf(unix.EINVAL, "probe of %d opcodes: at most %d", reg.NrArgs, 8*abi.OpcodeBytes)
	}
	if reg.Addr%probeAlign != 0 {
		return guestErrorf(unix.EINVAL, "probe at %#x: must be %d-byte aligned", reg.Addr, probeAlign)
	}
	if err := d.memory.WriteAt(probe(&r.opcodes, int(reg.NrArgs)), memmap.Addr(reg.Addr)); err != nil {
		return guestErrorf(unix.EFAULT, "probe: %v", err)
	}
	return nil
}

// probeAlign is the alignment of struct io_uring_probe in bytes.
const probeAlign = 4

// probe is a struct io_uring_probe with room for n opcodes (linux/io_uring.h):
// the last opcode, how many entries follow, and from byte 16 eight bytes for
// each opcode: itself, a zero, its flags.
func probe(opcodes *abi.Opcodes, n int) []byte {
	const (
		header    = 16
		entry     = 8
		supported = 1 // IO_URING_OP_SUPPORTED
	)
	b := make([]byte, header+n*entry)
	list := opcodes.List()
	last := list[len(list)-1] // no ring is without an opcode
	n = min(n, int(last)+1)
	b[0] = last
	b[1] = uint8(min(n, 255))
	for op := range n {
		e := b[header+op*entry:]
		e[0] = uint8(op)
		if opcodes.Has(uint8(op)) {
			binary.LittleEndian.PutUint16(e[2:], supported)
		}
	}
	return b
}
