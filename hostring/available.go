// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrForbidden says that this process may not use io_uring.
var ErrForbidden = errors.New("io_uring is forbidden")

// ErrNoIOUring says that the kernel has no io_uring.
var ErrNoIOUring = errors.New("io_uring is missing")

// Available is nil if this process can make an io_uring instance. Otherwise it
// says why not and what would help; errors.Is finds ErrForbidden or ErrNoIOUring.
func Available() error {
	r, err := New(Config{Entries: 1})
	if err == nil {
		return r.Close()
	}
	switch Errno(err) {
	case unix.EPERM:
		b, _ := os.ReadFile("/proc/sys/kernel/io_uring_disabled")
		switch v := strings.TrimSpace(string(b)); v {
		case "1":
			return fmt.Errorf("%w: kernel.io_uring_disabled is 1: run as a member of kernel.io_uring_group or with CAP_SYS_ADMIN, or set it to 0", ErrForbidden)
		case "2":
			return fmt.Errorf("%w: kernel.io_uring_disabled is 2: set it to 0", ErrForbidden)
		default:
			return fmt.Errorf("%w: io_uring_setup gives EPERM: a seccomp filter or container policy must allow io_uring_setup, io_uring_enter and io_uring_register", ErrForbidden)
		}
	case unix.ENOSYS:
		return fmt.Errorf("%w: io_uring_setup gives ENOSYS: Linux 5.1 has it, and a container policy must allow it", ErrNoIOUring)
	}
	return err
}
