// SPDX-License-Identifier: Apache-2.0

package passthrough

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/hashicorp/go-multierror"
	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/buffers"
	"github.com/uringpv/uringpv/device/uringpv/internal/direct"
	"github.com/uringpv/uringpv/device/uringpv/internal/growth"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// sqeFlags are the IOSQE_* that a guest may use. CQE_SKIP_SUCCESS is not among
// them: the watchdog's account needs a CQE for each SQE.
const sqeFlags = hostring.SQEFixedFile | hostring.SQEIODrain | hostring.SQEIOLink | hostring.SQEIOHardlink | hostring.SQEAsync

// opcodes are those without a raw pointer that cannot make a file grow. FALLOCATE
// is not among them: restrictions do not see its mode.
var opcodes = []uint8{
	hostring.OpNop, hostring.OpReadFixed, hostring.OpWriteFixed, hostring.OpFsync, hostring.OpSyncFileRange,
}

// maxBuffers bounds the buffers of one ring; the kernel's limit is 16384.
const maxBuffers = 1024

// ErrGrowth says that the disks cannot be passed through in this process because
// it has one bound for the growth of files and that cannot be right for all of
// them. The relay bounds each write itself.
var ErrGrowth = growth.ErrConflict

// ErrMemlock says that guest RAM cannot be pinned.
var ErrMemlock = direct.ErrMemlock

// ErrUnsupported says that this host cannot do passthrough.
var ErrUnsupported = direct.ErrUnsupported

// DefaultIdle is how long a ring with IORING_SETUP_SQPOLL polls without work if
// its guest does not say.
const DefaultIdle = direct.DefaultIdle

// ErrIntegrity says that a disk cannot be passed through because reads and
// writes of it may carry protection information.
var ErrIntegrity = errors.New("a block device with protection information cannot be passed through")

// Config says for which device the backend is.
type Config struct {
	Memory *memmap.Memory // guest RAM; must outlive the Backend
	Files  []uringpv.File // every file of the device
	Logger *slog.Logger   // slog.Default() if nil
}

// Backend makes passthrough rings for one device.
type Backend struct {
	caps   uringpv.Capabilities
	memory *memmap.Memory
	log    *slog.Logger
	bound  *growth.Hold // nil if no regular file is writable
	ram    *buffers.All // what rings share
}

// New makes the backend: it asks what the host can do, begins to pin guest RAM and bounds
// the growth of the writable regular files, for as long as the Backend exists.
//
// What may be right with another backend instead: errors.Is finds
// ErrUnsupported, ErrGrowth, ErrMemlock or ErrIntegrity.
func New(c Config) (_ *Backend, err error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	entries, err := direct.Limits()
	if err != nil {
		return nil, err
	}
	b := &Backend{memory: c.Memory, log: c.Logger}
	defer func() {
		if err != nil {
			_ = b.Close()
		}
	}()
	base, err := hostring.New(hostring.Config{Entries: 1})
	if err != nil {
		return nil, fmt.Errorf("the host's io_uring: %w", err)
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	ops, err := direct.Known(base, opcodes)
	if err != nil {
		return nil, err
	}
	if err := noIntegrity(base, c.Files); err != nil {
		return nil, err
	}
	if err := b.bindGrowth(c.Files); err != nil {
		return nil, err
	}
	if b.ram, err = direct.Pin(b.memory, buffers.PinAll); err != nil {
		return nil, err
	}
	b.caps = uringpv.Capabilities{
		Policy: uringpv.Policy{
			Opcodes:          ops,
			SQEFlags:         sqeFlags,
			SQEFlagsRequired: hostring.SQEFixedFile,
			SetupFlags:       direct.SetupFlags(),
		},
		Features:   base.Params().Features & direct.Features,
		MaxEntries: entries,
		MaxFiles:   uringpv.ReservedFile,
		MaxBuffers: maxBuffers,
		Stats:      abi.StatSQEs | abi.StatCQEs | abi.StatDoorbells,
	}
	return b, nil
}

// bindGrowth bounds the writable regular files, which must all be of one size.
func (b *Backend) bindGrowth(files []uringpv.File) error {
	var first *uringpv.File
	var bound int64
	for i := range files {
		f := &files[i]
		if f.ReadOnly || f.BlockDevice || f.Kind != 0 && !f.Seekable() {
			continue
		}
		n, err := f.Size()
		if err != nil {
			return fmt.Errorf("size of disk %q: %w", f.Name, err)
		}
		switch {
		case n <= 0:
			return fmt.Errorf("disk %q is empty, and a bound of 0 bytes would stop every write of the process: give it a size or use the relay: %w", f.Name, ErrGrowth)
		case first == nil:
			first, bound = f, n
		case n != bound:
			return fmt.Errorf("disks %q and %q: %w", first.Name, f.Name, &growth.ConflictError{Asked: uint64(n), Bound: uint64(bound)})
		}
	}
	if first == nil {
		return nil
	}
	h, err := growth.Bound(uint64(bound))
	if err != nil {
		return fmt.Errorf("disk %q: %w", first.Name, err)
	}
	b.bound = h
	return nil
}

// Kind is abi.BackendPassthrough.
func (b *Backend) Kind() abi.Backend { return abi.BackendPassthrough }

// Interrupt ends the wait of a ring that is being made for guest RAM to be pinned.
func (b *Backend) Interrupt() {
	if b.ram != nil {
		b.ram.Interrupt()
	}
}

// Capabilities is what New found out.
func (b *Backend) Capabilities() uringpv.Capabilities { return b.caps }

// Close unpins guest RAM and takes the bound off the files.
func (b *Backend) Close() error {
	var all *multierror.Error
	if b.ram != nil {
		if err := b.ram.Close(); err != nil {
			all = multierror.Append(all, err)
		}
	}
	if err := b.bound.Release(); err != nil {
		all = multierror.Append(all, err)
	}
	b.bound = nil
	return all.ErrorOrNil()
}
