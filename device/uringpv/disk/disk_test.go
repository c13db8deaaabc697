// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/uringpv/uringpv/internal/testutil"
)

func open(t *testing.T, path string, o Options) *Disk {
	t.Helper()
	d, err := OpenDisk(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// refused checks that opening path fails in one line that names the path and
// says what is wrong.
func refused(t *testing.T, path string, o Options, kind error, says ...string) {
	t.Helper()
	d, err := OpenDisk(path, o)
	if err == nil {
		_ = d.Close()
		t.Fatalf("%s is opened with %+v", path, o)
	}
	var e *Error
	if !errors.As(err, &e) || e.Path != path {
		t.Errorf("%v: not an *Error that names %s", err, path)
	}
	if !errors.Is(err, kind) {
		t.Errorf("%v: is not %v", err, kind)
	}
	if !strings.HasPrefix(err.Error(), path+": ") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%q: not one line that begins with the path", err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not say %q", err, s)
		}
	}
}

func TestImageIsADisk(t *testing.T) {
	testutil.NoLeaks(t)
	const size = 3*4096 + 17 // any size will do
	path := testutil.ScratchFile(t, size)
	d := open(t, path, Options{ID: "root"})
	f := d.File()
	if n, err := f.Size(); n != size || err != nil {
		t.Errorf("size %d, %v; want %d", n, err, size)
	}
	if f.Name != "root" || f.Serial != "root" || f.ReadOnly || f.Direct || f.BlockDevice || f.BlockSize != 512 || f.DIOMemAlign != 1 || f.DIOOffsetAlign != 1 {
		t.Errorf("file %+v", f)
	}
	if _, err := unix.Pwrite(f.FD, []byte("x"), size-1); err != nil {
		t.Error(err)
	}
	// The size is the file's at the moment of asking.
	if err := os.Truncate(path, 2*size); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Size(); n != 2*size || err != nil {
		t.Errorf("size %d, %v after the file has grown to %d", n, err, 2*size)
	}
	flags, err := unix.FcntlInt(uintptr(f.FD), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags %#x, %v: io_uring would answer EAGAIN instead of waiting", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(f.FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v: want close-on-exec", flags, err)
	}
}

func TestDiskWithoutAnIDIsNamedAfterItsFile(t *testing.T) {
	path := testutil.ScratchFile(t, 512)
	if d := open(t, path, Options{ReadOnly: true}); d.ID() != filepath.Base(path) || d.Path() != path {
		t.Errorf("id %q, path %q", d.ID(), d.Path())
	}
}

func TestSymbolicLinkIsFollowed(t *testing.T) {
	path := testutil.ScratchFile(t, 512)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	open(t, link, Options{})
	refused(t, path, Options{}, ErrInUse, "disk in use")
}

func TestUnnamedFileIsOpenedByItsDescriptor(t *testing.T) {
	fd, err := unix.Open(t.TempDir(), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED: no O_TMPFILE here: %v", err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 4096); err != nil {
		t.Fatal(err)
	}
	open(t, fmt.Sprintf("/proc/self/fd/%d", fd), Options{ID: "scratch"})
}

func TestWhatIsNoDiskIsRefusedInOneLine(t *testing.T) {
	testutil.NoLeaks(t)
	dir := t.TempDir()
	join := func(name string) string { return filepath.Join(dir, name) }
	if err := unix.Mkfifo(join("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", join("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.WriteFile(join("empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", join("loop")); err != nil {
		t.Fatal(err)
	}
	const right = "a disk is a regular file or a block device"
	for _, o := range []Options{{}, {ReadOnly: true}, {Direct: true}, {ReadOnly: true, Direct: true}} {
		refused(t, join("missing"), o, unix.ENOENT, "no such file or directory")
		refused(t, dir, o, ErrNotDisk, "directory", right)
		refused(t, join("fifo"), o, ErrNotDisk, "named pipe", right)
		refused(t, join("socket"), o, ErrNotDisk, "socket", right)
		refused(t, "/dev/null", o, ErrNotDisk, "character device", right)
		refused(t, join("loop"), o, unix.ELOOP, "symbolic links")
		refused(t, join("empty")+"/x", o, unix.ENOTDIR, "not a directory")
	}
	refused(t, join("empty"), Options{}, ErrNotDisk, "is empty")
}

func TestErrorIsOneLineWhateverThePath(t *testing.T) {
	if got := (&Error{Path: "a\nb", Reason: "r"}).Error(); got != `"a\nb": r` {
		t.Errorf("%q", got)
	}
}

func TestPermissionsAreExplained(t *testing.T) {
	path := testutil.ScratchFile(t, 512)
	err := openError(path, Options{}, unix.EACCES)
	if !strings.Contains(err.Error(), "readonly=on") {
		t.Errorf("%v", err)
	}
	if err := openError(path, Options{ReadOnly: true}, unix.EACCES); strings.Contains(err.Error(), "readonly=on") {
		t.Errorf("%v: advises what was done", err)
	}
	for _, errno := range []unix.Errno{unix.EROFS, unix.ETXTBSY, unix.EBUSY} {
		if err := openError(path, Options{}, errno); !strings.Contains(err.Error(), "readonly=on") {
			t.Errorf("%v", err)
		}
	}
	if os.Getuid() == 0 {
		t.Log("running as root, to whom no file is closed: only the words are tested")
		return
	}
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	refused(t, path, Options{}, unix.EACCES, "permission denied")
	open(t, path, Options{ReadOnly: true})
}

func TestLocks(t *testing.T) {
	testutil.NoLeaks(t)
	rw, ro := Options{}, Options{ReadOnly: true}
	for _, tt := range []struct {
		name          string
		first, second Options
		says          string // empty: both may have it
	}{
		{"two readers", ro, ro, ""},
		{"writer after reader", ro, rw, "somebody reads it"},
		{"reader after writer", rw, ro, "somebody writes it"},
		{"two writers", rw, rw, "somebody else writes it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := testutil.ScratchFile(t, 4096)
			d, err := OpenDisk(path, tt.first)
			if err != nil {
				t.Fatal(err)
			}
			if tt.says == "" {
				open(t, path, tt.second)
			} else {
				refused(t, path, tt.second, ErrInUse, "disk in use", tt.says)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Errorf("second Close: %v", err)
			}
			if tt.says != "" {
				open(t, path, tt.second) // the lock is gone
			}
		})
	}
}

func TestOtherProgramsLocksCount(t *testing.T) {
	path := testutil.ScratchFile(t, 4096)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// One byte, as QEMU does it.
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 201, Len: 1}); err != nil {
		t.Fatal(err)
	}
	refused(t, path, Options{}, ErrInUse, "somebody reads it")
	open(t, path, Options{ReadOnly: true})
}

func TestReadingLeavesTimesAlone(t *testing.T) {
	path := testutil.ScratchFile(t, 4096)
	content := bytes.Repeat([]byte("uringpv!"), 512)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	// So old that even relatime would touch it.
	old := time.Now().Add(-72 * time.Hour).Truncate(time.Second)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	d := open(t, path, Options{ReadOnly: true})
	got := make([]byte, len(content))
	if n, err := unix.Pread(d.FD(), got, 0); n != len(got) || err != nil || !bytes.Equal(got, content) {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Atim.Sec != old.Unix() || st.Mtim.Sec != old.Unix() {
		t.Errorf("access time %d, modification time %d; want both %d", st.Atim.Sec, st.Mtim.Sec, old.Unix())
	}
}

func TestReadOnlyDiskCannotBeWritten(t *testing.T) {
	path := testutil.ScratchFile(t, 4096)
	d := open(t, path, Options{ReadOnly: true})
	if !d.ReadOnly() || !d.File().ReadOnly {
		t.Error("does not say that it is read-only")
	}
	if _, err := unix.Pwrite(d.FD(), []byte("x"), 0); err != unix.EBADF {
		t.Errorf("write: %v, want EBADF from the kernel", err)
	}
}

func TestReadOnlyTwinSharesTheLock(t *testing.T) {
	testutil.NoLeaks(t)
	for _, direct := range []bool{false, true} {
		t.Run(fmt.Sprintf("direct=%v", direct), func(t *testing.T) {
			path := testutil.ScratchFile(t, 1<<20)
			d := open(t, path, Options{ID: "disk0", Direct: direct})
			twin, err := d.ReadOnlyTwin("")
			if err != nil {
				t.Fatal(err)
			}
			f, g := d.File(), twin.File()
			if g.Name != "disk0-ro" || !g.ReadOnly || g.Serial == f.Serial || g.Direct != f.Direct || g.DIOMemAlign != f.DIOMemAlign {
				t.Errorf("twin %+v of %+v", g, f)
			}
			if !direct {
				if _, err := unix.Pwrite(f.FD, []byte("seen"), 100); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, 4)
				if _, err := unix.Pread(g.FD, got, 100); err != nil || string(got) != "seen" {
					t.Errorf("the twin reads %q, %v", got, err)
				}
			}
			if _, err := unix.Pwrite(g.FD, []byte("x"), 0); err != unix.EBADF {
				t.Errorf("write to the twin: %v, want EBADF", err)
			}
			// The first goes, the lock stays until the twin goes too.
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			refused(t, path, Options{}, ErrInUse, "somebody else writes it")
			if n, err := twin.Size(); n != 1<<20 || err != nil {
				t.Errorf("size %d, %v", n, err)
			}
			if err := twin.Close(); err != nil {
				t.Fatal(err)
			}
			open(t, path, Options{})
		})
	}
}

func TestDirectDiskSaysItsAlignment(t *testing.T) {
	path := testutil.ScratchFile(t, 1<<20)
	d, err := OpenDisk(path, Options{Direct: true})
	if errors.Is(err, ErrNoDirect) {
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f := d.File()
	for _, n := range []uint32{f.BlockSize, f.DIOMemAlign, f.DIOOffsetAlign} {
		if n == 0 || n&(n-1) != 0 {
			t.Fatalf("%d is no power of two: %+v", n, f)
		}
	}
	if !f.Direct || f.DIOOffsetAlign < 512 || f.BlockSize < f.DIOOffsetAlign {
		t.Errorf("%+v", f)
	}
	flags, err := unix.FcntlInt(uintptr(f.FD), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_DIRECT == 0 {
		t.Errorf("flags %#x, %v: want O_DIRECT", flags, err)
	}
	// What it says is enough.
	page, err := unix.Mmap(-1, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(page) }()
	buf := page[f.DIOMemAlign : f.DIOMemAlign+f.DIOOffsetAlign]
	if n, err := unix.Pread(f.FD, buf, int64(f.DIOOffsetAlign)); n != len(buf) || err != nil {
		t.Errorf("a read of %d bytes at %d to an address aligned to %d: %d, %v", len(buf), f.DIOOffsetAlign, f.DIOMemAlign, n, err)
	}
}

func TestFileSystemWithoutDirectIO(t *testing.T) {
	// /proc's files cannot do it; this one is regular and not empty to read,
	// though its size is 0.
	refused(t, "/proc/version", Options{ReadOnly: true, Direct: true}, ErrNoDirect, "leave out direct=on")
}

func TestSerialKeepsIDsApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z]{20,60}`), rapid.StringMatching(`a{28,36}b?`))
		a, b := id.Draw(t, "a"), id.Draw(t, "b")
		for _, id := range []string{a, b} {
			s := serial(id)
			if len(s) > maxSerial {
				t.Fatalf("serial %q of %q has %d bytes", s, id, len(s))
			}
			for _, c := range []byte(s) {
				if c <= ' ' || c > '~' {
					t.Fatalf("serial %q of %q is not printable ASCII", s, id)
				}
			}
		}
		if a != b && serial(a) == serial(b) {
			t.Fatalf("%q and %q have the same serial %q", a, b, serial(a))
		}
	})
	if got := serial("disk0"); got != "disk0" {
		t.Errorf("serial of disk0 is %q", got)
	}
}

func TestClosedDiskHasNoTwin(t *testing.T) {
	testutil.NoLeaks(t)
	d, err := OpenDisk(testutil.ScratchFile(t, 4096), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadOnlyTwin(""); err == nil {
		t.Error("a closed disk has a twin")
	}
	if _, err := d.Size(); !errors.Is(err, unix.EBADF) {
		t.Errorf("size of a closed disk: %v", err)
	}
}

// Whether a disk can be polled is found out by polling it, so the answer depends
// on the host; without direct I/O it is no.
func TestPollingNeedsDirectIO(t *testing.T) {
	path := testutil.ScratchFile(t, 1<<20)
	if open(t, path, Options{}).File().Poll {
		t.Error("a disk with the host's page cache between is said to be polled")
	}
	d, err := OpenDisk(path, Options{Direct: true, ReadOnly: true})
	if err != nil {
		t.Skipf("NOT TESTED: no direct I/O here: %v", err)
	}
	defer d.Close()
	t.Logf("direct I/O can be polled: %v", d.File().Poll)
	if again := polls(d.fd, int(d.offsetAlign)); again != d.File().Poll {
		t.Errorf("first %v, then %v", d.File().Poll, again)
	}
}
