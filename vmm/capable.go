// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/uringpv/uringpv/vmm/boot"
)

// ErrNoLinux says that the host's KVM cannot run a Linux kernel.
var ErrNoLinux = errors.New("this host's KVM cannot run a Linux kernel")

// linuxCheckTime is more than enough for a few instructions, and half of the second in
// which a user is to hear of it.
const linuxCheckTime = time.Second / 2

// CheckLinux runs a few instructions at CPL 0 in a throwaway machine: a KVM
// without VT-x or AMD-V emulates such code, and lacks some that every Linux
// kernel executes while it boots. The error wraps ErrNoLinux, or is the host's.
func CheckLinux() error {
	vm, err := New(Config{Memory: 4 << 20, CPUs: 1, Guest: Guest{ELF: checkProgram()}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), linuxCheckTime)
	defer cancel()
	exit, err := vm.Run(ctx)
	cerr := vm.Close()
	var crash *GuestCrash
	switch {
	case errors.As(err, &crash):
		return fmt.Errorf("%w: int3 at CPL 0: %s", ErrNoLinux, crash.Reason)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: int3 at CPL 0: no result within %s", ErrNoLinux, linuxCheckTime)
	case err != nil:
		return err
	case exit.Code != checkPassed:
		return fmt.Errorf("%w: int3 at CPL 0 did not raise #BP", ErrNoLinux)
	}
	return cerr
}

// What checkProgram writes to the exit port.
const (
	checkFailed = 1
	checkPassed = 2
)

// checkProgram is a freestanding guest that loads an IDT and executes int3: a
// kernel tests its own breakpoint handler, and patches its code by them.
func checkProgram() []byte {
	const (
		handlerOff = 0x40
		idtrOff    = 0x80
		idtOff     = 0x100
		vectorBP   = 3
		size       = idtOff + 16*(vectorBP+1)
	)
	code := make([]byte, size)
	le := binary.LittleEndian
	exit := func(at int, status byte) {
		copy(code[at:], []byte{0xb8, status, 0, 0, 0, 0xe7, portExit, 0xeb, 0xfe}) // mov eax, status; out portExit, eax; jmp $
	}
	at := copy(code, []byte{0x0f, 0x01, 0x1c, 0x25}) // lidt [idtr]
	le.PutUint32(code[at:], boot.ImageStart+idtrOff)
	at += 4
	code[at] = 0xcc // int3
	exit(at+1, checkFailed)
	exit(handlerOff, checkPassed)
	le.PutUint16(code[idtrOff:], size-idtOff-1)
	le.PutUint64(code[idtrOff+2:], boot.ImageStart+idtOff)
	const handler = boot.ImageStart + handlerOff
	copy(code[idtOff+16*vectorBP:], interruptGate(handler))
	return elfProgram(code)
}

// interruptGate is an IDT's entry for a handler below 4 GiB (Intel SDM volume 3,
// 6.14.1).
func interruptGate(handler uint32) []byte {
	gate := make([]byte, 16)
	binary.LittleEndian.PutUint16(gate, uint16(handler))
	binary.LittleEndian.PutUint16(gate[2:], boot.CodeSelector)
	gate[5] = 0x8e
	binary.LittleEndian.PutUint16(gate[6:], uint16(handler>>16))
	return gate
}

// elfProgram is a freestanding guest of one segment of 64 KiB, with its entry at
// the start.
func elfProgram(code []byte) []byte {
	const headers = 64 + 56
	n := uint64(len(code))
	var b bytes.Buffer
	for _, v := range []any{
		elf.Header64{
			Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: boot.ImageStart,
			Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
		},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Off: headers, Vaddr: boot.ImageStart, Paddr: boot.ImageStart, Filesz: n, Memsz: 64 << 10},
		code,
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err) // a type without a fixed size: the first test finds that
		}
	}
	return b.Bytes()
}
