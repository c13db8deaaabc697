// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
)

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

// readWrite translates the four opcodes that move bytes to or from one buffer.
func (r *Ring) readWrite(w *words, dst *hostring.SQE, q *slot) fault {
	op := w.opcode()
	fixed := op == hostring.OpReadFixed || op == hostring.OpWriteFixed
	q.class = classRead
	if op == hostring.OpWriteFixed || op == hostring.OpWrite {
		q.class = classWrite
	}
	if w.ioprio() != 0 {
		return atPrep(unix.EINVAL)
	}
	if w.attrTypeMask() != 0 {
		return atPrep(unix.EINVAL) // metadata: a raw pointer follows
	}
	if !fixed && w.bufIndex() != 0 {
		return atPrep(unix.EINVAL)
	}
	f, no := r.fileOf(w, q)
	if no != 0 {
		return no
	}
	length := uint64(w.len())
	buf, ok, registered := uint16(0), false, r.registered
	if fixed {
		buf = w.bufIndex()
		ok = int(buf) < len(r.buffers) && r.buffers[buf].holds(w.addr(), length)
	} else if buf, ok = r.bufferOf(w.addr(), length); !ok {
		ok, registered = r.covers(w.addr(), length), false
	} else if registered && r.deferred(w) {
		registered = false // its buffer may be another by then
	}
	if !ok || length > maxRW {
		return atIssue(unix.EFAULT)
	}
	if w.opFlags()&^uint32(allowedRWF) != 0 {
		return atIssue(unix.EOPNOTSUPP)
	}
	length, no = f.bounded(w.off(), length, q)
	if no != 0 {
		return no
	}
	r.short = length < uint64(w.len())
	q.asked = w.len()
	*dst = hostring.SQE{
		Flags: w.full(), FD: int32(q.file), Off: w.off(), Addr: w.addr(), Len: uint32(length), OpFlags: w.opFlags(),
	}
	switch {
	case registered && q.class == classRead:
		dst.Opcode, dst.BufIndex = hostring.OpReadFixed, buf
	case registered:
		dst.Opcode, dst.BufIndex = hostring.OpWriteFixed, buf
	case q.class == classRead:
		dst.Opcode = hostring.OpRead // addr is the host's own: guest RAM lies at ADDR_BASE here, too
	default:
		dst.Opcode = hostring.OpWrite
	}
	return 0
}

// deferred says whether the host's kernel may issue an SQE later than it takes it.
func (r *Ring) deferred(w *words) bool {
	const flags = linkFlags | hostring.SQEIODrain | hostring.SQEAsync
	return w.flags()&flags != 0 || r.link.head != nobody || r.drained != nobody && r.slots.find(r.drained) != nil
}

// bounded is how many of n bytes at off a read or write may move; which of them it
// is, q says. Fewer than n: what is asked crosses the end of a file that must not
// grow.
func (f *file) bounded(off, n uint64, q *slot) (uint64, fault) {
	if q.class == classRead && f.writeOnly {
		return 0, atIssue(unix.EBADF)
	}
	if q.class == classWrite && f.readOnly {
		return 0, atIssue(unix.EBADF)
	}
	if !f.sized {
		return n, 0 // a pipe, a socket: what the offset means there is the kernel's to say
	}
	// One past the largest offset is also "use the file's position", -1, which
	// the rings of a file would share.
	if off > maxOffset || off+n > maxOffset {
		return 0, atIssue(unix.EINVAL)
	}
	if q.class == classRead || n == 0 {
		return n, 0
	}
	room, errno := f.room(off, n)
	if errno != 0 {
		return 0, atIssue(errno)
	}
	return room, 0
}

// readWriteV translates READV and WRITEV.
func (r *Ring) readWriteV(w *words, dst *hostring.SQE, q *slot) fault {
	q.class = classRead
	if w.opcode() == hostring.OpWritev {
		q.class = classWrite
	}
	if w.attrTypeMask() != 0 || w.bufIndex() != 0 {
		return atPrep(unix.EINVAL)
	}
	n := w.len()
	if n > maxIovecs {
		return atPrep(unix.EINVAL)
	}
	if no := r.newBlock(q, n); no != 0 {
		return no
	}
	total, late, no := r.iovecs(q.block, w.addr(), uint64(n))
	if no != 0 {
		return no
	}
	f, no := r.fileOf(w, q)
	if no != 0 {
		return no
	}
	if late != 0 {
		return late
	}
	if w.opFlags()&^uint32(allowedRWF) != 0 {
		return atIssue(unix.EOPNOTSUPP)
	}
	room, no := f.bounded(w.off(), total, q)
	if no != 0 {
		return no
	}
	if r.short = room < total; r.short {
		r.shorten(q.block, n, room)
	}
	q.asked = uint32(total)
	*dst = hostring.SQE{
		Opcode: w.opcode(), Flags: w.full(), FD: int32(q.file), Off: w.off(),
		Addr: r.arena.addr(q.block, blockIovecs), Len: n, OpFlags: w.opFlags(),
	}
	return 0
}

// newBlock gives q a block of the arena with room for n iovecs.
func (r *Ring) newBlock(q *slot, n uint32) fault {
	b, ok := r.arena.take(n)
	if !ok {
		return atPrep(unix.ENOMEM) // as the kernel when it has none for its own copy
	}
	q.block, q.odd = b, true
	return 0
}

// fetch copies len(p) bytes at addr, once, if they lie in the ring's buffers.
func (r *Ring) fetch(p []byte, addr uint64) bool {
	n := uint64(len(p))
	if n == 0 {
		return true
	}
	if !r.covers(addr, n) {
		return false
	}
	g, ok := r.spec.Memory.FromUser(addr, n)
	return ok && r.spec.Memory.ReadAt(p, g.Start) == nil
}

// store copies p to addr, if that lies in the ring's buffers.
func (r *Ring) store(addr uint64, p []byte) bool {
	n := uint64(len(p))
	if n == 0 {
		return true
	}
	if !r.covers(addr, n) {
		return false
	}
	g, ok := r.spec.Memory.FromUser(addr, n)
	return ok && r.spec.Memory.WriteAt(p, g.Start) == nil
}

// iovecs copies n iovecs at addr into b and checks the copy. Each names memory in
// the ring's buffers. It returns how many bytes they name, at most maxRW as in the
// kernel; an error that the kernel finds when it copies them; and, as late, one that
// it finds when it moves bytes.
func (r *Ring) iovecs(b block, addr, n uint64) (total uint64, late, no fault) {
	if n == 0 {
		return 0, 0, 0
	}
	v := r.arena.at(b, blockIovecs, uint32(n)*iovecSize)
	if !r.fetch(v, addr) {
		return 0, 0, atPrep(unix.EFAULT)
	}
	for i := range uint32(n) {
		at := blockIovecs + i*iovecSize
		base, length := r.arena.word(b, at), r.arena.word(b, at+8)
		if length > maxOffset {
			return 0, 0, atPrep(unix.EINVAL)
		}
		if late == 0 && !r.covers(base, length) && length != 0 {
			late = atIssue(unix.EFAULT)
		}
		length = min(length, maxRW-total)
		if length == 0 {
			base = 0
		}
		r.arena.put(b, at, base)
		r.arena.put(b, at+8, length)
		total += length
	}
	return total, late, 0
}

// shorten makes the n iovecs in b name no more than room bytes.
func (r *Ring) shorten(b block, n uint32, room uint64) {
	for i := range n {
		at := blockIovecs + i*iovecSize + 8
		length := min(r.arena.word(b, at), room)
		r.arena.put(b, at, length)
		room -= length
	}
}

// fsync translates FSYNC.
func (r *Ring) fsync(w *words, dst *hostring.SQE, q *slot) fault {
	if w.addr() != 0 || w.bufIndex() != 0 || w.spliceFDIn() != 0 || w.opFlags()&^hostring.FsyncDatasync != 0 {
		return atPrep(unix.EINVAL)
	}
	return r.syncRange(w, dst, q)
}

// allowedSync are the SYNC_FILE_RANGE_*.
const allowedSync = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER

// syncFileRange translates SYNC_FILE_RANGE.
func (r *Ring) syncFileRange(w *words, dst *hostring.SQE, q *slot) fault {
	if w.addr() != 0 || w.bufIndex() != 0 || w.spliceFDIn() != 0 {
		return atPrep(unix.EINVAL)
	}
	if w.opFlags()&^uint32(allowedSync) != 0 {
		return atIssue(unix.EINVAL)
	}
	return r.syncRange(w, dst, q)
}

// syncRange is what the two have in common.
func (r *Ring) syncRange(w *words, dst *hostring.SQE, q *slot) fault {
	if _, no := r.fileOf(w, q); no != 0 {
		return no
	}
	if w.off() > maxOffset || w.off()+uint64(w.len()) > maxOffset {
		return atIssue(unix.EINVAL)
	}
	*dst = hostring.SQE{
		Opcode: w.opcode(), Flags: w.full(), FD: int32(q.file), Off: w.off(), Len: w.len(), OpFlags: w.opFlags(),
	}
	return 0
}

// fallocate translates FALLOCATE. io_uring keeps the mode in len and the number
// of bytes in addr.
func (r *Ring) fallocate(w *words, dst *hostring.SQE, q *slot) fault {
	if w.bufIndex() != 0 || w.opFlags() != 0 || w.spliceFDIn() != 0 {
		return atPrep(unix.EINVAL)
	}
	f, no := r.fileOf(w, q)
	if no != 0 {
		return no
	}
	mode, n := w.len(), w.addr()
	if w.off() > maxOffset || n == 0 || n > maxOffset {
		return atIssue(unix.EINVAL)
	}
	switch mode {
	case 0, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
	default:
		return atIssue(unix.EOPNOTSUPP)
	}
	if f.readOnly {
		return atIssue(unix.EBADF)
	}
	if w.off()+n > maxOffset || f.sized && !f.within(w.off(), n) {
		return atIssue(unix.EFBIG)
	}
	*dst = hostring.SQE{
		Opcode: hostring.OpFallocate, Flags: w.full(), FD: int32(q.file), Off: w.off(), Addr: n, Len: mode,
	}
	return 0
}
