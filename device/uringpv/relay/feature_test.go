// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
)

func TestReadvWritev(t *testing.T) {
	same(t, disks(10000), func(b *bench) {
		copy(b.data, "the quick brown fox")
		w := sqe(hostring.OpWritev, fixed, 1)
		w.Addr, w.Len, w.Off = b.vec(4096, [2]uint64{0, 4}, [2]uint64{10, 6}, [2]uint64{4, 0}), 3, 100
		b.do(1, w)
		r := sqe(hostring.OpReadv, fixed, 2)
		r.Addr, r.Len, r.Off = b.vec(4096, [2]uint64{500, 3}, [2]uint64{600, 7}), 2, 100
		b.do(1, r)
		b.bytesAt(500, 5)
		b.bytesAt(600, 9)
		r.Off = 9996 // short at the end
		b.do(1, r)
		r.Len = 0
		b.do(1, r)
		r.Len = maxIovecs
		b.do(1, r)
		r.Len = maxIovecs + 1
		b.do(1, r)
		r.Len, r.Addr = 1, 1<<63
		b.do(1, r)
		r.Addr = 0
		b.do(1, r)
		r.Addr = b.addr(4096)
		binary.LittleEndian.PutUint64(b.data[4096+8:], 1<<63)
		b.do(1, r)
		b.vec(4096, [2]uint64{500, 3})
		r.FD = 7
		b.do(1, r)
		r.FD, r.OpFlags = 0, 1<<30
		b.do(1, r)
	})
}

// TestIovecsAreConfined: one entry outside the buffers, and nothing moves.
func TestIovecsAreConfined(t *testing.T) {
	b := relayBench(t, "polling", disks(10000)(t))
	b.fill(0, 64, 'x')
	for _, bad := range []uint64{0, 4096, 1 << 63, b.addr(0) - 1<<24, ^uint64(0) - 10} {
		v := b.vec(4096, [2]uint64{0, 16}, [2]uint64{32, 16})
		binary.LittleEndian.PutUint64(b.data[4096+16:], bad)
		s := sqe(hostring.OpReadv, fixed, 1)
		s.Addr, s.Len = v, 2
		b.submit([]hostring.SQE{s})
		if c := b.wait(); c.Res != -int32(unix.EFAULT) {
			t.Errorf("an iovec at %#x: %s, want EFAULT", bad, text(c))
		}
		if b.data[0] != 'x' {
			t.Errorf("an iovec at %#x: the entry before it was read into", bad)
		}
	}
}

func TestFsyncAndSyncFileRange(t *testing.T) {
	same(t, files(disks(10000), pipe), func(b *bench) {
		for i, s := range []hostring.SQE{
			{Opcode: hostring.OpFsync}, {Opcode: hostring.OpFsync, OpFlags: 1}, {Opcode: hostring.OpFsync, OpFlags: 2},
			{Opcode: hostring.OpFsync, Off: 100, Len: 50}, {Opcode: hostring.OpFsync, Addr: 1}, {Opcode: hostring.OpFsync, FD: 9},
			{Opcode: hostring.OpFsync, FD: 1},
			{Opcode: hostring.OpSyncFileRange}, {Opcode: hostring.OpSyncFileRange, Off: 1, Len: 5000, OpFlags: 7},
			{Opcode: hostring.OpSyncFileRange, OpFlags: 8}, {Opcode: hostring.OpSyncFileRange, Addr: 8},
			{Opcode: hostring.OpSyncFileRange, FD: 1}, {Opcode: hostring.OpSyncFileRange, FD: 99},
		} {
			s.Flags, s.UserData = fixed, uint64(i)
			b.do(1, s)
		}
	})
}

func TestFallocate(t *testing.T) {
	same(t, files(disks(64<<10), pipe), func(b *bench) {
		b.fill(0, 8192, 'a')
		b.do(1, b.rw(hostring.OpWriteFixed, fixed, 1, 0, 0, 0, 8192))
		s := sqe(hostring.OpFallocate, fixed, 2)
		s.Off, s.Addr, s.Len = 4096, 4096, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE
		b.do(1, s)
		b.do(1, b.rw(hostring.OpReadFixed, fixed, 3, 0, 4094, 0, 8))
		b.bytesAt(0, 8)
		s.FD = 1
		b.do(1, s)
		s.FD, s.Addr = 0, 0
		b.do(1, s)
		s.OpFlags = 1
		b.do(1, s)
	})
}

func TestFilesThatDoNotSeek(t *testing.T) {
	same(t, files(pipe, eventfd, pair(unix.SOCK_STREAM, abi.FileStream)), func(b *bench) {
		copy(b.data, "hello, world")
		for i, off := range []uint64{0, ^uint64(0), 4096} {
			u := uint64(10 * i)
			b.do(1, b.rw(hostring.OpWrite, fixed, u, 1, off, 0, 12))
			b.do(1, b.rw(hostring.OpRead, fixed, u+1, 0, off, 100, 5))
			b.do(1, b.rw(hostring.OpReadFixed, fixed, u+2, 0, off, 200, 100))
			b.bytesAt(100, 5)
			b.bytesAt(200, 7)
			binary.LittleEndian.PutUint64(b.data[300:], 7)
			b.do(1, b.rw(hostring.OpWriteFixed, fixed, u+3, 2, off, 300, 8))
			b.do(1, b.rw(hostring.OpRead, fixed, u+4, 2, off, 308, 8))
			b.bytesAt(308, 8)
			b.do(1, b.rw(hostring.OpWrite, fixed, u+5, 3, off, 0, 12))
			if off != 4096 {
				b.do(1, b.rw(hostring.OpRead, fixed, u+6, 4, off, 0, 12))
			}
		}
		b.do(1, b.rw(hostring.OpRead, fixed, 100, 1, 0, 0, 1))  // write only
		b.do(1, b.rw(hostring.OpWrite, fixed, 101, 0, 0, 0, 1)) // read only
		b.do(1, b.rw(hostring.OpRead, fixed, 102, 2, 0, 0, 4))  // an eventfd reads 8 bytes
		b.submit([]hostring.SQE{b.rw(hostring.OpRead, fixed, 103, 0, 0, 0, 10)})
		b.none() // nothing to read yet
		b.do(2, b.rw(hostring.OpWrite, fixed, 104, 1, 0, 0, 3))
		b.submit([]hostring.SQE{b.rw(hostring.OpRead, fixed|hostring.SQEAsync, 105, 0, 0, 0, 10)})
		b.none()
		b.do(2, b.rw(hostring.OpWrite, fixed|hostring.SQEAsync, 106, 1, 0, 0, 3))
	})
}

func TestPollOneShot(t *testing.T) {
	same(t, files(pipe, eventfd), func(b *bench) {
		p := sqe(hostring.OpPollAdd, fixed, 1)
		p.OpFlags = unix.POLLIN
		b.submit([]hostring.SQE{p})
		b.none()
		b.do(2, b.rw(hostring.OpWrite, fixed, 2, 1, 0, 0, 3))
		b.do(1, p) // there is something at once
		p.OpFlags = unix.POLLOUT
		p.FD = 1
		b.do(1, p)
		p.FD = 9
		b.do(1, p)
		p.FD, p.Addr = 1, 1
		b.do(1, p)
		p.Addr, p.Len = 0, 1<<5
		b.do(1, p)
		p.Len, p.Flags = 1, skip
		b.do(1, p)
	})
}

func TestPollMultishot(t *testing.T) {
	same(t, eventfd, func(b *bench) {
		p := sqe(hostring.OpPollAdd, fixed, 1)
		p.OpFlags, p.Len = unix.POLLIN, pollAddMulti
		b.submit([]hostring.SQE{p})
		b.none()
		binary.LittleEndian.PutUint64(b.data, 1)
		for i := range uint64(5) {
			b.do(2, b.rw(hostring.OpWrite, fixed, 10+i, 0, 0, 0, 8))
			b.do(1, b.rw(hostring.OpRead, fixed, 20+i, 0, 0, 8, 8))
		}
		r := sqe(hostring.OpPollRemove, fixed, 3)
		r.Addr = 1
		b.do(2, r)
		b.do(1, r) // it has gone
		b.do(1, b.rw(hostring.OpWrite, fixed, 4, 0, 0, 0, 8))
		b.none()
	})
}

func TestPollUpdate(t *testing.T) {
	same(t, files(eventfd, pipe), func(b *bench) {
		p := sqe(hostring.OpPollAdd, fixed, 1)
		p.OpFlags = unix.POLLIN
		b.submit([]hostring.SQE{p})
		u := sqe(hostring.OpPollRemove, fixed, 2)
		u.Addr, u.Off, u.Len = 1, 77, pollUpdateUserData
		b.do(1, u)
		b.do(1, u) // nobody has the old name
		u.Addr, u.Off, u.Len, u.OpFlags = 77, 78, pollUpdateUserData|pollUpdateEvents, unix.POLLIN|unix.POLLPRI
		b.do(1, u)
		binary.LittleEndian.PutUint64(b.data, 1)
		b.do(2, b.rw(hostring.OpWrite, fixed, 5, 0, 0, 0, 8)) // 78 comes
		// One of several polls with the same user_data, of which one is another's kind.
		p.FD = 1
		b.submit([]hostring.SQE{p, p})
		u = sqe(hostring.OpPollRemove, fixed, 6)
		u.Addr = 1
		b.do(2, u)
		b.do(2, u)
		b.do(1, u)
		for i, f := range []func(*hostring.SQE){
			func(s *hostring.SQE) { s.Len = pollAddMulti }, func(s *hostring.SQE) { s.Off = 1 },
			func(s *hostring.SQE) { s.OpFlags = 1 }, func(s *hostring.SQE) { s.Len = 1 << 9 },
		} {
			s := sqe(hostring.OpPollRemove, fixed, 10+uint64(i))
			f(&s)
			b.do(1, s)
		}
	})
}

func TestTimeouts(t *testing.T) {
	same(t, disks(4096), func(b *bench) {
		at := b.timespec(0, 2*time.Millisecond)
		s := sqe(hostring.OpTimeout, fixed, 1)
		s.Addr, s.Len = at, 1
		b.do(1, s)
		for i, f := range []uint32{timeoutBoottime, timeoutRealtime, timeoutETimeSuccess, timeoutAbs, timeoutBoottime | timeoutRealtime, 1 << 10, timeoutUpdate, timeoutMultishot | timeoutAbs} {
			s.UserData, s.OpFlags = 10+uint64(i), f
			b.do(1, s)
		}
		s.UserData, s.OpFlags, s.Off = 30, timeoutMultishot, 3
		b.inOrder(3, s)
		b.none()
		s.OpFlags, s.Off, s.Len = 0, 0, 2
		b.do(1, s)
		s.Len, s.Addr = 1, 0
		b.do(1, s)
		s.Addr = b.timespec(0, -time.Second)
		b.do(1, s)
		s.Addr, s.Flags = b.timespec(0, time.Millisecond), skip
		b.do(1, s) // -ETIME is a failure
		s.OpFlags = timeoutETimeSuccess
		b.submit([]hostring.SQE{s})
		b.none()
		s.Flags, s.OpFlags, s.UserData = link, timeoutETimeSuccess, 40
		b.inOrder(2, s, sqe(hostring.OpNop, fixed, 41))
		s.OpFlags = 0
		b.inOrder(2, s, sqe(hostring.OpNop, fixed, 41))
	})
}

func TestTimeoutCountsCompletions(t *testing.T) {
	same(t, disks(4096), func(b *bench) {
		s := sqe(hostring.OpTimeout, fixed, 1)
		s.Addr, s.Len, s.Off = b.timespec(0, 20*time.Second), 1, 3
		bad := sqe(hostring.OpFsync, fixed, 3)
		bad.Addr = 1
		b.submit([]hostring.SQE{s})
		b.do(1, sqe(hostring.OpNop, fixed, 2))
		b.do(1, bad) // counts as well
		b.none()
		b.do(2, b.rw(hostring.OpReadFixed, fixed, 4, 99, 0, 0, 8)) // and this
	})
}

func TestTimeoutRemoveAndUpdate(t *testing.T) {
	same(t, disks(4096), func(b *bench) {
		s := sqe(hostring.OpTimeout, fixed, 1)
		s.Addr, s.Len = b.timespec(0, 20*time.Second), 1
		b.submit([]hostring.SQE{s})
		r := sqe(hostring.OpTimeoutRemove, fixed, 2)
		r.Addr = 1
		b.do(2, r)
		b.do(1, r)
		b.submit([]hostring.SQE{s})
		u := sqe(hostring.OpTimeoutRemove, fixed, 3)
		u.Addr, u.Off, u.OpFlags = 1, b.timespec(32, time.Millisecond), timeoutUpdate
		b.do(2, u)
		b.do(1, u)
		u.Off = 0
		b.do(1, u)
		u.OpFlags = timeoutAbs
		b.do(1, u)
		r.Len = 1
		b.do(1, r)
		r.Len = 0
		b.submit([]hostring.SQE{s, s}) // two of a name
		b.do(2, r)
		b.do(2, r)
		b.do(1, r)
		// A timer of a link is another list.
		p := b.rw(hostring.OpRead, link, 5, 0, 0, 0, 8)
		p.Opcode, p.Off, p.Addr, p.Len = hostring.OpTimeout, 0, b.timespec(0, 20*time.Second), 1
		lt := sqe(hostring.OpLinkTimeout, fixed, 6)
		lt.Addr, lt.Len = b.timespec(16, 20*time.Second), 1
		b.submit([]hostring.SQE{p, lt})
		r.Addr = 6
		b.do(1, r)
		u.Addr, u.Off, u.OpFlags = 6, b.timespec(32, time.Millisecond), linkTimeoutUpdate|timeoutUpdate
		b.do(3, u)
	})
}

func TestLinkTimeout(t *testing.T) {
	same(t, files(pipe, disks(4096)), func(b *bench) {
		lt := sqe(hostring.OpLinkTimeout, fixed, 2)
		lt.Addr, lt.Len = b.timespec(0, 3*time.Millisecond), 1
		b.do(2, b.rw(hostring.OpRead, link, 1, 0, 0, 64, 8), lt) // it fires
		lt.Addr = b.timespec(0, 20*time.Second)
		b.do(2, b.rw(hostring.OpRead, link, 1, 2, 0, 64, 8), lt) // it need not
		lt.Flags = link
		b.do(3, b.rw(hostring.OpRead, link, 1, 2, 0, 64, 8), lt, sqe(hostring.OpNop, fixed, 3))
		lt.Addr = b.timespec(16, 3*time.Millisecond)
		b.do(3, b.rw(hostring.OpRead, link, 1, 0, 0, 64, 8), lt, sqe(hostring.OpNop, fixed, 3))
		b.do(3, b.rw(hostring.OpRead, hard, 1, 0, 0, 64, 8), lt, sqe(hostring.OpNop, fixed, 3))
		b.do(1, lt)                                                                              // of nothing
		b.do(3, sqe(hostring.OpNop, link, 1), lt, lt)                                            // two of one
		b.do(3, b.rw(hostring.OpRead, link, 1, 99, 0, 64, 8), lt, sqe(hostring.OpNop, fixed, 3)) // of what fails
		b.do(3, sqe(hostring.OpNop, link, 1), lt, b.rw(hostring.OpRead, fixed, 3, 99, 0, 64, 8)) // before what fails
		lt.Flags = skip | hostring.SQEIOLink
		b.do(2, b.rw(hostring.OpRead, link, 1, 2, 0, 64, 8), lt, sqe(hostring.OpNop, fixed, 3))
		b.do(2, b.rw(hostring.OpRead, link, 1, 0, 0, 64, 8), lt, sqe(hostring.OpNop, fixed, 3))
		b.none()
	})
}

func TestLink(t *testing.T) {
	same(t, disks(8192, 8192), func(b *bench) {
		copy(b.data, "copied from file to file")
		b.do(1, b.rw(hostring.OpWriteFixed, fixed, 1, 0, 0, 0, 24))
		// Read from one file, write to another, through the same buffer, read it back.
		b.inOrder(3, b.rw(hostring.OpReadFixed, link, 1, 0, 0, 4096, 24), b.rw(hostring.OpWrite, link, 2, 1, 100, 4096, 24),
			b.rw(hostring.OpReadFixed, fixed, 3, 1, 100, 8192, 24))
		b.bytesAt(8192, 24)
		nop := func(flags uint8, user uint64) hostring.SQE { return sqe(hostring.OpNop, flags, user) }
		badFile := func(flags uint8, user uint64) hostring.SQE {
			return b.rw(hostring.OpReadFixed, flags, user, 99, 0, 0, 8)
		}
		badPrep := func(flags uint8, user uint64) hostring.SQE {
			s := sqe(hostring.OpFsync, flags, user)
			s.Addr = 1
			return s
		}
		short := func(flags uint8, user uint64) hostring.SQE {
			return b.rw(hostring.OpReadFixed, flags, user, 0, 8190, 0, 8)
		}
		for _, l := range []uint8{link, hard, link | hostring.SQEIOHardlink} {
			b.note("flags %#x", l)
			b.inOrder(3, nop(l, 1), nop(l, 2), nop(fixed, 3))
			b.inOrder(3, nop(l, 1), badFile(l, 2), nop(fixed, 3)) // fails when issued
			b.inOrder(3, badFile(l, 1), nop(l, 2), nop(fixed, 3))
			b.inOrder(3, nop(l, 1), nop(l, 2), badFile(fixed, 3))
			b.inOrder(3, nop(l, 1), badPrep(l, 2), nop(fixed, 3)) // fails the whole chain
			b.inOrder(3, badPrep(l, 1), nop(l, 2), nop(fixed, 3))
			b.inOrder(3, nop(l, 1), nop(l, 2), badPrep(fixed, 3))
			b.inOrder(4, nop(l, 1), badPrep(l, 2), badPrep(l, 3), nop(fixed, 4))
			b.inOrder(3, short(l, 1), nop(l, 2), nop(fixed, 3)) // short reads break
			b.inOrder(4, nop(l, 1), short(l, 2), nop(l, 3), nop(fixed, 4))
			b.inOrder(2, nop(l, 1), nop(l, 2)) // no end
			b.inOrder(1, nop(l, 1))
			b.inOrder(1, short(l, 1))
			b.inOrder(1, badPrep(l, 1))
			var long []hostring.SQE
			for i := range uint64(200) {
				long = append(long, nop(l, 1000+i))
			}
			b.inOrder(200, long...)
			long[100] = badFile(l, 1100)
			b.inOrder(200, long...)
			b.do(6, nop(l, 1), badFile(l, 2), nop(fixed, 3), nop(l, 4), nop(l, 5), nop(fixed, 6)) // two chains
		}
		// A write of the second file depends on a read that fails: nothing is written.
		b.inOrder(2, badFile(link, 1), b.rw(hostring.OpWriteFixed, fixed, 2, 1, 100, 0, 24))
		b.inOrder(1, b.rw(hostring.OpReadFixed, fixed, 3, 1, 100, 8192, 24))
		b.bytesAt(8192, 24)
	})
}

// TestShortWriteBreaksAChain: the host's kernel is asked for no more than fits, and
// must break the chain all the same, as under RLIMIT_FSIZE.
func TestShortWriteBreaksAChain(t *testing.T) {
	for _, mode := range modes {
		b := relayBench(t, mode, disks(8192)(t))
		lt := sqe(hostring.OpLinkTimeout, link, 2)
		lt.Addr, lt.Len = b.timespec(4096, 20*time.Second), 1
		v := sqe(hostring.OpWritev, link, 1)
		v.Addr, v.Len, v.Off = b.vec(512, [2]uint64{0, 8}, [2]uint64{16, 8}), 2, 8180
		nop := sqe(hostring.OpNop, fixed, 3)
		b.inOrder(2, b.rw(hostring.OpWriteFixed, link, 1, 0, 8190, 0, 8), nop)
		b.inOrder(2, b.rw(hostring.OpWrite, link, 1, 0, 8190, 0, 8), nop)
		b.inOrder(2, v, nop)
		b.inOrder(3, b.rw(hostring.OpWriteFixed, link, 1, 0, 8190, 0, 8), lt, nop)
		b.inOrder(2, b.rw(hostring.OpWriteFixed, hard, 1, 0, 8190, 0, 8), nop)
		b.inOrder(1, b.rw(hostring.OpWriteFixed, link, 1, 0, 8190, 0, 8))
		b.inOrder(2, b.rw(hostring.OpWriteFixed, link, 1, 0, 8184, 0, 8), nop)
		b.inOrder(2, b.rw(hostring.OpWriteFixed, link, 1, 0, 8192, 0, 8), nop)
		// With CQE_SKIP_SUCCESS it is a failure, and the rest has no CQE.
		b.inOrder(1, b.rw(hostring.OpWriteFixed, link|skip, 1, 0, 8190, 0, 8), nop)
		b.none()
		want := []string{
			"1: 2", "3: ECANCELED", "1: 2", "3: ECANCELED", "1: 12", "3: ECANCELED", "1: 2", "2: ECANCELED", "3: ECANCELED",
			"1: 2", "3: 0", "1: 2", "1: 8", "3: 0", "1: EFBIG", "3: ECANCELED", "1: 2", "nothing more",
		}
		for i := range max(len(want), len(b.log)) {
			if i >= len(want) || i >= len(b.log) || b.log[i] != want[i] {
				t.Fatalf("%s: line %d: %q, want %q", mode, i, b.log, want)
			}
		}
	}
}

func TestDrain(t *testing.T) {
	same(t, files(pipe, disks(4096)), func(b *bench) {
		r := b.rw(hostring.OpRead, fixed, 1, 0, 0, 0, 8)
		bad := sqe(hostring.OpFsync, fixed, 5)
		bad.Addr = 1
		b.submit([]hostring.SQE{r, sqe(hostring.OpNop, drain, 2), sqe(hostring.OpNop, fixed, 3), b.rw(hostring.OpRead, fixed, 4, 99, 0, 0, 8)})
		b.none()                                                                                     // all wait for the read
		b.note("%s", text(func() hostring.CQE { b.submit([]hostring.SQE{bad}); return b.wait() }())) // what is wrong waits for nobody
		if _, err := unix.Write(b.peer(1), []byte("12345678")); err != nil {
			b.Fatal(err)
		}
		b.take(4)
		// In the middle of a chain.
		b.inOrder(4, sqe(hostring.OpNop, link, 1), sqe(hostring.OpNop, link|drain, 2), sqe(hostring.OpNop, fixed, 3), sqe(hostring.OpNop, drain, 4))
		bad.Flags = drain
		b.inOrder(2, sqe(hostring.OpNop, fixed, 1), bad)
		b.do(2, b.rw(hostring.OpRead, drain, 1, 99, 0, 0, 8), sqe(hostring.OpNop, fixed, 2))
	})
}

func TestCQESkipSuccess(t *testing.T) {
	same(t, disks(4096), func(b *bench) {
		nop := func(flags uint8, user uint64) hostring.SQE { return sqe(hostring.OpNop, flags, user) }
		bad := func(flags uint8, user uint64) hostring.SQE {
			return b.rw(hostring.OpReadFixed, flags, user, 99, 0, 0, 8)
		}
		short := func(flags uint8, user uint64) hostring.SQE {
			return b.rw(hostring.OpReadFixed, flags, user, 0, 4090, 0, 8)
		}
		badPrep := func(flags uint8, user uint64) hostring.SQE {
			s := sqe(hostring.OpFsync, flags, user)
			s.Addr = 1
			return s
		}
		lt := func(flags uint8, user uint64) hostring.SQE {
			s := sqe(hostring.OpLinkTimeout, flags, user)
			s.Addr, s.Len = b.timespec(512, 20*time.Second), 1
			return s
		}
		const ls, l = link | skip, link
		for i, c := range [][]hostring.SQE{
			{nop(skip, 1)}, {bad(skip, 1)}, {short(skip, 1)}, {badPrep(skip, 1)},
			{nop(ls, 1), nop(ls, 2), nop(fixed, 3)},
			{nop(ls, 1), bad(ls, 2), nop(fixed, 3)},
			{nop(ls, 1), bad(l, 2), nop(skip, 3)},
			{bad(ls, 1), nop(ls, 2), bad(skip, 3)},
			{bad(l, 1), nop(ls, 2), nop(skip, 3)},
			{nop(ls, 1), badPrep(l, 2), nop(skip, 3)},
			{nop(l, 1), badPrep(ls, 2), nop(skip, 3)},
			{badPrep(ls, 1), nop(l, 2), nop(fixed, 3)},
			{badPrep(l, 1), nop(ls, 2), nop(skip, 3)},
			{short(ls, 1), nop(l, 2), nop(fixed, 3)},
			{nop(hard|skip, 1), bad(hard|skip, 2), nop(fixed, 3)},
			{bad(ls, 1), lt(l, 2), nop(l, 3), nop(fixed, 4)},
			{bad(ls, 1), nop(l, 2), lt(l, 3), nop(fixed, 4)},
			{bad(l, 1), nop(ls, 2), lt(ls, 3), nop(skip, 4)},
			{nop(drain, 1)}, // not on such a ring any more
			{nop(drain|l, 1), nop(fixed, 2)},
		} {
			b.note("case %d", i)
			var lines []string
			for _, q := range b.all(c) {
				lines = append(lines, text(q))
			}
			slices.Sort(lines)
			b.log = append(b.log, lines...)
		}
	})
}
