// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/uringpv/uringpv/images"
	"github.com/uringpv/uringpv/images/debian"
)

// machine is what a prepared machine consists of, as machine.json has it.
type machine struct {
	Kernel string   // vmlinuz
	Initrd string   // base initramfs
	QEMU   []string // the command, with what has to come first
	Env    []string // QEMU's environment, besides this program's own
	Series string   // the kernel's name, for messages
}

// What is in the machine besides the kernel: a shell, and what tests call.
var (
	packageNames = []string{"busybox-static", "e2fsprogs", "util-linux", "mount", "strace", "xfsprogs"}
	programs     = []string{
		"bin/busybox", "sbin/mke2fs", "sbin/mkfs.ext4", "sbin/e2fsck", "sbin/debugfs", "etc/mke2fs.conf", "sbin/losetup", "bin/mount",
		"bin/umount", "usr/bin/setpriv", "usr/bin/strace", "bin/lsblk", "usr/bin/unshare", "usr/bin/taskset", "usr/bin/prlimit", "sbin/xfs_repair",
	}
)

// Modules that the machine loads at boot, where its kernel has them. KVM's are
// needed.
var (
	neededModules = []string{"kvm_amd"}
	wantedModules = []string{"loop", "xfs", "tun", "null_blk", "dm_flakey", "dm_mod"}
)

// prepare makes the machine and returns its directory.
func prepare(ctx context.Context, c *images.Cache, kernel string) (string, error) {
	k, err := c.GetKernel(ctx, kernel)
	if err != nil {
		return "", err
	}
	qemu, env, err := findQEMU(ctx, c)
	if err != nil {
		return "", err
	}
	bookworm, err := c.Suite(ctx, "bookworm")
	if err != nil {
		return "", err
	}
	packages, err := bookworm.Fetch(ctx, true, packageNames...)
	if err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	init, err := os.ReadFile(self)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(init)
	inputs := []string{k.Release, k.Image, strings.Join(programs, " "), hex.EncodeToString(sum[:]), strings.Join(qemu, " ")}
	for _, p := range packages {
		inputs = append(inputs, p.SHA256)
	}
	return c.Made(ctx, "nested-"+kernel, strings.Join(inputs, "\n"), func(dir string) error {
		initrd, err := baseInitrd(ctx, c, k, packages, init)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "initrd"), initrd, 0o644); err != nil {
			return err
		}
		b, err := json.MarshalIndent(machine{Kernel: k.Image, Initrd: "initrd", QEMU: qemu, Env: env, Series: kernel}, "", "\t")
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "machine.json"), b, 0o644)
	})
}

// openMachine reads a machine that prepare made.
func openMachine(dir string) (machine, error) {
	var m machine
	if dir == "" {
		return m, &machineError{exitUsage, errors.New("no machine: give --machine the directory that `nested prepare` prints")}
	}
	b, err := os.ReadFile(filepath.Join(dir, "machine.json"))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%s: %w", filepath.Join(dir, "machine.json"), err)
	}
	m.Initrd = filepath.Join(dir, m.Initrd)
	return m, nil
}

// baseInitrd is the machine's root file system: userland, modules, and init.
func baseInitrd(ctx context.Context, c *images.Cache, k *images.Kernel, packages []debian.Package, init []byte) ([]byte, error) {
	root := images.NewTree()
	userland, err := c.Userland(ctx, packages)
	if err != nil {
		return nil, err
	}
	if err := userland.Take(root, programs...); err != nil {
		return nil, err
	}
	for _, d := range []string{"proc", "sys", "dev", "tmp", "run", "disk", "mnt", "etc", "var/tmp", "busybox"} {
		root.Dir(d)
	}
	root.File("init", 0o755, init)
	root.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	root.File("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	root.File("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n"))
	modules, err := k.Modules(neededModules...)
	if err != nil {
		return nil, err
	}
	more, err := k.ModulesIfThere(wantedModules...)
	if err != nil {
		return nil, err
	}
	modules = append(modules, more...)
	var order strings.Builder
	for _, m := range modules {
		if root.Has(modulesDir + m.Name + ".ko") {
			continue
		}
		root.File(modulesDir+m.Name+".ko", 0o644, m.Data)
		fmt.Fprintln(&order, m.Name)
	}
	root.File(modulesDir+"order", 0o644, []byte(order.String()))
	// Not compressed: unpacking it would be the emulated CPU's work, each time.
	var b bytes.Buffer
	err = root.WriteCPIO(&b)
	return b.Bytes(), err
}

// qemuSuite is where QEMU comes from. Not Debian 12's, nor any other before 8.1:
// those may translate an instruction while another CPU writes it, and keep the
// old one. A kernel that patches its own code then dies of an int3 that is no
// longer there.
const qemuSuite = "trixie"

// findQEMU is the command of a QEMU for x86-64 from Debian's packages, with its
// own libraries and loader.
func findQEMU(ctx context.Context, c *images.Cache) (command, env []string, err error) {
	s, err := c.Suite(ctx, qemuSuite)
	if err != nil {
		return nil, nil, err
	}
	packages, err := s.Fetch(ctx, true, "qemu-system-x86")
	if err != nil {
		return nil, nil, err
	}
	dir, err := c.Unpacked(ctx, "qemu", packages)
	if err != nil {
		return nil, nil, err
	}
	at := func(p string) string { return filepath.Join(dir, p) }
	return []string{at("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"), "--library-path", at("usr/lib/x86_64-linux-gnu"), at("usr/bin/qemu-system-x86_64"),
			"-L", at("usr/share/seabios"), "-L", at("usr/share/qemu"), "-L", at("usr/lib/ipxe/qemu")},
		[]string{"QEMU_MODULE_DIR=" + at("usr/lib/x86_64-linux-gnu/qemu")}, nil
}
