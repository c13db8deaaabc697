// SPDX-License-Identifier: Apache-2.0

package buffers_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/internal/buffers"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

// A ring that shares the buffers reads into guest RAM by their index.
func TestRingsShareAllRAM(t *testing.T) {
	testutil.NeedIOUring(t)
	if f, _ := hostring.ProbeFeature(hostring.FeatureClone); f.Result == hostring.No {
		t.Skipf("NOT TESTED: this host's kernel cannot share buffers: %v", f.Why)
	}
	m := ringtest.Memory(t, 64<<20)
	a, err := buffers.PinAll(m)
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
	c := ringtest.One(t, r, hostring.SQE{Opcode: hostring.OpReadFixed, FD: int32(f.Fd()), Addr: uint64(to), Len: uint32(len(want))})
	if c.Res != int32(len(want)) {
		t.Fatalf("READ_FIXED gives %d", c.Res)
	}
	got := make([]byte, len(want))
	if err := m.ReadAt(got, at); err != nil || string(got) != want {
		t.Errorf("guest RAM has %q (%v), want %q", got, err, want)
	}
}

// Who faults RAM in has it all in memory, and nothing to share.
func TestFaultInFindsEveryPage(t *testing.T) {
	testutil.NeedIOUring(t)
	m := ringtest.Memory(t, 64<<20)
	a, err := buffers.FaultIn(m)
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
func TestInterruptEndsTheWait(t *testing.T) {
	testutil.NeedIOUring(t)
	a, err := buffers.PinAll(ringtest.Memory(t, 2<<30))
	if err != nil {
		t.Fatal(err)
	}
	go a.Interrupt()
	if err := a.Wait(); !errors.Is(err, buffers.ErrClosed) {
		t.Errorf("%v, want %v", err, buffers.ErrClosed)
	}
	a.Interrupt()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseGivesPinningUp(t *testing.T) {
	testutil.NeedIOUring(t)
	m := ringtest.Memory(t, 2<<30)
	a, err := buffers.PinAll(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Wait(); !errors.Is(err, buffers.ErrClosed) {
		t.Errorf("after Close: %v, want %v", err, buffers.ErrClosed)
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
