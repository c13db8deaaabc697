// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// KernelRelease is the running kernel's release, as `uname -r` prints it.
func KernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// A Version is a kernel's major and minor number.
type Version struct{ Major, Minor int }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Before reports whether v is older than w.
func (v Version) Before(w Version) bool {
	return v.Major < w.Major || v.Major == w.Major && v.Minor < w.Minor
}

// ParseVersion takes the version from a kernel's release, such as
// 6.12.41+deb13-cloud-amd64.
func ParseVersion(release string) (Version, error) {
	major, rest, ok := strings.Cut(release, ".")
	if !ok {
		return Version{}, fmt.Errorf("kernel release %q does not begin with MAJOR.MINOR", release)
	}
	digits := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(rest)
	}
	x, err := strconv.ParseUint(major, 10, 16)
	if err != nil {
		return Version{}, fmt.Errorf("kernel release %q does not begin with MAJOR.MINOR", release)
	}
	y, err := strconv.ParseUint(rest[:digits], 10, 16)
	if err != nil {
		return Version{}, fmt.Errorf("kernel release %q does not begin with MAJOR.MINOR", release)
	}
	return Version{int(x), int(y)}, nil
}

// Unlimited is RLIM_INFINITY of getrlimit(2).
const Unlimited = ^uint64(0)

// Limit is a resource limit of this process; Unlimited where there is none.
type Limit struct {
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// Memlock is how much memory this process may pin: registered buffers count
// against it (io_uring_register(2), IORING_REGISTER_BUFFERS).
type Memlock struct {
	Limit
	// Exempt is set when CAP_IPC_LOCK lifts the limit.
	Exempt bool `json:"exempt"`
}

// Holds reports whether bytes may be pinned, if nothing else of this user is.
func (m Memlock) Holds(bytes uint64) bool { return m.Exempt || bytes <= m.Soft }

// ProbeMemlock reads RLIMIT_MEMLOCK and whether it applies.
func ProbeMemlock() (Memlock, error) {
	limit, err := resource("RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK)
	if err != nil {
		return Memlock{}, err
	}
	caps, err := EffectiveCapabilities()
	if err != nil {
		return Memlock{}, err
	}
	// The kernel asks capable(), which looks at the initial user namespace only:
	// root in a container with a namespace of its own is not exempt.
	return Memlock{Limit: limit, Exempt: caps.Has(unix.CAP_IPC_LOCK) && inInitialUserNamespace("/proc/self/uid_map")}, nil
}

// inInitialUserNamespace tells by the map of user ids, user_namespaces(7): the
// initial namespace maps every id to itself.
func inInitialUserNamespace(uidMap string) bool {
	b, err := os.ReadFile(uidMap)
	return errors.Is(err, fs.ErrNotExist) || slices.Equal(strings.Fields(string(b)), []string{"0", "0", "4294967295"})
}

// ProbeOpenFiles reads RLIMIT_NOFILE, the number of descriptors a process may have.
func ProbeOpenFiles() (Limit, error) { return resource("RLIMIT_NOFILE", unix.RLIMIT_NOFILE) }

// ProbeFileSize reads RLIMIT_FSIZE in bytes, the largest file this process may write.
func ProbeFileSize() (Limit, error) { return resource("RLIMIT_FSIZE", unix.RLIMIT_FSIZE) }

func resource(name string, which int) (Limit, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(which, &r); err != nil {
		return Limit{}, fmt.Errorf("getrlimit(%s): %w", name, err)
	}
	return Limit{Soft: r.Cur, Hard: r.Max}, nil
}

// Capabilities is a set of capabilities, bit n for capability n of
// capabilities(7).
type Capabilities uint64

// Has reports whether capability n, a unix.CAP_* constant, is in the set.
func (c Capabilities) Has(n int) bool { return c>>n&1 != 0 }

// EffectiveCapabilities are those that the calling thread acts with: the process's, unless
// somebody gave a thread others.
func EffectiveCapabilities() (Capabilities, error) {
	const path = "/proc/thread-self/status"
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return parseCapabilities(path, b)
}

func parseCapabilities(path string, status []byte) (Capabilities, error) {
	for s := bufio.NewScanner(bytes.NewReader(status)); s.Scan(); {
		if hex, ok := strings.CutPrefix(s.Text(), "CapEff:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: CapEff: %w", path, err)
			}
			return Capabilities(n), nil
		}
	}
	return 0, fmt.Errorf("%s has no line CapEff", path)
}

// IOUringDisabled reads kernel.io_uring_disabled: 0 everybody may use io_uring,
// 1 only CAP_SYS_ADMIN and the group kernel.io_uring_group, 2 nobody. ok is
// false where the kernel has no such setting (before Linux 6.6).
func IOUringDisabled() (value int, ok bool) {
	b, err := os.ReadFile("/proc/sys/kernel/io_uring_disabled")
	if err != nil {
		return 0, false
	}
	value, err = strconv.Atoi(strings.TrimSpace(string(b)))
	return value, err == nil
}
