// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/testutil"
)

// The kernel calls an update that it broke off a success, and says how far it
// came.
func TestAnUpdateThatTheKernelBrokeOffIsAnError(t *testing.T) {
	testutil.NoLeaks(t)
	_, v := shared(t, 1<<16)
	r := newRing(t, Config{Entries: 8})
	if err := r.RegisterFilesSparse(4); err != nil {
		t.Fatal(err)
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	n := int32(null)
	for _, tt := range []struct {
		name string
		off  uint32
		fds  []int32
		want error
	}{
		{"all", 0, []int32{n, n, n, n}, nil},
		{"the first is no descriptor", 0, []int32{1 << 20, n}, unix.EBADF},
		{"the last is no descriptor", 0, []int32{n, n, n, 1 << 20}, unix.EBADF},
		{"emptied and kept", 1, []int32{-1, KeepFile, n}, nil},
		{"beyond the table", 2, []int32{n, n, n}, unix.EINVAL},
		{"none", 0, nil, unix.EINVAL},
	} {
		if err := r.UpdateFiles(tt.off, tt.fds); !errors.Is(err, tt.want) {
			t.Errorf("files, %s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if err := r.RegisterBuffers([]Buffer{{v.Addr(), 4096}, {v.Addr(), 4096}, {v.Addr(), 4096}}); err != nil {
		t.Fatal(err)
	}
	good, nowhere := Buffer{v.Addr(), 8192}, Buffer{1 << 20, 4096}
	for _, tt := range []struct {
		name string
		off  uint32
		b    []Buffer
		want error
	}{
		{"all", 0, []Buffer{good, good, good}, nil},
		{"the first is nowhere", 0, []Buffer{nowhere, good}, unix.EFAULT},
		{"the last is nowhere", 0, []Buffer{good, good, nowhere}, unix.EFAULT},
		{"emptied", 1, []Buffer{{}, {}}, nil},
		{"beyond the table", 2, []Buffer{good, good}, unix.EINVAL},
	} {
		if err := r.UpdateBuffers(tt.off, tt.b); !errors.Is(err, tt.want) {
			t.Errorf("buffers, %s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// One request is cancelled although a drain waits for it, and no other.
func TestSyncCancelReachesOneBeforeADrain(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRing(t, Config{Entries: 8})
	if f, _ := ProbeFeature(FeatureSyncCancel); f.Result != Yes {
		t.Skipf("no synchronous cancel: %v", f.Why)
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, s := range []SQE{
		{Opcode: OpPollAdd, FD: int32(fd), OpFlags: unix.POLLIN, UserData: 1},
		{Opcode: OpPollAdd, FD: int32(fd), OpFlags: unix.POLLIN, UserData: 2},
		{Opcode: OpNop, Flags: SQEIODrain, UserData: 3},
	} {
		to, _ := r.SQE()
		*to = s
	}
	if _, err := r.Submit(); err != nil {
		t.Fatal(err)
	}
	for _, user := range []uint64{2, 1} {
		if err := r.SyncCancel(user, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		if err := r.WaitCQE(); err != nil {
			t.Fatal(err)
		}
		var c [1]CQE
		if r.Reap(c[:]); c[0].UserData != user || c[0].Res != -int32(unix.ECANCELED) {
			t.Errorf("after the cancel of %d: %+v", user, c[0])
		}
		if err := r.SyncCancel(user, 0, 0, 0); !errors.Is(err, unix.ENOENT) {
			t.Errorf("a second cancel of %d: %v, want ENOENT", user, err)
		}
	}
}
