// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/shm"
)

// polls finds out by a read of one block, n bytes, whether a ring with
// IORING_SETUP_IOPOLL takes the file: it has to be open with O_DIRECT, and its
// file system or driver has to know how (io_uring_setup(2)). No is the answer
// wherever there is a doubt.
func polls(fd, n int) bool {
	r, err := hostring.New(hostring.Config{Entries: 1, Flags: hostring.SetupIOPoll})
	if err != nil {
		return false
	}
	defer r.Close()
	block, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return false
	}
	defer unix.Munmap(block)
	buf, err := shm.Of(block)
	if err != nil {
		return false
	}
	sqe, ok := r.SQE()
	if !ok {
		return false
	}
	sqe.Opcode, sqe.FD, sqe.Addr, sqe.Len = hostring.OpRead, int32(fd), uint64(buf.Addr()), uint32(n)
	if _, err := r.Submit(); err != nil {
		return false
	}
	if err := r.WaitCQE(); err != nil { // enters the ring, which polls
		return false
	}
	var cqe [1]hostring.CQE
	return r.Reap(cqe[:]) == 1 && cqe[0].Res >= 0
}
