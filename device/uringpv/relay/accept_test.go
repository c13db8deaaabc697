// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
)

// acceptMulti is an ACCEPT of file 0 that goes on.
func acceptMulti(user uint64) hostring.SQE {
	s := sqe(hostring.OpAccept, fixed, user)
	s.IOPrio, s.SpliceFDIn = acceptMultishot, -1
	return s
}

// cancelOf is an ASYNC_CANCEL.
func cancelOf(user, target uint64, flags uint32) hostring.SQE {
	s := sqe(hostring.OpAsyncCancel, fixed, user)
	s.Addr, s.OpFlags = target, flags
	return s
}

// closeOf is a CLOSE of an entry of the guest's table.
func closeOf(user uint64, entry int32) hostring.SQE {
	s := sqe(hostring.OpClose, fixed, user)
	s.SpliceFDIn = entry + 1
	return s
}

// dial connects to file 0, which listens, from outside.
func (b *bench) dial() int {
	b.Helper()
	a, err := unix.Getsockname(b.peer(0))
	if err != nil {
		b.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(fd) })
	if err := unix.Connect(fd, a); err != nil {
		b.Fatal(err)
	}
	return fd
}

// closed says whether the other end of fd has been closed.
func closed(t testing.TB, fd int) bool {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, int(late.Milliseconds())); n != 1 || err != nil {
		t.Fatalf("poll: %d, %v", n, err)
	}
	n, err := unix.Read(fd, make([]byte, 1))
	return n <= 0 && (err == nil || err == unix.ECONNRESET)
}

// listening is one listener.
func listening(t testing.TB) []uringpv.File {
	f, _ := listener(t)
	return []uringpv.File{f}
}

func TestAcceptMultishot(t *testing.T) {
	needMultishot(t)
	same(t, listening, func(b *bench) {
		b.submit([]hostring.SQE{acceptMulti(1)})
		b.none()
		first := b.dial()
		b.take(1)
		second := b.dial()
		b.take(1)
		for i, fd := range []int{first, second} {
			if _, err := unix.Write(fd, []byte("hello, world")[:5+i]); err != nil {
				b.Fatal(err)
			}
			b.do(1, b.rw(hostring.OpRecv, fixed, 2, int32(1+i), 0, 100, 50))
			b.bytesAt(100, uint64(5+i))
		}
		b.do(2, cancelOf(3, 1, 0))
		b.do(1, cancelOf(3, 1, 0))
		// Two connections that are there before.
		b.dial()
		b.dial()
		b.do(2, acceptMulti(4))
		b.none()
		b.do(2, cancelOf(5, 0, cancelFD|cancelFDFixed))
		b.submit([]hostring.SQE{acceptMulti(6), acceptMulti(7)})
		b.none()
		b.do(3, cancelOf(8, 0, cancelAny))
		b.submit([]hostring.SQE{acceptMulti(6), acceptMulti(7)})
		b.none()
		all := cancelOf(9, 0, cancelOp|cancelAll)
		all.Len = uint32(hostring.OpAccept)
		b.do(3, all)
		// A chain ends with it.
		a := acceptMulti(10)
		a.Flags |= hostring.SQEIOLink
		b.submit([]hostring.SQE{a, sqe(hostring.OpNop, fixed, 11)})
		b.none()
		b.dial()
		b.take(1)
		b.none()
		b.do(3, cancelOf(13, 10, 0))
		// Who connects.
		binary.LittleEndian.PutUint32(b.data[1200:], 64)
		b.fill(1100, 64, 0x55)
		a = acceptMulti(14)
		a.Addr, a.Off = b.addr(1100), b.addr(1200)
		b.submit([]hostring.SQE{a})
		b.none()
		fd := b.dial()
		b.take(1)
		me, err := unix.Getsockname(fd)
		if err != nil {
			b.Fatal(err)
		}
		b.note("address of %d bytes, of who has connected: %v, rest untouched: %v", binary.LittleEndian.Uint32(b.data[1200:]),
			slices.Equal(b.data[1100:1116], must(peerBytes(me))), b.data[1116] == 0x55)
		b.do(2, cancelOf(15, 14, 0))
		// What is wrong.
		for i, f := range []func(*hostring.SQE){
			func(s *hostring.SQE) { s.SpliceFDIn = 6 }, func(s *hostring.SQE) { s.Len = 1 }, func(s *hostring.SQE) { s.FD = 99 },
			func(s *hostring.SQE) { s.FD = 1 }, func(s *hostring.SQE) { s.IOPrio |= 8 }, func(s *hostring.SQE) { s.OpFlags = unix.SOCK_CLOEXEC },
			func(s *hostring.SQE) { s.IOPrio |= acceptDontWait },
		} {
			s := acceptMulti(30 + uint64(i))
			f(&s)
			b.do(1, s)
		}
		// A drain waits for its end.
		b.submit([]hostring.SQE{acceptMulti(50), sqe(hostring.OpNop, drain, 51)})
		b.none()
		b.dial()
		b.take(1)
		b.none()
		if err := unix.Shutdown(b.peer(0), unix.SHUT_RDWR); err != nil {
			b.Fatal(err)
		}
		b.take(2)
	})
}

// TestAcceptMultishotEndsWithTheTable: a connection that finds no empty entry is
// closed, and the ACCEPT is over; one that begins later takes what is free then.
func TestAcceptMultishotEndsWithTheTable(t *testing.T) {
	needMultishot(t)
	same(t, listening, func(b *bench) {
		b.submit([]hostring.SQE{acceptMulti(1)})
		var fds []int
		for range benchSlots {
			fds = append(fds, b.dial())
			b.take(1) // the last one: ENFILE
		}
		b.note("the one too many is closed: %v", closed(b, fds[len(fds)-1]))
		b.none()
		b.do(1, closeOf(2, 7))
		b.note("the one in entry 7 is closed: %v", closed(b, fds[6]))
		b.submit([]hostring.SQE{acceptMulti(3)})
		b.none()
		fds = append(fds, b.dial())
		b.take(1)
		b.none()
		b.note("it works: %v", func() bool {
			_, err := unix.Write(fds[len(fds)-1], []byte("hi"))
			return err == nil
		}())
		b.do(1, b.rw(hostring.OpRecv, fixed, 4, 7, 0, 100, 50))
	})
}

// TestAcceptMultishotThatIsOverLetsADrainGoOn: the request that ends as the table is full
// ends on the host as well, before what drains.
func TestAcceptMultishotThatIsOverLetsADrainGoOn(t *testing.T) {
	needMultishot(t)
	for _, flags := range []uint8{0, hostring.SQEAsync} {
		same(t, listening, func(b *bench) {
			a := acceptMulti(1)
			a.Flags |= flags
			b.submit([]hostring.SQE{a, sqe(hostring.OpNop, drain, 2)})
			b.none()
			for range benchSlots - 1 {
				b.dial()
				b.take(1)
			}
			b.none()
			b.dial()
			b.take(2) // ENFILE, and the drain
		})
	}
}

// TestConnectionsOfAnAcceptThatIsOverAskOnce: more of them come than the kernel can be
// told, and what is to be told to it is still one thing.
func TestConnectionsOfAnAcceptThatIsOverAskOnce(t *testing.T) {
	needMultishot(t)
	for _, mode := range modes {
		b := relayBench(t, mode, listening(t))
		r := b.ring.(*Ring)
		b.submit([]hostring.SQE{acceptMulti(1), sqe(hostring.OpNop, drain, 2)})
		b.inFlight(2)
		if err := r.inLoop(func() error {
			for i := range r.slots.table {
				s := &r.slots.table[i]
				if !s.busy || s.op != hostring.OpAccept {
					continue
				}
				x := ref(i) | ref(s.generation)<<32
				s.flags |= slotOver | slotInternal
				for range 1000 {
					r.another(x, s, &hostring.CQE{UserData: uint64(x), Res: int32(r.pool), Flags: cqeMore})
				}
			}
			if len(r.over) != 1 || r.host.Pending() != 0 {
				t.Errorf("%s: %d are to be cancelled, %d SQEs wait; want 1, 0", mode, len(r.over), r.host.Pending())
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if c := b.wait(); c.UserData != 2 || c.Res != 0 {
			t.Errorf("%s: %s, want that of the drain", mode, text(c))
		}
		if err := r.inLoop(func() error {
			if len(r.over) != 0 || r.slots.used != 0 {
				t.Errorf("%s: %d are to be cancelled, %d in flight", mode, len(r.over), r.slots.used)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// needMultishot skips a test where a guest gets no multishot ACCEPT.
func needMultishot(t testing.TB) {
	t.Helper()
	testutil.NeedIOUring(t)
	if f, _ := hostring.ProbeFeature(hostring.FeatureAllocRange); f.Result != hostring.Yes {
		t.Skipf("no multishot ACCEPT on this host: %v", f.Why)
	}
}

// TestNoMultishotAcceptWhereTheKernelPutsSocketsAnywhere: its guest hears so, and accepts
// one by one.
func TestNoMultishotAcceptWhereTheKernelPutsSocketsAnywhere(t *testing.T) {
	for _, mode := range modes {
		b := relayBench(t, mode, listening(t))
		r := b.ring.(*Ring)
		if want := r.backend.multishot && r.backend.synchronous; r.multishot != want {
			t.Errorf("%s: multishot ACCEPT %v, want %v", mode, r.multishot, want)
		}
		if err := r.inLoop(func() error {
			r.multishot = false
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		b.want("multishot ACCEPT", acceptMulti(1), -int32(unix.EINVAL))
		b.dial()
		s := acceptMulti(2)
		s.IOPrio = 0
		b.want("ACCEPT into any entry", s, 1)
	}
}

// TestAnAcceptOutsideOfThePoolCostsTheRingOnly: a kernel that New has taken for a better
// one.
func TestAnAcceptOutsideOfThePoolCostsTheRingOnly(t *testing.T) {
	g := ringtest.NewRig(t, newSlotted, listening(t)...)
	d := g.Setup(t, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll})
	r := d.Ring.(*Ring)
	if err := r.inLoop(func() error {
		s := slot{hot: hot{op: hostring.OpAccept}, cold: cold{flags: slotMulti}}
		if res := r.into(&s, int32(r.pool)-1); res != -int32(unix.EIO) {
			t.Errorf("the socket has entry %d", res)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var guest *uringpv.GuestError
	if err := d.Stopped(t); !errors.As(err, &guest) {
		t.Errorf("the ring stopped with %v, want a *uringpv.GuestError", err)
	}
	if err := d.Ring.Enter(1, 0); !errors.Is(err, unix.ENXIO) {
		t.Errorf("ENTER of a ring that has stopped: %v, want ENXIO", err)
	}
	d.Destroy(t)
}

// TestFloodOfConnectionsIsBounded: nobody takes the CQEs, and more connect than
// there are entries, while what was accepted is closed again and again.
func TestFloodOfConnectionsIsBounded(t *testing.T) {
	needMultishot(t)
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			b := relayBench(t, mode, listening(t))
			r := b.ring.(*Ring)
			state := func() (filled, used int) {
				t.Helper()
				if err := r.inLoop(func() error {
					for i := range r.hosts {
						if r.hosts[i].filled {
							filled++
						}
					}
					used = int(r.slots.used)
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				return filled, used
			}
			if err := unix.Listen(b.peer(0), 4*benchSlots); err != nil { // or connecting waits
				t.Fatal(err)
			}
			for round := range 10 {
				b.submit([]hostring.SQE{acceptMulti(1)})
				for range 3 * benchSlots { // the listener's backlog takes the others
					b.dial()
				}
				entries := 0
				for {
					c := b.wait()
					if c.Flags&cqeMore == 0 {
						if c.Res != -int32(unix.ENFILE) {
							t.Fatalf("the last CQE: %s, want ENFILE", text(c))
						}
						break
					}
					entries++
				}
				if entries != benchSlots-1 {
					t.Fatalf("round %d: %d connections were taken, want %d", round, entries, benchSlots-1)
				}
				for deadline := time.Now().Add(late); ; time.Sleep(time.Millisecond) {
					filled, used := state()
					if filled == benchSlots && used == 0 {
						break
					}
					if time.Now().After(deadline) {
						t.Fatalf("round %d: %d entries of the host's table hold files, %d requests are in flight; want %d and 0", round, filled, used, benchSlots)
					}
				}
				for e := range int32(benchSlots - 1) {
					if round%2 == 0 {
						b.want("CLOSE", closeOf(2, e+1), 0)
					} else if err := b.ring.UpdateFiles(int(e)+1, []*uringpv.File{uringpv.NoFile}); err != nil {
						t.Fatal(err)
					}
				}
				for waiting := []unix.PollFd{{Fd: int32(b.peer(0)), Events: unix.POLLIN}}; ; {
					if n, err := unix.Poll(waiting, 0); n != 1 || err != nil {
						break // the next round begins with an empty backlog
					}
					if fd, _, err := unix.Accept4(b.peer(0), unix.SOCK_CLOEXEC); err == nil {
						unix.Close(fd)
					}
				}
			}
		})
	}
}

// TestTablesAgreeWhateverIsAccepted: ACCEPTs of every kind, CLOSE, RING_REGISTER and
// cancels in any order, at once. When all has ended each entry of the guest's table has
// an entry of the host's to itself, nothing else is open there, and with the guest's
// entries go the connections.
func TestTablesAgreeWhateverIsAccepted(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			testutil.NoLeaks(t)
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 1))
			b := relayBench(t, mode, slices.Concat(listening(t), disks(8192)(t)))
			if err := unix.Listen(b.peer(0), 1024); err != nil {
				t.Fatal(err)
			}
			r := b.ring.(*Ring)
			var clients []int
			entry := func() int32 { return 2 + rnd.Int32N(benchSlots-2) }
			for range 400 {
				var batch []hostring.SQE
				for range 1 + rnd.IntN(6) {
					s := acceptMulti(1)
					switch rnd.IntN(8) {
					case 0:
					case 1:
						s.IOPrio = 0 // into any entry, once
					case 2, 3:
						s.IOPrio, s.SpliceFDIn = 0, entry()+1
					case 4, 5:
						s = closeOf(2, entry())
					case 6:
						s = cancelOf(3, 1, []uint32{0, cancelAll, cancelAny}[rnd.IntN(3)])
					case 7:
						s = b.rw(hostring.OpRecv, fixed, 1, entry(), 0, 100, 50)
					}
					s.Flags |= []uint8{0, 0, 0, hostring.SQEIOLink, hostring.SQEAsync}[rnd.IntN(5)]
					batch = append(batch, s)
				}
				b.submit(batch)
				if rnd.IntN(2) == 0 && len(clients) < 800 {
					clients = append(clients, b.dial())
				}
				if rnd.IntN(4) == 0 {
					f := []*uringpv.File{uringpv.NoFile, &b.files[1]}[rnd.IntN(2)]
					if err := b.ring.UpdateFiles(int(entry()), []*uringpv.File{f}); err != nil && !errors.Is(err, unix.EBUSY) {
						t.Fatal(err)
					}
				}
				for {
					if _, ok := b.reap(); !ok {
						break
					}
				}
			}
			quiet := func() bool {
				t.Helper()
				for {
					if _, ok := b.reap(); !ok {
						break
					}
				}
				used := 0
				if err := r.inLoop(func() error {
					used = int(r.slots.used + r.guest.ready())
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				return used == 0
			}
			for deadline := time.Now().Add(late); !quiet(); {
				if time.Now().After(deadline) {
					t.Fatal("requests are left that no cancel ends")
				}
				b.submit([]hostring.SQE{cancelOf(4, 0, cancelAny)})
				time.Sleep(time.Millisecond)
			}
			agree := func() error {
				meant := map[uint16]int{}
				for i := range r.files {
					f := &r.files[i]
					if f.reserved {
						t.Errorf("entry %d waits for an ACCEPT", i)
					}
					if f.host == r.void {
						continue
					}
					if other, taken := meant[f.host]; taken {
						t.Errorf("entries %d and %d are both entry %d of the host's", i, other, f.host)
					}
					meant[f.host] = i
					if !r.hosts[f.host].bound || f.present && !r.hosts[f.host].filled {
						t.Errorf("entry %d is %+v, on the host %+v", i, *f, r.hosts[f.host])
					}
				}
				for i := range r.hosts[:r.void] {
					h := &r.hosts[i]
					_, bound := meant[uint16(i)]
					if h.bound != bound || h.filled && !bound || h.refs != 0 {
						t.Errorf("entry %d of the host's is %+v; an entry of the guest's means it: %v", i, *h, bound)
					}
				}
				return nil
			}
			if err := r.inLoop(agree); err != nil {
				t.Fatal(err)
			}
			if err := b.ring.UpdateFiles(0, slices.Repeat([]*uringpv.File{uringpv.NoFile}, benchSlots)); err != nil {
				t.Fatal(err)
			}
			if err := r.inLoop(agree); err != nil {
				t.Fatal(err)
			}
			// Who was not accepted is in the backlog still.
			if err := unix.Shutdown(b.peer(0), unix.SHUT_RDWR); err != nil {
				t.Fatal(err)
			}
			for i, fd := range clients {
				if !closed(t, fd) {
					t.Fatalf("connection %d of %d is open and nobody has it", i, len(clients))
				}
			}
		})
	}
}

// TestRequestsKeepTheConnectionTheyNamed: a SEND waits for its turn, its connection's
// entry is closed, and others come and go until the host's table was used up twice.
// None of them gets what was not for it.
func TestRequestsKeepTheConnectionTheyNamed(t *testing.T) {
	needMultishot(t)
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			b := relayBench(t, mode, slices.Concat(listening(t), eventfd(t)))
			b.submit([]hostring.SQE{acceptMulti(1)})
			b.dial()
			first := b.wait().Res
			poll := sqe(hostring.OpPollAdd, link, 2)
			poll.FD, poll.OpFlags = 1, unix.POLLIN
			b.submit([]hostring.SQE{poll, b.rw(hostring.OpSend, fixed, 3, first, 0, 0, 12)})
			b.none()
			b.want("CLOSE", closeOf(4, first), 0)
			b.want("CLOSE again", closeOf(4, first), -int32(unix.EBADF))
			b.want("SEND by the entry that is empty", b.rw(hostring.OpSend, fixed, 5, first, 0, 0, 12), -int32(unix.EBADF))
			var others []int
			for range 5 * benchSlots {
				others = append(others, b.dial())
				c := b.wait()
				if c.UserData != 1 || c.Res < 0 {
					t.Fatalf("a connection: %s", text(c))
				}
				if len(others)%10 != 0 { // some stay
					b.want("CLOSE", closeOf(6, c.Res), 0)
				}
			}
			if _, err := unix.Write(b.peer(1), []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
				t.Fatal(err)
			}
			b.take(2)
			for _, fd := range others {
				if n, _, err := unix.Recvfrom(fd, make([]byte, 16), unix.MSG_DONTWAIT); n > 0 {
					t.Fatalf("another connection got %d bytes, %v", n, err)
				}
			}
		})
	}
}
