// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"errors"
	"fmt"
	"slices"
	"structs"

	"github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"
)

// Device is where the host offers KVM.
const Device = "/dev/kvm"

// apiVersion is KVM_API_VERSION, the only one there has been since 2007.
const apiVersion = 12

// ErrUnavailable says that there is no KVM to use.
var ErrUnavailable = errors.New("KVM is not available")

// System is an open /dev/kvm.
type System struct {
	fd       int
	mmapSize int
}

// Open opens /dev/kvm. The error says what would help; errors.Is finds
// ErrUnavailable.
func Open() (*System, error) {
	fd, err := unix.Open(Device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("%w: there is no %s: load kvm_intel or kvm_amd, or enable virtualization in the firmware (in a cloud VM: nested virtualization)", ErrUnavailable, Device)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("%w: no permission for %s: join its group (usually kvm), or run as root", ErrUnavailable, Device)
	case err != nil:
		return nil, fmt.Errorf("%w: open %s: %w", ErrUnavailable, Device, err)
	}
	s := &System{fd: fd}
	v, err := kvm.GetAPIVersion(uintptr(fd))
	if err != nil || v != apiVersion {
		_ = s.Close()
		return nil, fmt.Errorf("%w: %s has API version %d, must be %d (%v)", ErrUnavailable, Device, v, apiVersion, err)
	}
	size, err := kvm.GetVCPUMMmapSize(uintptr(fd))
	if err != nil || size < runDataSize {
		_ = s.Close()
		return nil, fmt.Errorf("%w: size of kvm_run is %d bytes (%v)", ErrUnavailable, size, err)
	}
	s.mmapSize = int(size)
	return s, nil
}

// Close closes /dev/kvm. VMs made from it live on.
func (s *System) Close() error { return unix.Close(s.fd) }

// Capability is KVM_CAP_*. It is not gokvm's type, which has eight bits.
type Capability uint32

// CapTSCDeadline says that the in-kernel local APICs have the TSC deadline
// timer, which SupportedCPUID tells on newer kernels only.
const CapTSCDeadline Capability = 72

// Has is KVM_CHECK_EXTENSION: 0 if the host lacks the capability, else a
// positive number whose meaning is the capability's.
func (s *System) Has(c Capability) int {
	n, err := call(s.fd, checkExtension, uintptr(c))
	if err != nil {
		return 0
	}
	return n
}

// maxCPUIDEntries bounds the table, as the kernel does (KVM_MAX_CPUID_ENTRIES).
const maxCPUIDEntries = 256

// cpuid is struct kvm_cpuid2 with room for every entry.
type cpuid struct {
	_       structs.HostLayout
	nent    uint32
	pad     uint32
	entries [maxCPUIDEntries]CPUIDEntry
}

// SupportedCPUID is what a guest's CPUID may say on this host.
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	c := cpuid{nent: maxCPUIDEntries}
	if err := ioctl(s.fd, getSupportedCPUID, &c); err != nil {
		return nil, err
	}
	return slices.Clone(c.entries[:min(c.nent, maxCPUIDEntries)]), nil
}

// NewVM makes a VM.
func (s *System) NewVM() (*VM, error) {
	fd, err := call(s.fd, createVM, 0)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return &VM{fd: fd, mmapSize: s.mmapSize}, nil
}
