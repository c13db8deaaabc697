// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"context"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/uringpv/uringpv/images/debian"
)

// rootPackages is a minimal Debian with sysvinit; what they depend on comes too.
var rootPackages = []string{
	"base-files", "base-passwd", "bash", "bsdutils", "coreutils", "dash", "debianutils", "diffutils", "dpkg", "e2fsprogs", "findutils",
	"grep", "gzip", "hostname", "init-system-helpers", "initscripts", "kmod", "libc-bin", "libpam-modules", "libpam-runtime", "login", "mawk", "mount",
	"ncurses-base", "ncurses-bin", "passwd", "perl-base", "procps", "sed", "sysv-rc", "sysvinit-core", "sysvinit-utils", "tar", "util-linux",
}

// rootFiles is what the packages' installation would make, as far as a login
// needs it: the packages are unpacked, their scripts have not run.
//
//go:embed all:rootfiles
var rootFiles embed.FS

// runlevels are the links that init.d's scripts get: what runs at the start, and
// at the end before a halt or a restart.
var runlevels = map[string][]string{
	"rcS.d": {"hostname.sh", "mountkernfs.sh", "mountdevsubfs.sh", "checkroot.sh", "kmod", "checkfs.sh", "mountall.sh", "mountall-bootclean.sh", "bootmisc.sh"},
	"rc0.d": {"sendsigs", "umountfs", "umountroot", "halt"},
	"rc6.d": {"sendsigs", "umountfs", "umountroot", "reboot"},
}

// RootTree is a minimal Debian 12 with sysvinit and a console on ttyS0, where root
// logs in without a password, and modules of the kernel that GetKernel knows as
// kernelName; and the packages that it is made of but for the kernel's, NAME VERSION
// SHA256 each.
//
// The packages are in dpkg's state "unpacked"; in the guest,
// `DEBIAN_FRONTEND=noninteractive dpkg --configure -a` goes on from there.
func (c *Cache) RootTree(ctx context.Context, kernelName string) (*Tree, []string, error) {
	suite, err := c.Suite(ctx, "bookworm")
	if err != nil {
		return nil, nil, err
	}
	packages, err := suite.Fetch(ctx, true, rootPackages...)
	if err != nil {
		return nil, nil, err
	}
	system, err := readOnce(c, c.systems, packages, func() (*Tree, error) {
		fmt.Fprintf(c.report, "reading %d packages of the root disk\n", len(packages))
		return rootSystem(ctx, packages)
	})
	if err != nil {
		return nil, nil, err
	}
	t := NewTree()
	t.merge(system)
	if err := c.addModules(ctx, t, kernelName); err != nil {
		return nil, nil, err
	}
	var made []string
	for _, p := range packages {
		made = append(made, p.Name+" "+p.Version+" "+p.SHA256)
	}
	return t, made, nil
}

// rootSystem is the root disk of packages without a kernel's modules.
func rootSystem(ctx context.Context, packages []debian.Package) (*Tree, error) {
	all := NewTree()
	var status strings.Builder
	read, err := readPackages(ctx, packages)
	if err != nil {
		return nil, err
	}
	for n, p := range packages {
		all.merge(read[n].tree)
		if err := addControl(ctx, all, &status, p, read[n].names); err != nil {
			return nil, err
		}
	}
	t, err := all.mergedUsr()
	if err != nil {
		return nil, err
	}
	t.File("var/lib/dpkg/status", 0o644, []byte(status.String()))
	t.File("var/lib/dpkg/available", 0o644, nil)
	if err := t.accounts(); err != nil {
		return nil, err
	}
	err = fs.WalkDir(rootFiles, "rootfiles", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := rootFiles.ReadFile(path)
		t.File(strings.TrimPrefix(path, "rootfiles/"), 0o644, b)
		return err
	})
	if err != nil {
		return nil, err
	}
	for level, scripts := range runlevels {
		for i, s := range scripts {
			if !t.Has("etc/init.d/" + s) {
				return nil, fmt.Errorf("no package has /etc/init.d/%s", s)
			}
			kind := "K" // as insserv has them, which comes to order them when packages are configured
			if level == "rcS.d" {
				kind = "S"
			}
			t.Link(fmt.Sprintf("etc/%s/%s%02d%s", level, kind, i+1, s), "../init.d/"+s)
		}
	}
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "mnt", "root", "home"} {
		t.Dir(d)
	}
	t.Dir("etc/inittab.d")
	t.Link("etc/mtab", "../proc/self/mounts")
	t.add("tmp", node{mode: fs.ModeDir | fs.ModeSticky | 0o777})
	return t, nil
}

// addControl adds what dpkg remembers of a package whose files are names (dpkg(1),
// deb-control(5)).
func addControl(ctx context.Context, t *Tree, status *strings.Builder, p debian.Package, names []string) error {
	var list strings.Builder
	list.WriteString("/.\n")
	for _, name := range names {
		list.WriteString("/" + name + "\n")
	}
	files := map[string]node{}
	err := p.EachControl(ctx, func(e debian.Entry) error {
		b, err := io.ReadAll(e.Content)
		if e.Typeflag == tar.TypeReg {
			files[e.Name] = node{mode: e.FileInfo().Mode(), data: b}
		}
		return err
	})
	if err != nil {
		return err
	}
	first, rest, _ := strings.Cut(string(files["control"].data), "\n")
	fmt.Fprintf(status, "%s\nStatus: install ok unpacked\n%s\n", first, rest)
	name := "var/lib/dpkg/info/" + p.Name
	if strings.Contains(rest, "\nMulti-Arch: same\n") {
		name += ":amd64"
	}
	delete(files, "control")
	files["list"] = node{mode: 0o644, data: []byte(list.String())}
	for file, n := range files {
		t.add(name+"."+file, n)
	}
	return nil
}

// merged are the directories that are links into /usr on every Debian since 12.
var merged = []string{"bin", "lib", "lib32", "lib64", "libx32", "sbin"}

// mergedUsr is the tree with them merged.
func (i *Tree) mergedUsr() (*Tree, error) {
	t := NewTree()
	for _, name := range i.names() {
		n := i.files[name]
		for _, d := range merged {
			if name == d || strings.HasPrefix(name, d+"/") {
				name = "usr/" + name
				break
			}
		}
		if n.mode.IsDir() && t.Has(name) {
			continue
		}
		if t.Has(name) && !t.files[name].mode.IsDir() {
			return nil, fmt.Errorf("two packages have /%s", name)
		}
		t.add(name, n)
	}
	for _, d := range merged {
		if t.Has("usr/" + d) {
			t.Link(d, "usr/"+d)
		}
	}
	return t, nil
}

// accounts makes the account files from base-passwd's. Nobody but root can log
// in, and root without a password: whoever sees the console has the machine.
func (i *Tree) accounts() error {
	for _, f := range []string{"passwd", "group"} {
		n, ok := i.files["usr/share/base-passwd/"+f+".master"]
		if !ok {
			return fmt.Errorf("base-passwd has no %s.master", f)
		}
		text := strings.ReplaceAll(string(n.data), ":*:", ":x:")
		i.File("etc/"+f, 0o644, []byte(text))
		if f != "passwd" {
			continue
		}
		var shadow strings.Builder
		for line := range strings.Lines(text) {
			user, _, _ := strings.Cut(line, ":")
			password := "*"
			if user == "root" {
				password = ""
			}
			fmt.Fprintf(&shadow, "%s:%s::0:99999:7:::\n", user, password)
		}
		i.add("etc/shadow", node{mode: 0o640, gid: shadowGroup, data: []byte(shadow.String())})
	}
	return nil
}

// shadowGroup is the group shadow (base-passwd).
const shadowGroup = 42
