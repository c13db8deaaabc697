// SPDX-License-Identifier: Apache-2.0

package uring

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
)

// MappedConfig says what mapped ring to make.
type MappedConfig struct {
	Entries   uint32     // of the SQ ring; rounded up to a power of two
	CQEntries uint32     // with SetupCQSize
	Flags     uint32     // SetupCQSize, SetupClamp
	Pool      uint64     // bytes of memory wanted; rounded up
	Files     []*os.File // from Directory, at least one: SQEs name a file by its place here
}

// Mapped is a ring of the process's own. It takes NOP, READ_FIXED, WRITE_FIXED
// and FSYNC, with SQEFixedFile in every SQE, on its files and its pool; the host
// refuses everything else. WRITE_FIXED and FSYNC are there if all its files are
// open for writing, READ_FIXED if all are open for reading.
type Mapped struct {
	Ring
	pool   []byte
	chunks []userChunk
	chunk  uint64 // bytes of each
}

// OpenMapped makes a mapped ring of the device whose node path is. The error wraps
// ENOMEM for a pool that is larger than the driver's parameter user_pool_mb or
// than there is contiguous memory for, EBADF for a file that is another device's.
func OpenMapped(path string, c MappedConfig) (*Mapped, error) {
	var p runtime.Pinner
	defer p.Unpin()
	list := fds(c.Files)
	s := userSetup{
		Entries: c.Entries, Flags: userMapped,
		Params:  abi.Params{CQEntries: c.CQEntries, Flags: c.Flags},
		PoolLen: c.Pool, Files: pin(&p, list), NrFiles: uint32(len(list)),
	}
	m := &Mapped{Ring: Ring{mapped: true}}
	err := m.setup(path, &s)
	runtime.KeepAlive(c.Files)
	if err != nil {
		return nil, err
	}
	if err := m.mapPool(&s); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// mapPool maps the pool and the doorbell, and learns what SQEs call the pool.
func (m *Mapped) mapPool(s *userSetup) (err error) {
	if m.pool, err = m.mmap(offPool, s.PoolLen); err != nil {
		return err
	}
	if m.doorbell, err = m.mmap(offDoorbell, doorbellSize); err != nil {
		return err
	}
	for i := range s.NrChunks {
		c := userChunk{Index: i}
		if _, errno := ioctl(m.fd, iocChunk, &c); errno != 0 {
			return &Error{Call: "URINGPV_IOC_CHUNK", Errno: errno}
		}
		if c.Len == 0 || c.Offset != uint64(i)*c.Len || c.Offset+c.Len > s.PoolLen {
			return &Error{Call: "URINGPV_IOC_CHUNK", Errno: unix.EPROTO}
		}
		m.chunk = c.Len
		m.chunks = append(m.chunks, c)
	}
	return nil
}

// Pool is the ring's memory. It is the device's as well: what a request in flight
// reads or writes there is not to be touched.
func (m *Mapped) Pool() []byte { return m.pool }

// Chunk is the size in bytes of the pieces that the pool has. An I/O lies in one.
func (m *Mapped) Chunk() uint64 { return m.chunk }

// Locate is what an SQE has to say to name the n bytes of the pool from off on.
// It says false if they are outside the pool or in two of its chunks.
func (m *Mapped) Locate(off, n uint64) (addr uint64, bufIndex uint16, ok bool) {
	if off >= uint64(len(m.pool)) {
		return 0, 0, false
	}
	i := off / m.chunk
	in := off % m.chunk
	if n > m.chunk-in {
		return 0, 0, false
	}
	c := &m.chunks[i]
	return c.Addr + in, uint16(c.BufIndex), true
}
