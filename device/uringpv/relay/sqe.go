// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
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
func (w *words) spliceFDIn() uint32  { return uint32(w[5] >> 32) } // also file_index, and addr_len in the lower half
func (w *words) attrTypeMask() uint64 {
	return w[7] // of reads and writes: names what addr3 points at
}

// validSQEFlags are the IOSQE_* that io_uring knows at all.
const validSQEFlags = hostring.SQEFixedFile | hostring.SQEIODrain | hostring.SQEIOLink | hostring.SQEIOHardlink |
	hostring.SQEAsync | hostring.SQEBufferSelect | hostring.SQECQESkipSuccess

// allowedSQEFlags are those that a guest may use.
const allowedSQEFlags = validSQEFlags &^ hostring.SQEBufferSelect

// linkFlags are those that tie an SQE to the next one.
const linkFlags = hostring.SQEIOLink | hostring.SQEIOHardlink

// passedSQEFlags are those that the host's ring gets. CQE_SKIP_SUCCESS is the
// relay's business: it wants to know when a request has ended.
const passedSQEFlags = allowedSQEFlags &^ hostring.SQECQESkipSuccess

// class is what a completed request counts as.
type class uint8

const (
	classOther class = iota
	classRead
	classWrite
)

// fault is why an SQE is refused: 0 if it is not, else the errno that its CQE
// gets, and when io_uring would find out. What prep refuses fails its whole chain,
// earlier members too; what fails when it is issued fails only those behind it.
type fault uint16

const onIssue fault = 1 << 15

func atPrep(e unix.Errno) fault  { return fault(e) }
func atIssue(e unix.Errno) fault { return fault(e) | onIssue }

// errno is the fault's error.
func (f fault) errno() unix.Errno { return unix.Errno(f &^ onIssue) }

// translate checks a guest's SQE and rewrites it for the host's ring. It
// returns 0, fills dst, all but UserData, and notes in q what the CQE will need;
// or it returns the error that io_uring itself would give. The order of the
// checks is io_uring's (io_init_req, the opcode's prep, then its issue, in
// io_uring/*.c).
//
// Only what is checked here reaches dst: a field that is not mentioned is zero
// on the host's ring.
func (r *Ring) translate(w *words, dst *hostring.SQE, q *slot) fault {
	flags := w.flags()
	if flags&^validSQEFlags != 0 {
		return atPrep(unix.EINVAL)
	}
	op := w.opcode()
	if flags&(hostring.SQECQESkipSuccess|hostring.SQEIODrain) != 0 {
		// A ring on which one CQE was skipped cannot count CQEs, and so not drain.
		if flags&hostring.SQECQESkipSuccess != 0 {
			r.skipped = true
		}
		if flags&hostring.SQEIODrain != 0 && r.skipped {
			return atPrep(unix.EOPNOTSUPP)
		}
	}
	if !r.spec.Policy.Allows(op, flags) || r.choosy && uringpv.NamesFile(op) && r.denies(w) {
		return atPrep(unix.EACCES)
	}
	if w.personality() != 0 {
		return atPrep(unix.EINVAL) // no credentials are registered
	}
	if op == hostring.OpReadFixed || op == hostring.OpWriteFixed {
		return r.readWrite(w, dst, q)
	}
	// What ioprio means to sockets they check themselves. To reads and writes a
	// class of I/O priority is a claim on the host's disks against others.
	if w.ioprio() != 0 && !ioprioIsFlags(op) {
		return atPrep(unix.EINVAL)
	}
	switch op {
	case hostring.OpNop:
		if w.opFlags() != 0 {
			return atPrep(unix.EINVAL)
		}
		// With the flag, a NOP punted to a worker is what the guest asked for; the
		// file is not used.
		*dst = hostring.SQE{Opcode: op, Flags: w.bare()}
		return 0
	case hostring.OpRead, hostring.OpWrite:
		return r.readWrite(w, dst, q)
	case hostring.OpReadv, hostring.OpWritev:
		return r.readWriteV(w, dst, q)
	case hostring.OpFsync:
		return r.fsync(w, dst, q)
	case hostring.OpSyncFileRange:
		return r.syncFileRange(w, dst, q)
	case hostring.OpFallocate:
		return r.fallocate(w, dst, q)
	case hostring.OpPollAdd:
		return r.pollAdd(w, dst, q)
	case hostring.OpPollRemove:
		return r.pollRemove(w, dst, q)
	case hostring.OpTimeout, hostring.OpLinkTimeout:
		return r.timeout(w, dst, q)
	case hostring.OpTimeoutRemove:
		return r.timeoutRemove(w, dst, q)
	case hostring.OpAsyncCancel:
		return r.asyncCancel(w, dst, q)
	case hostring.OpSend, hostring.OpRecv:
		return r.sendRecv(w, dst, q)
	case hostring.OpSendmsg, hostring.OpRecvmsg:
		return r.message(w, dst, q)
	case hostring.OpAccept:
		return r.accept(w, dst, q)
	case hostring.OpConnect:
		return r.connect(w, dst, q)
	case hostring.OpShutdown:
		return r.shutdown(w, dst, q)
	case hostring.OpClose:
		return r.closeSlot(w, dst, q)
	}
	return atPrep(unix.EACCES) // not reached: the bitmap holds nothing else
}

// opcodes are all of those above.
var opcodes = []uint8{
	hostring.OpNop, hostring.OpReadv, hostring.OpWritev, hostring.OpFsync, hostring.OpReadFixed, hostring.OpWriteFixed,
	hostring.OpPollAdd, hostring.OpPollRemove, hostring.OpSyncFileRange, hostring.OpSendmsg, hostring.OpRecvmsg,
	hostring.OpTimeout, hostring.OpTimeoutRemove, hostring.OpAccept, hostring.OpAsyncCancel, hostring.OpLinkTimeout,
	hostring.OpConnect, hostring.OpFallocate, hostring.OpClose, hostring.OpRead, hostring.OpWrite, hostring.OpSend,
	hostring.OpRecv, hostring.OpShutdown,
}

// ioprioIsFlags says whether an opcode has flags of its own in ioprio.
func ioprioIsFlags(op uint8) bool {
	switch op {
	case hostring.OpSend, hostring.OpRecv, hostring.OpSendmsg, hostring.OpRecvmsg, hostring.OpAccept:
		return true
	}
	return false
}

// full and bare are the SQE's flags for the host's ring, bare for opcodes that use
// no file: some refuse FIXED_FILE.
func (w *words) full() uint8 { return w.flags() & passedSQEFlags }
func (w *words) bare() uint8 { return w.full() &^ hostring.SQEFixedFile }

// refused makes dst an SQE that fails on the host's ring as the guest's would: at
// the same time, with the same effect on its chain and on what drains. complete
// replaces the error by f's.
func refused(w *words, dst *hostring.SQE, f fault) {
	flags := w.bare()
	if f == atPrep(unix.EOPNOTSUPP) {
		flags &^= hostring.SQEIODrain // it was refused before it had begun to drain
	}
	if f&onIssue == 0 {
		*dst = hostring.SQE{Opcode: hostring.OpTimeout, Flags: flags} // len 0: EINVAL
		return
	}
	*dst = hostring.SQE{Opcode: hostring.OpRead, Flags: flags | hostring.SQEFixedFile, FD: noSuchFile} // EBADF
}

// noSuchFile is an index that is beyond every file table.
const noSuchFile = 1 << 30

// fileOf is the ring's file that the SQE names. It is noted in q, so that the host
// ring's entry stays what it is until the request has ended.
func (r *Ring) fileOf(w *words, q *slot) (*file, fault) {
	i := w.fd()
	if i >= uint32(len(r.files)) {
		return nil, atIssue(unix.EBADF)
	}
	f := &r.files[i]
	q.file = f.host
	if r.moved != noFile && r.moved == uint16(i) {
		q.file = r.movedTo // an ACCEPT of the same chain fills it
		return &unknown, 0
	}
	return f, 0
}

// denies says whether the file that the SQE names may not be used so.
func (r *Ring) denies(w *words) bool {
	i := w.fd()
	if i >= uint32(len(r.files)) {
		return false
	}
	deny := r.files[i].deny
	if r.moved == uint16(i) {
		deny = r.movedDeny
	}
	return deny != nil && deny.Has(w.opcode())
}
