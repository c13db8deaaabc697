// SPDX-License-Identifier: Apache-2.0

package uringpv

import (
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
)

// fileOpcodes are the opcodes, of all that any backend has, whose SQEs name a file by
// fd.
var fileOpcodes = abi.OpcodesOf(
	hostring.OpReadv, hostring.OpWritev, hostring.OpFsync, hostring.OpReadFixed, hostring.OpWriteFixed, hostring.OpPollAdd,
	hostring.OpSyncFileRange, hostring.OpSendmsg, hostring.OpRecvmsg, hostring.OpAccept, hostring.OpConnect, hostring.OpFallocate,
	hostring.OpRead, hostring.OpWrite, hostring.OpSend, hostring.OpRecv, hostring.OpShutdown,
)

// NamesFile says whether SQEs with this opcode name a file, for File.Deny. It is
// false for opcodes that no backend has.
func NamesFile(opcode uint8) bool { return fileOpcodes.Has(opcode) }

// Policy is what a ring's guest may ask for. A guest can narrow it, never widen
// it.
type Policy struct {
	Opcodes          abi.Opcodes // IORING_OP_* that an SQE may have
	SQEFlags         uint8       // IOSQE_* that an SQE may carry
	SQEFlagsRequired uint8       // IOSQE_* that every SQE must carry; within SQEFlags
	SetupFlags       uint32      // IORING_SETUP_* that RING_SETUP accepts
}

// Allows says whether an SQE with this opcode and these flags may be executed;
// if not, its CQE is -EACCES. It is the rule of the kernel's ring restrictions
// (io_uring_register(2), IORING_REGISTER_RESTRICTIONS), so that every backend
// refuses the same.
func (p *Policy) Allows(opcode, flags uint8) bool {
	return p.Opcodes.Has(opcode) &&
		flags&^p.SQEFlags == 0 &&
		flags&p.SQEFlagsRequired == p.SQEFlagsRequired
}

// Narrow is p with only the opcodes of want, or all of p's if want is empty. It
// says false if want has an opcode that is neither in p nor in extra.
func (p Policy) Narrow(want, extra abi.Opcodes) (Policy, bool) {
	if want.Empty() {
		return p, true
	}
	all := p.Opcodes.Union(&extra)
	if !want.SubsetOf(&all) {
		return Policy{}, false
	}
	p.Opcodes = want
	return p, true
}
