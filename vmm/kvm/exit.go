// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"encoding/binary"
	"fmt"
)

// Reason is why a vCPU stopped, KVM_EXIT_*.
type Reason uint32

// Reasons.
const (
	ExitUnknown       Reason = 0
	ExitException     Reason = 1
	ExitIO            Reason = 2
	ExitHypercall     Reason = 3
	ExitDebug         Reason = 4
	ExitHLT           Reason = 5
	ExitMMIO          Reason = 6
	ExitShutdown      Reason = 8
	ExitFailEntry     Reason = 9
	ExitInterrupted   Reason = 10
	ExitInternalError Reason = 17
	ExitSystemEvent   Reason = 24
)

var reasonNames = map[Reason]string{
	ExitUnknown: "unknown hardware exit", ExitException: "exception", ExitIO: "port I/O", ExitHypercall: "hypercall",
	ExitDebug: "debug", ExitHLT: "halt", ExitMMIO: "MMIO", ExitShutdown: "shutdown (triple fault)",
	ExitFailEntry: "failed entry", ExitInterrupted: "interrupted", ExitInternalError: "internal error", ExitSystemEvent: "system event",
}

func (r Reason) String() string {
	if n, ok := reasonNames[r]; ok {
		return n
	}
	return fmt.Sprintf("exit reason %d", uint32(r))
}

// Suberrors of ExitInternalError, KVM_INTERNAL_ERROR_*.
const (
	ErrorEmulation = 1 // KVM cannot emulate an instruction
	ErrorDelivery  = 3 // an exit while an event was being delivered, which KVM cannot serve
)

// Exit is why a vCPU stopped. Data is in the vCPU's kvm_run: what a read stores
// there the guest gets at the next Run.
type Exit struct {
	Reason Reason
	Write  bool   // ExitIO, ExitMMIO: the guest writes
	Size   int    // ExitIO: bytes of one item; ExitMMIO: bytes
	Addr   uint64 // ExitIO: the port; ExitMMIO: the GPA
	Data   []byte // ExitIO: all items (`rep ins` and `outs` have several); ExitMMIO: the bytes; ExitInternalError: what KVM says of it
	Code   uint64 // ExitInternalError: the suberror; ExitFailEntry: the hardware's reason; ExitUnknown: likewise
}

// Offsets in struct kvm_run.
const (
	runExitReason = 8
	runUnion      = 32
	runDataSize   = runUnion + 256
)

// exit decodes kvm_run.
func (c *VCPU) exit() Exit {
	u := c.run[runUnion:runDataSize]
	e := Exit{Reason: Reason(binary.NativeEndian.Uint32(c.run[runExitReason:]))}
	switch e.Reason {
	case ExitIO:
		e.Write = u[0] == 1
		e.Size = int(u[1])
		e.Addr = uint64(binary.NativeEndian.Uint16(u[2:]))
		n := uint64(binary.NativeEndian.Uint32(u[4:])) * uint64(e.Size)
		off := binary.NativeEndian.Uint64(u[8:])
		if off <= uint64(len(c.run)) && n <= uint64(len(c.run))-off {
			e.Data = c.run[off : off+n]
		}
	case ExitMMIO:
		e.Addr = binary.NativeEndian.Uint64(u)
		e.Size = int(min(binary.NativeEndian.Uint32(u[16:]), 8))
		e.Data = u[8 : 8+e.Size]
		e.Write = u[20] != 0
	case ExitInternalError:
		e.Code = uint64(binary.NativeEndian.Uint32(u))
		e.Data = u[8 : 8+8*min(binary.NativeEndian.Uint32(u[4:]), 16)]
	case ExitFailEntry, ExitUnknown:
		e.Code = binary.NativeEndian.Uint64(u)
	}
	return e
}
