// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"errors"
	"fmt"

	"github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"
)

// request is an ioctl of linux/kvm.h: its name and its number. The size in the
// number is the fixed part's where a structure ends in an array of any length.
type request struct {
	name string
	op   uintptr
}

// The requests that take a structure. They do not go through gokvm's functions:
// those turn the pointer into a number before the system call, and a structure
// on a goroutine's stack may have moved by then.
var (
	getSupportedCPUID = request{"KVM_GET_SUPPORTED_CPUID", kvm.IIOWR(0x05, 8)}

	setUserMemoryRegion = request{"KVM_SET_USER_MEMORY_REGION", kvm.IIOW(0x46, 32)}
	setIdentityMapAddr  = request{"KVM_SET_IDENTITY_MAP_ADDR", kvm.IIOW(0x48, 8)}
	setIRQLine          = request{"KVM_IRQ_LINE", kvm.IIOW(0x61, 8)}
	setGSIRouting       = request{"KVM_SET_GSI_ROUTING", kvm.IIOW(0x6a, 8)}
	createPIT2          = request{"KVM_CREATE_PIT2", kvm.IIOW(0x77, 64)}
	setIRQFD            = request{"KVM_IRQFD", kvm.IIOW(0x76, 32)}
	setIOEventFD        = request{"KVM_IOEVENTFD", kvm.IIOW(0x79, 64)}
	enableCap           = request{"KVM_ENABLE_CAP", kvm.IIOW(0xa3, 104)}
	signalMSI           = request{"KVM_SIGNAL_MSI", kvm.IIOW(0xa5, 32)}

	getRegs    = request{"KVM_GET_REGS", kvm.IIOR(0x81, 144)}
	setRegs    = request{"KVM_SET_REGS", kvm.IIOW(0x82, 144)}
	getSregs   = request{"KVM_GET_SREGS", kvm.IIOR(0x83, 312)}
	setSregs   = request{"KVM_SET_SREGS", kvm.IIOW(0x84, 312)}
	translate  = request{"KVM_TRANSLATE", kvm.IIOWR(0x85, 24)}
	setMSRs    = request{"KVM_SET_MSRS", kvm.IIOW(0x89, 8)}
	setFPU     = request{"KVM_SET_FPU", kvm.IIOW(0x8d, 416)}
	setCPUID   = request{"KVM_SET_CPUID2", kvm.IIOW(0x90, 8)}
	getMPState = request{"KVM_GET_MP_STATE", kvm.IIOR(0x98, 4)}
	setMPState = request{"KVM_SET_MP_STATE", kvm.IIOW(0x99, 4)}
	getEvents  = request{"KVM_GET_VCPU_EVENTS", kvm.IIOR(0x9f, 64)}
)

// The requests that take a number, or nothing.
var (
	createVM       = request{"KVM_CREATE_VM", kvm.IIO(0x01)}
	checkExtension = request{"KVM_CHECK_EXTENSION", kvm.IIO(0x03)}
	createVCPU     = request{"KVM_CREATE_VCPU", kvm.IIO(0x41)}
	setTSSAddr     = request{"KVM_SET_TSS_ADDR", kvm.IIO(0x47)}
	createIRQChip  = request{"KVM_CREATE_IRQCHIP", kvm.IIO(0x60)}
	getStatsFD     = request{"KVM_GET_STATS_FD", kvm.IIO(0xce)}
)

// kvmRun is KVM_RUN, the one request that a signal is meant to interrupt.
var kvmRun = kvm.IIO(0x80)

// call makes request r on fd with a number. The error wraps the errno.
//
// A signal is no reason to fail: KVM_CREATE_VM gives up when one is pending, and
// the Go runtime sends its threads SIGURG at any time.
func call(fd int, r request, arg uintptr) (int, error) {
	for {
		n, err := kvm.Ioctl(uintptr(fd), r.op, arg)
		switch {
		case err == nil:
			return int(n), nil
		case !errors.Is(err, unix.EINTR):
			return 0, fmt.Errorf("%s: %w", r.name, err)
		}
	}
}
