// SPDX-License-Identifier: Apache-2.0

package uring

import (
	"structs"

	"github.com/uringpv/uringpv/device/uringpv/abi"
)

// Opcodes, IORING_OP_* of linux/io_uring.h, that a device may have. Ring.Probe
// says which ones it has.
const (
	OpNop           uint8 = 0
	OpReadv         uint8 = 1
	OpWritev        uint8 = 2
	OpFsync         uint8 = 3
	OpReadFixed     uint8 = 4
	OpWriteFixed    uint8 = 5
	OpPollAdd       uint8 = 6
	OpPollRemove    uint8 = 7
	OpSyncFileRange uint8 = 8
	OpSendmsg       uint8 = 9
	OpRecvmsg       uint8 = 10
	OpTimeout       uint8 = 11
	OpTimeoutRemove uint8 = 12
	OpAccept        uint8 = 13
	OpAsyncCancel   uint8 = 14
	OpLinkTimeout   uint8 = 15
	OpConnect       uint8 = 16
	OpFallocate     uint8 = 17
	OpClose         uint8 = 19
	OpRead          uint8 = 22
	OpWrite         uint8 = 23
	OpSend          uint8 = 26
	OpRecv          uint8 = 27
	OpRemoveBuffers uint8 = 32 // of mediated rings, which have no buffers to choose from: ENOENT
	OpShutdown      uint8 = 34
)

// Flags of an SQE, IOSQE_*.
const (
	SQEFixedFile      uint8 = 1 << 0
	SQEDrain          uint8 = 1 << 1
	SQELink           uint8 = 1 << 2
	SQEHardlink       uint8 = 1 << 3
	SQEAsync          uint8 = 1 << 4
	SQECQESkipSuccess uint8 = 1 << 6
)

// Flags of a ring, IORING_SETUP_*, for Config. A mapped ring has none of them
// but those that say how many entries there are.
const (
	SetupCQSize       uint32 = 1 << 3
	SetupClamp        uint32 = 1 << 4
	SetupRDisabled    uint32 = 1 << 6
	SetupSubmitAll    uint32 = 1 << 7
	SetupCoopTaskrun  uint32 = 1 << 8
	SetupTaskrunFlag  uint32 = 1 << 9
	SetupSingleIssuer uint32 = 1 << 12 // one thread submits and registers: the caller of Open, or of EnableRings
	SetupDeferTaskrun uint32 = 1 << 13 // with SetupSingleIssuer; that thread alone waits, too
	setupSQPoll       uint32 = 1 << 1
	setupNoSQArray    uint32 = 1 << 16
	setupMappedByUser        = SetupCQSize | SetupClamp
)

// Flags of Ring.Enter, IORING_ENTER_*.
const (
	EnterGetevents uint32 = 1 << 0
	EnterSQWakeup  uint32 = 1 << 1
)

// Values of SQE fields that requests have, as linux/io_uring.h names them.
const (
	PollAddMulti        uint32 = 1 << 0 // Len of POLL_ADD, IORING_POLL_ADD_MULTI
	PollUpdateEvents    uint32 = 1 << 1 // Len of POLL_REMOVE
	TimeoutAbs          uint32 = 1 << 0 // OpFlags of TIMEOUT, LINK_TIMEOUT, TIMEOUT_REMOVE
	TimeoutUpdate       uint32 = 1 << 1
	TimeoutBoottime     uint32 = 1 << 2
	TimeoutRealtime     uint32 = 1 << 3
	TimeoutETimeSuccess uint32 = 1 << 5
	FsyncDatasync       uint32 = 1 << 0 // OpFlags of FSYNC
	AsyncCancelFD       uint32 = 1 << 1 // OpFlags of ASYNC_CANCEL
	AsyncCancelAny      uint32 = 1 << 2
	AsyncCancelFDFixed  uint32 = 1 << 3
	FileIndexAlloc      uint32 = ^uint32(0) // FileIndex of ACCEPT: any empty place of the table
)

// CQEMore in a CQE's Flags says that the request has more CQEs to come,
// IORING_CQE_F_MORE.
const CQEMore uint32 = 1 << 1

const (
	sqNeedWakeup      uint32 = 1 << 0
	sqCQOverflow      uint32 = 1 << 1
	cqEventfdDisabled uint32 = 1 << 0
)

// Opcodes of io_uring_register(2) that the driver has, IORING_REGISTER_*.
const (
	registerBuffers     uint32 = 0
	unregisterBuffers   uint32 = 1
	registerFiles       uint32 = 2
	unregisterFiles     uint32 = 3
	registerEventfd     uint32 = 4
	unregisterEventfd   uint32 = 5
	registerFilesUpdate uint32 = 6
	registerProbe       uint32 = 8
	registerEnableRings uint32 = 12
	registerFiles2      uint32 = 13
	registerBuffers2    uint32 = 15
	registerBuffersUpd  uint32 = 16
)

// SQE is struct io_uring_sqe, with one name for each union.
type SQE struct {
	_           structs.HostLayout
	Opcode      uint8
	Flags       uint8 // SQE*
	IOPrio      uint16
	FD          int32
	Off         uint64
	Addr        uint64
	Len         uint32
	OpFlags     uint32 // rw_flags, fsync_flags, ...
	UserData    uint64
	BufIndex    uint16
	Personality uint16
	FileIndex   uint32
	Addr3       uint64
	Pad2        uint64
}

// CQE is struct io_uring_cqe.
type CQE struct {
	_        structs.HostLayout
	UserData uint64
	Res      int32 // bytes or another result; negative: an errno
	Flags    uint32
}

const (
	sqeSize = 64
	cqeSize = 16
)

// The ioctls of guest/kmod/uringpv_user.h and what they take.

type userSetup struct {
	_        structs.HostLayout
	Entries  uint32
	Flags    uint32
	Params   abi.Params
	PoolLen  uint64
	Files    uint64
	NrFiles  uint32
	NrChunks uint32
	Resv     [4]uint64
}

type userEnter struct {
	_           structs.HostLayout
	ToSubmit    uint32
	MinComplete uint32
	Flags       uint32
	Resv        uint32
	Arg         uint64
	ArgSize     uint64
}

type userRegister struct {
	_      structs.HostLayout
	Opcode uint32
	NrArgs uint32
	Arg    uint64
}

type userChunk struct {
	_        structs.HostLayout
	Index    uint32
	BufIndex uint32
	Offset   uint64
	Len      uint64
	Addr     uint64
}

const (
	userMapped  = 1
	userNoExtra = 2

	offSQRing   = 0
	offSQEs     = 0x10000000
	offDoorbell = 0x100000000
	offPool     = 0x200000000

	doorbellSize = 4096
)

// request is an ioctl's number, as _IOC of linux/ioctl.h makes it.
func request(dir, nr, size uintptr) uintptr { return dir<<30 | size<<16 | 0xb5<<8 | nr }
