// SPDX-License-Identifier: Apache-2.0

package export

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
)

// MaxInterface is the most characters that a network interface's name has
// (IFNAMSIZ less its NUL, netdevice(7)).
const MaxInterface = unix.IFNAMSIZ - 1

const tunDevice = "/dev/net/tun"

// OpenTap opens the host's TAP interface ifname: each read and write is an
// Ethernet frame, with nothing before it. An interface that is not there is made,
// and goes with the Export. Errors are *Error.
func OpenTap(name, ifname string) (*Export, error) {
	ifr, err := unix.NewIfreq(ifname)
	if err != nil {
		return nil, &Error{ifname, fmt.Sprintf("a network interface's name has 1 to %d characters", MaxInterface), err}
	}
	var fd int
	if err := uninterrupted(func() (err error) {
		fd, err = unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
		return err
	}); err != nil {
		reason := fmt.Sprintf("%s: %v", tunDevice, err)
		if err == unix.ENOENT || err == unix.ENODEV || err == unix.ENXIO {
			reason += "; this host's kernel has no TUN/TAP driver loaded (modprobe tun)"
		}
		return nil, &Error{ifname, reason, err}
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, errors.Join(&Error{ifname, tapReason(err), err}, unix.Close(fd))
	}
	e := &Export{}
	e.add(fd, uringpv.File{Name: name, Serial: ifname, Kind: abi.FileTap})
	return e, nil
}

// tapReason is what err, from TUNSETIFF, means to a user.
func tapReason(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return "operation not permitted: make the interface yours (ip tuntap add mode tap user NAME), or run with CAP_NET_ADMIN"
	case errors.Is(err, unix.EBUSY):
		return "somebody else has this interface open"
	case errors.Is(err, unix.EINVAL):
		return "is an interface of another kind: it must be a TAP interface"
	}
	return fmt.Sprintf("TUNSETIFF: %v", err)
}
