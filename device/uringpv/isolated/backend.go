// SPDX-License-Identifier: Apache-2.0

package isolated

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/buffers"
	"github.com/uringpv/uringpv/device/uringpv/internal/direct"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// sqeFlags are the IOSQE_* that a guest may use.
const sqeFlags = hostring.SQEFixedFile | hostring.SQEIODrain | hostring.SQEIOLink | hostring.SQEIOHardlink |
	hostring.SQEAsync | hostring.SQECQESkipSuccess

// opcodes are those that reach nothing but guest RAM and the ring's files.
// CONNECT and FALLOCATE are not among them: restrictions do not see an address or a
// mode. Nor are TIMEOUT_REMOVE and CLOSE, which the kernel refuses with
// IOSQE_FIXED_FILE, and that is required of every SQE.
var opcodes = []uint8{
	hostring.OpNop, hostring.OpReadv, hostring.OpWritev, hostring.OpFsync, hostring.OpReadFixed, hostring.OpWriteFixed,
	hostring.OpPollAdd, hostring.OpPollRemove, hostring.OpSyncFileRange, hostring.OpSendmsg, hostring.OpRecvmsg,
	hostring.OpTimeout, hostring.OpAccept, hostring.OpAsyncCancel, hostring.OpLinkTimeout,
	hostring.OpRead, hostring.OpWrite, hostring.OpSend, hostring.OpRecv, hostring.OpShutdown,
}

// maxBuffers bounds the buffers of one ring; the kernel's limit is 16384.
const maxBuffers = 1024

// What may be right with another backend instead.
var (
	// ErrUnsupported says that this host cannot give a ring to a process of its
	// own.
	ErrUnsupported = direct.ErrUnsupported

	// ErrMemlock says that guest RAM cannot be pinned.
	ErrMemlock = direct.ErrMemlock

	// ErrGrowth says that a ring's writable regular files are of different sizes.
	ErrGrowth = errors.New("a ring's writable files must be of one size")

	// ErrPeer says that a guest could talk to anybody through a socket.
	ErrPeer = errors.New("a guest could reach any address through the socket")
)

// Config says for which device the backend is.
type Config struct {
	Memory *memmap.Memory // guest RAM; must outlive the Backend
	Files  []uringpv.File // every file of the device
	Logger *slog.Logger   // slog.Default() if nil
}

// Backend makes rings with an owner each for one device.
type Backend struct {
	caps    uringpv.Capabilities
	memory  *memmap.Memory
	log     *slog.Logger
	ram     *buffers.All
	parent  *parent
	program int         // memfd, -1 for none
	ambient []uintptr   // capabilities that the owners begin with
	plain   atomic.Bool // without a user namespace
}

// New makes the backend: it asks what the host can do, by doing it once, and
// whether guest RAM can be pinned.
//
// What may be right with another backend instead: errors.Is finds
// ErrUnsupported, ErrMemlock or ErrPeer.
func New(c Config) (*Backend, error) {
	if err := supported(); err != nil {
		return nil, errors.Join(err, trialEnded())
	}
	b, err := newBackend(c)
	if err != nil {
		return nil, errors.Join(err, trialEnded())
	}
	return b, nil
}

// newBackend is New without a trial.
func newBackend(c Config) (_ *Backend, err error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	entries, err := direct.Limits()
	if err != nil {
		return nil, err
	}
	ring, err := hostring.New(hostring.Config{Entries: 1})
	if err != nil {
		return nil, fmt.Errorf("the host's io_uring: %w", err)
	}
	defer func() { err = errors.Join(err, ring.Close()) }()
	if n := len(c.Memory.Layout().Regions()); n > regions {
		return nil, fmt.Errorf("guest RAM in %d pieces: an owner maps %d at most", n, regions)
	}
	ops, err := direct.Known(ring, opcodes)
	if err != nil {
		return nil, err
	}
	if ops, err = confine(ops, c.Files); err != nil {
		return nil, err
	}
	ambient, err := ambientCaps()
	if err != nil {
		return nil, err
	}
	b := &Backend{memory: c.Memory, log: c.Logger, ambient: ambient}
	b.caps = uringpv.Capabilities{
		Policy: uringpv.Policy{
			Opcodes:          ops,
			SQEFlags:         sqeFlags,
			SQEFlagsRequired: hostring.SQEFixedFile,
			SetupFlags:       direct.SetupFlags(),
		},
		Features:   ring.Params().Features & direct.Features,
		MaxEntries: entries,
		MaxFiles:   uringpv.ReservedFile,
		MaxBuffers: maxBuffers,
		Stats:      abi.StatSQEs | abi.StatCQEs | abi.StatDoorbells,
	}
	if b.program, err = programFile(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	// A ring of another process cannot share it, but finds the pages there.
	if b.ram, err = direct.Pin(c.Memory, buffers.FaultIn); err != nil {
		return nil, errors.Join(err, unix.Close(b.program))
	}
	b.parent = newParent()
	return b, nil
}

// confine is what of ops a guest may have beside these files.
//
// A message may name an address, and nobody looks at it. A datagram socket sends
// to any, a TCP socket that is not connected yet connects to any (MSG_FASTOPEN);
// SHUTDOWN makes of one that listens one that is not connected.
func confine(ops abi.Opcodes, files []uringpv.File) (abi.Opcodes, error) {
	for i := range files {
		f := &files[i]
		_, local := f.Peer.(*unix.SockaddrUnix) // such a stream takes no address but CONNECT's
		switch {
		case f.Kind == abi.FileDgram && !f.AnyPeer:
			return ops, fmt.Errorf("datagram socket %q: %w, by SENDMSG; peer=any allows that, backend=relay looks at each message", f.Name, ErrPeer)
		case f.Kind == abi.FileStream && f.Unconnected && !local:
			return ops, fmt.Errorf("socket %q, which is not connected: %w, by SENDMSG with MSG_FASTOPEN; backend=relay looks at each message", f.Name, ErrPeer)
		case f.Kind == abi.FileListener:
			shutdown := abi.OpcodesOf(hostring.OpShutdown)
			ops = ops.Without(&shutdown)
		}
	}
	return ops, nil
}

// ambientCaps are the capabilities that a program without any of its own is to
// begin with: CAP_IPC_LOCK, where the monitor has it without being root.
func ambientCaps() ([]uintptr, error) {
	if os.Geteuid() == 0 {
		return nil, nil
	}
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var c [2]unix.CapUserData
	if err := unix.Capget(&h, &c[0]); err != nil {
		return nil, fmt.Errorf("capget: %w", err)
	}
	if c[0].Effective&(1<<unix.CAP_IPC_LOCK) == 0 {
		return nil, nil
	}
	return []uintptr{unix.CAP_IPC_LOCK}, nil
}

// Kind is abi.BackendIsolated.
func (b *Backend) Kind() abi.Backend { return abi.BackendIsolated }

// Interrupt ends the wait of a ring that is being made for guest RAM to be pinned.
func (b *Backend) Interrupt() {
	if b.ram != nil {
		b.ram.Interrupt()
	}
}

// Capabilities is what New found out.
func (b *Backend) Capabilities() uringpv.Capabilities { return b.caps }

// Close ends the thread whose children the owners were, and gives up their
// program. What a trial made has gone, too.
func (b *Backend) Close() error { return errors.Join(b.close(), trialEnded()) }

func (b *Backend) close() error {
	if b.parent == nil {
		return nil
	}
	b.parent.close()
	b.parent = nil
	var err error
	if b.ram != nil {
		err = b.ram.Close()
	}
	if e := unix.Close(b.program); e != nil {
		err = errors.Join(err, fmt.Errorf("close the program of rings' owners: %w", e))
	}
	return err
}
