// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Stats is an open binary statistics file of a vCPU (KVM_GET_STATS_FD, Linux
// 5.14): a header, descriptors, and a block of u64 values.
type Stats struct {
	fd     int
	data   int64
	offset map[string]int64 // of each scalar in the data block, in bytes
	size   int
}

// Sizes of the file's parts that matter: struct kvm_stats_header and struct
// kvm_stats_desc without its name. A file with larger numbers is not KVM's.
const (
	statsHeaderSize = 24
	statsDescSize   = 16
	maxStats        = 4096
)

// openStats reads the descriptors of fd's statistics.
func openStats(fd int) (_ *Stats, err error) {
	sfd, err := call(fd, getStatsFD, 0)
	if err != nil {
		return nil, err
	}
	s := &Stats{fd: sfd, offset: map[string]int64{}}
	defer func() {
		if err != nil {
			_ = s.close()
		}
	}()
	var h [statsHeaderSize]byte
	if _, err := unix.Pread(s.fd, h[:], 0); err != nil {
		return nil, fmt.Errorf("read KVM statistics: %w", err)
	}
	u32 := binary.NativeEndian.Uint32
	nameSize, n, descOff := int(u32(h[4:])), int(u32(h[8:])), int64(u32(h[16:]))
	s.data = int64(u32(h[20:]))
	if nameSize > 256 || n > maxStats {
		return nil, fmt.Errorf("KVM statistics: %d descriptors with names of %d bytes", n, nameSize)
	}
	b := make([]byte, n*(statsDescSize+nameSize))
	if m, err := unix.Pread(s.fd, b, descOff); err != nil || m != len(b) {
		return nil, fmt.Errorf("read KVM statistics' descriptors: %d of %d bytes, %v", m, len(b), err)
	}
	for ; len(b) > 0; b = b[statsDescSize+nameSize:] {
		if binary.NativeEndian.Uint16(b[6:]) != 1 {
			continue // a histogram
		}
		off := int64(u32(b[8:]))
		name, _, _ := bytes.Cut(b[statsDescSize:statsDescSize+nameSize], []byte{0})
		s.offset[string(name)] = off
		s.size = max(s.size, int(off)+8)
	}
	return s, nil
}

// close closes the file.
func (s *Stats) close() error { return unix.Close(s.fd) }

// Counters are a vCPU's statistics, as far as this program uses them.
type Counters struct {
	Exits         uint64 // all VM exits
	IRQExits      uint64 // of them, those that the host's own interrupts caused
	IOExits       uint64 // port I/O
	MMIOExits     uint64
	HaltExits     uint64
	IRQInjections uint64 // interrupts that the guest got
}

// Counters reads the statistics, from any goroutine. It says false if the host
// has none.
func (c *VCPU) Counters() (Counters, bool) {
	if c.stats == nil {
		return Counters{}, false
	}
	b := make([]byte, c.stats.size)
	if n, err := unix.Pread(c.stats.fd, b, c.stats.data); err != nil || n != len(b) {
		return Counters{}, false
	}
	get := func(name string) uint64 {
		off, ok := c.stats.offset[name]
		if !ok {
			return 0
		}
		return binary.NativeEndian.Uint64(b[off:])
	}
	return Counters{
		Exits: get("exits"), IRQExits: get("irq_exits"), IOExits: get("io_exits"), MMIOExits: get("mmio_exits"),
		HaltExits: get("halt_exits"), IRQInjections: get("irq_injections"),
	}, true
}

// Add is the sum of c and d.
func (c Counters) Add(d Counters) Counters {
	return Counters{
		c.Exits + d.Exits, c.IRQExits + d.IRQExits, c.IOExits + d.IOExits, c.MMIOExits + d.MMIOExits,
		c.HaltExits + d.HaltExits, c.IRQInjections + d.IRQInjections,
	}
}

// GuestExits are the exits of the guest's making: without the host's interrupts.
func (c Counters) GuestExits() uint64 { return c.Exits - min(c.Exits, c.IRQExits) }
