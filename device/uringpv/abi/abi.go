// SPDX-License-Identifier: Apache-2.0

package abi

import "structs"

// PCI identity.
const (
	PCIVendor = 0x1af4
	PCIDevice = 0x10f1
	PCIClass  = 0x018000 // mass storage, other
)

// BARs.
const (
	BARControl  = 0
	BARDoorbell = 2
	BARMSIX     = 4
)

// DoorbellStride is the distance in bytes between two rings' doorbells.
const DoorbellStride = 4096

// Control registers: offsets in bytes in BAR 0.
const (
	RegMagic         = 0x00 // u32, read-only: Magic
	RegVersion       = 0x04 // u32, read-only: Version
	RegStatus        = 0x08 // u32, read-only: Status*
	RegNumRings      = 0x0c // u32, read-only: rings, doorbell pages and MSI-X vectors
	RegAddrBase      = 0x10 // u64, read-only: add it to a GPA wherever io_uring wants an address
	RegAdminAddr     = 0x18 // u64: GPA of a Cmd, 64-byte aligned
	RegAdminDoorbell = 0x20 // u32, write-only: any value executes the command
	RegAdminError    = 0x24 // s32, read-only: 0, or why the last command could not be read or answered
)

// What the registers hold.
const (
	Magic        = 0x31765075 // "uPv1"
	VersionMajor = 1
	VersionMinor = 2
	Version      = VersionMajor<<16 | VersionMinor

	StatusReady  = 0x1 // commands are accepted
	StatusFailed = 0x2 // a host fault stopped the device; CmdReset may revive it
)

// Admin commands: Cmd.Op.
const (
	CmdIdentify     = 1 // out: Identity
	CmdFileInfo     = 2 // index: file; out: File
	CmdBufferInfo   = 3 // index: buffer; out: Range
	CmdRingSetup    = 4 // index: ring; in and out: RingSetup
	CmdRingRegister = 5 // index: ring; in: Register
	CmdRingEnter    = 6 // index: ring; in: Enter
	CmdRingDestroy  = 7 // index: ring; no payload
	CmdReset        = 8 // no payload
	CmdRingStats    = 9 // index: ring; out: RingStats
)

// Backend is how SQEs reach the host's kernel. Drivers need no other code for any
// of them.
type Backend uint32

// Backends.
const (
	BackendRelay       Backend = 1
	BackendPassthrough Backend = 2
	BackendIsolated    Backend = 3
)

// String is the backend's name, as the command line has it.
func (b Backend) String() string {
	switch b {
	case BackendRelay:
		return "relay"
	case BackendPassthrough:
		return "passthrough"
	case BackendIsolated:
		return "isolated"
	}
	return "unknown backend"
}

// FileKind is what a file is: File.Kind.
type FileKind uint32

// Kinds and flags of files: File.Kind and File.Flags. All kinds but FileDisk
// since 1.2.
const (
	FileDisk     FileKind = 1 // a disk: fixed size, read and written at offsets
	FileRegular  FileKind = 2 // a regular file, as a disk but nothing to mount
	FileStream   FileKind = 3 // a stream socket
	FileDgram    FileKind = 4 // a datagram socket
	FileListener FileKind = 5 // a listening stream socket, for ACCEPT
	FilePipe     FileKind = 6 // one end of a pipe: FileReadonly or FileWriteonly
	FileEventfd  FileKind = 7 // an eventfd: reads and writes of 8 bytes
	FileTap      FileKind = 8 // a network interface of the host's: a packet for each read and write

	FileReadonly    = 0x1  // writes end in -EBADF
	FileDirect      = 0x2  // O_DIRECT: alignment rules apply
	FileBlockdev    = 0x4  // a block device on the host
	FilePoll        = 0x8  // rings with IORING_SETUP_IOPOLL may read and write it
	FileWriteonly   = 0x10 // reads end in -EBADF
	FileUnconnected = 0x20 // a socket that CONNECT has to connect first
)

// NoVector is a RingSetup.Vector: the ring's completions raise no interrupt.
const NoVector = 0xffffffff

// Bits of RingStats.Valid.
const (
	StatSQEs       = 0x01
	StatCQEs       = 0x02
	StatErrors     = 0x04
	StatBytes      = 0x08
	StatDoorbells  = 0x10
	StatInterrupts = 0x20
	StatOverflows  = 0x40
)

// OpcodeBytes is the size of an Opcodes in bytes.
const OpcodeBytes = 32

// Opcodes is a set of io_uring opcodes: bit n%8 of byte n/8 is opcode n.
type Opcodes [OpcodeBytes]byte

// OpcodesOf is the set of ops.
func OpcodesOf(ops ...uint8) Opcodes {
	var o Opcodes
	for _, op := range ops {
		o[op/8] |= 1 << (op % 8)
	}
	return o
}

// Has says whether op is in o.
func (o *Opcodes) Has(op uint8) bool { return o[op/8]&(1<<(op%8)) != 0 }

// Empty says whether there is nothing in o.
func (o Opcodes) Empty() bool { return o == Opcodes{} }

// SubsetOf says whether all of o is in p.
func (o Opcodes) SubsetOf(p *Opcodes) bool {
	for i := range o {
		if o[i]&^p[i] != 0 {
			return false
		}
	}
	return true
}

// Union is o and p together.
func (o Opcodes) Union(p *Opcodes) Opcodes {
	for i := range o {
		o[i] |= p[i]
	}
	return o
}

// Without is o less what p has.
func (o Opcodes) Without(p *Opcodes) Opcodes {
	for i := range o {
		o[i] &^= p[i]
	}
	return o
}

// List is the opcodes of o in ascending order.
func (o Opcodes) List() []uint8 {
	var ops []uint8
	for op := range 256 {
		if o.Has(uint8(op)) {
			ops = append(ops, uint8(op))
		}
	}
	return ops
}

// Cmd is struct uringpv_cmd, an admin command.
type Cmd struct {
	_      structs.HostLayout
	Op     uint32 // Cmd*
	Result int32  // 0 or a negative errno; the device writes it last
	Index  uint32 // file, buffer or ring; else 0
	Flags  uint32 // 0
	Addr   uint64 // GPA of the payload, 8-byte aligned
	Len    uint32 // bytes of payload
	Resv0  uint32
	Resv   [4]uint64
}

// CmdResultOffset is where Cmd.Result lies, in bytes.
const CmdResultOffset = 4

// Identity is struct uringpv_identity: the device's limits and what it allows.
type Identity struct {
	_                structs.HostLayout
	Version          uint32 // Version
	Backend          Backend
	AddrBase         uint64 // as RegAddrBase
	NumRings         uint32 // ring indices are 0 to NumRings-1
	NumVectors       uint32 // MSI-X vectors
	NumFiles         uint32 // file indices are 0 to NumFiles-1
	NumBuffers       uint32 // entries of the buffer table
	MaxSQEntries     uint32 // a power of two
	MaxCQEntries     uint32 // a power of two
	SetupFlags       uint32 // IORING_SETUP_* that CmdRingSetup accepts
	RingFeatures     uint32 // IORING_FEAT_* of the rings
	SQEFlags         uint32 // IOSQE_* (1 << bit) that an SQE may carry
	SQEFlagsRequired uint32 // IOSQE_* that every SQE must carry
	MaxRingFiles     uint32 // files in one CmdRingSetup
	MaxRingBuffers   uint32 // ranges in one CmdRingSetup
	Opcodes          Opcodes
	Name             [32]byte // UTF-8, padded with NUL
	OpcodesExtra     Opcodes  // further ones, for rings that name them in CmdRingSetup; since 1.1
}

// File is struct uringpv_file: one of the host's files that the guest may use.
type File struct {
	_              structs.HostLayout
	Kind           FileKind
	Flags          uint32 // FileReadonly, FileDirect and so on
	Size           uint64 // bytes; 0 for what has no size
	BlockSize      uint32 // logical block size in bytes, a power of two
	DIOMemAlign    uint32 // with FileDirect: alignment of addresses, else 1
	DIOOffsetAlign uint32 // with FileDirect: alignment of offsets and lengths, else 1
	Resv           uint32
	Name           [64]byte // UTF-8, padded with NUL
	Serial         [32]byte // ASCII, padded with NUL
}

// Range is struct uringpv_range: a piece of guest RAM.
type Range struct {
	_    structs.HostLayout
	Addr uint64 // GPA
	Len  uint64 // bytes
}

// SQOffsets is struct uringpv_sq_offsets, io_uring's struct io_sqring_offsets.
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

// CQOffsets is struct uringpv_cq_offsets, io_uring's struct io_cqring_offsets.
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

// Params is struct uringpv_params, linux/io_uring.h's struct io_uring_params.
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

// RingSetup is struct uringpv_ring_setup.
type RingSetup struct {
	_           structs.HostLayout
	Params      Params // in: SQEntries, CQEntries, Flags, SQThreadIdle; out: all
	RingsAddr   uint64 // GPA of the SQ and CQ rings, 4096-byte aligned
	RingsLen    uint64 // bytes, a multiple of 4096, at least RingsSize()
	SQEsAddr    uint64 // GPA of the SQE array, 4096-byte aligned
	SQEsLen     uint64 // bytes, a multiple of 4096, at least 64 * SQEntries
	FilesAddr   uint64 // GPA of NrFiles u32 file indices
	BuffersAddr uint64 // GPA of NrBuffers Ranges
	NrFiles     uint32 // 0: every file, by its own index
	NrBuffers   uint32 // 0: the whole buffer table
	Vector      uint32 // MSI-X vector of completions, or NoVector
	Flags       uint32 // 0
	Opcodes     Opcodes
	NrSlots     uint32 // entries of the ring's file table; 0: as many as files; since 1.2
	Resv0       uint32
	Resv        [4]uint64
}

// In a list of IORING_REGISTER_FILES_UPDATE: not a file's index.
const (
	SlotEmpty = 0xffffffff // the entry becomes empty, io_uring's -1
	SlotKeep  = 0xfffffffe // the entry stays as it is, IORING_REGISTER_FILES_SKIP
)

// Register is struct uringpv_register.
type Register struct {
	_      structs.HostLayout
	Opcode uint32 // IORING_REGISTER_*
	NrArgs uint32
	Addr   uint64 // GPA of the argument; with IORING_REGISTER_EVENTFD a vector
	Offset uint32 // first entry, with FILES_UPDATE and BUFFERS_UPDATE; else 0; since 1.2
	Resv   uint32
}

// Enter is struct uringpv_enter.
type Enter struct {
	_           structs.HostLayout
	ToSubmit    uint32
	MinComplete uint32 // 0: the device never waits, drivers sleep on interrupts
	Flags       uint32 // IORING_ENTER_GETEVENTS, IORING_ENTER_SQ_WAKEUP
	Resv        uint32
}

// RingStats is struct uringpv_ring_stats.
type RingStats struct {
	_            structs.HostLayout
	Valid        uint64 // Stat*
	SQEs         uint64 // SQEs consumed
	CQEs         uint64 // CQEs posted
	Errors       uint64 // CQEs with a negative result
	BytesRead    uint64 // by completed reads
	BytesWritten uint64 // by completed writes
	Doorbells    uint64 // doorbell writes served
	Interrupts   uint64 // completion signals sent
	Overflows    uint64 // CQEs that found the CQ ring full
	Resv         [7]uint64
}

// Sizes in bytes of the structures on the wire.
const (
	CmdSize       = 64
	IdentitySize  = 160
	FileSize      = 128
	RangeSize     = 16
	ParamsSize    = 120
	RingSetupSize = 256
	RegisterSize  = 24
	EnterSize     = 16
	RingStatsSize = 128
)

// RingsSize is the number of bytes that a driver gives RING_SETUP for the
// rings, URINGPV_RINGS_SIZE.
func RingsSize(sqEntries, cqEntries uint32) uint64 {
	return (384 + 16*uint64(cqEntries) + 4*uint64(sqEntries) + 4095) &^ 4095
}
