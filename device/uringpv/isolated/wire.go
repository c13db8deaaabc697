// SPDX-License-Identifier: Apache-2.0

package isolated

import (
	_ "embed"
	"encoding/binary"
	"structs"

	"github.com/uringpv/uringpv/hostring"
)

// program is the owner's, a static ELF executable: see owner/.
//
//go:embed owner/generated/owner
var program []byte

// What follows is owner/owner.h.

// Descriptors that the owner begins with.
const (
	fdMonitor = 3
	fdMemory  = 4
	fdProgram = 5
)

// regions is how many pieces guest RAM may have.
const regions = 2

// region is struct owner_region.
type region struct {
	_      structs.HostLayout
	Addr   uint64
	Length uint64
	Offset uint64
}

// start is struct owner_start.
type start struct {
	_       structs.HostLayout
	Regions [regions]region
	FSize   uint64
	Parent  uint32
	Entries uint32
	Flags   uint32
	Resv    uint32
	Params  hostring.Params
}

// noUserNamespace is OWNER_NO_USERNS.
const noUserNamespace = 1

// answer is struct owner_answer.
type answer struct {
	_      structs.HostLayout
	Result int32
	Step   step
	Apart  apart
	Resv   uint32
	Params hostring.Params
}

// Sizes of the messages in bytes.
const (
	startSize  = 72 + 120
	answerSize = 16 + 120
)

// step is enum owner_step: what the owner was doing.
type step uint32

// ready is the last step, STEP_READY.
const (
	stepMemory step = 6
	stepRing   step = 7
	ready      step = 8
)

func (s step) String() string {
	names := [...]string{
		"its start", "take the message", "set up its death", "set its signals", "set its limits",
		"drop its capabilities", "map guest RAM", "make the ring", "be ready",
	}
	if int(s) < len(names) {
		return names[s]
	}
	return "an unknown step"
}

// apart says what an owner does not share with the monitor: APART_*.
type apart uint32

// The bits of apart.
const (
	apartUser apart = 1 << iota
	apartMount
	apartNet
	apartIPC
	apartUTS
	apartCgroup
	apartRoot
	apartFilter
)

// Exit statuses, EXIT_*.
const (
	exitAlone  = 3
	exitFailed = 4
	exitUnmap  = 5
)

// encode is a message's bytes.
func encode[T start | answer](m *T) []byte {
	b, err := binary.Append(nil, binary.NativeEndian, m)
	if err != nil {
		panic(err) // cannot be: the types have a fixed size
	}
	return b
}

// decode is encode's inverse. It says false if b has another size than m.
func decode[T start | answer](b []byte, m *T) bool {
	n, err := binary.Decode(b, binary.NativeEndian, m)
	return err == nil && n == len(b)
}
