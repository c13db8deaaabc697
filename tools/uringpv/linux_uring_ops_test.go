// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/guest/uring"
)

func init() {
	programs["files"] = (*program).files
	programs["waits"] = (*program).waits
	programs["sockets"] = (*program).sockets
	programs["accepts"] = (*program).accepts
	programs["datagrams"] = (*program).datagrams
	programs["kinds"] = (*program).kinds
	programs["direct"] = (*program).direct
	programs["frames"] = (*program).frames
	programs["server"] = (*program).server
}

// put submits SQEs together; their user_data is their number, from first on.
func (p *program) put(r *uring.Ring, first uint64, sqes ...uring.SQE) {
	for i, sqe := range sqes {
		e, ok := r.SQE()
		if !ok {
			p.check(errors.New("the SQ ring is full"))
		}
		*e = sqe
		e.UserData = first + uint64(i)
	}
	n, err := r.Submit()
	p.check(err)
	if n != len(sqes) {
		p.errorf("Submit() = %d of %d", n, len(sqes))
	}
}

// take waits for n CQEs.
func (p *program) take(r *uring.Ring, n int) []uring.CQE {
	p.check(r.Wait(uint32(n)))
	cqes := make([]uring.CQE, n)
	cqes = cqes[:r.Reap(cqes)]
	if len(cqes) != n {
		p.errorf("%d CQEs of %d", len(cqes), n)
	}
	return cqes
}

// all submits SQEs together and returns their results in their order.
func (p *program) all(r *uring.Ring, sqes ...uring.SQE) []int32 {
	p.put(r, 0, sqes...)
	res := make([]int32, len(sqes))
	for _, c := range p.take(r, len(sqes)) {
		res[c.UserData] = c.Res
	}
	return res
}

func (p *program) same(what string, got []int32, want ...int32) {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		p.errorf("%s: %v, want %v", what, got, want)
	}
}

const (
	ecanceled = -int32(unix.ECANCELED)
	etime     = -int32(unix.ETIME)
	ebadf     = -int32(unix.EBADF)
	einval    = -int32(unix.EINVAL)
)

// exported is what a guest is told of a file.
type exported struct {
	Kind                         abi.FileKind
	Flags                        uint32
	Size                         uint64
	Block, MemAlign, OffsetAlign uint32
	Serial                       string
}

// kinds compares what is told of each file with args[0], the host's own view.
func (p *program) kinds(args []string) {
	var want map[string]exported
	p.check(json.Unmarshal([]byte(args[0]), &want))
	entries, err := os.ReadDir(uring.Directory)
	p.check(err)
	got := map[string]exported{}
	for _, e := range entries {
		f := p.file(e.Name(), os.O_RDONLY)
		info, err := uring.Info(f)
		p.check(err)
		p.check(f.Close())
		name, serial := abi.TextOf(info.Name[:]), abi.TextOf(info.Serial[:])
		if name != e.Name() {
			p.errorf("%s says that it is %q", e.Name(), name)
		}
		x := exported{info.Kind, info.Flags &^ abi.FilePoll, info.Size, info.BlockSize, info.DIOMemAlign, info.DIOOffsetAlign, serial}
		if want[name].Size != 0 {
			x.Serial = "" // of a file, which is not for a program
		}
		got[name] = x
	}
	for name := range want {
		if got[name] != want[name] {
			p.errorf("%s is %+v, want %+v", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		p.errorf("there are %d files, want %d", len(got), len(want))
	}
}

// direct reads the file "d", which the host has opened with O_DIRECT, for reading. It
// begins with args[0].
func (p *program) direct(args []string) {
	r := p.open(uring.Config{Entries: 4})
	f := p.file("d", os.O_RDWR)
	m := p.memory(8192)
	read := uring.SQE{Opcode: uring.OpRead, FD: int32(f.Fd()), Addr: uring.Addr(m), Len: 8192}
	p.want("READ", p.do(r, read), 8192)
	if !bytes.HasPrefix(m, []byte(args[0])) {
		p.errorf("the file begins with %q", m[:64])
	}
	read.Off = 1
	p.want("READ at an odd place", p.do(r, read), einval)
	p.want("WRITE", p.do(r, uring.SQE{Opcode: uring.OpWrite, FD: int32(f.Fd()), Addr: uring.Addr(m), Len: 8192}), ebadf)
	p.check(r.Close())
}

// etherTest is an Ethernet frame's type for experiments (IEEE 802).
const etherTest = 0x88b5

// frames sends an Ethernet frame, and gets the host's answer.
func (p *program) frames([]string) {
	r := p.open(uring.Config{Entries: 4})
	fd := int32(p.file("tap", os.O_RDWR).Fd())
	m := p.memory(8192)
	out, in := m[:60], m[4096:][:1600]
	clear(out)
	for i := range 6 {
		out[i] = 0xff
	}
	out[6] = 2 // from an address that is nobody's
	binary.BigEndian.PutUint16(out[12:], etherTest)
	copy(out[14:], "ping")
	write := uring.SQE{Opcode: uring.OpWrite, FD: fd, Addr: uring.Addr(out), Len: uint32(len(out))}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		res := p.do(r, write)
		if res == -int32(unix.EIO) && time.Now().Before(end) {
			continue // the host has not yet switched the interface on
		}
		p.want("WRITE of a frame", res, int32(len(out)))
		break
	}
	for range 100 { // the host's network may have things to say
		if n := p.do(r, uring.SQE{Opcode: uring.OpRead, FD: fd, Addr: uring.Addr(in), Len: uint32(len(in))}); n < 18 {
			p.errorf("READ of a frame: %d", n)
			break
		}
		if binary.BigEndian.Uint16(in[12:]) == etherTest && string(in[14:18]) == "pong" {
			p.check(r.Close())
			return
		}
	}
	p.errorf("the host has not answered")
}

// server has a ring with the extra opcodes and one without, for the host to see which
// backend serves them.
func (p *program) server([]string) {
	for _, c := range []uring.Config{{Entries: 8, NoExtra: true}, {Entries: 8}} {
		if c.NoExtra && p.backend() == backendPassthrough {
			if _, err := uring.Open("/dev/uringpv0", c); !errors.Is(err, unix.EOPNOTSUPP) {
				p.errorf("a ring without the extra opcodes: %v", err)
			}
			continue
		}
		r := p.open(c)
		p.want("NOP", p.do(r, deviceNop), 0)
		fmt.Printf("server: NoExtra is %v.\n", c.NoExtra)
		_, err := os.Stdin.Read(make([]byte, 1))
		p.check(err)
		p.check(r.Close())
	}
}

// exportSize is the size of the writable files that the host exports: for a ring of
// isolated's they are all of one.
const exportSize = 4 << 20

// files: chains, drains, FSYNC, SYNC_FILE_RANGE, FALLOCATE, silent successes, sparse
// tables on an exported file.
func (p *program) files([]string) {
	before := p.pinned()
	r := p.open(uring.Config{Entries: 16})
	f := p.file("f", os.O_RDWR)
	fd := int32(f.Fd())
	m := p.memory(1 << 20)
	data, back := m[:16<<10], m[64<<10:][:16<<10]
	random(data)
	at := func(op uint8, off uint64, b []byte) uring.SQE {
		return uring.SQE{Opcode: op, FD: fd, Off: off, Addr: uring.Addr(b), Len: uint32(len(b))}
	}
	link := func(s uring.SQE) uring.SQE { s.Flags |= uring.SQELink; return s }
	drain := func(s uring.SQE) uring.SQE { s.Flags |= uring.SQEDrain; return s }
	size := int32(len(data))
	fsync := uring.SQE{Opcode: uring.OpFsync, FD: fd, OpFlags: uring.FsyncDatasync}

	p.same("a chain", p.all(r, link(at(uring.OpWrite, 4096, data)), link(fsync), at(uring.OpRead, 4096, back)), size, 0, size)
	if !bytes.Equal(data, back) {
		p.errorf("a chain: other bytes")
	}
	p.same("a broken chain", p.all(r, link(uring.SQE{Opcode: uring.OpRead, FD: 999, Addr: uring.Addr(back), Len: 1}), link(fsync), fsync, fsync),
		ebadf, ecanceled, ecanceled, 0)
	// A read across the end is short, and a short one breaks a chain.
	p.same("a short read", p.all(r, link(at(uring.OpRead, exportSize-4096, back)), fsync), 4096, ecanceled)
	p.same("a hard link", p.all(r, uring.SQE{Opcode: uring.OpRead, Flags: uring.SQEHardlink, FD: fd, Off: exportSize - 4096, Addr: uring.Addr(back), Len: 8192}, fsync), 4096, 0)
	whole := p.open(uring.Config{Entries: 8, Flags: uring.SetupSubmitAll})
	p.same("a bad SQE in a chain", p.all(whole, link(fsync), link(uring.SQE{Opcode: 200}), fsync, fsync), ecanceled, einval, ecanceled, 0)
	p.check(whole.Close())
	for range 10 {
		p.put(r, 0, at(uring.OpWrite, 0, data), at(uring.OpWrite, 32<<10, data), drain(fsync), at(uring.OpRead, 0, back))
		// All before it come before it. The kernel begins what is behind it when it has
		// begun itself.
		order := slices.IndexFunc(p.take(r, 4), func(c uring.CQE) bool { return c.UserData == 2 })
		if order < 2 {
			p.errorf("a drain has the CQE number %d", order)
		}
	}
	p.copies(r, f)
	p.silent(r, fd)
	syncRange := uring.SQE{Opcode: uring.OpSyncFileRange, FD: fd, Off: 4096, Len: 8192, OpFlags: unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER}
	p.same("SYNC_FILE_RANGE", p.all(r, link(at(uring.OpWrite, 4096, data)), syncRange), size, 0)
	syncRange.OpFlags = 1 << 10
	p.want("SYNC_FILE_RANGE with unknown flags", p.do(r, syncRange), einval)
	syncRange.OpFlags, syncRange.Off = 0, 1<<63
	p.want("SYNC_FILE_RANGE from nowhere", p.do(r, syncRange), einval)
	p.inCall(fd, int32(p.file("p.read", os.O_RDONLY).Fd()), int32(p.file("p.write", os.O_WRONLY).Fd()))
	if !p.lacks(uring.OpFallocate) {
		const punch, keep = 2, 1
		p.want("FALLOCATE", p.do(r, uring.SQE{Opcode: uring.OpFallocate, FD: fd, Off: 4096, Addr: 8192, Len: punch | keep}), 0)
		p.want("READ of a hole", p.do(r, at(uring.OpRead, 4096, back)), size)
		if !bytes.Equal(back[:8192], make([]byte, 8192)) {
			p.errorf("a hole has bytes")
		}
		p.want("FALLOCATE past the end", p.do(r, uring.SQE{Opcode: uring.OpFallocate, FD: fd, Off: exportSize, Addr: 4096}), -int32(unix.EFBIG))
		ro := p.file("f", os.O_RDONLY)
		p.want("FALLOCATE of what is open for reading", p.do(r, uring.SQE{Opcode: uring.OpFallocate, FD: int32(ro.Fd()), Addr: 4096, Len: punch | keep}), ebadf)
	}
	p.want("WRITE past the end", p.do(r, at(uring.OpWrite, exportSize, data)), -int32(unix.EFBIG))

	// Tables that are filled later.
	p.check(r.RegisterBuffersSparse(4))
	fixed := func(i uint16, b []byte) uring.SQE {
		s := at(uring.OpReadFixed, 0, b)
		s.BufIndex = i
		return s
	}
	p.want("an empty buffer", p.do(r, fixed(2, back)), -int32(unix.EFAULT))
	if n, err := r.UpdateBuffers(2, [][]byte{back, data}); n != 2 || err != nil {
		p.errorf("UpdateBuffers: %d, %v", n, err)
	}
	if n := p.pinned() - before; n != 2*len(back)/4096 {
		p.errorf("%d pages are pinned for two buffers of %d bytes", n, len(back))
	}
	p.want("a buffer that was filled", p.do(r, fixed(2, back)), size)
	if n, err := r.UpdateBuffers(2, [][]byte{nil}); n != 1 || err != nil {
		p.errorf("UpdateBuffers: %d, %v", n, err)
	}
	p.want("a buffer that was emptied", p.do(r, fixed(2, back)), -int32(unix.EFAULT))
	p.want("the other buffer", p.do(r, fixed(3, data)), size)
	for _, off := range []uint32{4, 3, ^uint32(0)} {
		if _, err := r.UpdateBuffers(off, [][]byte{back, back}); !errors.Is(err, unix.EINVAL) {
			p.errorf("UpdateBuffers at %d: %v", off, err)
		}
	}
	p.check(r.UnregisterBuffers())
	if _, err := r.UpdateBuffers(0, [][]byte{back}); !errors.Is(err, unix.ENXIO) {
		p.errorf("UpdateBuffers of no table: %v", err)
	}
	p.check(r.Close())
	if n := p.pinned(); n != before {
		p.errorf("%d pages are pinned at the end, %d before", n, before)
	}
}

// copies copies from f to another file by a chain through one buffer, as READ and WRITE
// and with the buffer registered.
func (p *program) copies(r *uring.Ring, f *os.File) {
	g := p.file("g", os.O_RDWR)
	const size = 40 << 10
	m := p.memory(3 * size)
	data, via, back := m[:size], m[size:][:size], m[2*size:]
	at := func(op, flags uint8, f *os.File, off uint64, b []byte) uring.SQE {
		return uring.SQE{Opcode: op, Flags: flags, FD: int32(f.Fd()), Off: off, Addr: uring.Addr(b), Len: uint32(len(b))}
	}
	p.check(r.RegisterBuffers([][]byte{via}))
	for _, ops := range [][2]uint8{{uring.OpRead, uring.OpWrite}, {uring.OpReadFixed, uring.OpWriteFixed}} {
		random(data)
		random(via)
		clear(back)
		p.want("WRITE", p.do(r, at(uring.OpWrite, 0, f, 1<<20, data)), size)
		p.same("a copy", p.all(r, at(ops[0], uring.SQELink, f, 1<<20, via), at(ops[1], uring.SQELink, g, 2<<20, via),
			at(uring.OpRead, 0, g, 2<<20, back)), size, size, size)
		if !bytes.Equal(back, data) {
			p.errorf("a copy by the opcodes %d has other bytes", ops)
		}
	}
	p.check(r.UnregisterBuffers())
	p.check(g.Close())
}

// silent finds that what succeeds with CQE_SKIP_SUCCESS says nothing, and what fails does.
func (p *program) silent(r *uring.Ring, fd int32) {
	m := p.memory(4096)
	read := uring.SQE{Opcode: uring.OpRead, Flags: uring.SQECQESkipSuccess, FD: fd, Addr: uring.Addr(m), Len: 4096}
	fsync := uring.SQE{Opcode: uring.OpFsync, FD: fd}
	short, loud := read, fsync
	short.Off, short.UserData = exportSize-512, 1
	loud.Flags = uring.SQEDrain // when it has its CQE, those before it have ended
	says := func(what string, want []uring.CQE, sqes ...uring.SQE) {
		p.put(r, 0, append(sqes, loud)...)
		got := p.take(r, len(want)+1)
		if last := got[len(got)-1]; last.UserData != uint64(len(sqes)) {
			p.errorf("%s: the last CQE is %+v", what, last)
		}
		if got = got[:len(got)-1]; !slices.Equal(got, want) {
			p.errorf("%s: CQEs %+v, want %+v", what, got, want)
		}
		if n := r.Ready(); n != 0 {
			p.errorf("%s: %d CQEs more", what, n)
		}
	}
	linked := func(s uring.SQE) uring.SQE { s.Flags |= uring.SQELink; return s }
	says("a read", nil, read)
	says("three reads", nil, read, read, read)
	says("a chain", nil, linked(read), read)
	bad := read
	bad.FD = 999
	says("a bad file", []uring.CQE{{UserData: 1, Res: ebadf}}, read, bad)
	says("a short read", []uring.CQE{{UserData: 0, Res: 512}}, short)
	// A failure that would have been silent silences those that it cancels.
	says("a short read in a chain", []uring.CQE{{UserData: 0, Res: 512}}, linked(short), fsync)
}

// inCall: what needs no device has ended when the call returns, as in io_uring, by
// itself and in chains, and keeps its order to what does need it. fd is a file that
// can be read; in and out are the ends of an empty pipe.
func (p *program) inCall(fd, in, out int32) {
	r := p.open(uring.Config{Entries: 16, Flags: uring.SetupSubmitAll})
	nop := uring.SQE{Opcode: uring.OpNop}
	none := uring.SQE{Opcode: uring.OpRemoveBuffers, FD: 1}
	bad := uring.SQE{Opcode: uring.OpFsync, FD: 999}
	fsync := uring.SQE{Opcode: uring.OpFsync, FD: fd}
	with := func(s uring.SQE, flags uint8) uring.SQE { s.Flags |= flags; return s }
	link, hard := uring.SQELink, uring.SQEHardlink
	const enoent = -int32(unix.ENOENT)

	now := func(what string, want []int32, sqes ...uring.SQE) {
		p.put(r, 0, sqes...)
		var cqes [17]uring.CQE
		got := []int32{}
		for i, c := range cqes[:r.Reap(cqes[:])] {
			if c.UserData != uint64(i) {
				p.errorf("%s: the CQE of SQE %d is number %d", what, c.UserData, i)
			}
			got = append(got, c.Res)
		}
		p.same(what+", at once", got, want...)
	}
	now("NOPs", []int32{0, 0, 0}, nop, nop, nop)
	now("a chain of NOPs", []int32{0, 0}, with(nop, link), nop)
	now("a chain that the call ends", []int32{0, 0}, with(nop, link), with(nop, link))
	now("no buffers", []int32{enoent}, none)
	now("no buffers, in a chain", []int32{0, enoent, ecanceled, ecanceled, 0}, with(nop, link), with(none, link), with(nop, link), nop, nop)
	now("a hard link", []int32{enoent, 0, ebadf, ecanceled}, with(none, hard), with(nop, link), with(bad, link), nop)
	now("a bad SQE at a chain's end", []int32{ecanceled, einval, 0}, with(nop, link), uring.SQE{Opcode: uring.OpRemoveBuffers}, nop)
	now("a success that says nothing", []int32{}, with(nop, uring.SQECQESkipSuccess))
	for _, sqe := range []uring.SQE{
		{FD: 0}, {FD: 65537}, {FD: -1}, {FD: 1, Len: 1}, {FD: 1, Addr: 1}, {FD: 1, Off: 1}, {FD: 1, OpFlags: 1}, {FD: 1, FileIndex: 1},
	} {
		sqe.Opcode = uring.OpRemoveBuffers
		p.want(fmt.Sprintf("REMOVE_BUFFERS %+v", sqe), p.do(r, sqe), einval)
	}

	// Chains with a request for the device, and what asks to be done elsewhere.
	p.same("a chain to the device", p.all(r, with(nop, link), with(fsync, link), nop), 0, 0, 0)
	p.same("a NOP of a worker's", p.all(r, with(nop, uring.SQEAsync)), 0)
	ts := p.memory(4096)[:16]
	binary.LittleEndian.PutUint64(ts, 600)
	count := uring.SQE{Opcode: uring.OpTimeout, Addr: uring.Addr(ts), Len: 1, Off: 2}
	p.same("a timeout that counts", p.all(r, count, nop, none), 0, 0, enoent)
	now("a NOP after it", []int32{0}, nop)
	for range 10 {
		p.put(r, 0, fsync, with(fsync, uring.SQEDrain), nop, none)
		cqes := p.take(r, 4)
		first := slices.IndexFunc(cqes, func(c uring.CQE) bool { return c.UserData == 0 })
		for _, later := range []uint64{1, 2, 3} {
			if i := slices.IndexFunc(cqes, func(c uring.CQE) bool { return c.UserData == later }); i < first {
				p.errorf("a drain, and what comes after it: %+v", cqes)
			}
		}
		// The drain is over.
		now("a NOP after a drain", []int32{0}, nop)
	}

	// A drain in a chain, which ends when the pipe is written to.
	m := p.memory(4096)
	read := uring.SQE{Opcode: uring.OpRead, FD: in, Addr: uring.Addr(m), Len: 5}
	write := uring.SQE{Opcode: uring.OpWrite, FD: out, Addr: uring.Addr(m[100:]), Len: 5}
	p.put(r, 0, with(nop, link), with(fsync, link|uring.SQEDrain), read)
	cqes := p.take(r, 2)
	p.put(r, 3, nop, none)
	time.Sleep(50 * time.Millisecond)
	if n := r.Ready(); n != 0 {
		p.errorf("%d requests overtake a chain with a drain, of which %+v has ended", n, cqes)
	}
	other := p.open(uring.Config{Entries: 4})
	p.want("WRITE", p.do(other, write), 5)
	p.check(other.Close())
	res := map[uint64]int32{}
	for _, c := range p.take(r, 3) {
		res[c.UserData] = c.Res
	}
	if res[2] != 5 || res[3] != 0 || res[4] != enoent {
		p.errorf("a chain with a drain, and what comes after it: %v", res)
	}
	now("a NOP after it", []int32{0}, nop)
	p.check(r.Close())
}

// waits: polls, timeouts and cancellation, on a pipe and an eventfd of the host's.
func (p *program) waits([]string) {
	before := p.pinned()
	r := p.open(uring.Config{Entries: 16})
	rd, wr, e := p.file("p.read", os.O_RDONLY), p.file("p.write", os.O_WRONLY), p.file("e", os.O_RDWR)
	in, out := int32(rd.Fd()), int32(wr.Fd())
	m := p.memory(4 * 4096)
	b, ts := m[:64], m[4096:][:16]
	after := func(d time.Duration) uint64 {
		binary.LittleEndian.PutUint64(ts, uint64(d/time.Second))
		binary.LittleEndian.PutUint64(ts[8:], uint64(d%time.Second))
		return uring.Addr(ts)
	}
	read := uring.SQE{Opcode: uring.OpRead, FD: in, Addr: uring.Addr(b), Len: 5}
	write := uring.SQE{Opcode: uring.OpWrite, FD: out, Addr: uring.Addr(m[8192:]), Len: 5}
	p.want("WRITE to a pipe's end for reading", p.do(r, uring.SQE{Opcode: uring.OpWrite, FD: in, Addr: uring.Addr(b), Len: 5}), ebadf)

	// Polls.
	poll := uring.SQE{Opcode: uring.OpPollAdd, FD: in, OpFlags: unix.POLLIN}
	p.put(r, 1, poll)
	time.Sleep(20 * time.Millisecond)
	if r.Ready() != 0 {
		p.errorf("an empty pipe can be read")
	}
	p.put(r, 2, write)
	for _, c := range p.take(r, 2) {
		if c.UserData == 1 && (c.Res&unix.POLLIN == 0 || c.Flags&uring.CQEMore != 0) || c.UserData == 2 && c.Res != 5 {
			p.errorf("POLL_ADD: %+v", c)
		}
	}
	p.want("READ", p.do(r, read), 5)
	multi := poll
	multi.Len = uring.PollAddMulti
	p.put(r, 10, multi)
	for i := range 3 {
		p.put(r, 2, write)
		for _, c := range p.take(r, 2) {
			if c.UserData == 10 && c.Flags&uring.CQEMore == 0 {
				p.errorf("multishot poll, event %d: %+v", i, c)
			}
		}
		p.want("READ", p.do(r, read), 5)
	}
	p.put(r, 11, uring.SQE{Opcode: uring.OpPollRemove, Addr: 10})
	for _, c := range p.take(r, 2) {
		if c.UserData == 11 && c.Res != 0 || c.UserData == 10 && (c.Res != ecanceled || c.Flags&uring.CQEMore != 0) {
			p.errorf("POLL_REMOVE: %+v", c)
		}
	}
	p.want("POLL_REMOVE of nothing", p.do(r, uring.SQE{Opcode: uring.OpPollRemove, Addr: 10}), -int32(unix.ENOENT))

	// Timeouts.
	begin := time.Now()
	p.want("TIMEOUT", p.do(r, uring.SQE{Opcode: uring.OpTimeout, Addr: after(50 * time.Millisecond), Len: 1}), etime)
	if d := time.Since(begin); d < 40*time.Millisecond {
		p.errorf("TIMEOUT of 50 ms after %v", d)
	}
	clock := func() time.Duration {
		var now unix.Timespec
		p.check(unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
		return time.Duration(now.Nano())
	}
	at := clock() + 50*time.Millisecond
	p.want("TIMEOUT at a time", p.do(r, uring.SQE{Opcode: uring.OpTimeout, Addr: after(at), Len: 1, OpFlags: uring.TimeoutAbs}), etime)
	// The host's clock measures what is left, and may be a little faster.
	if d := clock() - at; d < -10*time.Millisecond || d > 30*time.Second {
		p.errorf("TIMEOUT at a time was %v late", d)
	}
	p.want("TIMEOUT by two clocks", p.do(r, uring.SQE{Opcode: uring.OpTimeout, Addr: after(0), Len: 1, OpFlags: uring.TimeoutAbs | uring.TimeoutBoottime | uring.TimeoutRealtime}), einval)
	if !p.lacks(uring.OpTimeoutRemove) {
		p.removed(r, after)
	}
	linked := read
	linked.Flags = uring.SQELink
	p.same("LINK_TIMEOUT", p.all(r, linked, uring.SQE{Opcode: uring.OpLinkTimeout, Addr: after(30 * time.Millisecond), Len: 1}), ecanceled, etime)
	p.want("WRITE", p.do(r, write), 5)
	p.same("LINK_TIMEOUT in time", p.all(r, linked, uring.SQE{Opcode: uring.OpLinkTimeout, Addr: after(time.Hour), Len: 1}), 5, ecanceled)

	// Cancellation.
	cancel := func(what string, sqe uring.SQE) {
		p.put(r, 30, read)
		p.put(r, 31, sqe)
		for _, c := range p.take(r, 2) {
			if c.UserData == 30 && c.Res != ecanceled || c.UserData == 31 && c.Res < 0 {
				p.errorf("%s: %+v", what, c)
			}
		}
	}
	cancel("ASYNC_CANCEL", uring.SQE{Opcode: uring.OpAsyncCancel, Addr: 30})
	cancel("ASYNC_CANCEL of a file", uring.SQE{Opcode: uring.OpAsyncCancel, FD: in, OpFlags: uring.AsyncCancelFD})
	cancel("ASYNC_CANCEL of any", uring.SQE{Opcode: uring.OpAsyncCancel, OpFlags: uring.AsyncCancelAny})
	p.want("ASYNC_CANCEL of nothing", p.do(r, uring.SQE{Opcode: uring.OpAsyncCancel, Addr: 30}), -int32(unix.ENOENT))

	// What was registered, or open, when a read of it began may go before it ends.
	p.gone(r, read, write)

	// An eventfd of the host's: reads of what was written.
	binary.LittleEndian.PutUint64(b, 41)
	p.want("WRITE to an eventfd", p.do(r, uring.SQE{Opcode: uring.OpWrite, FD: int32(e.Fd()), Addr: uring.Addr(b), Len: 8}), 8)
	clear(b)
	p.want("READ of an eventfd", p.do(r, uring.SQE{Opcode: uring.OpRead, FD: int32(e.Fd()), Addr: uring.Addr(b), Len: 8}), 8)
	if n := binary.LittleEndian.Uint64(b); n != 41 {
		p.errorf("the eventfd has %d", n)
	}

	// What waits for ever ends with the ring, and its pages are let go.
	for i := range 8 {
		p.put(r, uint64(40+i), read)
	}
	p.check(r.Close())
	if n := p.pinned(); n != before {
		p.errorf("%d pages are pinned at the end, %d before", n, before)
	}
}

// gone begins reads of the pipe by an entry of a table, and by a descriptor, and takes
// these away: the reads go on, new ones find nothing.
func (p *program) gone(r *uring.Ring, read, write uring.SQE) {
	ends := func(what string, takeAway func()) {
		time.Sleep(20 * time.Millisecond)
		if n := r.Ready(); n != 0 {
			p.errorf("%s: a read of an empty pipe has ended, in %+v", what, p.take(r, 1))
		}
		takeAway()
		p.put(r, 2, write)
		for _, c := range p.take(r, 2) {
			if c.Res != 5 {
				p.errorf("%s: %+v, want 5 bytes", what, c)
			}
		}
	}
	pipe := p.file("p.read", os.O_RDONLY)
	fixed := read
	fixed.Flags, fixed.FD = uring.SQEFixedFile, 1
	for what, takeAway := range map[string]func(){
		"UNREGISTER_FILES": func() { p.check(r.UnregisterFiles()) },
		"FILES_UPDATE": func() {
			if n, err := r.UpdateFiles(1, []*os.File{nil}); n != 1 || err != nil {
				p.errorf("UpdateFiles: %d, %v", n, err)
			}
		},
	} {
		p.check(r.RegisterFiles([]*os.File{nil, pipe}))
		p.put(r, 1, fixed)
		ends(what, takeAway)
		p.want("a read after "+what, p.do(r, fixed), ebadf)
		_ = r.UnregisterFiles() // there may be no table
	}

	// A table holds a file that was closed.
	p.check(r.RegisterFiles([]*os.File{nil, pipe}))
	open := read
	open.FD = int32(pipe.Fd())
	p.put(r, 1, open)
	ends("close", func() { p.check(pipe.Close()) })
	p.want("a read of a closed file", p.do(r, open), ebadf)
	p.put(r, 1, fixed)
	ends("close of a registered file", func() {})
	p.check(r.UnregisterFiles())
}

// removed ends a TIMEOUT, and changes one.
func (p *program) removed(r *uring.Ring, after func(time.Duration) uint64) {
	p.put(r, 20, uring.SQE{Opcode: uring.OpTimeout, Addr: after(time.Hour), Len: 1})
	p.put(r, 21, uring.SQE{Opcode: uring.OpTimeoutRemove, Addr: 20})
	for _, c := range p.take(r, 2) {
		if c.UserData == 20 && c.Res != ecanceled || c.UserData == 21 && c.Res != 0 {
			p.errorf("TIMEOUT_REMOVE: %+v", c)
		}
	}
	p.put(r, 22, uring.SQE{Opcode: uring.OpTimeout, Addr: after(time.Hour), Len: 1})
	time.Sleep(20 * time.Millisecond) // the time has been read
	p.put(r, 23, uring.SQE{Opcode: uring.OpTimeoutRemove, Addr: 22, Off: after(time.Millisecond), OpFlags: uring.TimeoutUpdate})
	for _, c := range p.take(r, 2) {
		if c.UserData == 22 && c.Res != etime || c.UserData == 23 && c.Res != 0 {
			p.errorf("a TIMEOUT that is changed: %+v", c)
		}
	}
}

// message is a struct msghdr for parts of memory, at b.
func message(b []byte, parts ...[]byte) uint64 {
	v := iovecs(parts...)
	copy(b[64:], v)
	clear(b[:64])
	copy(b[16:], le64(nil, uring.Addr(b[64:]), uint64(len(parts))))
	return uring.Addr(b)
}

// sockets talks to the host's echo server, by a socket that is connected and by one
// that it connects to the address args[0].
func (p *program) sockets(args []string) {
	before := p.pinned()
	r := p.open(uring.Config{Entries: 16})
	m := p.memory(16 * 4096)
	hello, back, msg, name := m[4090:][:12], m[3*4096:][:4096], m[8*4096:][:4096], m[10*4096:][:128]
	talk := func(fd int32) {
		copy(hello, "hello, world")
		p.want("SEND", p.do(r, uring.SQE{Opcode: uring.OpSend, FD: fd, Addr: uring.Addr(hello), Len: 12}), 12)
		p.want("RECV", p.do(r, uring.SQE{Opcode: uring.OpRecv, FD: fd, Addr: uring.Addr(back[10:]), Len: 12, OpFlags: unix.MSG_WAITALL}), 12)
		if !bytes.Equal(back[10:22], hello) {
			p.errorf("the echo is %q", back[10:22])
		}
		p.want("SENDMSG", p.do(r, uring.SQE{Opcode: uring.OpSendmsg, FD: fd, Addr: message(msg, hello[7:], nil, hello[:5]), Len: 1}), 10)
		clear(back)
		p.want("RECVMSG", p.do(r, uring.SQE{Opcode: uring.OpRecvmsg, FD: fd, Addr: message(msg, back[:3], back[100:107]), Len: 1, OpFlags: unix.MSG_WAITALL}), 10)
		if got := string(back[:3]) + string(back[100:107]); got != "worldhello" {
			p.errorf("the echo of a message is %q", got)
		}
		p.want("WRITE", p.do(r, uring.SQE{Opcode: uring.OpWrite, FD: fd, Addr: uring.Addr(hello), Len: 5}), 5)
		p.want("RECVMSG of no memory", p.do(r, uring.SQE{Opcode: uring.OpRecvmsg, FD: fd, Addr: message(msg), Len: 1}), 0)
		p.want("READ", p.do(r, uring.SQE{Opcode: uring.OpRead, FD: fd, Addr: uring.Addr(back), Len: 100}), 5)
		// A control message and another's address.
		at := message(msg, hello)
		copy(msg[32:], le64(nil, uring.Addr(back), 64))
		p.want("SENDMSG with a control message", p.do(r, uring.SQE{Opcode: uring.OpSendmsg, FD: fd, Addr: at, Len: 1}), einval)
		p.want("SENDMSG from nowhere", p.do(r, uring.SQE{Opcode: uring.OpSendmsg, FD: fd, Addr: 4096, Len: 1}), -int32(unix.EFAULT))
		at = message(msg, hello)
		copy(msg[24:], le64(nil, 1<<40))
		p.want("SENDMSG of too many iovecs", p.do(r, uring.SQE{Opcode: uring.OpSendmsg, FD: fd, Addr: at, Len: 1}), -int32(unix.EMSGSIZE))
		if p.lacks(uring.OpShutdown) {
			return
		}
		p.want("SHUTDOWN", p.do(r, uring.SQE{Opcode: uring.OpShutdown, FD: fd, Len: unix.SHUT_WR}), 0)
		p.want("RECV at the end", p.do(r, uring.SQE{Opcode: uring.OpRecv, FD: fd, Addr: uring.Addr(back), Len: 100}), 0)
	}
	talk(int32(p.file("echo", os.O_RDWR).Fd()))
	talk(int32(p.file("tcp", os.O_RDWR).Fd()))
	if p.lacks(uring.OpConnect) {
		p.check(r.Close())
		return
	}
	later := int32(p.file("later", os.O_RDWR).Fd())
	address := func(s string) uring.SQE {
		n := copy(name[2:], strings.Replace(s, "@", "\x00", 1))
		binary.LittleEndian.PutUint16(name, unix.AF_UNIX)
		return uring.SQE{Opcode: uring.OpConnect, FD: later, Addr: uring.Addr(name), Off: uint64(2 + n)}
	}
	p.want("CONNECT to another", p.do(r, address(args[0]+"x")), -int32(unix.EACCES))
	p.want("CONNECT", p.do(r, address(args[0])), 0)
	talk(later)
	p.check(r.Close())
	if n := p.pinned(); n != before {
		p.errorf("%d pages are pinned at the end, %d before", n, before)
	}
}

// datagrams talks to the host's echo server of datagrams, whose address ends in the
// port args[0].
func (p *program) datagrams(args []string) {
	port, err := strconv.Atoi(args[0])
	p.check(err)
	before := p.pinned()
	r := p.open(uring.Config{Entries: 16})
	m := p.memory(16 * 4096)
	long, back, msg, name := m[4090:][:9000], m[5*4096:][:9000], m[8*4096:][:4096], m[10*4096:][:128]
	fd := int32(p.file("datagrams", os.O_RDWR).Fd())
	random(long)
	send := func(b []byte) {
		p.want("SEND", p.do(r, uring.SQE{Opcode: uring.OpSend, FD: fd, Addr: uring.Addr(b), Len: uint32(len(b))}), int32(len(b)))
	}

	// Each is one, however long; what comes is whole, or cut and said to be so.
	send(long)
	send(long[:1])
	p.want("RECV", p.do(r, uring.SQE{Opcode: uring.OpRecv, FD: fd, Addr: uring.Addr(back), Len: 9000}), 9000)
	if !bytes.Equal(back, long) {
		p.errorf("a datagram's echo has other bytes")
	}
	p.want("RECV of the next", p.do(r, uring.SQE{Opcode: uring.OpRecv, FD: fd, Addr: uring.Addr(back), Len: 9000}), 1)
	at := message(msg, long[:3], long[10:20])
	p.want("SENDMSG", p.do(r, uring.SQE{Opcode: uring.OpSendmsg, FD: fd, Addr: at, Len: 1}), 13)
	at = message(msg, back[:4], back[100:104])
	copy(msg, le64(nil, uring.Addr(name), 128))
	p.want("RECVMSG of a part", p.do(r, uring.SQE{Opcode: uring.OpRecvmsg, FD: fd, Addr: at, Len: 1}), 8)
	if flags := binary.LittleEndian.Uint32(msg[48:]); flags&unix.MSG_TRUNC == 0 {
		p.errorf("a datagram that was cut has the flags %#x", flags)
	}
	if got := string(back[:4]) + string(back[100:104]); got != string(long[:3])+string(long[10:15]) {
		p.errorf("the echo of a message is %q", got)
	}
	if n := binary.LittleEndian.Uint32(msg[8:]); n != unix.SizeofSockaddrInet4 || binary.LittleEndian.Uint16(name) != unix.AF_INET ||
		int(binary.BigEndian.Uint16(name[2:])) != port {
		p.errorf("it comes from %x, %d bytes", name[:16], n)
	}
	p.want("SEND of nothing", p.do(r, uring.SQE{Opcode: uring.OpSend, FD: fd, Addr: uring.Addr(long)}), 0)
	p.want("RECV of nothing", p.do(r, uring.SQE{Opcode: uring.OpRecv, FD: fd, Addr: uring.Addr(back), Len: 10}), 0)
	p.check(r.Close())
	if n := p.pinned(); n != before {
		p.errorf("%d pages are pinned at the end, %d before", n, before)
	}
}

// accepts serves the host's clients: each says "ping", and wants "pong" and the end.
func (p *program) accepts([]string) {
	before := p.pinned()
	r := p.open(uring.Config{Entries: 16})
	m := p.memory(4 * 4096)
	b, pong, name, length := m[:64], m[64:68], m[4096:][:128], m[8190:][:4]
	copy(pong, "pong")
	door := p.file("door", os.O_RDWR)
	accept := uring.SQE{Opcode: uring.OpAccept, FD: int32(door.Fd())}
	into := func(index uint32) uring.SQE { s := accept; s.FileIndex = index; return s }
	recv := func(slot int32) uring.SQE {
		return uring.SQE{Opcode: uring.OpRecv, Flags: uring.SQEFixedFile, FD: slot, Addr: uring.Addr(b), Len: 4}
	}
	send := func(slot int32) uring.SQE {
		return uring.SQE{Opcode: uring.OpSend, Flags: uring.SQEFixedFile, FD: slot, Addr: uring.Addr(pong), Len: 4}
	}
	link := func(s uring.SQE) uring.SQE { s.Flags |= uring.SQELink; return s }
	closing := func(slot uint32) uring.SQE { return uring.SQE{Opcode: uring.OpClose, FileIndex: slot + 1} }
	takeOut := func(slot uint32) {
		if n, err := r.UpdateFiles(slot, []*os.File{nil}); n != 1 || err != nil {
			p.errorf("UpdateFiles: %d, %v", n, err)
		}
	}

	p.want("ACCEPT without a table", p.do(r, into(1)), -int32(unix.ENXIO))
	p.check(r.RegisterFilesSparse(8))
	p.want("ACCEPT of a descriptor", p.do(r, accept), einval)
	p.want("ACCEPT past the table", p.do(r, into(9)), einval)
	multi := into(uring.FileIndexAlloc)
	multi.IOPrio = 1
	p.want("ACCEPT of many", p.do(r, multi), einval)

	// One by one.
	p.want("ACCEPT into 1", p.do(r, into(2)), 0)
	p.want("RECV", p.do(r, recv(1)), 4)
	if string(b[:4]) != "ping" {
		p.errorf("the client says %q", b[:4])
	}
	p.want("SEND", p.do(r, send(1)), 4)
	if p.lacks(uring.OpClose) {
		takeOut(1)
	} else {
		p.want("CLOSE", p.do(r, closing(1)), 0)
		p.want("CLOSE again", p.do(r, closing(1)), ebadf)
	}
	p.want("RECV of what was closed", p.do(r, recv(1)), ebadf)

	// As a chain; the place is the driver's choice, which is the first.
	chain := []uring.SQE{link(into(uring.FileIndexAlloc)), link(recv(0)), send(0)}
	if p.lacks(uring.OpClose) {
		p.same("a client in a chain", p.all(r, chain...), 0, 4, 4)
		takeOut(0)
	} else {
		chain[2] = link(chain[2])
		p.same("a client in a chain", p.all(r, append(chain, closing(0))...), 0, 4, 4, 0)
	}

	// With an address, and closed by taking it out of the table.
	binary.LittleEndian.PutUint32(length, 128)
	named := into(4)
	named.Addr, named.Off = uring.Addr(name), uring.Addr(length)
	p.want("ACCEPT with an address", p.do(r, named), 0)
	if n := binary.LittleEndian.Uint32(length); n != 2 || binary.LittleEndian.Uint16(name) != unix.AF_UNIX {
		p.errorf("the client's address has %d bytes: %x", n, name[:16])
	}
	p.same("a client", p.all(r, link(recv(3)), send(3)), 4, 4)
	takeOut(3)
	p.want("RECV of what was taken out", p.do(r, recv(3)), ebadf)
	binary.LittleEndian.PutUint32(length, ^uint32(0))
	p.want("ACCEPT with an address of no length", p.do(r, named), einval)
	named.Off = 4096
	p.want("ACCEPT with a length nowhere", p.do(r, named), -int32(unix.EFAULT))

	// Over one that is there: that ends. Then the table, and with the ring the last.
	p.same("a client", p.all(r, link(into(5)), link(recv(4)), send(4)), 0, 4, 4)
	p.same("a client over another", p.all(r, link(into(5)), link(uring.SQE{Opcode: uring.OpNop})), 0, 0)
	p.same("the other client", p.all(r, link(recv(4)), send(4)), 4, 4)
	p.check(r.UnregisterFiles())
	p.check(r.RegisterFilesSparse(2))
	p.put(r, 1, into(1))
	p.put(r, 2, uring.SQE{Opcode: uring.OpAsyncCancel, Addr: 1})
	canceled := false
	for _, c := range p.take(r, 2) {
		canceled = canceled || c.UserData == 1 && c.Res == ecanceled
	}
	if !canceled { // a client was there already
		p.errorf("an ACCEPT was not cancelled")
	}
	fmt.Println("accepts: the last client may come")
	p.want("ACCEPT of the last", p.do(r, into(1)), 0)
	p.same("the last client", p.all(r, link(recv(0)), send(0)), 4, 4)

	if !p.lacks(uring.OpClose) {
		// Entries of a file that the host exports are closed as well, the file is not.
		f := p.file("f", os.O_RDWR)
		if n, err := r.UpdateFiles(1, []*os.File{f}); n != 1 || err != nil {
			p.errorf("UpdateFiles: %d, %v", n, err)
		}
		fsync := uring.SQE{Opcode: uring.OpFsync, Flags: uring.SQEFixedFile, FD: 1}
		p.same("CLOSE of a file's entry", p.all(r, link(fsync), link(closing(1)), uring.SQE{Opcode: uring.OpNop}), 0, 0, 0)
		p.want("FSYNC of a closed entry", p.do(r, fsync), ebadf)
		p.want("FSYNC of the file", p.do(r, uring.SQE{Opcode: uring.OpFsync, FD: int32(f.Fd())}), 0)
	}
	p.check(r.Close())
	if n := p.pinned(); n != before {
		p.errorf("%d pages are pinned at the end, %d before", n, before)
	}
}

// echoes serves connections until the test ends, and returns its address, of no file.
func echoes(t testing.TB) string {
	t.Helper()
	return echoesOn(t, "unix", fmt.Sprintf("@upv-echo-%d", os.Getpid()))
}

func echoesOn(t testing.TB, network, name string) (address string) {
	t.Helper()
	l, err := net.Listen(network, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

// echoesDatagrams sends each datagram back, and returns its address and port.
func echoesDatagrams(t *testing.T) (address string, port int) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(b[:n], from)
		}
	}()
	return c.LocalAddr().String(), c.LocalAddr().(*net.UDPAddr).Port
}

// client connects to name, says "ping", and is served.
func client(name string) error {
	var c net.Conn
	var err error
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if c, err = net.Dial("unix", name); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err != nil || string(b) != "pong" {
		return fmt.Errorf("the guest says %q, %v", b, err)
	}
	return nil
}

// answersFrames switches the network interface ifname on when it is there, and answers
// the guest's frame.
func answersFrames(ifname string) error {
	const proto = etherTest>>8 | etherTest&0xff<<8 // as packet(7) wants it
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(ifname)
	if err != nil {
		return err
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err == nil {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: %w", ifname, err)
		}
	}
	at := unix.SockaddrLinklayer{Protocol: proto, Ifindex: int(ifr.Uint32())}
	if err := unix.Bind(fd, &at); err != nil {
		return err
	}
	limit := unix.NsecToTimeval((2 * time.Minute).Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("switch %s on: %w", ifname, err)
	}
	b := make([]byte, 1600)
	var n int
	for {
		// ENETDOWN is of before it was switched on.
		if n, _, err = unix.Recvfrom(fd, b, 0); err != unix.EINTR && err != unix.ENETDOWN {
			break
		}
	}
	if err != nil || n < 18 || string(b[14:18]) != "ping" {
		return fmt.Errorf("the guest's frame is %q, %v", b[:max(n, 0)], err)
	}
	copy(b[14:], "pong")
	return unix.Sendto(fd, b[:n], 0, &at)
}

// exports are a device that carries exports of every kind, and no disk. ring is how
// programs' rings are made: "", or "own".
func exports(t *testing.T, r linuxRun, ring string) {
	r.withProgram(t)
	dir := t.TempDir()
	path := func(name string, content []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	const hello = "hello from a file that is read with O_DIRECT"
	f, g := path("f", make([]byte, exportSize)), path("g", make([]byte, exportSize))
	d := path("d", append([]byte(hello), make([]byte, 64<<10-len(hello))...))
	datagrams, port := echoesDatagrams(t)
	echo, door := echoes(t), fmt.Sprintf("@upv-door-%d", os.Getpid())
	tcp, tap := echoesOn(t, "tcp", "127.0.0.1:0"), fmt.Sprintf("upv%d", os.Getpid()%1_000_000)
	r.args = []string{
		"--export-backend", r.backend, "--file", "name=f,path=" + f, "--file", "name=g,path=" + g,
		"--file", "name=d,path=" + d + ",readonly=on,direct=on", "--pipe", "name=p", "--eventfd", "name=e",
		"--socket", "name=echo,unix=" + echo, "--socket", "name=later,unix=" + echo + ",connect=guest", "--socket", "name=tcp,tcp=" + tcp,
		"--socket", "name=door,unix=" + door + ",listen=on", "--tap", "name=tap,ifname=" + tap, "--socket", "name=datagrams,udp=" + datagrams,
	}
	if r.backend == backendIsolated {
		// It does not look at messages, which may have an address of their own.
		r.args[len(r.args)-1] += ",peer=any"
	}
	want, err := json.Marshal(map[string]exported{
		"f":         {abi.FileRegular, 0, exportSize, 512, 1, 1, ""},
		"g":         {abi.FileRegular, 0, exportSize, 512, 1, 1, ""},
		"d":         directFile(t, d),
		"p.read":    {abi.FilePipe, abi.FileReadonly, 0, 1, 1, 1, ""},
		"p.write":   {abi.FilePipe, abi.FileWriteonly, 0, 1, 1, 1, ""},
		"e":         {abi.FileEventfd, 0, 0, 1, 1, 1, ""},
		"echo":      {abi.FileStream, 0, 0, 1, 1, 1, echo},
		"later":     {abi.FileStream, abi.FileUnconnected, 0, 1, 1, 1, echo},
		"tcp":       {abi.FileStream, 0, 0, 1, 1, 1, tcp},
		"door":      {abi.FileListener, 0, 0, 1, 1, 1, door},
		"datagrams": {abi.FileDgram, 0, 0, 1, 1, 1, datagrams},
		"tap":       {abi.FileTap, 0, 0, 1, 1, 1, tap},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.script = `set -e
		export RING=` + ring + `
		` + pins + `
		before=$(pins)
		ls -l /dev/uringpv0 /dev/uringpv/
		test -e /dev/upv0 && exit 1
		/uring-guest kinds '` + string(want) + `'
		/uring-guest server
		/uring-guest mediated f
		/uring-guest files
		/uring-guest direct '` + hello + `'
		/uring-guest waits
		/uring-guest frames
		/uring-guest sockets ` + echo + `
		/uring-guest datagrams ` + strconv.Itoa(port) + `
		/uring-guest accepts
		/uring-guest exec p.read
		test "$(pins)" = "$before"
		cat /sys/kernel/debug/uringpv-*/programs
		rmmod uringpv
		insmod /lib/modules/uringpv.ko
		/uring-guest files`
	served := make(chan error, 2)
	go func() {
		var clients errgroup.Group
		for range 5 {
			clients.Go(func() error { return client(door) })
		}
		err := clients.Wait()
		time.Sleep(3 * time.Second) // an ACCEPT is to be cancelled before the last one comes
		if err == nil {
			err = client(door)
		}
		served <- err
	}()
	go func() { served <- answersFrames(tap) }()
	s := r.startSession(t)
	// NoExtra is passthrough's to refuse, and makes no difference to the relay.
	for _, noExtra := range []bool{true, false} {
		if noExtra && r.backend == backendPassthrough {
			continue
		}
		s.expect(fmt.Sprintf("server: NoExtra is %v.", noExtra))
		want := 0
		if r.backend == backendIsolated && (noExtra || ring == "own") {
			want = 1
		}
		if pids := owners(t, s.Process.Pid); len(pids) != want {
			t.Errorf("NoExtra %v: the ring has %d owners, want %d", noExtra, len(pids), want)
		}
		s.send("")
	}
	status, console := s.end()
	if status != 0 || !strings.Contains(console, "init: run: exit 0") {
		t.Errorf("exit status %d\n%s\n%s", status, console, &s.stderr)
	}
	if strings.Contains(s.stderr.String(), "served by the slower backend") {
		t.Errorf("a ring is not served by the backend that was asked for: %s", &s.stderr)
	}
	for range cap(served) {
		if err := <-served; err != nil {
			t.Errorf("the guest's peer: %v", err)
		}
	}
}

// directFile is what a guest is told of a file that is open with O_DIRECT for reading.
func directFile(t *testing.T, path string) exported {
	t.Helper()
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_DIOALIGN|unix.STATX_SIZE, &st); err != nil {
		t.Fatal(err)
	}
	mem, offset := st.Dio_mem_align, st.Dio_offset_align
	if st.Mask&unix.STATX_DIOALIGN == 0 { // what is right for every file system
		mem, offset = 4096, 4096
	}
	return exported{abi.FileRegular, abi.FileReadonly | abi.FileDirect, st.Size, max(512, offset), mem, offset, ""}
}

func TestLinuxProgramsUseExports(t *testing.T) {
	eachLinuxRings(t, backendPassthrough, []int{2}, func(t *testing.T, r linuxRun) { exports(t, r, "") })
}

// The same on isolated, without the opcodes for which the relay would serve the rings.
func TestLinuxProgramsUseIsolatedRings(t *testing.T) {
	eachLinuxIsolated(t, []int{2}, func(t *testing.T, r linuxRun) { exports(t, r, "own") })
}
