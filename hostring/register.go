// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"structs"
	"time"

	"golang.org/x/sys/unix"
)

// Buffer is a range of this process's memory, of at most 1 GiB.
type Buffer struct {
	Addr   uintptr
	Length uint64
}

// iovec is struct iovec, without a pointer: the memory is not Go's.
type iovec struct {
	_    structs.HostLayout
	base uint64
	len  uint64
}

// RegisterBuffers pins b for READ_FIXED and WRITE_FIXED. ENOMEM: RLIMIT_MEMLOCK
// is too small; EFAULT: not writable memory, or a file's shared mapping.
func (r *Ring) RegisterBuffers(b []Buffer) error {
	v := make([]iovec, len(b))
	for i := range b {
		v[i] = iovec{base: uint64(b[i].Addr), len: b[i].Length}
	}
	_, err := registerSlice(r.fd, RegisterBuffers, v)
	return err
}

// UnregisterBuffers drops the registered buffers once no request uses them.
func (r *Ring) UnregisterBuffers() error { return registerNil(r.fd, UnregisterBuffers) }

// cloneBuffers is struct io_uring_clone_buffers.
type cloneBuffers struct {
	_      structs.HostLayout
	srcFD  uint32
	flags  uint32
	srcOff uint32
	dstOff uint32
	nr     uint32
	pad    [3]uint32
}

// CloneBuffers shares all buffers of src, a ring of the same process, without
// pinning them again (Linux 6.12). EINVAL: the kernel is older.
func (r *Ring) CloneBuffers(src *Ring) error {
	_, err := registerStruct(r.fd, RegisterCloneBuffers, &cloneBuffers{srcFD: uint32(src.fd)}, 1)
	return err
}

// RegisterFiles registers descriptors; -1 leaves an entry empty.
func (r *Ring) RegisterFiles(fds []int32) error {
	_, err := registerSlice(r.fd, RegisterFiles, fds)
	return err
}

// rsrcRegister is struct io_uring_rsrc_register.
type rsrcRegister struct {
	_     structs.HostLayout
	nr    uint32
	flags uint32
	resv2 uint64
	data  uint64
	tags  uint64
}

// rsrcSparse is IORING_RSRC_REGISTER_SPARSE.
const rsrcSparse = 1

// RegisterFilesSparse registers a table of n empty entries (Linux 5.19).
func (r *Ring) RegisterFilesSparse(n uint32) error {
	arg := rsrcRegister{nr: n, flags: rsrcSparse}
	_, err := registerStruct(r.fd, RegisterFiles2, &arg, 32)
	return err
}

// fileIndexRange is struct io_uring_file_index_range.
type fileIndexRange struct {
	_    structs.HostLayout
	off  uint32
	len  uint32
	resv uint64
}

// RegisterFileAllocRange says which entries of the file table the kernel may
// choose by itself (Linux 6.0): n from off on.
func (r *Ring) RegisterFileAllocRange(off, n uint32) error {
	_, err := registerStruct(r.fd, RegisterFileAllocRange, &fileIndexRange{off: off, len: n}, 0)
	return err
}

// UnregisterFiles drops the registered files.
func (r *Ring) UnregisterFiles() error { return registerNil(r.fd, UnregisterFiles) }

// RegisterEventfd makes completions signal fd.
func (r *Ring) RegisterEventfd(fd int) error {
	arg := int32(fd)
	_, err := registerStruct(r.fd, RegisterEventfd, &arg, 1)
	return err
}

// UnregisterEventfd ends what RegisterEventfd began.
func (r *Ring) UnregisterEventfd() error { return registerNil(r.fd, UnregisterEventfd) }

// RegisterIOWQMaxWorkers bounds the kernel's worker threads for bounded work
// (files) and unbounded work (sockets, pipes); 0 leaves a bound as it is.
func (r *Ring) RegisterIOWQMaxWorkers(bounded, unbounded uint32) error {
	_, err := registerSlice(r.fd, RegisterIOWQMaxWorkers, []uint32{bounded, unbounded})
	return err
}

// Enable starts a ring made with SetupRDisabled.
func (r *Ring) Enable() error { return registerNil(r.fd, RegisterEnableRings) }

// Restrictions say what a ring may do for the rest of its life. List register
// ops and SQE ops both: some kernels lock both sides as soon as one is listed,
// others need a list for each.
type Restrictions struct {
	RegisterOps      []uint8
	SQEOps           []uint8
	SQEFlagsAllowed  uint8
	SQEFlagsRequired uint8
}

// restriction is struct io_uring_restriction.
type restriction struct {
	_      structs.HostLayout
	opcode uint16
	arg    uint8
	resv   uint8
	resv2  [3]uint32
}

// IORING_RESTRICTION_*.
const (
	restrictionRegisterOp uint16 = iota
	restrictionSQEOp
	restrictionSQEFlagsAllowed
	restrictionSQEFlagsRequired
)

// RegisterRestrictions applies x to a ring made with SetupRDisabled.
func (r *Ring) RegisterRestrictions(x Restrictions) error {
	var v []restriction
	for _, op := range x.RegisterOps {
		v = append(v, restriction{opcode: restrictionRegisterOp, arg: op})
	}
	for _, op := range x.SQEOps {
		v = append(v, restriction{opcode: restrictionSQEOp, arg: op})
	}
	v = append(v,
		restriction{opcode: restrictionSQEFlagsAllowed, arg: x.SQEFlagsAllowed},
		restriction{opcode: restrictionSQEFlagsRequired, arg: x.SQEFlagsRequired})
	_, err := registerSlice(r.fd, RegisterRestrictions, v)
	return err
}

// probeOp is struct io_uring_probe_op.
type probeOp struct {
	_     structs.HostLayout
	op    uint8
	resv  uint8
	flags uint16
	resv2 uint32
}

// probe is struct io_uring_probe with room for every opcode.
type probe struct {
	_      structs.HostLayout
	lastOp uint8
	opsLen uint8
	resv   uint16
	resv2  [3]uint32
	ops    [256]probeOp
}

// opSupported is IO_URING_OP_SUPPORTED.
const opSupported = 1

// Probe asks which opcodes the kernel knows. Element op of the result says so.
func (r *Ring) Probe() (ops [256]bool, err error) {
	var p probe
	if _, err := registerStruct(r.fd, RegisterProbe, &p, 256); err != nil {
		return ops, err
	}
	for _, o := range p.ops[:min(int(p.opsLen), len(p.ops))] {
		ops[o.op] = o.flags&opSupported != 0
	}
	return ops, nil
}

// syncCancelReg is struct io_uring_sync_cancel_reg.
type syncCancelReg struct {
	_       structs.HostLayout
	addr    uint64
	fd      int32
	flags   uint32
	timeout unix.Timespec
	opcode  uint8
	pad     [7]uint8
	pad2    [3]uint64
}

// asyncCancelAny and asyncCancelAll are IORING_ASYNC_CANCEL_*.
const (
	asyncCancelAll = 1
	asyncCancelAny = 4
)

// SyncCancel cancels the request with this user_data, also one that waits where an SQE
// would wait behind a drain (Linux 6.0). flags are IORING_ASYNC_CANCEL_* without ALL; with
// FD among them the request has to be of fd. ENOENT: there is none. ETIME: it is being
// worked on, was told to end and has not after timeout.
func (r *Ring) SyncCancel(userData uint64, fd int32, flags uint32, timeout time.Duration) error {
	arg := syncCancelReg{addr: userData, fd: fd, flags: flags, timeout: unix.NsecToTimespec(timeout.Nanoseconds())}
	_, err := registerStruct(r.fd, RegisterSyncCancel, &arg, 1)
	return err
}

// SyncCancelAll cancels every request that can be cancelled and waits for them
// (Linux 6.0). Requests that a block device already works on are not among
// them. It is no error if there is nothing to cancel; ETIME after timeout.
func (r *Ring) SyncCancelAll(timeout time.Duration) error {
	arg := syncCancelReg{fd: -1, flags: asyncCancelAll | asyncCancelAny, timeout: unix.NsecToTimespec(timeout.Nanoseconds())}
	_, err := registerStruct(r.fd, RegisterSyncCancel, &arg, 1)
	if Errno(err) == unix.ENOENT {
		return nil
	}
	return err
}
