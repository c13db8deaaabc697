// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestScratchIsWholeAndLeavesNoName(t *testing.T) {
	for _, fill := range []Fill{Zeros, Random} {
		for _, size := range []int64{1, 511, 4096, 3<<20 + 7} {
			dir := t.TempDir()
			s, err := NewScratch(dir, size, fill)
			if err != nil {
				t.Fatalf("NewScratch(%d, %v): %v", size, fill, err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
				t.Errorf("size %d: the directory has entries %v (%v), want none even while it is open", size, entries, err)
			}

			// Two openings by path: the guest's, and a reader's.
			rw, err := os.OpenFile(s.Path(), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			ro, err := os.Open(s.Path())
			if err != nil {
				t.Fatal(err)
			}
			st, err := rw.Stat()
			if err != nil || st.Size() != size || s.Size() != size {
				t.Errorf("size: file %d, Scratch %d (%v), want %d", st.Size(), s.Size(), err, size)
			}
			got, err := io.ReadAll(ro)
			if err != nil {
				t.Fatal(err)
			}
			if zeros := bytes.Equal(got, make([]byte, size)); zeros != (fill == Zeros) && size > 1 {
				t.Errorf("size %d, fill %v: all zeros = %v", size, fill, zeros)
			}
			if _, err := rw.WriteAt([]byte{0x5a}, size-1); err != nil {
				t.Error(err)
			}
			var b [1]byte
			if _, err := ro.ReadAt(b[:], size-1); err != nil || b[0] != 0x5a {
				t.Errorf("what one opening wrote, the other reads as %#x, %v", b[0], err)
			}

			path := s.Path()
			for range 2 {
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after Close, %s still opens something (%v)", path, err)
			}
			rw.Close()
			ro.Close()
		}
	}
}

func TestRandomScratchIsTheSameEveryTime(t *testing.T) {
	sum := func() [32]byte {
		s, err := NewScratch(t.TempDir(), 1<<20+123, Random)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		b, err := os.ReadFile(s.Path())
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b)
	}
	if a, b := sum(), sum(); a != b {
		t.Errorf("two images differ: %x, %x", a, b)
	}
}

func TestScratchErrorsNameTheDirectory(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := NewScratch(missing, 4096, Zeros)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("in a missing directory: %v; want one that names %s", err, missing)
	}
	if _, err := NewScratch(t.TempDir(), 0, Zeros); err == nil {
		t.Error("a scratch image of no bytes is made")
	}

	// /dev/shm is a tmpfs nearly everywhere, and refuses at once what its limit
	// does not hold. A tmpfs without a limit would take all memory instead.
	var st unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &st); err != nil || st.Type != unix.TMPFS_MAGIC || st.Blocks == 0 {
		t.Skipf("SKIP: /dev/shm is no tmpfs with a limit (type %#x, %d blocks, %v)", st.Type, st.Blocks, err)
	}
	before := openFDs(t)
	_, err = NewScratch("/dev/shm", 1<<50, Zeros)
	if !errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), "\n") {
		t.Errorf("an image that does not fit: %v; want one line that wraps ENOSPC", err)
	}
	if after := openFDs(t); after != before {
		t.Errorf("descriptors: %d before the failure, %d after", before, after)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
