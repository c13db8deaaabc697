// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/testutil"
)

// ext4Image makes a file system with files of many sizes in it.
func ext4Image(t *testing.T) string {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		// It is where a user's PATH often does not reach.
		if mkfs, err = exec.LookPath("/usr/sbin/mkfs.ext4"); err != nil {
			t.Skip("SKIPPED, NOT TESTED: no mkfs.ext4; the package e2fsprogs has it")
		}
	}
	files, image := t.TempDir(), filepath.Join(t.TempDir(), "ext4.img")
	random := rand.NewChaCha8([32]byte{})
	for i := range 100 {
		dir := filepath.Join(files, fmt.Sprint("dir", i%20))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, random.Uint64()%(64<<10))
		_, _ = random.Read(b)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(mkfs, "-q", "-d", files, image, "16M").CombinedOutput()
	if err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	settled(t, image)
	return image
}

// settled has the host's file system give a file all the blocks that it is going
// to have: checksum is to leave them as they are.
func settled(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// sized returns a file of n bytes, none of them zero.
func sized(t *testing.T, n int) string {
	t.Helper()
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>12+i) | 1
	}
	path := filepath.Join(t.TempDir(), fmt.Sprintf("sized-%d.img", n))
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	settled(t, path)
	return path
}

func sha256Of(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// state is what checksum must leave as it was.
type state struct {
	mtime, ctime unix.Timespec
	size, blocks int64
	sha256       string
}

func stateOf(t *testing.T, path string) state {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return state{st.Mtim, st.Ctim, st.Size, st.Blocks, sha256Of(t, path)}
}

func TestChecksumIsSha256sum(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	image := ext4Image(t)
	small := filepath.Join(t.TempDir(), "small.img")
	if err := os.WriteFile(small, []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, disk := range []struct{ name, path string }{
		{"ext4", image},
		{"no multiple of 4 KiB", sized(t, 1<<20+512)},
		{"no multiple of 512", sized(t, 1<<20+1000)},
		{"three bytes", small},
	} {
		for _, backend := range workingBackends(t) {
			all := []string{"", ",rings=1,entries=1", ",entries=8", ",sqpoll=off"}
			if disk.path != image {
				all = all[1:2] // one request after the other: what is left at the end, too
			}
			for _, keys := range all {
				t.Run(disk.name+"/"+backend+keys, func(t *testing.T) { checksumIs(t, disk.path, backend, keys) })
			}
		}
	}
}

func checksumIs(t *testing.T, path, backend, keys string) {
	before := stateOf(t, path)
	c := newCommand(t, "run", "--guest", "checksum", "--disk", path+",backend="+backend+keys, "--report", "json")
	status := c.finish()
	r := c.report()
	if status != exitOK || r.Failed != 0 {
		t.Fatalf("exit status %d, stderr %q, cases %+v", status, &c.stderr, r.Cases)
	}
	if r.Bytes == nil || *r.Bytes != uint64(before.size) {
		t.Errorf("bytes %v, want %d", r.Bytes, before.size)
	}
	if r.SHA256 != before.sha256 {
		t.Errorf("sha256 %s, want %s", r.SHA256, before.sha256)
	}
	if len(r.Runs) != 1 || r.Runs[0].Backend != backend {
		t.Errorf("runs %+v, want one on %s", r.Runs, backend)
	}
	if after := stateOf(t, path); after != before {
		t.Errorf("the image was %+v and is %+v", before, after)
	}
}

func TestChecksumOfADirectDisk(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	image := ext4Image(t)
	f, err := os.OpenFile(image, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED: no O_DIRECT on the file system of %s: %v", image, err)
	}
	f.Close()
	for _, backend := range workingBackends(t) {
		checksumIs(t, image, backend, ",direct=on")
	}
}

// TestChecksumOfAReadOnlyFile needs no right to write.
func TestChecksumOfAReadOnlyFile(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	path := filepath.Join(t.TempDir(), "readonly.img")
	if err := os.WriteFile(path, make([]byte, 100_000), 0o444); err != nil {
		t.Fatal(err)
	}
	checksumIs(t, path, backendRelay, "")
}

func TestChecksumOfSeveralDisks(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	var paths []string
	args := []string{"run", "--guest", "checksum", "--report", "json"}
	for i := range 2 {
		path := filepath.Join(t.TempDir(), fmt.Sprintf("disk,%d.img", i))
		if err := os.WriteFile(path, fmt.Appendf(nil, "disk %d, 日本", i), 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
		args = append(args, "--disk", diskSpecFor(path))
	}
	c := newCommand(t, args...)
	if status := c.finish(); status != exitOK {
		t.Fatalf("exit status %d: %s", status, &c.stderr)
	}
	r := c.report()
	if len(r.Runs) != 2 || r.SHA256 != "" || r.Bytes != nil {
		t.Fatalf("report %+v, want two runs and no checksum of the whole", r)
	}
	for i, run := range r.Runs {
		if run.Path != paths[i] || run.Disk != fmt.Sprintf("disk%d", i) || run.SHA256 != sha256Of(t, paths[i]) {
			t.Errorf("run %d: %+v, want %s of %s", i, run, sha256Of(t, paths[i]), paths[i])
		}
	}
}

// diskSpecFor writes a path as --disk takes it.
func diskSpecFor(path string) string {
	d := defaultDisk()
	d.Path = path
	return d.String()
}
