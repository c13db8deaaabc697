// SPDX-License-Identifier: Apache-2.0

package passthrough

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// capabilities are the calling thread's, as capget(2) returns them.
type capabilities [2]unix.CapUserData

// threadCapabilities are those of the calling OS thread.
func threadCapabilities() (c capabilities, err error) {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&h, &c[0]); err != nil {
		return c, fmt.Errorf("capget: %w", err)
	}
	return c, nil
}

// apply makes c the calling OS thread's capabilities.
func (c capabilities) apply() error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&h, &c[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// unprivileged is c with no effective capability but CAP_IPC_LOCK, which only
// says how pinned memory counts.
//
// A ring's requests run with the credentials of the thread that made it, or that
// enters it. A guest chooses words of them that restrictions do not see: with
// CAP_SYS_ADMIN or CAP_SYS_NICE it could claim the real-time I/O class
// (sqe.ioprio), with CAP_SYS_RESOURCE the file system's reserved blocks.
func (c capabilities) unprivileged() capabilities {
	c[0].Effective &= 1 << unix.CAP_IPC_LOCK
	c[1].Effective = 0
	return c
}
