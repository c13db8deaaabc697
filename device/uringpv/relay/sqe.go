// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
)

// words is a private copy of a guest's SQE, struct io_uring_sqe as eight u64.
type words [8]uint64

// The SQE's fields. Those that are a union have the name that the opcodes here
// give them.
func (w *words) opcode() uint8       { return uint8(w[0]) }
func (w *words) flags() uint8        { return uint8(w[0] >> 8) }
func (w *words) ioprio() uint16      { return uint16(w[0] >> 16) }
func (w *words) fd() uint32          { return uint32(w[0] >> 32) }
func (w *words) off() uint64         { return w[1] }
func (w *words) addr() uint64        { return w[2] }
func (w *words) len() uint32         { return uint32(w[3]) }
func (w *words) opFlags() uint32     { return uint32(w[3] >> 32) }
func (w *words) userData() uint64    { return w[4] }
func (w *words) bufIndex() uint16    { return uint16(w[5]) }
func (w *words) personality() uint16 { return uint16(w[5] >> 16) }
func (w *words) spliceFDIn() uint32  { return uint32(w[5] >> 32) }
func (w *words) attrTypeMask() uint64 {
	return w[7] // of reads and writes: names what addr3 points at
}

// validSQEFlags are the IOSQE_* that io_uring knows at all.
const validSQEFlags = hostring.SQEFixedFile | hostring.SQEIODrain | hostring.SQEIOLink | hostring.SQEIOHardlink |
	hostring.SQEAsync | hostring.SQEBufferSelect | hostring.SQECQESkipSuccess

// allowedSQEFlags are those that a guest may use.
const allowedSQEFlags = hostring.SQEFixedFile | hostring.SQEAsync

// allowedRWF are the RWF_* of a read or write that a guest may use. RWF_APPEND
// would write where the file's end is, not where the bounds were checked;
// RWF_HIPRI, RWF_NOWAIT, RWF_ATOMIC and RWF_DONTCACHE steer the host's caches and
// queues, which are not the guest's.
const allowedRWF = unix.RWF_DSYNC | unix.RWF_SYNC

// maxRW is the most that one read or write moves, MAX_RW_COUNT of linux/fs.h;
// io_uring refuses a registered buffer's range that is longer.
const maxRW = 0x7fff_f000

// maxOffset is the largest file offset, LLONG_MAX.
const maxOffset = 1<<63 - 1

// class is what a completed request counts as.
type class uint8

const (
	classOther class = iota
	classRead
	classWrite
)

// translate checks a guest's SQE and rewrites it for the host's ring. It
// returns 0 and fills dst, all but UserData, or returns the errno that io_uring
// itself would give; the order of the checks is io_uring's (io_init_req, the
// opcode's prep, then its issue, in io_uring/*.c).
//
// Only what is checked here reaches dst: a field that is not mentioned is zero
// on the host's ring.
func (r *Ring) translate(w *words, dst *hostring.SQE) (class, unix.Errno) {
	if w.flags()&^validSQEFlags != 0 {
		return 0, unix.EINVAL
	}
	op := w.opcode()
	if !r.spec.Policy.Allows(op, w.flags()) {
		return 0, unix.EACCES
	}
	if w.personality() != 0 {
		return 0, unix.EINVAL // no credentials are registered
	}
	// A class of I/O priority is a claim on the host's disks against others.
	if w.ioprio() != 0 {
		return 0, unix.EINVAL
	}
	switch op {
	case hostring.OpNop:
		if w.opFlags() != 0 {
			return 0, unix.EINVAL
		}
		// With the flag, a NOP punted to a worker is what the guest asked for; the
		// file is not used.
		*dst = hostring.SQE{Opcode: op, Flags: w.flags() &^ hostring.SQEFixedFile}
		return classOther, 0
	case hostring.OpReadFixed, hostring.OpRead:
		return r.readWrite(w, dst, classRead)
	case hostring.OpWriteFixed, hostring.OpWrite:
		return r.readWrite(w, dst, classWrite)
	case hostring.OpFsync:
		return r.fsync(w, dst)
	case hostring.OpFallocate:
		return r.fallocate(w, dst)
	}
	return 0, unix.EACCES // not reached: the bitmap holds nothing else
}

// file is the ring's file that the SQE names.
func (r *Ring) file(w *words) (*file, unix.Errno) {
	if i := w.fd(); i < uint32(len(r.files)) {
		return &r.files[i], 0
	}
	return nil, unix.EBADF
}

// readWrite translates the four opcodes that move bytes.
func (r *Ring) readWrite(w *words, dst *hostring.SQE, c class) (class, unix.Errno) {
	fixed := w.opcode() == hostring.OpReadFixed || w.opcode() == hostring.OpWriteFixed
	if w.attrTypeMask() != 0 {
		return 0, unix.EINVAL // metadata: a raw pointer follows
	}
	if !fixed && w.bufIndex() != 0 {
		return 0, unix.EINVAL
	}
	f, errno := r.file(w)
	if errno != 0 {
		return 0, errno
	}
	length := uint64(w.len())
	buf, ok := uint16(0), false
	if fixed {
		buf = w.bufIndex()
		ok = int(buf) < len(r.buffers) && r.buffers[buf].holds(w.addr(), length)
	} else {
		buf, ok = r.bufferOf(w.addr(), length)
	}
	if !ok || length > maxRW {
		return 0, unix.EFAULT
	}
	if w.opFlags()&^uint32(allowedRWF) != 0 {
		return 0, unix.EOPNOTSUPP
	}
	// One past the largest offset is also "use the file's position", -1, which
	// the rings of a file would share.
	if w.off() > maxOffset || w.off()+length > maxOffset {
		return 0, unix.EINVAL
	}
	if c == classWrite {
		if f.readOnly {
			return 0, unix.EBADF
		}
		if length > 0 {
			if length, errno = f.room(w.off(), length); errno != 0 {
				return 0, errno
			}
		}
	}
	*dst = hostring.SQE{
		Flags: w.flags(), FD: int32(w.fd()), Off: w.off(), Addr: w.addr(), Len: uint32(length), OpFlags: w.opFlags(),
	}
	switch {
	case r.registered && c == classRead:
		dst.Opcode, dst.BufIndex = hostring.OpReadFixed, buf
	case r.registered:
		dst.Opcode, dst.BufIndex = hostring.OpWriteFixed, buf
	case c == classRead:
		dst.Opcode = hostring.OpRead // addr is the host's own: guest RAM lies at ADDR_BASE here, too
	default:
		dst.Opcode = hostring.OpWrite
	}
	return c, 0
}

// fsync translates FSYNC.
func (r *Ring) fsync(w *words, dst *hostring.SQE) (class, unix.Errno) {
	if w.addr() != 0 || w.bufIndex() != 0 || w.spliceFDIn() != 0 || w.opFlags()&^hostring.FsyncDatasync != 0 {
		return 0, unix.EINVAL
	}
	if _, errno := r.file(w); errno != 0 {
		return 0, errno
	}
	if w.off() > maxOffset || w.off()+uint64(w.len()) > maxOffset {
		return 0, unix.EINVAL
	}
	*dst = hostring.SQE{
		Opcode: hostring.OpFsync, Flags: w.flags(), FD: int32(w.fd()), Off: w.off(), Len: w.len(), OpFlags: w.opFlags(),
	}
	return classOther, 0
}

// fallocate translates FALLOCATE. io_uring keeps the mode in len and the number
// of bytes in addr.
func (r *Ring) fallocate(w *words, dst *hostring.SQE) (class, unix.Errno) {
	if w.bufIndex() != 0 || w.opFlags() != 0 || w.spliceFDIn() != 0 {
		return 0, unix.EINVAL
	}
	f, errno := r.file(w)
	if errno != 0 {
		return 0, errno
	}
	mode, n := w.len(), w.addr()
	if w.off() > maxOffset || n == 0 || n > maxOffset {
		return 0, unix.EINVAL
	}
	switch mode {
	case 0, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
	default:
		return 0, unix.EOPNOTSUPP
	}
	if f.readOnly {
		return 0, unix.EBADF
	}
	if w.off()+n > maxOffset || !f.within(w.off(), n) {
		return 0, unix.EFBIG
	}
	*dst = hostring.SQE{
		Opcode: hostring.OpFallocate, Flags: w.flags(), FD: int32(w.fd()), Off: w.off(), Addr: n, Len: mode,
	}
	return classOther, 0
}
