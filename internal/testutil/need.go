// SPDX-License-Identifier: Apache-2.0

package testutil

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// missing skips the test, or fails it if the variable env is set to 1.
func missing(t testing.TB, env, what string, err error) {
	t.Helper()
	if os.Getenv(env) == "1" {
		t.Fatalf("%s is required (%s=1) and missing: %v", what, env, err)
	}
	t.Skipf("SKIPPED, NOT TESTED: this host has no usable %s: %v (%s=1 makes this a failure)", what, err, env)
}

// NeedKVM skips the test on a host without a usable /dev/kvm. With REQUIRE_KVM=1
// it fails instead.
func NeedKVM(t testing.TB) {
	t.Helper()
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		missing(t, "REQUIRE_KVM", "/dev/kvm", err)
	}
	_ = unix.Close(fd)
}

// NeedIOUring skips the test on a host that forbids io_uring or does not have
// it. With REQUIRE_IO_URING=1 it fails instead.
func NeedIOUring(t testing.TB) {
	t.Helper()
	// No parameters: a kernel that allows io_uring answers EFAULT.
	if _, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0); errno != unix.EFAULT {
		missing(t, "REQUIRE_IO_URING", "io_uring", errno)
	}
}
