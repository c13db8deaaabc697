// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/uringpv/uringpv/guest"
)

// guestInit is PID 1 of the guest's initramfs.
//
//go:embed guestfiles/init
var guestInit []byte

// What a guest's initramfs has besides the kernel's modules and the driver.
var (
	guestPackages = []string{"bash", "busybox-static", "dash", "e2fsprogs", "util-linux", "mount", "fdisk", "strace"}
	guestPrograms = []string{
		"bin/bash", "bin/busybox", "bin/dash", "sbin/mke2fs", "sbin/mkfs.ext4", "sbin/e2fsck", "sbin/fsck.ext4", "sbin/debugfs", "sbin/tune2fs", "sbin/resize2fs", "etc/mke2fs.conf",
		"bin/lsblk", "sbin/blkdiscard", "sbin/blockdev", "sbin/blkid", "sbin/fstrim", "bin/mount", "bin/umount", "bin/findmnt", "usr/bin/taskset",
		"sbin/sfdisk", "sbin/losetup", "sbin/blkzone", "usr/bin/strace",
	}
	fioPackages  = []string{"fio"}
	fioPrograms  = []string{"usr/bin/fio"}
	xfsPackages  = []string{"xfsprogs"}
	xfsPrograms  = []string{"sbin/mkfs.xfs", "sbin/xfs_repair"}
	guestModules = []string{"ext4", "xfs", "pvpanic_mmio"} // where the kernel has them, and not built in
)

// GuestOptions say what a guest's initramfs holds.
type GuestOptions struct {
	Kernel string // see KernelNames
	Fio    bool   // fio, with the many libraries that it needs
	XFS    bool   // xfs' tools
}

// Guest is a guest's initramfs, and the kernel that it belongs to.
type Guest struct {
	Kernel    *Kernel
	Initramfs *Tree
	Packages  []string // NAME VERSION SHA256, of what is in it, and what compiled the driver
}

// BuildGuest makes a guest's initramfs: a shell, tools for disks, the driver, and
// an init that goes on from a root disk if the command line names one.
func (c *Cache) BuildGuest(ctx context.Context, o GuestOptions) (*Guest, error) {
	k, err := c.GetKernel(ctx, o.Kernel)
	if err != nil {
		return nil, err
	}
	g := &Guest{Kernel: k, Initramfs: NewTree()}
	names, programs := guestPackages, guestPrograms
	if o.Fio {
		names, programs = concat(names, fioPackages), concat(programs, fioPrograms)
	}
	if o.XFS {
		names, programs = concat(names, xfsPackages), concat(programs, xfsPrograms)
	}
	s, err := c.Suite(ctx, "bookworm")
	if err != nil {
		return nil, err
	}
	packages, err := s.Fetch(ctx, true, names...)
	if err != nil {
		return nil, err
	}
	u, err := c.Userland(ctx, packages)
	if err != nil {
		return nil, err
	}
	if err := u.Take(g.Initramfs, programs...); err != nil {
		return nil, err
	}
	g.Initramfs.Link("bin/sh", "dash") // busybox' own shell takes its applets before programs
	g.Initramfs.File("init", 0o755, guestInit)
	g.Initramfs.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\n"))
	g.Initramfs.File("etc/group", 0o644, []byte("root:x:0:\n"))
	for _, d := range []string{"proc", "sys", "dev", "tmp", "mnt"} {
		g.Initramfs.Dir(d)
	}

	modules, err := k.ModulesIfThere(guestModules...)
	if err != nil {
		return nil, err
	}
	driver, err := c.BuildModule(ctx, o.Kernel, guest.DriverName, guest.DriverSource())
	if err != nil {
		return nil, err
	}
	deps, err := ModuleDepends(driver.Data)
	if err != nil {
		return nil, err
	}
	more, err := k.Modules(deps...)
	if err != nil {
		return nil, err
	}
	var order strings.Builder
	for _, m := range append(append(modules, more...), driver) {
		name := "lib/modules/" + m.Name + ".ko"
		if g.Initramfs.Has(name) {
			continue
		}
		g.Initramfs.File(name, 0o644, m.Data)
		if m.Name == "xfs" && !o.XFS {
			continue // there to be loaded by hand
		}
		fmt.Fprintln(&order, m.Name)
	}
	g.Initramfs.File("lib/modules/order", 0o644, []byte(order.String()))
	g.Packages = append(g.Packages, driver.Name+".ko built by "+driver.Compiler)
	for _, p := range packages {
		g.Packages = append(g.Packages, p.Name+" "+p.Version+" "+p.SHA256)
	}
	return g, nil
}

// concat is a and b in a new slice.
func concat(a, b []string) []string { return append(append([]string{}, a...), b...) }
