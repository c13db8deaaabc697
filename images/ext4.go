// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
)

// toolsSuite is where the programs come from that run here: the first mke2fs that
// fills a file system from a tar archive, and so without root, is Debian 13's.
const toolsSuite = "trixie"

var e2fsprogs = []string{"e2fsprogs", "libarchive13t64"}

// fixedUUID is the root disk's, so that the same files give the same bytes.
const fixedUUID = "75767072-6f6f-4000-8000-000000000001"

// TooSmallError says that a disk has no room for its files.
type TooSmallError struct {
	Size int64 // of the disk, in bytes
	Need int64 // a size that is enough
}

func (e *TooSmallError) Error() string {
	return fmt.Sprintf("the files do not fit on a disk of %d MiB: %d MiB are enough", e.Size>>20, e.Need>>20)
}

// noRoom is what mke2fs says of a file system without room (e2fsprogs,
// lib/ext2fs/ext2_err.et.in: EXT2_ET_BLOCK_ALLOC_FAIL, EXT2_ET_INODE_ALLOC_FAIL).
var noRoom = regexp.MustCompile("Could not allocate (block|inode) in ext2 filesystem")

// makeExt4 makes the file path an ext4 file system of size bytes with tree's
// files. The error is a *TooSmallError if they have no room.
func (c *Cache) makeExt4(ctx context.Context, path string, size int64, tree *Tree) (err error) {
	tools, err := c.program(ctx, "mke2fs", toolsSuite, e2fsprogs)
	if err != nil {
		return err
	}
	tar := path + ".tar"
	defer os.Remove(tar)
	if err := writeFile(tar, tree.WriteTar); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	cmd := tools.command(ctx, "usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", tar,
		"-e", "remount-ro", "-L", "root", "-U", fixedUUID, "-E", "hash_seed="+fixedUUID+",root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard", path)
	cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH=0", "E2FSPROGS_FAKE_TIME=1", "MKE2FS_CONFIG="+filepath.Join(tools.dir, "etc/mke2fs.conf"))
	if out, err := cmd.CombinedOutput(); err != nil {
		if noRoom.Match(out) {
			return &TooSmallError{size, enoughFor(tree)}
		}
		return fmt.Errorf("mke2fs %s, %d bytes: %w: %s", path, size, err, out)
	}
	return nil
}

// enoughFor is a size for tree's files, bytes, with room for the file system's own
// tables and journal and for as much as is used in a login: a multiple of 64 MiB.
func enoughFor(tree *Tree) int64 {
	const block, round = 4096, 64 << 20
	var files int64
	for _, n := range tree.files {
		files += (int64(len(n.data)) + block) &^ (block - 1)
	}
	return (files + files/8 + 2*round) &^ (round - 1)
}

// programs are unpacked packages of one suite whose programs run on the host, by
// their own loader and libraries.
type programs struct{ dir string }

// program gets packages with all that they depend on.
func (c *Cache) program(ctx context.Context, name, suiteName string, packages []string) (*programs, error) {
	suite, err := c.Suite(ctx, suiteName)
	if err != nil {
		return nil, err
	}
	all, err := suite.Fetch(ctx, true, packages...)
	if err != nil {
		return nil, err
	}
	dir, err := c.Unpacked(ctx, name, all)
	if err != nil {
		return nil, err
	}
	return &programs{dir}, nil
}

// command is the program name with args, in the environment of the C locale.
func (p *programs) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	loader := filepath.Join(p.dir, "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
	libraries := filepath.Join(p.dir, "usr/lib/x86_64-linux-gnu")
	cmd := exec.CommandContext(ctx, loader, slices.Concat([]string{"--library-path", libraries, filepath.Join(p.dir, name)}, args)...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	return cmd
}
