// SPDX-License-Identifier: Apache-2.0

package uringpv

import (
	"encoding/binary"
	"math/bits"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/shm"
	"github.com/uringpv/uringpv/memmap"
)

// checkedSetup is what check makes of a RING_SETUP: the spec, and the areas in
// full, of which the spec has the part that is needed.
type checkedSetup struct {
	RingSpec
	areas [2]memmap.Range
}

// check is all that the device checks of a RING_SETUP (docs/protocol.md,
// section 3). Of the guest's memory it reads the lists of files and buffers,
// once; s is a private copy. The error is a *GuestError.
func (d *Device) check(s *abi.RingSetup) (*checkedSetup, error) {
	if s.Flags != 0 || s.Resv0 != 0 || s.Resv != [4]uint64{} {
		return nil, guestErrorf(unix.EINVAL, "flags or reserved fields are not zero")
	}
	var c checkedSetup
	if err := d.checkParams(&c, &s.Params); err != nil {
		return nil, err
	}
	if err := d.checkAreas(&c, s); err != nil {
		return nil, err
	}
	if err := d.checkFiles(&c, s); err != nil {
		return nil, err
	}
	c.Slots = len(c.Files)
	if s.NrSlots != 0 {
		c.Slots = int(s.NrSlots)
	}
	if c.Slots < len(c.Files) || c.Slots > d.caps.MaxFiles {
		return nil, guestErrorf(unix.EINVAL, "file table of %d entries: must be %d to %d", c.Slots, len(c.Files), d.caps.MaxFiles)
	}
	if err := d.checkBuffers(&c, s); err != nil {
		return nil, err
	}
	switch {
	case s.Vector == abi.NoVector:
		c.VectorFD = -1
	case s.Vector < uint32(len(d.vectors)):
		c.VectorFD = d.vectors[s.Vector]
	default:
		return nil, guestErrorf(unix.EINVAL, "vector %d: there are %d", s.Vector, len(d.vectors))
	}
	var ok bool
	if c.Policy, ok = d.policy.Narrow(s.Opcodes, d.caps.Extra); !ok {
		return nil, guestErrorf(unix.EACCES, "opcodes %v: the device allows %v and %v", s.Opcodes.List(), d.policy.Opcodes.List(), d.caps.Extra.List())
	}
	c.Memory = d.memory
	return &c, nil
}

// checkParams settles the entry counts, flags and polling.
func (d *Device) checkParams(c *checkedSetup, p *abi.Params) error {
	if p.SQThreadCPU != 0 || p.Features != 0 || p.WQFD != 0 || p.Resv != [3]uint32{} ||
		p.SQOff != (abi.SQOffsets{}) || p.CQOff != (abi.CQOffsets{}) {
		return guestErrorf(unix.EINVAL, "fields of params that are the device's are not zero")
	}
	if bad := p.Flags &^ d.policy.SetupFlags; bad != 0 {
		return guestErrorf(unix.EINVAL, "setup flags %#x: the device allows %#x", p.Flags, d.policy.SetupFlags)
	}
	if p.Flags&(hostring.SetupIOPoll|hostring.SetupSQPoll) == hostring.SetupIOPoll {
		return guestErrorf(unix.EINVAL, "IORING_SETUP_IOPOLL without IORING_SETUP_SQPOLL: nobody would look for completions")
	}
	c.Flags = p.Flags
	clamp := p.Flags&hostring.SetupClamp != 0

	var err error
	if c.SQEntries, err = entries("SQ", p.SQEntries, d.maxEntries, clamp); err != nil {
		return err
	}
	c.CQEntries = 2 * c.SQEntries
	if p.Flags&hostring.SetupCQSize != 0 {
		if c.CQEntries, err = entries("CQ", p.CQEntries, 2*d.maxEntries, clamp); err != nil {
			return err
		}
		if c.CQEntries < c.SQEntries {
			return guestErrorf(unix.EINVAL, "%d CQ entries for %d SQ entries: must not be fewer", c.CQEntries, c.SQEntries)
		}
	}

	c.SQThreadCPU = -1
	if p.Flags&hostring.SetupSQPoll != 0 {
		c.SQThreadCPU, c.SQThreadShared = d.cpu, d.shared
		c.SQThreadIdle = d.idle
		if p.SQThreadIdle != 0 {
			most := d.idle
			if most == 0 {
				most = maxSQThreadIdle
			}
			c.SQThreadIdle = min(time.Duration(p.SQThreadIdle)*time.Millisecond, most)
		}
	}
	return nil
}

// entries is n rounded up to a power of two, at most most, itself one.
func entries(ring string, n, most uint32, clamp bool) (uint32, error) {
	if n == 0 {
		return 0, guestErrorf(unix.EINVAL, "%s ring without entries", ring)
	}
	if n > most {
		if !clamp {
			return 0, guestErrorf(unix.EINVAL, "%d entries in the %s ring: at most %d", n, ring, most)
		}
		n = most
	}
	return 1 << bits.Len32(n-1), nil
}

// checkAreas places the rings and the SQEs.
func (d *Device) checkAreas(c *checkedSetup, s *abi.RingSetup) error {
	var err error
	if c.areas[0], c.Rings, err = d.area("rings", s.RingsAddr, s.RingsLen, abi.RingsSize(c.SQEntries, c.CQEntries)); err != nil {
		return err
	}
	if c.areas[1], c.SQEs, err = d.area("SQEs", s.SQEsAddr, s.SQEsLen, pages(hostring.SQESize*uint64(c.SQEntries))); err != nil {
		return err
	}
	if c.areas[0].Overlaps(c.areas[1]) {
		return guestErrorf(unix.EINVAL, "rings %v and SQEs %v overlap", c.areas[0], c.areas[1])
	}
	// Nor may they take another ring's place: zeroing them would end it.
	for _, r := range d.rings {
		if r == nil {
			continue
		}
		for _, theirs := range r.areas {
			for _, ours := range c.areas {
				if ours.Overlaps(theirs) {
					return guestErrorf(unix.EINVAL, "area %v overlaps %v of ring %d", ours, theirs, r.index)
				}
			}
		}
	}
	return nil
}

// area is the length bytes at addr, of which need are used.
func (d *Device) area(what string, addr, length, need uint64) (memmap.Range, shm.View, error) {
	r := memmap.Range{Start: memmap.Addr(addr), Length: length}
	if !r.Start.Aligned(memmap.PageSize) || length%memmap.PageSize != 0 {
		return r, shm.View{}, guestErrorf(unix.EINVAL, "%s at %v: must be whole pages of %d", what, r, memmap.PageSize)
	}
	if length < need {
		return r, shm.View{}, guestErrorf(unix.EINVAL, "%s at %v: need %d bytes", what, r, need)
	}
	if err := d.inTable(what, r); err != nil {
		return r, shm.View{}, err
	}
	v, err := d.memory.View(memmap.Range{Start: r.Start, Length: need})
	if err != nil {
		return r, shm.View{}, guestErrorf(unix.EFAULT, "%s: %v", what, err)
	}
	return r, v, nil
}

// inTable says what is wrong with r unless it is inside one entry of the buffer
// table.
func (d *Device) inTable(what string, r memmap.Range) error {
	layout := d.memory.Layout()
	if !layout.Contains(r) {
		return guestErrorf(unix.EFAULT, "%s at %v: not in guest RAM", what, r)
	}
	if _, ok := layout.BufferOf(r); !ok {
		return guestErrorf(unix.EINVAL, "%s at %v: must be inside one entry of the buffer table", what, r)
	}
	return nil
}

// checkFiles settles the ring's file table.
func (d *Device) checkFiles(c *checkedSetup, s *abi.RingSetup) error {
	if s.NrFiles == 0 {
		c.Files = append([]File(nil), d.files...)
		return nil
	}
	list, err := d.list("files", s.FilesAddr, s.NrFiles, uint32(d.caps.MaxFiles), 4)
	if err != nil {
		return err
	}
	c.Files = make([]File, s.NrFiles)
	for i := range c.Files {
		f := binary.LittleEndian.Uint32(list[4*i:])
		if f >= uint32(len(d.files)) {
			return guestErrorf(unix.EBADF, "file %d of the ring is file %d of the device: there are %d", i, f, len(d.files))
		}
		c.Files[i] = d.files[f]
	}
	return nil
}

// checkBuffers settles the ring's buffers.
func (d *Device) checkBuffers(c *checkedSetup, s *abi.RingSetup) error {
	if s.NrBuffers == 0 {
		c.Buffers = append([]memmap.Range(nil), d.buffers...)
		c.WholeRAM = true
		return nil
	}
	list, err := d.list("buffers", s.BuffersAddr, s.NrBuffers, uint32(d.caps.MaxBuffers), abi.RangeSize)
	if err != nil {
		return err
	}
	c.Buffers, err = d.ranges(list, d.memory.Layout().Size(), false)
	return err
}

// ranges decodes and checks a list of buffers. Together they are at most most
// bytes: the host's kernel keeps memory for every page of every buffer, and
// without a bound a guest could name its RAM thousands of times. With empties a
// range of zeros stands for no buffer.
func (d *Device) ranges(list []byte, most uint64, empties bool) ([]memmap.Range, error) {
	const size = abi.RangeSize
	ranges := make([]memmap.Range, len(list)/size)
	var sum uint64
	for i := range ranges {
		b, err := abi.Decode[abi.Range](list[i*size : (i+1)*size])
		if err != nil {
			return nil, guestErrorf(unix.EINVAL, "buffer %d: %v", i, err)
		}
		if empties && b.Addr == 0 && b.Len == 0 {
			continue
		}
		r := memmap.Range{Start: memmap.Addr(b.Addr), Length: b.Len}
		if r.Length == 0 || r.Length > memmap.MaxBuffer || r.Length%memmap.PageSize != 0 || !r.Start.Aligned(memmap.PageSize) {
			return nil, guestErrorf(unix.EINVAL, "buffer %d at %v: must be whole pages of %d, %d bytes at most", i, r, memmap.PageSize, memmap.MaxBuffer)
		}
		if err := d.inTable("buffer", r); err != nil {
			return nil, err
		}
		if sum += r.Length; sum > most {
			return nil, guestErrorf(unix.ENOMEM, "buffers are together longer than guest RAM")
		}
		ranges[i] = r
	}
	return ranges, nil
}

// list is a private copy of n elements of size bytes at addr.
func (d *Device) list(what string, addr uint64, n, most uint32, size int) ([]byte, error) {
	if n > most {
		return nil, guestErrorf(unix.EINVAL, "%d %s: at most %d", n, what, most)
	}
	if align := uint64(min(size, payloadAlign)); addr%align != 0 {
		return nil, guestErrorf(unix.EINVAL, "list of %s at %#x: must be %d-byte aligned", what, addr, align)
	}
	b := make([]byte, int(n)*size)
	if err := d.memory.ReadAt(b, memmap.Addr(addr)); err != nil {
		return nil, guestErrorf(unix.EFAULT, "list of %s: %v", what, err)
	}
	return b, nil
}

// pages is n bytes rounded up to whole pages.
func pages(n uint64) uint64 { return (n + memmap.PageSize - 1) &^ (memmap.PageSize - 1) }

// zeroChunk is how much is zeroed before the next look whether to go on.
const zeroChunk = 1 << 20

// zero stores zeros over r, which may be as large as an entry of the buffer
// table. The error is a *GuestError.
func (d *Device) zero(r memmap.Range) error {
	for r.Length > 0 {
		if d.waits.Err() != nil {
			return guestErrorf(unix.EINTR, "the machine is being stopped")
		}
		n := min(r.Length, zeroChunk)
		v, err := d.memory.View(memmap.Range{Start: r.Start, Length: n})
		if err != nil {
			return guestErrorf(unix.EFAULT, "ring area: %v", err)
		}
		v.Zero()
		r.Start += memmap.Addr(n)
		r.Length -= n
	}
	return nil
}
