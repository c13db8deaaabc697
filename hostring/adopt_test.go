// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAdopt makes a second Ring of one that shares its memory: what the first
// one's maker does for it, it does.
func TestAdopt(t *testing.T) {
	if f, _ := ProbeFeature("NO_MMAP, rings of one page"); f.Result == No {
		t.Skipf("SKIPPED, NOT TESTED: no rings in the caller's memory: %v", f.Why)
	}
	_, v := shared(t, 2*4096)
	c := Config{Entries: 8, Flags: SetupNoMmap | SetupSQPoll}
	c.Rings, _ = v.Slice(0, 4096)
	c.SQEs, _ = v.Slice(4096, 4096)
	first := newRing(t, c)
	dup := func() int {
		fd, err := unix.FcntlInt(uintptr(first.FD()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	r, err := Adopt(dup(), first.Params(), c)
	if err != nil {
		t.Fatal(err)
	}
	if q := one(t, r, func(s *SQE) { s.Opcode, s.UserData = OpNop, 77 }); q.UserData != 77 || q.Res != 0 {
		t.Errorf("%+v", q)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}

	p := first.Params()
	p.CQOff.CQEs = 1 << 20
	fd := dup()
	if _, err := Adopt(fd, p, c); !errors.Is(err, ErrBadOffsets) {
		t.Errorf("offsets outside the memory: %v", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("the descriptor is still open (%v)", err)
	}
}

func TestParamsWantMemoryForNoMmap(t *testing.T) {
	c := Config{Entries: 8, Flags: SetupNoMmap}
	if _, err := c.Params(); !errors.Is(err, unix.EINVAL) {
		t.Errorf("%v, want EINVAL", err)
	}
}
