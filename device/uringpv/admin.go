// SPDX-License-Identifier: Apache-2.0

package uringpv

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// Bounds of an admin command (docs/protocol.md, sections 2 and 3).
const (
	cmdAlign     = 64
	payloadAlign = 8
	maxPayload   = 4096
)

// A command is one of abi.Cmd*. Its function is given a private copy of the
// payload as the guest wrote it, and returns what to write back, if anything.
type command struct {
	name string
	size int // of the payload that it knows, in bytes; 0: it has none
	run  func(d *Device, index uint32, payload []byte) ([]byte, error)
}

// commands has the commands by number.
var commands = [...]command{
	abi.CmdIdentify:     {"IDENTIFY", abi.IdentitySize, (*Device).identify},
	abi.CmdFileInfo:     {"FILE_INFO", abi.FileSize, (*Device).fileInfo},
	abi.CmdBufferInfo:   {"BUFFER_INFO", abi.RangeSize, (*Device).bufferInfo},
	abi.CmdRingSetup:    {"RING_SETUP", abi.RingSetupSize, (*Device).ringSetup},
	abi.CmdRingRegister: {"RING_REGISTER", abi.RegisterSize, (*Device).ringRegister},
	abi.CmdRingEnter:    {"RING_ENTER", abi.EnterSize, (*Device).ringEnter},
	abi.CmdRingDestroy:  {"RING_DESTROY", 0, (*Device).ringDestroy},
	abi.CmdReset:        {"RESET", 0, (*Device).resetCommand},
	abi.CmdRingStats:    {"RING_STATS", abi.RingStatsSize, (*Device).ringStats},
}

// runCommand is a write to ADMIN_DOORBELL.
func (d *Device) runCommand() {
	d.executing.Lock()
	defer d.executing.Unlock()
	if d.closed {
		return
	}
	d.commands.Add(1)
	d.adminError.Store(-int32(d.answer(memmap.Addr(d.adminAddr.Load()))))
}

// answer executes the command at a and writes its result there. It returns why
// the command could not be read or answered: the ADMIN_ERROR register.
func (d *Device) answer(a memmap.Addr) unix.Errno {
	if !a.Aligned(cmdAlign) {
		return unix.EINVAL
	}
	var raw [abi.CmdSize]byte // the guest may go on writing to its own copy
	if err := d.memory.ReadAt(raw[:], a); err != nil {
		return unix.EFAULT
	}
	c, err := abi.Decode[abi.Cmd](raw[:])
	if err != nil {
		return unix.EINVAL
	}
	out, err := d.execute(&c)
	if err == nil && len(out) > 0 {
		// A driver with a shorter structure gets the part that it knows.
		out = out[:min(len(out), int(c.Len))]
		if werr := d.memory.WriteAt(out, memmap.Addr(c.Addr)); werr != nil {
			err = guestErrorf(unix.EFAULT, "payload: %v", werr)
		}
	}
	if err != nil {
		d.logCommand(&c, err)
	}
	// One aligned word, stored last: a driver may poll it.
	result := uint32(-int32(errnoOf(err)))
	word := [4]byte{byte(result), byte(result >> 8), byte(result >> 16), byte(result >> 24)}
	if err := d.memory.WriteAt(word[:], a+abi.CmdResultOffset); err != nil {
		return unix.EFAULT
	}
	return 0
}

// execute checks what all commands have in common and runs c.
func (d *Device) execute(c *abi.Cmd) ([]byte, error) {
	if c.Op >= uint32(len(commands)) || commands[c.Op].run == nil {
		return nil, guestErrorf(unix.EINVAL, "op %d: there is no such command", c.Op)
	}
	cmd := &commands[c.Op]
	if d.status.Load()&abi.StatusFailed != 0 && c.Op != abi.CmdReset {
		return nil, guestErrorf(unix.EIO, "the device has failed: only RESET is executed")
	}
	if c.Flags != 0 || c.Resv0 != 0 || c.Resv != [4]uint64{} {
		return nil, guestErrorf(unix.EINVAL, "flags or reserved fields are not zero")
	}
	if c.Addr%payloadAlign != 0 {
		return nil, guestErrorf(unix.EINVAL, "payload at %#x: must be %d-byte aligned", c.Addr, payloadAlign)
	}
	if c.Len > maxPayload {
		return nil, guestErrorf(unix.E2BIG, "payload of %d bytes: at most %d", c.Len, maxPayload)
	}
	if c.Len == 0 && cmd.size != 0 {
		return nil, guestErrorf(unix.EINVAL, "no payload: the command has one of %d bytes", cmd.size)
	}
	payload := make([]byte, c.Len)
	if c.Len != 0 {
		if err := d.memory.ReadAt(payload, memmap.Addr(c.Addr)); err != nil {
			return nil, guestErrorf(unix.EFAULT, "payload: %v", err)
		}
	}
	for i := cmd.size; i < len(payload); i++ {
		if payload[i] != 0 {
			return nil, guestErrorf(unix.E2BIG, "payload of %d bytes has content behind the %d bytes that the device knows", c.Len, cmd.size)
		}
	}
	return cmd.run(d, c.Index, payload)
}

// logCommand says that c ended with err.
func (d *Device) logCommand(c *abi.Cmd, err error) {
	name := "unknown"
	if c.Op < uint32(len(commands)) && commands[c.Op].run != nil {
		name = commands[c.Op].name
	}
	var guest *GuestError
	if errors.As(err, &guest) {
		d.log.Debug("admin command refused", "command", name, "index", c.Index, "error", err)
		return
	}
	if d.waits.Err() != nil { // the machine stops: its guest's command was cut short
		d.log.Debug("admin command interrupted", "command", name, "index", c.Index, "error", err)
		return
	}
	d.warn("admin command failed on the host", "command", name, "index", c.Index, "error", err)
}

// identify is IDENTIFY.
func (d *Device) identify(index uint32, _ []byte) ([]byte, error) {
	if index != 0 {
		return nil, guestErrorf(unix.EINVAL, "index %d: must be 0", index)
	}
	id := abi.Identity{
		Version:          abi.Version,
		Backend:          d.backend.Kind(),
		AddrBase:         d.addrBase(),
		NumRings:         uint32(len(d.rings)),
		NumVectors:       uint32(len(d.rings)),
		NumFiles:         uint32(len(d.files)),
		NumBuffers:       uint32(len(d.buffers)),
		MaxSQEntries:     d.maxEntries,
		MaxCQEntries:     2 * d.maxEntries,
		SetupFlags:       d.policy.SetupFlags,
		RingFeatures:     d.caps.Features,
		SQEFlags:         uint32(d.policy.SQEFlags),
		SQEFlagsRequired: uint32(d.policy.SQEFlagsRequired),
		MaxRingFiles:     uint32(d.caps.MaxFiles),
		MaxRingBuffers:   uint32(d.caps.MaxBuffers),
		Opcodes:          d.policy.Opcodes,
		OpcodesExtra:     d.caps.Extra,
	}
	abi.Text(id.Name[:], d.name)
	return abi.Encode(&id), nil
}

// fileInfo is FILE_INFO.
func (d *Device) fileInfo(index uint32, _ []byte) ([]byte, error) {
	if index >= uint32(len(d.files)) {
		return nil, guestErrorf(unix.EBADF, "file %d: there are %d", index, len(d.files))
	}
	f := &d.files[index]
	var size int64
	if f.Size != nil {
		var err error
		if size, err = f.Size(); err != nil {
			return nil, &HostError{"size of file " + f.Name, err}
		}
	}
	info := abi.File{
		Kind:           f.Kind,
		Size:           uint64(max(size, 0)),
		BlockSize:      f.BlockSize,
		DIOMemAlign:    1,
		DIOOffsetAlign: 1,
	}
	if f.ReadOnly {
		info.Flags |= abi.FileReadonly
	}
	if f.WriteOnly {
		info.Flags |= abi.FileWriteonly
	}
	if f.Unconnected {
		info.Flags |= abi.FileUnconnected
	}
	if f.BlockDevice {
		info.Flags |= abi.FileBlockdev
	}
	if f.Poll && d.policy.SetupFlags&hostring.SetupIOPoll != 0 {
		info.Flags |= abi.FilePoll
	}
	if f.Direct {
		info.Flags |= abi.FileDirect
		info.DIOMemAlign, info.DIOOffsetAlign = f.DIOMemAlign, f.DIOOffsetAlign
	}
	abi.Text(info.Name[:], f.Name)
	abi.Text(info.Serial[:], f.Serial)
	return abi.Encode(&info), nil
}

// bufferInfo is BUFFER_INFO.
func (d *Device) bufferInfo(index uint32, _ []byte) ([]byte, error) {
	if index >= uint32(len(d.buffers)) {
		return nil, guestErrorf(unix.EINVAL, "buffer %d: there are %d", index, len(d.buffers))
	}
	b := d.buffers[index]
	return abi.Encode(&abi.Range{Addr: uint64(b.Start), Len: b.Length}), nil
}

// resetCommand is RESET.
func (d *Device) resetCommand(index uint32, _ []byte) ([]byte, error) {
	if index != 0 {
		return nil, guestErrorf(unix.EINVAL, "index %d: must be 0", index)
	}
	return nil, d.reset(d.waits)
}

// reset ends all rings and clears FAILED.
func (d *Device) reset(ctx context.Context) error {
	if err := d.destroyAll(ctx); err != nil {
		return err
	}
	d.status.And(^uint32(abi.StatusFailed))
	return nil
}
