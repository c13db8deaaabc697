// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
)

// step is an SQE of a random batch, without addresses.
type step struct {
	kind  int
	flags uint8
}

// sqeOf is the SQE for a step, and whether the kernel refuses it when it is prepared.
func (b *bench) sqeOf(s step, user uint64) hostring.SQE {
	switch s.kind {
	case 0:
		return sqe(hostring.OpNop, s.flags, user)
	case 1:
		return b.rw(hostring.OpReadFixed, s.flags, user, 0, 0, 0, 512)
	case 2:
		return b.rw(hostring.OpRead, s.flags, user, 0, 8100, 0, 512) // short
	case 3:
		return b.rw(hostring.OpWriteFixed, s.flags, user, 1, 0, 1024, 512)
	case 4:
		return b.rw(hostring.OpRead, s.flags, user, 0, 9000, 0, 512) // behind the end
	case 5:
		return b.rw(hostring.OpReadFixed, s.flags, user, 77, 0, 0, 512) // fails when issued
	case 6:
		x := sqe(hostring.OpFsync, s.flags, user) // fails when prepared
		x.Addr = 1
		return x
	case 7:
		x := sqe(hostring.OpReadv, s.flags, user)
		x.Addr, x.Len = b.vec(4096, [2]uint64{0, 100}, [2]uint64{200, 50}), 2
		return x
	case 8:
		x := sqe(hostring.OpTimeout, s.flags, user)
		x.Addr, x.Len = b.timespec(5120, 50*time.Microsecond), 1
		return x
	case 9:
		x := sqe(hostring.OpLinkTimeout, s.flags, user)
		x.Addr, x.Len = b.timespec(5152, 20*time.Second), 1
		return x
	case 10:
		return b.rw(hostring.OpReadFixed, s.flags|hostring.SQEAsync, user, 0, 512, 0, 512)
	}
	x := sqe(hostring.OpAsyncCancel, s.flags, user)
	x.Addr = 1 << 40 // nobody
	return x
}

// TestAnyBatchIsAsOnTheHost: whatever a guest ties together, each request gets the
// result that the host's io_uring gives, and CQEs of a chain come in its order.
func TestAnyBatchIsAsOnTheHost(t *testing.T) {
	testutil.NeedIOUring(t)
	for _, skipping := range []bool{false, true} {
		native := nativeBench(t, disks(8192, 8192)(t))
		relays := map[string]*bench{}
		for _, m := range modes {
			relays[m] = relayBench(t, m, disks(8192, 8192)(t))
		}
		choices := []uint8{fixed, fixed, link, link, link, hard, hard, drain, link | hostring.SQEIODrain, link | hostring.SQEIOHardlink}
		if drainsMayHang(t) {
			choices = slices.DeleteFunc(choices, func(f uint8) bool { return f&hostring.SQEIODrain != 0 })
		}
		if skipping {
			choices = append(choices, skip, skip, link|skip, link|skip, hard|skip)
		}
		t.Run(fmt.Sprint("CQE_SKIP_SUCCESS ", skipping), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				steps := make([]step, rapid.IntRange(1, 24).Draw(t, "SQEs"))
				for i := range steps {
					steps[i] = step{rapid.IntRange(0, 11).Draw(t, "kind"), rapid.SampledFrom(choices).Draw(t, "flags")}
				}
				differ := func() string {
					native.counts = nil
					want := native.batch(steps)
					for name, b := range relays {
						b.counts = native.counts
						if have := b.batch(steps); !slices.Equal(have, want) {
							return fmt.Sprintf("%+v\n%s: %q\nhost: %q", steps, name, have, want)
						}
					}
					return ""
				}
				why := differ()
				// How many CQEs come where some have none only time can tell, and on a busy host
				// they are late.
				for try := 0; why != "" && skipping && try < 2; try++ {
					native.drop()
					for _, b := range relays {
						b.drop()
					}
					why = differ()
				}
				if why != "" {
					t.Fatal(why)
				}
			})
		})
	}
}

// drainsMayHang says whether this is a kernel before 6.16. On those a drain may wait
// for ever, natively too, when requests behind it have completed before it began: they
// compare counts of CQEs for equality.
func drainsMayHang(t *testing.T) bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	release := unix.ByteSliceToString(u.Release[:])
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		t.Fatalf("release %q: %v", release, err)
	}
	old := major < 6 || major == 6 && minor < 16
	if old {
		t.Logf("NOT TESTED on Linux %s: IOSQE_IO_DRAIN among failing chains, which may hang there", release)
	}
	return old
}

// batch submits the steps at once and returns what came of them: by chain, and in a
// chain by CQE, but a LINK_TIMEOUT's, which comes before or after its request's.
func (b *bench) batch(steps []step) []string {
	b.Helper()
	var sqes []hostring.SQE
	chainOf := map[uint64]int{}
	timer := map[uint64]bool{}
	c := 0
	for i, s := range steps {
		x := b.sqeOf(s, uint64(i))
		sqes = append(sqes, x)
		chainOf[uint64(i)] = c
		timer[uint64(i)] = x.Opcode == hostring.OpLinkTimeout
		if x.Flags&linkFlags == 0 {
			c++
		}
	}
	var got []hostring.CQE
	if slices.ContainsFunc(steps, func(s step) bool { return s.flags&hostring.SQECQESkipSuccess != 0 }) {
		got = b.all(sqes)
	} else {
		b.log = []string{fmt.Sprintf("native %v, batch %+v", b.native, steps)} // for wait
		b.submit(sqes)
		for range steps {
			got = append(got, b.wait())
			b.log = append(b.log, text(got[len(got)-1]))
		}
	}
	slices.SortStableFunc(got, func(x, y hostring.CQE) int {
		if d := chainOf[x.UserData] - chainOf[y.UserData]; d != 0 {
			return d
		}
		if timer[x.UserData] == timer[y.UserData] {
			return 0
		} else if timer[x.UserData] {
			return 1
		}
		return -1
	})
	var lines []string
	for _, q := range got {
		lines = append(lines, text(q))
	}
	return lines
}

// TestChainsOfEveryLength: chains of every length up to the whole ring, on a ring that
// never stands still, arrive whole.
func TestChainsOfEveryLength(t *testing.T) {
	for _, mode := range modes {
		b := relayBench(t, mode, disks(4096)(t))
		for n := 1; n <= 256; n = n*5/4 + 1 {
			for _, bad := range []int{0, n / 2, n - 1} {
				var sqes []hostring.SQE
				for i := range n {
					s := b.rw(hostring.OpReadFixed, link, uint64(i), 0, 0, 0, 8)
					if i == bad {
						s.FD = 99
					}
					sqes = append(sqes, s)
				}
				sqes[n-1].Flags = fixed
				b.submit(sqes)
				for i := range n {
					want := int32(8)
					if i == bad {
						want = -int32(unix.EBADF)
					} else if i > bad {
						want = -int32(unix.ECANCELED)
					}
					if c := b.wait(); c.UserData != uint64(i) || c.Res != want {
						t.Fatalf("%s: chain of %d, %d fails: CQE %d is %s, want %d", mode, n, bad, i, text(c), want)
					}
				}
			}
		}
	}
}

// TestChainsOneBehindAnother: chains of every length up to the whole ring, submitted as
// soon as there is room, never come apart where the host's ring is full.
func TestChainsOneBehindAnother(t *testing.T) {
	testutil.NoLeaks(t)
	for _, mode := range []string{"polling", "thread", "doorbell"} {
		g := ringtest.NewRig(t, newSlotted, disks(4096)(t)...)
		g.Backend.(slotted).inline = mode != "thread"
		flags := uint32(hostring.SetupSQPoll)
		if mode == "doorbell" {
			flags = 0
		}
		d := g.Setup(t, ringtest.Config{SQ: 16, CQ: 1024, Flags: flags, Idle: 5 * time.Millisecond})
		type member struct{ chain, place, bad int }
		waits := map[uint64]member{}
		next := map[int]int{} // of a chain: the place whose CQE comes next
		user := uint64(0)
		reap := func() bool {
			c, ok := d.Reap()
			if !ok {
				return false
			}
			m, known := waits[c.UserData]
			delete(waits, c.UserData)
			want := int32(8)
			if m.place == m.bad {
				want = -int32(unix.EBADF)
			} else if m.place > m.bad {
				want = -int32(unix.ECANCELED)
			}
			if !known || next[m.chain] != m.place || c.Res != want {
				t.Fatalf("%s: %+v: %s, want %d at place %d", mode, m, text(c), want, next[m.chain])
			}
			next[m.chain]++
			return true
		}
		for chain := range 2000 {
			n := 1 + chain*7%16
			bad := chain * 5 % (2 * n) // every other chain has none
			for place := range n {
				s := hostring.SQE{Opcode: hostring.OpReadFixed, Flags: link, Addr: g.Addr(0), Len: 8, UserData: user}
				if place == bad {
					s.FD = 99
				}
				if place == n-1 {
					s.Flags = fixed
				}
				waits[user] = member{chain, place, bad}
				user++
				d.MustPut(t, &s)
			}
			d.Submit()
			for len(waits) > 900 {
				reap()
			}
		}
		for deadline := time.Now().Add(late); len(waits) > 0; {
			if !reap() && time.Now().After(deadline) {
				t.Fatalf("%s: %d requests have not completed", mode, len(waits))
			}
		}
		d.Destroy(t)
	}
}

// TestChainWaitsForSlots: as many requests wait as may be in flight, all but a few. A
// chain that has no room is not taken, and not taken apart, and goes on when they end.
func TestChainWaitsForSlots(t *testing.T) {
	testutil.NoLeaks(t)
	for _, flags := range []uint32{hostring.SetupSQPoll, 0} {
		g := ringtest.NewRig(t, newSlotted, eventfd(t)...)
		d := g.Setup(t, ringtest.Config{SQ: 64, CQ: 64, Flags: flags, Idle: time.Millisecond})
		const polls, members = fewestInFlight - 6, 10
		p := sqe(hostring.OpPollAdd, fixed, 1000)
		p.OpFlags = unix.POLLIN
		for range polls {
			d.MustPut(t, &p)
			d.Submit()
		}
		for i := range uint64(members) {
			s := sqe(hostring.OpNop, link, i)
			if i == members-1 {
				s.Flags = fixed
			}
			d.MustPut(t, &s)
		}
		d.Submit()
		time.Sleep(20 * time.Millisecond)
		if c, ok := d.Reap(); ok {
			t.Fatalf("a completion although there is no room: %s", text(c))
		}
		if _, err := unix.Write(g.Files[0].FD, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Fatal(err)
		}
		next := uint64(0)
		for range polls + members {
			c := d.Wait(t)
			if c.UserData == 1000 && c.Res == unix.POLLIN {
				continue
			}
			if c.UserData != next || c.Res != 0 {
				t.Fatalf("%s, want NOP %d", text(c), next)
			}
			next++
		}
		if res := d.Do(t, ringtest.NOP(7)); res != 0 {
			t.Errorf("a NOP gives %d", res)
		}
		d.Destroy(t)
	}
}
