// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// strict is a backend whose rings may have fewer SQE flags.
type strict struct {
	*Backend
	flags uint8
}

func (b strict) NewRing(s uringpv.RingSpec) (uringpv.Ring, error) {
	s.Policy.SQEFlags &= b.flags
	return b.Backend.NewRing(s)
}

// TestPolicyByOpcodeFlagAndFile: each opcode, each flag and each file can be kept from a
// ring, and the others still work.
func TestPolicyByOpcodeFlagAndFile(t *testing.T) {
	const eacces = -int32(unix.EACCES)
	all := abi.OpcodesOf(opcodes...)
	sane := func(g *ringtest.Rig, op uint8) hostring.SQE { // an SQE that is not refused for what it asks
		s := hostring.SQE{Opcode: op, Flags: fixed}
		switch op {
		case hostring.OpReadFixed, hostring.OpRead, hostring.OpWriteFixed, hostring.OpWrite, hostring.OpSend, hostring.OpRecv:
			s.Addr, s.Len = g.Addr(0), 8
		case hostring.OpPollAdd:
			s.OpFlags = unix.POLLIN
		case hostring.OpTimeout:
			s.Addr, s.Len = g.Addr(4096), 1 // no time
		case hostring.OpFallocate:
			s.Addr = 4096
		case hostring.OpAccept, hostring.OpClose:
			s.SpliceFDIn = 3
		}
		return s
	}
	t.Run("opcode", func(t *testing.T) {
		g := ringtest.NewRig(t, newSlotted, disks(8192)(t)...)
		for _, denied := range opcodes {
			allowed := all.Without(ptr(abi.OpcodesOf(denied)))
			d := g.Setup(t, ringtest.Config{SQ: 8, Opcodes: allowed.List()})
			for _, op := range opcodes {
				if res := d.Do(t, sane(g, op)); (res == eacces) != (op == denied) && op != hostring.OpConnect {
					t.Errorf("without opcode %d, opcode %d: %d", denied, op, res)
				}
			}
			d.Destroy(t)
		}
	})
	t.Run("flag", func(t *testing.T) {
		for bit := range 7 {
			flag := uint8(1) << bit
			if flag == hostring.SQEFixedFile || flag == hostring.SQEBufferSelect {
				continue // the one must be, the other never
			}
			g := ringtest.NewRig(t, func(t testing.TB, m *memmap.Memory, f []uringpv.File) uringpv.Backend {
				return strict{newBackend(t, m, f).(*Backend), ^flag}
			}, disks(8192)(t)...)
			d := g.Setup(t, ringtest.Config{SQ: 8})
			for other := range 7 {
				s := sane(g, hostring.OpReadFixed)
				s.Flags |= 1 << other
				s.Addr, s.FD = 0, 9 // a failure has a CQE in any case
				want := -int32(unix.EBADF)
				switch {
				case other == bit || 1<<other == hostring.SQEBufferSelect:
					want = eacces
				}
				if res := d.Do(t, s); res != want {
					t.Errorf("without flag %#x, an SQE with %#x: %d, want %d", flag, s.Flags, res, want)
				}
			}
			d.Destroy(t)
		}
	})
	t.Run("file", func(t *testing.T) {
		g := ringtest.NewRig(t, newBackend, append(disks(8192)(t), pipe(t)...)...)
		d := g.Setup(t, ringtest.Config{SQ: 8, Files: g.Files[:1]}) // not the pipe
		for fd := range int32(4) {
			s := sane(g, hostring.OpPollAdd)
			s.FD = fd
			if res := d.Do(t, s); (res == -int32(unix.EBADF)) != (fd > 0) {
				t.Errorf("file %d of a ring with one: %d", fd, res)
			}
		}
		d.Destroy(t)
		read, write := g.Files[0], g.Files[0]
		read.ReadOnly, write.WriteOnly = true, true
		d = g.Setup(t, ringtest.Config{SQ: 8, Files: []uringpv.File{read, write}})
		for _, op := range []uint8{hostring.OpReadFixed, hostring.OpRead, hostring.OpReadv, hostring.OpWriteFixed, hostring.OpWrite, hostring.OpWritev, hostring.OpFallocate} {
			reads := op == hostring.OpReadFixed || op == hostring.OpRead || op == hostring.OpReadv
			for fd := range int32(2) {
				s := sane(g, op)
				s.FD = fd
				denied := reads == (fd == 1)
				if res := d.Do(t, s); denied != (res == -int32(unix.EBADF)) && (denied || op != hostring.OpFallocate) {
					t.Errorf("opcode %d on file %d: %d, denied: %v", op, fd, res, denied)
				}
			}
		}
	})
}

// TestPolicyOfOneFile: what SQEs may not do with one file they may do with others, and
// sockets that come from a listener are under its policy, however they are named.
func TestPolicyOfOneFile(t *testing.T) {
	const eacces = -int32(unix.EACCES)
	deny := func(f uringpv.File, ops ...uint8) uringpv.File {
		f.Deny = abi.OpcodesOf(ops...)
		return f
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			l := dialled(t)
			d := ringtest.Disk(t, 8192, false)
			b := relayBench(t, mode, []uringpv.File{
				deny(l[0], hostring.OpSend, hostring.OpWriteFixed), l[1], deny(d, hostring.OpWriteFixed, hostring.OpFsync), d,
			})
			for op, res := range map[uint8][2]int32{ // of the files 2 and 3
				hostring.OpWriteFixed: {eacces, 8}, hostring.OpReadFixed: {8, 8}, hostring.OpWrite: {8, 8}, hostring.OpFsync: {eacces, 0},
			} {
				for i, want := range res {
					s := b.rw(op, fixed, 1, int32(2+i), 0, 0, 8)
					if op == hostring.OpFsync {
						s.Addr, s.Len = 0, 0
					}
					b.want(fmt.Sprintf("opcode %d with file %d", op, 2+i), s, want)
				}
			}
			b.want("an opcode that names no file", sqe(hostring.OpNop, fixed, 1), 0)
			b.want("a denied opcode with no file", b.rw(hostring.OpSend, fixed, 1, 9, 0, 0, 8), -int32(unix.EBADF))
			denied := func(what string, entry int32) {
				t.Helper()
				b.want(what+": SEND", b.rw(hostring.OpSend, fixed, 1, entry, 0, 0, 5), eacces)
				b.want(what+": WRITE_FIXED", b.rw(hostring.OpWriteFixed, fixed, 1, entry, 0, 0, 5), eacces)
				b.want(what+": WRITE", b.rw(hostring.OpWrite, fixed, 1, entry, 0, 0, 5), 5)
			}
			accept := func(flags uint8, entry int32) hostring.SQE {
				s := sqe(hostring.OpAccept, flags, 10)
				s.SpliceFDIn = entry + 1
				return s
			}
			b.submit([]hostring.SQE{acceptMulti(10)})
			b.dial()
			b.dial()
			for _, entry := range []int32{b.wait().Res, b.wait().Res} {
				denied("multishot", entry)
			}
			b.do(2, cancelOf(11, 10, 0))
			b.dial()
			b.want("ACCEPT into an entry", accept(fixed, 8), 0)
			denied("into an entry", 8)
			b.dial()
			denied("into any entry", b.result(accept(fixed, -2)))
			// A chain whose ACCEPT fills an entry where another file is, or none.
			for _, entry := range []int32{3, 1, 12} {
				b.dial()
				b.log = nil
				b.inOrder(2, accept(link, entry), b.rw(hostring.OpSend, fixed, 12, entry, 0, 0, 5))
				if !slices.Equal(b.log, []string{"10: ECANCELED", "12: EACCES"}) {
					t.Errorf("a chain of ACCEPT into entry %d and SEND: %q", entry, b.log)
				}
				b.log = nil
				b.do(2, accept(fixed, entry), b.rw(hostring.OpSend, fixed, 12, entry, 0, 0, 5))
				if slices.Contains(b.log, "12: 5") {
					t.Errorf("ACCEPT into entry %d and SEND: %q", entry, b.log)
				}
				denied("in a chain", entry)
			}
			// The entry, not the file, forgets.
			if err := b.ring.UpdateFiles(12, []*uringpv.File{&b.files[3], &b.files[2]}); err != nil {
				t.Fatal(err)
			}
			b.want("another file in the entry", b.rw(hostring.OpWriteFixed, fixed, 1, 12, 0, 0, 8), 8)
			b.want("a file with a policy, in another entry", b.rw(hostring.OpWriteFixed, fixed, 1, 13, 0, 0, 8), eacces)
		})
	}
}

func ptr[T any](v T) *T { return &v }

// TestPointersAllocateNothing: also requests that point at more than bytes.
func TestPointersAllocateNothing(t *testing.T) {
	for _, mode := range modes {
		b := relayBench(t, mode, files(disks(8192), pair(unix.SOCK_DGRAM, abi.FileDgram), eventfd)(t))
		v := sqe(hostring.OpReadv, fixed, 1)
		v.Addr, v.Len = b.vec(4096, [2]uint64{0, 16}, [2]uint64{32, 16}), 2
		send, recv := sqe(hostring.OpSendmsg, link, 2), sqe(hostring.OpRecvmsg, fixed, 3)
		send.FD, send.Addr = 1, b.msg(2000, 0, 0, v.Addr, 2)
		recv.FD, recv.Addr = 2, b.msg(2100, 3000, 64, v.Addr, 2)
		poll := sqe(hostring.OpPollAdd, fixed, 4)
		poll.FD, poll.OpFlags = 3, unix.POLLOUT
		timer := sqe(hostring.OpTimeout, fixed, 5)
		timer.Addr, timer.Len = b.addr(8192), 1
		batch := []hostring.SQE{v, send, recv, poll, timer}
		each := func() {
			b.submit(batch)
			for range batch {
				b.wait()
			}
		}
		each()
		if n := testing.AllocsPerRun(300, each); n != 0 {
			t.Errorf("%s: %v allocations for each batch, want 0", mode, n)
		}
	}
}
