// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

// Kinds of KVM.
const (
	KVMIntel   = "kvm-intel" // VT-x
	KVMAMD     = "kvm-amd"   // AMD-V
	KVMPVM     = "kvm-pvm"   // software: guest kernels run in an emulator
	KVMUnknown = "unknown"   // /dev/kvm works, but its module is none of these
	KVMNone    = "none"      // there is no usable /dev/kvm
)

// kvmDevice is where the kernel's KVM is found.
const kvmDevice = "/dev/kvm"

// kvmGetAPIVersion is KVM_GET_API_VERSION, _IO(KVMIO, 0x00) in linux/kvm.h.
const kvmGetAPIVersion = 0xae00

// kvmAPIVersion is KVM_API_VERSION, the only one since Linux 2.6.22.
const kvmAPIVersion = 12

// KVM is what this host offers for running guests.
type KVM struct {
	// Kind is one of the constants above.
	Kind string
	// Err says in one line why there is no usable KVM, and what would be right.
	// It wraps the errno.
	Err error
}

// ProbeKVM opens /dev/kvm, asks its API version and looks for its kind.
func ProbeKVM() KVM {
	if err := checkKVM(kvmDevice); err != nil {
		return KVM{Kind: KVMNone, Err: err}
	}
	return KVM{Kind: kvmKind("/sys/module")}
}

func checkKVM(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return kvmOpenError(path, err)
	}
	defer f.Close()
	version, err := unix.IoctlRetInt(int(f.Fd()), kvmGetAPIVersion)
	if err != nil {
		return fmt.Errorf("%s is not a KVM device (KVM_GET_API_VERSION: %w); it should be the character device 10, 232", path, err)
	}
	if version != kvmAPIVersion {
		return fmt.Errorf("%s speaks KVM API version %d; uringpv needs %d", path, version, kvmAPIVersion)
	}
	return nil
}

// kvmOpenError turns why path could not be opened into what would be right.
func kvmOpenError(path string, err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case unix.ENOENT:
		return fmt.Errorf("%s: %w; load kvm-intel or kvm-amd, or in a virtual machine enable nested virtualization", path, errno)
	case unix.EACCES, unix.EPERM:
		return fmt.Errorf("%s: %w; run as root or as a member of %s", path, errno, groupOf(path))
	case unix.ENODEV, unix.ENXIO:
		return fmt.Errorf("%s: %w; the KVM module is not loaded, or the firmware has switched virtualization off", path, errno)
	case unix.EBUSY:
		return fmt.Errorf("%s: %w; another hypervisor has taken the processor's virtualization", path, errno)
	default:
		return fmt.Errorf("%s: %w", path, errno)
	}
}

// groupOf names the group that owns path, as a user would say it.
func groupOf(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return "the group that owns it"
	}
	id := strconv.FormatUint(uint64(st.Gid), 10)
	if g, err := user.LookupGroupId(id); err == nil {
		return "group " + g.Name
	}
	return "group " + id
}

// kvmKind looks which KVM module is there; modules is /sys/module. A KVM that is
// built into the kernel has its directory there too, when it has parameters.
func kvmKind(modules string) string {
	for _, m := range []struct{ dir, kind string }{
		// kvm_pvm first: its hosts may have the modules for hardware as well,
		// without the hardware.
		{"kvm_pvm", KVMPVM},
		{"kvm_intel", KVMIntel},
		{"kvm_amd", KVMAMD},
	} {
		if _, err := os.Stat(modules + "/" + m.dir); err == nil {
			return m.kind
		}
	}
	return KVMUnknown
}
