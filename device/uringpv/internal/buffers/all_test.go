// SPDX-License-Identifier: Apache-2.0

package buffers

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

func newMemory(t *testing.T, size uint64) *memmap.Memory {
	t.Helper()
	l, err := memmap.NewLayout(size)
	if err != nil {
		t.Fatal(err)
	}
	m, err := memmap.New(l, memmap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// A ring that shares the buffers reads into guest RAM by their index.
func TestRingsShareAllRAM(t *testing.T) {
	testutil.NeedIOUring(t)
	if f, _ := hostring.ProbeFeature(hostring.FeatureClone); f.Result == hostring.No {
		t.Skipf("NOT TESTED: this host's kernel cannot share buffers: %v", f.Why)
	}
	m := newMemory(t, 64<<20)
	a, err := PinAll(m)
	if err != nil {
		t.Fatal(err)
	}
	r, err := hostring.New(hostring.Config{Entries: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := a.Share(r); err != nil {
		t.Fatal(err)
	}
	// Sharing outlives what was shared.
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	want := "written by the host's io_uring"
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := memmap.Addr(63 << 20)
	to, err := m.HostAddr(memmap.Range{Start: at, Length: uint64(len(want))})
	if err != nil {
		t.Fatal(err)
	}
	s, ok := r.SQE()
	if !ok {
		t.Fatal("no SQE free")
	}
	*s = hostring.SQE{Opcode: hostring.OpReadFixed, FD: int32(f.Fd()), Addr: uint64(to), Len: uint32(len(want))}
	if _, err := r.Submit(); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitCQE(); err != nil {
		t.Fatal(err)
	}
	var c [1]hostring.CQE
	if n := r.Reap(c[:]); n != 1 || c[0].Res != int32(len(want)) {
		t.Fatalf("%d completions: %+v", n, c[0])
	}
	got := make([]byte, len(want))
	if err := m.ReadAt(got, at); err != nil || string(got) != want {
		t.Errorf("guest RAM has %q (%v), want %q", got, err, want)
	}
}

// Who faults RAM in has it all in memory, and nothing to share.
func TestFaultInFindsEveryPage(t *testing.T) {
	testutil.NeedIOUring(t)
	m := newMemory(t, 64<<20)
	a, err := FaultIn(m)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Wait(); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(m.FD(), &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 != 64<<20 {
		t.Errorf("%d bytes of 64 MiB are in memory", st.Blocks*512)
	}
	r, err := hostring.New(hostring.Config{Entries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := a.Share(r); hostring.Errno(err) != unix.EINVAL {
		t.Errorf("Share of nothing: %v, want EINVAL", err)
	}
}

// A monitor that ends does not wait until gigabytes are pinned.
func TestCloseGivesPinningUp(t *testing.T) {
	testutil.NeedIOUring(t)
	m := newMemory(t, 2<<30)
	a, err := PinAll(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Wait(); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v, want %v", err, errClosed)
	}
	var st unix.Stat_t
	if err := unix.Fstat(m.FD(), &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 >= 2<<30 {
		t.Error("all guest RAM was faulted in")
	}
	if err := a.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}
