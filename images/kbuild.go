// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/uringpv/uringpv/images/debian"
)

// kbuild builds modules for one kernel of Debian's.
type kbuild struct {
	cache    *Cache
	suite    *debian.Suite
	release  string
	headers  string // directory in which to run make; as seen from root
	root     string // where headers and tools are, if not the host's: they run in a chroot there
	sum      string // identifies headers and tools, but for the host's
	compiler string // for people, and to identify the host's
}

// chrootTools are the tools besides those that the headers' packages depend on,
// where modules are built in a chroot.
var chrootTools = []string{"base-files", "bash", "coreutils", "dash", "diffutils", "findutils", "grep", "libc-bin", "make", "mawk", "sed"}

// kbuild makes ready what it takes to build modules for a kernel. Kernels of
// bookworm are built by the host's gcc and make; later ones in a root directory
// with their own suite's tools, for the headers' programs need its C library.
func (c *Cache) kbuild(ctx context.Context, kernelName string) (*kbuild, error) {
	kernel, err := c.GetKernel(ctx, kernelName)
	if err != nil {
		return nil, err
	}
	series := kernelSeries[kernelName]
	suite, err := c.Suite(ctx, series.Suite)
	if err != nil {
		return nil, err
	}
	k := &kbuild{cache: c, suite: suite, release: kernel.Release}
	if series.Suite == "bookworm" {
		err = k.onHost(ctx, kernelName, series.Headers)
	} else {
		err = k.inChroot(ctx, kernelName, series.Headers)
	}
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(k.root, k.headers)); err != nil {
		return nil, fmt.Errorf("the headers of %s are not those of Linux %s: %w", series.Headers, k.release, err)
	}
	return k, nil
}

// onHost unpacks the headers for the host's tools.
func (k *kbuild) onHost(ctx context.Context, kernelName, headers string) error {
	if _, err := exec.LookPath("make"); err != nil {
		return errors.New("make is not installed: the driver is built with make and gcc")
	}
	var err error
	if k.compiler, err = hostCompiler(ctx); err != nil {
		return err
	}
	var names []string
	for next := []string{headers}; len(next) > 0; next = next[1:] {
		deps, err := k.suite.Depends(ctx, next[0])
		if err != nil {
			return err
		}
		for _, d := range deps {
			if hasAnyPrefix(d, "linux-headers-", "linux-kbuild-") && !slices.Contains(names, d) {
				names, next = append(names, d), append(next, d)
			}
		}
	}
	packages, err := k.suite.Fetch(ctx, false, names...)
	if err != nil {
		return err
	}
	k.sum = sums(packages)
	root, err := k.cache.Made(ctx, "headers-"+kernelName, k.sum, func(dir string) error {
		fmt.Fprintf(k.cache.report, "unpacking the headers of Linux %s\n", k.release)
		return unpackHeaders(ctx, dir, packages)
	})
	k.headers = filepath.Join(root, "usr/src/linux-headers-"+k.release)
	return err
}

// inChroot unpacks the headers and all tools.
func (k *kbuild) inChroot(ctx context.Context, kernelName, headers string) error {
	if _, err := exec.LookPath("unshare"); err != nil {
		return errors.New("unshare is not installed (util-linux): modules for Linux " + k.release + " are built in a chroot")
	}
	packages, err := k.suite.Fetch(ctx, true, slices.Concat(chrootTools, []string{headers})...)
	if err != nil {
		return err
	}
	sparse, err := k.suite.Fetch(ctx, false, "sparse") // its other programs need much that it does not
	if err != nil {
		return err
	}
	packages = append(packages, sparse...)
	k.sum = sums(packages)
	at := slices.IndexFunc(packages, func(p debian.Package) bool { return gccPackage.MatchString(p.Name) })
	if at < 0 {
		return fmt.Errorf("the headers of %s come without a compiler: none of their packages is gcc-N-x86-64-linux-gnu", headers)
	}
	k.compiler = packages[at].Name + " " + packages[at].Version
	k.root, err = k.cache.Made(ctx, "buildroot-"+kernelName, k.sum, func(dir string) error {
		fmt.Fprintf(k.cache.report, "unpacking the headers of Linux %s and tools to build with\n", k.release)
		for _, p := range packages {
			if err := p.Unpack(ctx, dir); err != nil {
				return err
			}
		}
		return os.Symlink("mawk", filepath.Join(dir, "usr/bin/awk")) // as the package's installation does
	})
	k.headers = "/usr/src/linux-headers-" + k.release
	return err
}

// gccPackage is the name of a package with the compiler.
var gccPackage = regexp.MustCompile(`^gcc-\d+-x86-64-linux-gnu$`)

// hostCompiler is what the host's gcc says that it is.
func hostCompiler(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "gcc", "--version")
	cmd.Env = hostEnvironment()
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("gcc --version: %w; what is built here is built with gcc and make", err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return first, nil
}

// hostEnvironment is that of the host's programs that build: nothing of the user's, who
// may have variables that steer other builds (ARCH, CC, LLVM, KBUILD_OUTPUT).
func hostEnvironment() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// chrootMake runs make in the root directory $1 as root of a user namespace, with
// the module's directory $2 at /build and the host's /dev and /proc.
const chrootMake = `set -e
mkdir -p "$1/build" "$1/tmp" "$1/dev" "$1/proc"
mount --rbind /dev "$1/dev"
mount --rbind /proc "$1/proc"
mount --bind "$2" "$1/build"
root=$1
shift 2
exec chroot "$root" /usr/bin/make "$@"`

// make writes source to dir and runs make there with args.
func (k *kbuild) make(ctx context.Context, dir string, source map[string][]byte, args ...string) ([]byte, error) {
	for file, data := range source {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			return nil, err
		}
	}
	// What compilers say together stays together.
	args = append([]string{"-j" + strconv.Itoa(runtime.NumCPU()), "--output-sync=target"}, args...)
	env := []string{"KBUILD_BUILD_TIMESTAMP=1970-01-01", "KBUILD_BUILD_USER=uringpv", "KBUILD_BUILD_HOST=uringpv"}
	var cmd *exec.Cmd
	if k.root == "" {
		cmd = exec.CommandContext(ctx, "make", slices.Concat([]string{"-C", k.headers, "M=" + dir}, args)...)
		env = append(env, hostEnvironment()...)
	} else {
		cmd = exec.CommandContext(ctx, "unshare", slices.Concat(
			[]string{"--map-root-user", "--mount", "sh", "-c", chrootMake, "sh", k.root, dir, "-C", k.headers, "M=/build"}, args)...)
		env = append(env, "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	}
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return out, err
}

// flags are the compiler's, for a module that is built in dir: with every warning an
// error, and without this host's directories in what it makes, where the same source
// is to give the same bytes.
func (k *kbuild) flags(dir string) string {
	flags := "-Werror"
	if k.root == "" { // in the chroot the directories have the same names everywhere
		top := strings.TrimSuffix(k.headers, "/usr/src/linux-headers-"+k.release)
		flags += " -ffile-prefix-map=" + dir + "=/build -ffile-prefix-map=" + top + "="
	}
	return flags
}

// sparse is what make is to be told for a check by sparse.
func (k *kbuild) sparse(ctx context.Context) ([]string, error) {
	if k.root != "" {
		// Linux 7.2's Makefile asks scripts/checker-valid.sh whether sparse is new
		// enough, and without its consent C=2 counts for nothing. The headers' packages
		// leave the script out. sparse is of their own suite, 0.6.5~rc1 or later, which
		// is new enough: what C=2 sets is set here.
		return []string{"C=2", "KBUILD_CHECKSRC=2", "CHECK=/usr/bin/sparse"}, nil
	}
	packages, err := k.suite.Fetch(ctx, false, "sparse")
	if err != nil {
		return nil, err
	}
	dir, err := k.cache.Unpacked(ctx, "sparse", packages)
	return []string{"C=2", "CHECK=" + filepath.Join(dir, "usr/bin/sparse")}, err
}

// unpackHeaders unpacks header packages so that they work where they are: they
// name each other by absolute paths below /usr.
func unpackHeaders(ctx context.Context, dir string, packages []debian.Package) error {
	for _, p := range packages {
		if err := p.Unpack(ctx, dir); err != nil {
			return err
		}
	}
	return filepath.WalkDir(filepath.Join(dir, "usr/src"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			return relink(dir, path)
		case d.Name() == "vmlinux" && strings.Count(strings.TrimPrefix(path, dir), "/") == 4:
			// It feeds BTF only, which needs a tool that hosts may lack.
			return os.Remove(path)
		case d.Name() == "Makefile" && strings.Count(strings.TrimPrefix(path, dir), "/") == 4, d.Name() == ".kernelvariables":
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			// Relative to where make runs, so that the directory may be moved.
			text := strings.ReplaceAll(string(b), " /usr/src/", " $(dir $(lastword $(MAKEFILE_LIST)))../")
			return os.WriteFile(path, []byte(text), 0o644)
		}
		return nil
	})
}

// relink turns an absolute link at path, below root, into a relative one.
func relink(root, path string) error {
	target, err := os.Readlink(path)
	if err != nil || !filepath.IsAbs(target) {
		return err
	}
	rel, err := filepath.Rel(filepath.Dir(path), filepath.Join(root, target))
	if err != nil {
		return err
	}
	return errors.Join(os.Remove(path), os.Symlink(rel, path))
}
