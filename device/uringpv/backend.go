// SPDX-License-Identifier: Apache-2.0

package uringpv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/shm"
	"github.com/uringpv/uringpv/memmap"
)

// ReservedFile is the index in a ring's file table that no guest file ever has
// (docs/protocol.md, section 5): a backend may keep a file of its own there.
const ReservedFile = 255

// Backend is a way in which the SQEs of guests' rings reach the host's kernel.
//
// Who checks what: the device checks every word of RING_SETUP, so that a
// backend is given a clean RingSpec and has to look at nothing in it again. The
// backend checks, or has the kernel check, everything that is in the rings and
// in SQEs, which the guest may rewrite at any moment.
type Backend interface {
	// Kind is what IDENTIFY reports.
	Kind() abi.Backend

	// Capabilities says what the backend can do on this host. It does not
	// change.
	Capabilities() Capabilities

	// NewRing makes a ring and starts to serve it. The areas are zeroed; when
	// it returns, the backend has initialised them as io_uring_setup(2) does.
	//
	// An error is the host's: no ring exists, nothing refers to guest RAM any
	// more, and the unix.Errno that it wraps (EIO if there is none) is the
	// command's result.
	//
	// One call at a time; other rings of the backend are at work meanwhile. It
	// runs on a vCPU's thread and must not wait for I/O.
	NewRing(RingSpec) (Ring, error)

	// Close releases what the backend holds besides its rings, which are all
	// closed by then.
	Close() error
}

// Interrupter is a Backend whose NewRing may wait for the host.
type Interrupter interface {
	// Interrupt makes NewRing wait no more, the call in progress and later ones, which
	// then fail. It may be called at any time before Close.
	Interrupt()
}

// Interrupt interrupts b, if it is an Interrupter.
func Interrupt(b Backend) {
	if i, ok := b.(Interrupter); ok {
		i.Interrupt()
	}
}

// Capabilities is what a backend offers on this host. The device tells the guest
// no more than this, and accepts no more from it.
type Capabilities struct {
	Policy // opcodes, SQE flags and setup flags that rings of this backend can honour

	// Extra are opcodes, none of them in Policy, that a ring has only if its
	// RING_SETUP names them: the backend may serve such a ring in a slower way.
	Extra abi.Opcodes

	Features   uint32 // IORING_FEAT_* that its rings have
	MaxEntries uint32 // largest SQ ring, a power of two; the CQ ring may have twice as many
	MaxFiles   int    // files in one ring, 1 to ReservedFile
	MaxBuffers int    // buffers in one ring, at least 1

	// Stats are the abi.Stat* bits of the counters that RingStats holds.
	Stats uint64

	FilePolicy bool // its rings honour File.Deny
}

// RingSpec is a ring that a guest wants, checked and complete. All of these
// hold:
//
//   - SQEntries and CQEntries are powers of two, SQEntries at most the
//     backend's MaxEntries, CQEntries at least SQEntries and at most twice
//     MaxEntries.
//   - Policy is within the backend's, with or without opcodes of Extra, and has
//     at least one opcode; Flags is
//     within Policy.SetupFlags.
//   - Rings and SQEs lie in guest RAM, each inside one entry of the buffer
//     table, page aligned; they overlap neither each other nor the areas of any
//     ring of the device that still exists. They are zeroed, and exactly as long
//     as needed: abi.RingsSize(SQEntries, CQEntries), and 64*SQEntries rounded
//     up to a page.
//   - Files has 1 to MaxFiles entries, or none if the device has no file.
//   - Buffers has 1 to MaxBuffers entries; each is not empty, page aligned, at
//     most memmap.MaxBuffer long and inside one entry of the buffer table. They
//     may overlap each other and the ring's areas, but together they are not
//     longer than guest RAM.
//   - The doorbell's eventfd is drained.
//
// Slices, views and descriptors are valid until Ring.Close returns nil. The
// backend must not change the slices or close the descriptors.
type RingSpec struct {
	Index int // below the device's number of rings; for messages

	SQEntries uint32
	CQEntries uint32
	Flags     uint32 // IORING_SETUP_* that the guest asked for, verbatim

	// With IORING_SETUP_SQPOLL: how long to poll without work, in whole
	// milliseconds, 0 for the backend's default; and the host's CPU to poll on,
	// -1 for any. The idle time is already within what the host allows. The thread
	// that polls may be shared with other rings of the process.
	SQThreadIdle   time.Duration
	SQThreadCPU    int
	SQThreadShared bool

	Rings shm.View // SQ and CQ ring
	SQEs  shm.View

	Memory   *memmap.Memory // guest RAM, for addresses in SQEs
	Files    []File         // file i of the ring
	Slots    int            // entries of the file table, at least len(Files), at most MaxFiles; the others are empty
	Buffers  []memmap.Range // buffer i of the ring
	WholeRAM bool           // Buffers is the buffer table: all of guest RAM
	Policy   Policy         // what SQEs of this ring may be

	DoorbellFD int // eventfd, non-blocking: the ring's doorbell, to be served by the backend
	VectorFD   int // eventfd, non-blocking, to be signalled by completions; -1 for none

	// Stopped is to be called, once at most, from any goroutine, when the ring
	// stops by itself: no SQE is taken any more. With a *GuestError the guest
	// has lost this ring; any other error is the host's fault and marks the
	// device as failed. The ring stays until Close, and Stopped is not called
	// after Close returned nil. It does not block.
	Stopped func(error)

	Logger *slog.Logger // never nil; not for every I/O
}

// Ring is a guest's ring that a backend serves. The device calls Stats and
// SystemCalls at any time, also during Close and after it, the others one at a
// time.
type Ring interface {
	// Params are the parameters as io_uring_setup(2) returns them: entry
	// counts, features, and the offsets of the ring's words in RingSpec.Rings.
	// The device hides from the guest what is not its business.
	Params() hostring.Params

	// Enter is io_uring_enter(2) with min_complete 0: take up to toSubmit SQEs
	// (rings without SQPOLL), flags within IORING_ENTER_GETEVENTS |
	// IORING_ENTER_SQ_WAKEUP. It runs on a vCPU's thread: it must not wait for
	// I/O and must not call io_uring_enter there, or completion work would
	// disturb KVM_RUN; it may leave the work to the ring's own thread. An error
	// wraps a unix.Errno, the command's result.
	Enter(toSubmit, flags uint32) error

	// UpdateFiles puts files into the ring's table, from slot on: nil leaves an
	// entry as it is, NoFile empties it. Requests in flight keep the file that
	// they began with. The device has checked that the entries are within
	// RingSpec.Slots, and that there is one at least. An error is the host's, as
	// Enter's; then a part of the entries may have changed.
	UpdateFiles(slot int, files []*File) error

	// UpdateBuffers replaces the ring's buffers from index on; a range of length
	// 0 empties an entry. Requests in flight keep theirs. The device has checked
	// the ranges as RingSpec says, and that the entries, one at least, are within
	// len(RingSpec.Buffers). Errors as UpdateFiles'.
	UpdateBuffers(index int, ranges []memmap.Range) error

	// SetVector makes completions signal the eventfd fd from now on, or none if
	// it is -1. With an error, the host's, all is as before.
	SetVector(fd int) error

	// Stats are the counters since NewRing; those that the backend's
	// Capabilities.Stats does not name are zero.
	Stats() RingStats

	// SystemCalls counts the system calls that the VMM made to serve this ring
	// since NewRing. It makes none itself.
	SystemCalls() uint64

	// Close stops the ring: it takes no more SQEs, requests in flight are
	// cancelled where that is possible, and waited for where it is not. It
	// returns nil only when nothing of this ring reads or writes guest RAM any
	// more, now or later, and its threads and descriptors are gone.
	//
	// When ctx ends before that, Close returns soon, with an error that wraps
	// unix.ETIMEDOUT or ctx.Err(); the ring then still holds what it needs, and
	// Close may be called again to go on waiting. Another error is the host's
	// fault, and likewise leaves the ring. After nil further calls return nil.
	Close(ctx context.Context) error
}

// ErrElsewhere, in an error of Backend.NewRing, says that what keeps this backend
// from making the ring does not concern another.
var ErrElsewhere = errors.New("another backend may serve this ring")

// NoFile, in UpdateFiles, is the entry without a file.
var NoFile = &File{FD: -1}

// Seekable says whether the file is read and written at offsets and has a size.
func (f *File) Seekable() bool { return f.Kind == abi.FileDisk || f.Kind == abi.FileRegular }

// check says what is wrong with a file as its owner describes it.
func (f *File) check() error {
	socket := f.Kind == abi.FileStream || f.Kind == abi.FileDgram
	switch {
	case f.Kind < abi.FileDisk || f.Kind > abi.FileTap:
		return fmt.Errorf("kind %d: must be %d to %d", f.Kind, abi.FileDisk, abi.FileTap)
	case f.Seekable() != (f.Size != nil):
		return fmt.Errorf("kind %d and a size: disks and regular files have one, others do not", f.Kind)
	case f.ReadOnly && f.WriteOnly:
		return errors.New("for reading only and for writing only at once")
	case f.Unconnected && (!socket || f.Peer == nil):
		return errors.New("unconnected: must be a stream or a datagram socket with a peer to connect to")
	case f.AnyPeer && f.Kind != abi.FileDgram:
		return errors.New("any peer: must be a datagram socket")
	case !f.Deny.SubsetOf(&fileOpcodes):
		return fmt.Errorf("denied opcodes %v: must be of those that name a file, %v", f.Deny.List(), fileOpcodes.List())
	}
	return nil
}

// File is one of the host's files that guests may use. The descriptor stays its
// owner's and must outlive the Device.
type File struct {
	FD     int
	Kind   abi.FileKind
	Name   string // UTF-8, shown to the guest, cut to 63 bytes
	Serial string // ASCII, shown to the guest, cut to 31 bytes

	// Size is the file's size in bytes at this moment. It may make a system call.
	// Nil for what has no size: sockets, pipes, eventfds, network interfaces.
	Size func() (int64, error)

	ReadOnly    bool // the descriptor is open for reading only
	WriteOnly   bool // the descriptor is open for writing only
	Unconnected bool // a socket that the guest connects itself, to Peer only
	Direct      bool // O_DIRECT: DIOMemAlign and DIOOffsetAlign apply
	Poll        bool // rings with IORING_SETUP_IOPOLL may read and write it
	BlockDevice bool // a block device: writes at its end give ENOSPC, no EFBIG

	// Peer is the address of a socket's other side: the one that CONNECT may
	// name with Unconnected, and the one that a datagram may be sent to. Nil: a
	// datagram may name none.
	Peer    unix.Sockaddr
	AnyPeer bool // a datagram socket that may send to any address that the host reaches

	// Deny are opcodes that SQEs which name this file may not have, of those with
	// NamesFile: their CQE is -EACCES. What is accepted from a listener inherits it.
	Deny abi.Opcodes

	BlockSize      uint32 // logical block size in bytes, a power of two
	DIOMemAlign    uint32 // alignment of addresses in bytes, a power of two; 1 without Direct
	DIOOffsetAlign uint32 // alignment of offsets and lengths in bytes, a power of two; 1 without Direct
}
