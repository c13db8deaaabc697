// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// heldAccount is what a kernel prints of a ring.
const heldAccount = `pos:	0
SqMask:	0x7
CachedSqHead:	3
SQEs:	1
    0: opcode:NOP, fd:0, flags:0, off:0, addr:0x0, rw_flags:0x0, buf_index:0 user_data:0
CQEs:	1
    0: user_data:0, res:0, flag:0
SqThread:	-1
UserFiles:	1
    0: x
PollList:
  op=6, task_works=0
  op=6, task_works=0
CqOverflowList:
  user_data=1, res=0, flags=0
  user_data=2, res=-22, flags=0
  user_data=3, res=0, flags=0
NAPI:	disabled
  busy=1
`

func TestHeldCountsWhatWaitsAndWhatOverflowed(t *testing.T) {
	for _, chunk := range []int{1, 7, 16, 4096} {
		var c heldCounter
		for b := []byte(heldAccount); len(b) > 0; {
			n := min(chunk, len(b))
			c.add(b[:n])
			b = b[n:]
		}
		if c.n != 5 || !c.listed || !c.noThread {
			t.Errorf("in pieces of %d bytes: %d counted, listed %v, without a thread %v; want 5, true, true", chunk, c.n, c.listed, c.noThread)
		}
	}
	var c heldCounter
	c.add([]byte(strings.Split(heldAccount, "CqOverflowList")[0]))
	if c.listed {
		t.Error("an account that ends early counts as whole")
	}
}

func FuzzHeldCounter(f *testing.F) {
	f.Add([]byte(heldAccount))
	f.Fuzz(func(t *testing.T, b []byte) {
		var whole, pieces heldCounter
		whole.add(b)
		for i := range b {
			pieces.add(b[i : i+1])
		}
		if whole.n != pieces.n || whole.listed != pieces.listed {
			t.Errorf("%d in one piece, %d in many", whole.n, pieces.n)
		}
	})
}

// TestHeldOfARing has the kernel hold polls and CQEs.
func TestHeldOfARing(t *testing.T) {
	r := newRing(t, Config{Entries: 64, CQEntries: 64, Flags: SetupCQSize})
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	submit := func(op uint8, n int) {
		t.Helper()
		for range n {
			s, ok := r.SQE()
			if !ok {
				if _, err := r.Submit(); err != nil {
					t.Fatal(err)
				}
				if s, ok = r.SQE(); !ok {
					t.Fatal("the SQ ring stays full")
				}
			}
			s.Opcode, s.FD, s.OpFlags = op, int32(p[0]), unix.POLLIN
			if op == OpNop {
				s.FD, s.OpFlags = -1, 0
			}
		}
		if _, err := r.Submit(); err != nil {
			t.Fatal(err)
		}
	}
	check := func(most, want int) {
		t.Helper()
		if n, err := r.Held(most); err != nil || n != want {
			t.Errorf("%d, %v; want %d", n, err, want)
		}
	}
	check(1000, 0)
	submit(OpPollAdd, 10)
	check(1000, 10)
	submit(OpNop, 64+2000)
	check(1<<20, 10+2000)
	if n, err := r.Held(500); err != nil || n < 500 || n > 2010 {
		t.Errorf("%d, %v; want to stop soon after 500", n, err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = r.Held(1 << 20) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestFileAllocRange(t *testing.T) {
	r := newRing(t, Config{Entries: 8})
	if err := r.RegisterFilesSparse(8); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: no sparse file table: %v", err)
	}
	if err := r.RegisterFileAllocRange(2, 3); err != nil {
		t.Error(err)
	}
	if err := r.RegisterFileAllocRange(6, 3); Errno(err) != unix.EINVAL && Errno(err) != unix.EOVERFLOW {
		t.Errorf("a range past the table: %v, want EINVAL", err)
	}
}
