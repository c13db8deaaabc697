// SPDX-License-Identifier: Apache-2.0

package growth

import (
	"errors"
	"os"
	"os/signal"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/testutil"
)

func limit(t *testing.T) unix.Rlimit {
	t.Helper()
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &l); err != nil {
		t.Fatal(err)
	}
	return l
}

func release(t *testing.T, h *Hold) {
	t.Helper()
	if err := h.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestFileDoesNotGrowUnderABound(t *testing.T) {
	const size = 8192
	path := testutil.ScratchFile(t, size)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := limit(t)
	h, err := Bound(size)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Pwrite(int(f.Fd()), make([]byte, 512), size-100); n != 100 || err != nil {
		t.Errorf("a write across the bound moved %d bytes (%v), want 100", n, err)
	}
	for _, off := range []int64{size, 1 << 40} {
		if _, err := unix.Pwrite(int(f.Fd()), make([]byte, 512), off); !errors.Is(err, unix.EFBIG) {
			t.Errorf("a write at %d: %v, want EFBIG", off, err)
		}
	}
	if st, _ := f.Stat(); st.Size() != size {
		t.Errorf("the file has %d bytes, want %d", st.Size(), size)
	}
	release(t, h)
	if now := limit(t); now != before {
		t.Errorf("RLIMIT_FSIZE is %+v after the release, was %+v", now, before)
	}
	if !signal.Ignored(unix.SIGXFSZ) {
		t.Error("SIGXFSZ of a late write would kill the process")
	}
	if _, err := unix.Pwrite(int(f.Fd()), make([]byte, 1), size); err != nil {
		t.Errorf("a write past the end after the release: %v", err)
	}
}

func TestBoundIsOneForTheProcess(t *testing.T) {
	before := limit(t)
	a, err := Bound(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Bound(1 << 20)
	if err != nil {
		t.Fatalf("a second bound of the same size: %v", err)
	}
	if _, err := Bound(1 << 21); !errors.Is(err, ErrConflict) {
		t.Errorf("a second bound of another size: %v, want ErrConflict", err)
	}
	if _, err := Need(1<<20 + 1); !errors.Is(err, ErrConflict) {
		t.Errorf("a need above the bound: %v, want ErrConflict", err)
	}
	n, err := Need(1 << 20)
	if err != nil {
		t.Errorf("a need within the bound: %v", err)
	}
	release(t, a)
	release(t, a) // counts once
	if limit(t).Cur != 1<<20 {
		t.Error("the bound went with the first of two holds")
	}
	release(t, b)
	if limit(t) != before {
		t.Error("the bound stayed after the last hold")
	}
	if _, err := Bound(4096); !errors.Is(err, ErrConflict) {
		t.Errorf("a bound below a need: %v, want ErrConflict", err)
	}
	release(t, n)
	c, err := Bound(4096)
	if err != nil {
		t.Errorf("a bound after the need went: %v", err)
	}
	release(t, c)
	release(t, nil)
}

func TestBoundNamesALimitThatIsTooLow(t *testing.T) {
	before := limit(t)
	low := before
	low.Cur = 4096
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &low); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
			t.Error(err)
		}
	}()
	if _, err := Bound(8192); err == nil || errors.Is(err, ErrConflict) {
		t.Errorf("Bound(8192) under a limit of 4096: %v, want a plain error", err)
	}
	if _, err := Bound(0); err == nil {
		t.Error("Bound(0) succeeded")
	}
}
