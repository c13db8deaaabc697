// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/shm"
)

// A block of the arena holds the private copies of what one SQE points at. The
// kernel gets the block's addresses and never the guest's.
const (
	blockName   = 0   // a sockaddr
	blockMsg    = 128 // a msghdr
	blockTime   = 192 // a timespec
	blockLen    = 208 // a socklen_t
	blockIovecs = 256 // iovecs, to the block's end
)

// blockSize is the sizes that blocks come in, in bytes, and most how many there are
// of the larger ones in a ring. Of the smallest there are as many as slots.
var (
	blockSize = [...]uint32{512, blockIovecs + 128*iovecSize, blockIovecs + maxIovecs*iovecSize}
	blockMost = [...]uint32{0, 512, 128}
)

// arena is a ring's blocks. They lie outside Go's heap, where the kernel can rely
// on their addresses, and take no memory before they are used.
type arena struct {
	most   uint32 // blocks of the smallest size
	mem    []byte // nil before the first block
	base   uint64 // address of mem
	start  [len(blockSize)]uint32
	count  [len(blockSize)]uint32
	fresh  [len(blockSize)]uint32   // blocks that were never used
	unused [len(blockSize)][]uint32 // offsets of blocks that were given back
}

// block is where in the arena a block begins, in bytes, plus one; 0 is none.
type block uint32

// open maps the arena.
func (a *arena) open() error {
	total := uint32(0)
	for i := range blockSize {
		a.start[i], a.count[i] = total, blockMost[i]
		if i == 0 {
			a.count[i] = a.most
		}
		total += blockSize[i] * a.count[i]
	}
	mem, err := unix.Mmap(-1, 0, int(total), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("mmap %d bytes for what SQEs point at: %w", total, err)
	}
	v, err := shm.Of(mem)
	if err != nil {
		return err
	}
	a.mem, a.base = mem, uint64(v.Addr())
	return nil
}

// take is a block with room for n iovecs. It says false if there is none left.
func (a *arena) take(n uint32) (block, bool) {
	if a.mem == nil && a.open() != nil {
		return 0, false
	}
	for i, size := range blockSize {
		if blockIovecs+n*iovecSize > size {
			continue
		}
		if k := len(a.unused[i]); k > 0 {
			b := a.unused[i][k-1]
			a.unused[i] = a.unused[i][:k-1]
			return block(b + 1), true
		}
		if a.fresh[i] < a.count[i] {
			b := a.start[i] + a.fresh[i]*size
			a.fresh[i]++
			return block(b + 1), true
		}
	}
	return 0, false
}

// give takes b back. The kernel has done with it.
func (a *arena) give(b block) {
	at := uint32(b) - 1
	for i := len(blockSize) - 1; i >= 0; i-- {
		if at >= a.start[i] {
			a.unused[i] = append(a.unused[i], at)
			return
		}
	}
}

// addr is the host's address of what is at off in b.
func (a *arena) addr(b block, off uint32) uint64 { return a.base + uint64(b) - 1 + uint64(off) }

// at is n bytes at off in b.
func (a *arena) at(b block, off, n uint32) []byte {
	from := uint32(b) - 1 + off
	return a.mem[from : from+n : from+n]
}

// word and half are the u64 and the u32 at off in b; put and putHalf set them.
func (a *arena) word(b block, off uint32) uint64 {
	return binary.LittleEndian.Uint64(a.at(b, off, 8))
}
func (a *arena) half(b block, off uint32) uint32 {
	return binary.LittleEndian.Uint32(a.at(b, off, 4))
}
func (a *arena) put(b block, off uint32, v uint64) {
	binary.LittleEndian.PutUint64(a.at(b, off, 8), v)
}
func (a *arena) putHalf(b block, off uint32, v uint32) {
	binary.LittleEndian.PutUint32(a.at(b, off, 4), v)
}

// close unmaps the arena. No request uses it any more.
func (a *arena) close() error {
	if a.mem == nil {
		return nil
	}
	mem := a.mem
	a.mem = nil
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("unmap a ring's arena: %w", err)
	}
	return nil
}
