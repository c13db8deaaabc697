// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uringpv/uringpv/images"
)

// imageOptions are the flags of `uringpv image build`.
type imageOptions struct {
	build  images.BuildOptions
	root   byteSize
	noRoot bool
	noFio  bool
	out    string
	cache  images.CacheOptions
	quiet  bool
}

func newImageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Make guests' kernels, initramfs and disks",
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	build := newImageBuildCommand()
	build.Args = noArguments
	cmd.AddCommand(build)
	return cmd
}

func newImageBuildCommand() *cobra.Command {
	o := imageOptions{root: 1 << 30}
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Make a Debian guest: kernel, initramfs with the driver, root disk",
		Long: `Build makes a Debian guest from Debian's packages, without root:

  vmlinuz          the kernel, as Debian ships it
  initramfs.cpio   busybox, e2fsprogs, util-linux, fio and the driver, uringpv.ko,
                   built here with gcc and make; it goes on from a root disk, or
                   gives a shell
  root.img         a minimal Debian 12 on ext4, where root logs in without a password;
                   with the kernel's modules and the driver for modprobe
  manifest.txt     the packages in them, and the checksums of all

Packages come from the mirrors that this host's apt uses (or --mirror), are checked
by their checksums and kept in a cache. The same packages give the same bytes.`,
		Example: `  uringpv image build --out guest
  uringpv run --kernel guest/vmlinuz --initrd guest/initramfs.cpio --disk guest/root.img --root disk0`,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&o.build.Kernel, "kernel", "6.12", "Debian's kernel: "+strings.Join(images.KernelNames(), ", "))
	f.StringVarP(&o.out, "out", "o", "guest", "directory for the files")
	f.Var(&o.root, "root-size", "size of the root disk")
	f.BoolVar(&o.noRoot, "no-root", false, "make no root disk")
	f.BoolVar(&o.noFio, "no-fio", false, "leave fio out: 85 MB less in the initramfs")
	f.BoolVar(&o.build.XFS, "xfs", false, "put xfs' tools into the initramfs")
	f.StringVar(&o.cache.Dir, "cache", "", "directory that keeps what was downloaded and built (default: uringpv in the user's cache directory)")
	f.StringVar(&o.cache.Mirrors.Main, "mirror", "", "URI of Debian's archive (default: what this host's apt uses)")
	f.StringVar(&o.cache.Mirrors.Security, "security-mirror", "", "URI of its security updates (default: what this host's apt uses, or Debian's own)")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "report no progress")
	return cmd
}

// leastRoot is the smallest root disk that has room for the system, in bytes.
const leastRoot = 256 << 20

func (o *imageOptions) run(cmd *cobra.Command) error {
	if !o.quiet {
		o.cache.Report = cmd.ErrOrStderr()
	}
	if o.root < leastRoot {
		return usagef("--root-size %v: must be at least %v", o.root, byteSize(leastRoot))
	}
	o.build.Fio = !o.noFio
	if !o.noRoot {
		o.build.RootSize = int64(o.root)
	}
	c, err := images.OpenCache(o.cache)
	if err != nil {
		return err
	}
	if err := c.Build(cmd.Context(), o.out, o.build); err != nil {
		if _, ok := errors.AsType[*images.TooSmallError](err); ok {
			return usagef("--root-size %v: %v", o.root, err)
		}
		return endedBy(cmd.Context(), err)
	}
	at := func(name string) string { return filepath.Join(o.out, name) }
	line := fmt.Sprintf("uringpv run --kernel %s --initrd %s", at(images.KernelFile), at(images.InitramfsFile))
	if !o.noRoot {
		line += fmt.Sprintf(" --disk %s --root disk0", at(images.RootFile))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "boot it: %s\n", line)
	return err
}
