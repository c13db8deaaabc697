// SPDX-License-Identifier: Apache-2.0

package passthrough

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/shm"
)

// attrFlagPI is IORING_RW_ATTR_FLAG_PI: addr3 points at a struct io_uring_attr_pi.
const attrFlagPI = 1

// noIntegrity refuses files whose reads and writes may carry protection
// information, which are block devices with an integrity profile. Since Linux
// 6.14 (IORING_FEAT_RW_ATTR) an SQE of any read or write, the FIXED ones too, may
// name such information by a raw pointer in addr3, which restrictions cannot
// forbid. On other files the kernel refuses the request before it moves
// anything; on these it would read and write the VMM's memory for the guest.
//
// It asks sysfs, and r, an idle ring that has seen no SQE yet, as other files may
// learn it.
func noIntegrity(r *hostring.Ring, files []uringpv.File) error {
	if r.Params().Features&hostring.FeatRWAttr == 0 {
		return nil
	}
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	defer unix.Munmap(page)
	attr, err := shm.Of(page)
	if err != nil {
		return err
	}
	for i := range files {
		sqe, ok := r.SQE()
		if !ok {
			return errors.New("the base ring is full")
		}
		// No bytes, no information: a kernel that would take it has nothing to do.
		sqe.Opcode, sqe.FD, sqe.Addr3, sqe.Pad2 = hostring.OpRead, int32(files[i].FD), uint64(attr.Addr()), attrFlagPI
		if files[i].WriteOnly {
			sqe.Opcode = hostring.OpWrite
		}
		if _, err := r.Submit(); err != nil {
			return err
		}
		if err := r.WaitCQE(); err != nil {
			return err
		}
		var cqe [1]hostring.CQE
		r.Reap(cqe[:])
		if cqe[0].Res != -int32(unix.EINVAL) {
			return fmt.Errorf("disk %q takes it (result %d): %w; backend=relay can", files[i].Name, cqe[0].Res, ErrIntegrity)
		}
		if !files[i].BlockDevice {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(files[i].FD, &st); err != nil {
			return fmt.Errorf("fstat of disk %q: %w", files[i].Name, err)
		}
		dev := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		format, err := integrityFormat(dev)
		if err != nil {
			return fmt.Errorf("integrity profile of disk %q: %w", files[i].Name, err)
		}
		if format != "" {
			return fmt.Errorf("disk %q has format %s: %w; backend=relay can", files[i].Name, format, ErrIntegrity)
		}
	}
	return nil
}

// integrityFormat is the profile of the block device at dev in sysfs, empty for
// none. A partition's is its disk's.
func integrityFormat(dev string) (string, error) {
	for _, dir := range []string{dev, dev + "/.."} {
		b, err := os.ReadFile(dir + "/integrity/format")
		switch {
		case err == nil:
			if f := strings.TrimSpace(string(b)); f != "none" {
				return f, nil
			}
			return "", nil
		case !errors.Is(err, os.ErrNotExist):
			return "", err
		}
	}
	return "", nil // a kernel without profiles, or a device that cannot have one
}
