// SPDX-License-Identifier: Apache-2.0

package hostring

import "structs"

// Opcodes, IORING_OP_* of linux/io_uring.h.
const (
	OpNop uint8 = iota
	OpReadv
	OpWritev
	OpFsync
	OpReadFixed
	OpWriteFixed
	OpPollAdd
	OpPollRemove
	OpSyncFileRange
	OpSendmsg
	OpRecvmsg
	OpTimeout
	OpTimeoutRemove
	OpAccept
	OpAsyncCancel
	OpLinkTimeout
	OpConnect
	OpFallocate
	OpOpenat
	OpClose
	OpFilesUpdate
	OpStatx
	OpRead
	OpWrite
	OpFadvise
	OpMadvise
	OpSend
	OpRecv
	OpOpenat2
	OpEpollCtl
	OpSplice
	OpProvideBuffers
	OpRemoveBuffers
	OpTee
	OpShutdown
	OpRenameat
	OpUnlinkat
	OpMkdirat
	OpSymlinkat
	OpLinkat
	OpMsgRing
	OpFsetxattr
	OpSetxattr
	OpFgetxattr
	OpGetxattr
	OpSocket
	OpUringCmd
	OpSendZC
	OpSendmsgZC
	OpReadMultishot
	OpWaitid
	OpFutexWait
	OpFutexWake
	OpFutexWaitv
	OpFixedFdInstall
	OpFtruncate
	OpBind
	OpListen
	OpRecvZC
	OpEpollWait
	OpReadvFixed
	OpWritevFixed
	OpPipe
)

// Flags of io_uring_setup(2), IORING_SETUP_*.
const (
	SetupIOPoll uint32 = 1 << iota
	SetupSQPoll
	SetupSQAff
	SetupCQSize
	SetupClamp
	SetupAttachWQ
	SetupRDisabled
	SetupSubmitAll
	SetupCoopTaskrun
	SetupTaskrunFlag
	SetupSQE128
	SetupCQE32
	SetupSingleIssuer
	SetupDeferTaskrun
	SetupNoMmap
	SetupRegisteredFDOnly
	SetupNoSQArray
	SetupHybridIOPoll
)

// Features that io_uring_setup(2) returns, IORING_FEAT_*.
const (
	FeatSingleMmap uint32 = 1 << iota
	FeatNodrop
	FeatSubmitStable
	FeatRWCurPos
	FeatCurPersonality
	FeatFastPoll
	FeatPoll32Bits
	FeatSQPollNonfixed
	FeatExtArg
	FeatNativeWorkers
	FeatRsrcTags
	FeatCQESkip
	FeatLinkedFile
	FeatRegRegRing
	FeatRecvsendBundle
	FeatMinTimeout
	FeatRWAttr
	FeatNoIOWait
)

// Flags of an SQE, IOSQE_*.
const (
	SQEFixedFile uint8 = 1 << iota
	SQEIODrain
	SQEIOLink
	SQEIOHardlink
	SQEAsync
	SQEBufferSelect
	SQECQESkipSuccess
)

// Flags in the SQ ring, IORING_SQ_*.
const (
	SQNeedWakeup uint32 = 1 << iota
	SQCQOverflow
	SQTaskrun
)

// CQEventfdDisabled is the application's flag in the CQ ring,
// IORING_CQ_EVENTFD_DISABLED: completions do not signal the eventfd.
const CQEventfdDisabled uint32 = 1

// Flags of io_uring_enter(2), IORING_ENTER_*.
const (
	EnterGetevents uint32 = 1 << iota
	EnterSQWakeup
	EnterSQWait
	EnterExtArg
	EnterRegisteredRing
)

// FsyncDatasync in an SQE's OpFlags makes FSYNC an fdatasync(2),
// IORING_FSYNC_DATASYNC.
const FsyncDatasync uint32 = 1

// Opcodes of io_uring_register(2), IORING_REGISTER_*.
const (
	RegisterBuffers uint8 = iota
	UnregisterBuffers
	RegisterFiles
	UnregisterFiles
	RegisterEventfd
	UnregisterEventfd
	RegisterFilesUpdate
	RegisterEventfdAsync
	RegisterProbe
	RegisterPersonality
	UnregisterPersonality
	RegisterRestrictions
	RegisterEnableRings
	RegisterFiles2
	RegisterFilesUpdate2
	RegisterBuffers2
	RegisterBuffersUpdate
	RegisterIOWQAff
	UnregisterIOWQAff
	RegisterIOWQMaxWorkers
	RegisterRingFDs
	UnregisterRingFDs
	RegisterPbufRing
	UnregisterPbufRing
	RegisterSyncCancel
	RegisterFileAllocRange
	RegisterPbufStatus
	RegisterNAPI
	UnregisterNAPI
	RegisterClock
	RegisterCloneBuffers
	RegisterSendMsgRing
	RegisterZCRXIfq
	RegisterResizeRings
	RegisterMemRegion
)

// registerName is the opcode's name in the man page.
func registerName(op uint8) string {
	names := [...]string{
		"IORING_REGISTER_BUFFERS", "IORING_UNREGISTER_BUFFERS", "IORING_REGISTER_FILES", "IORING_UNREGISTER_FILES",
		"IORING_REGISTER_EVENTFD", "IORING_UNREGISTER_EVENTFD", "IORING_REGISTER_FILES_UPDATE", "IORING_REGISTER_EVENTFD_ASYNC",
		"IORING_REGISTER_PROBE", "IORING_REGISTER_PERSONALITY", "IORING_UNREGISTER_PERSONALITY", "IORING_REGISTER_RESTRICTIONS",
		"IORING_REGISTER_ENABLE_RINGS", "IORING_REGISTER_FILES2", "IORING_REGISTER_FILES_UPDATE2", "IORING_REGISTER_BUFFERS2",
		"IORING_REGISTER_BUFFERS_UPDATE", "IORING_REGISTER_IOWQ_AFF", "IORING_UNREGISTER_IOWQ_AFF", "IORING_REGISTER_IOWQ_MAX_WORKERS",
		"IORING_REGISTER_RING_FDS", "IORING_UNREGISTER_RING_FDS", "IORING_REGISTER_PBUF_RING", "IORING_UNREGISTER_PBUF_RING",
		"IORING_REGISTER_SYNC_CANCEL", "IORING_REGISTER_FILE_ALLOC_RANGE", "IORING_REGISTER_PBUF_STATUS", "IORING_REGISTER_NAPI",
		"IORING_UNREGISTER_NAPI", "IORING_REGISTER_CLOCK", "IORING_REGISTER_CLONE_BUFFERS", "IORING_REGISTER_SEND_MSG_RING",
		"IORING_REGISTER_ZCRX_IFQ", "IORING_REGISTER_RESIZE_RINGS", "IORING_REGISTER_MEM_REGION",
	}
	if int(op) < len(names) {
		return names[op]
	}
	return "unknown opcode"
}

// SQOffsets is struct io_sqring_offsets: where the words of the SQ ring are,
// in bytes from the start of the rings.
type SQOffsets struct {
	_           structs.HostLayout
	Head        uint32
	Tail        uint32
	RingMask    uint32
	RingEntries uint32
	Flags       uint32
	Dropped     uint32
	Array       uint32
	Resv1       uint32
	UserAddr    uint64
}

// CQOffsets is struct io_cqring_offsets: where the words of the CQ ring are,
// in bytes from the start of the rings.
type CQOffsets struct {
	_           structs.HostLayout
	Head        uint32
	Tail        uint32
	RingMask    uint32
	RingEntries uint32
	Overflow    uint32
	CQEs        uint32
	Flags       uint32
	Resv1       uint32
	UserAddr    uint64
}

// Params is struct io_uring_params.
type Params struct {
	_            structs.HostLayout
	SQEntries    uint32
	CQEntries    uint32
	Flags        uint32
	SQThreadCPU  uint32
	SQThreadIdle uint32 // milliseconds
	Features     uint32
	WQFD         uint32
	Resv         [3]uint32
	SQOff        SQOffsets
	CQOff        CQOffsets
}

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
	SpliceFDIn  int32
	Addr3       uint64
	Pad2        uint64
}

// CQE is struct io_uring_cqe.
type CQE struct {
	_        structs.HostLayout
	UserData uint64
	Res      int32
	Flags    uint32
}

// Sizes in bytes of what lies in shared memory.
const (
	SQESize = 64
	CQESize = 16
)
