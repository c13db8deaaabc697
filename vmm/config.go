// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
)

// MaxCPUs is the most vCPUs of a machine.
const MaxCPUs = 64

// Config is a machine to make.
type Config struct {
	Memory     uint64 // RAM in bytes, see memmap.NewLayout
	HugePages  bool   // back it by 2 MiB pages of the host's pool
	BufferSize uint64 // the most bytes in an entry of the buffer table, see memmap.Layout.WithBuffers; 0: as many as can be
	CPUs       int    // 1 to MaxCPUs
	Guest      Guest
	Devices    []DeviceConfig
	Console    io.Writer    // what the guest writes to the debug port, one write at a time; nil: nowhere
	Serial     io.Writer    // what it writes to COM1; nil: nowhere
	Logger     *slog.Logger // nil: no log

	// Sized is called when guest RAM has its size, before there is a backend that
	// bounds what this process may write (RLIMIT_FSIZE), RAM included. nil: nobody
	// waits for that.
	Sized func()
}

// Guest is what a machine runs: a freestanding program or a Linux kernel.
type Guest struct {
	// ELF is a static program that starts by the boot contract of
	// docs/memory-layout.md.
	ELF []byte

	// Kernel is a Linux kernel, as a bzImage or an ELF vmlinux. The machine is a
	// PC then: it has a PIT, ACPI tables, power management and pvpanic.
	Kernel     []byte
	Initrd     io.Reader // nil: none. New reads it
	InitrdSize int64     // bytes

	Cmdline string
}

// Choice is which backend a device gets.
type Choice string

// Choices. ChooseAuto takes the fastest that the host and the disks permit.
const (
	ChooseAuto        Choice = "auto"
	ChooseRelay       Choice = "relay"
	ChoosePassthrough Choice = "passthrough"
	ChooseIsolated    Choice = "isolated"
)

// DeviceConfig is a uringpv device, a PCI function of the machine.
type DeviceConfig struct {
	Name         string
	Files        []uringpv.File // stay the caller's, open until Close
	Backend      Choice
	Rings        int
	MaxEntries   uint32        // of a ring, a power of two
	SQPoll       bool          // the guest may have its rings polled
	SQThreadIdle time.Duration // 0: the backend's default
	SQThreadCPU  int           // -1: any

	SQThreadShared bool // one thread may poll the rings of all devices of this process that say so

	Deny      abi.Opcodes // opcodes that the guest does not get, whatever the backend has
	DenyFlags uint8       // IOSQE_* likewise
}

// check says what is wrong with what no other package checks.
func (c *Config) check() error {
	if c.CPUs < 1 || c.CPUs > MaxCPUs {
		return fmt.Errorf("%d vCPUs: must be 1 to %d", c.CPUs, MaxCPUs)
	}
	if (len(c.Guest.ELF) == 0) == (len(c.Guest.Kernel) == 0) {
		return errors.New("a machine runs either a freestanding program or a Linux kernel")
	}
	return nil
}
