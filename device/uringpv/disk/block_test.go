// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/testutil"
)

// loop makes a block device of size bytes, with logical blocks of block bytes,
// out of a scratch file, or skips the test on a host that does not let us.
func loop(t *testing.T, size int64, block uint32) string {
	t.Helper()
	skip := func(what string, err error) {
		t.Helper()
		t.Skipf("SKIPPED, NOT TESTED: block devices as disks: %s: %v (loop devices need root)", what, err)
	}
	ctl, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		skip("/dev/loop-control", err)
	}
	defer unix.Close(ctl)
	n, err := unix.IoctlRetInt(ctl, unix.LOOP_CTL_GET_FREE)
	if err != nil {
		skip("LOOP_CTL_GET_FREE", err)
	}
	path := fmt.Sprintf("/dev/loop%d", n)
	if _, err := os.Stat(path); err != nil { // no devtmpfs here
		path = t.TempDir() + "/loop"
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(7, uint32(n)))); err != nil {
			skip("mknod", err)
		}
	}
	dev, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		skip(path, err)
	}
	file, err := os.OpenFile(testutil.ScratchFile(t, size), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.IoctlLoopConfigure(dev, &unix.LoopConfig{Fd: uint32(file.Fd()), Size: block}); err != nil {
		unix.Close(dev)
		skip("LOOP_CONFIGURE", err)
	}
	t.Cleanup(func() {
		if err := unix.IoctlSetInt(dev, unix.LOOP_CLR_FD, 0); err != nil {
			t.Errorf("LOOP_CLR_FD: %v", err)
		}
		unix.Close(dev)
	})
	return path
}

func TestBlockDeviceIsADisk(t *testing.T) {
	testutil.NoLeaks(t)
	const size = 1 << 20
	for _, block := range []uint32{512, 4096} {
		for _, direct := range []bool{false, true} {
			t.Run(fmt.Sprintf("block=%d,direct=%v", block, direct), func(t *testing.T) {
				path := loop(t, size, block)
				d := open(t, path, Options{ID: "blk", Direct: direct})
				f := d.File()
				if n, err := f.Size(); n != size || err != nil {
					t.Errorf("size %d, %v; want %d", n, err, size)
				}
				if !d.BlockDevice() || !f.BlockDevice || f.BlockSize < block || f.ReadOnly || f.Direct != direct {
					t.Errorf("%+v", f)
				}
				if direct && f.DIOOffsetAlign != block {
					t.Errorf("direct I/O aligned to %d, want %d", f.DIOOffsetAlign, block)
				}
				twin, err := d.ReadOnlyTwin("twin")
				if err != nil {
					t.Fatal(err)
				}
				defer twin.Close()
				// A disk that can be written is ours alone: by the lock ...
				refused(t, path, Options{ReadOnly: true}, ErrInUse)
				// ... and for the host's mounts, which take no locks.
				if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0); err != unix.EBUSY {
					unix.Close(fd)
					t.Errorf("the host may mount it: %v, want EBUSY", err)
				}
			})
		}
	}
}

func TestMountedBlockDeviceIsInUse(t *testing.T) {
	path := loop(t, 1<<20, 512)
	// As a mount does.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, path, Options{}, ErrInUse, "disk in use", "unmount it")
	open(t, path, Options{ReadOnly: true})
	unix.Close(fd)
	d, err := OpenDisk(path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
}

func TestBlockDeviceWithoutMediumIsRefused(t *testing.T) {
	path := loop(t, 0, 512)
	_, err := OpenDisk(path, Options{})
	if !errors.Is(err, ErrNotDisk) {
		t.Errorf("%v", err)
	}
}
