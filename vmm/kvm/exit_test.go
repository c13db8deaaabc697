// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// kvmRunSize is a kvm_run with its page for port data, as kernels map it.
const kvmRunSize = 3 * 4096

// stopped is a vCPU whose kvm_run says reason, with u in the union.
func stopped(reason Reason, u []byte) *VCPU {
	c := &VCPU{run: make([]byte, kvmRunSize)}
	binary.NativeEndian.PutUint32(c.run[runExitReason:], uint32(reason))
	copy(c.run[runUnion:runDataSize], u)
	return c
}

// words is v as it lies in memory.
func words(v ...uint64) (b []byte) {
	for _, w := range v {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	return b
}

func TestExitsAreDecoded(t *testing.T) {
	// Three items of two bytes to port 0x3f8, in the page behind kvm_run.
	io := stopped(ExitIO, words(1|2<<8|0x3f8<<16|3<<32, 4096))
	copy(io.run[4096:], "abcdef")
	if e := io.exit(); !e.Write || e.Size != 2 || e.Addr != 0x3f8 || string(e.Data) != "abcdef" {
		t.Errorf("port: %+v", e)
	}
	mmio := stopped(ExitMMIO, words(0xe0000004, 0x8877665544332211, 4|1<<32)).exit()
	if !mmio.Write || mmio.Size != 4 || mmio.Addr != 0xe0000004 || !bytes.Equal(mmio.Data, []byte{0x11, 0x22, 0x33, 0x44}) {
		t.Errorf("MMIO: %+v", mmio)
	}
	if e := stopped(ExitMMIO, words(0x1000, 0, 8)).exit(); e.Write || len(e.Data) != 8 {
		t.Errorf("MMIO read: %+v", e)
	}
	if e := stopped(ExitInternalError, words(1|2<<32, 7, 8, 9)).exit(); e.Code != 1 || !bytes.Equal(e.Data, words(7, 8)) {
		t.Errorf("internal error: %+v", e)
	}
	if e := stopped(ExitFailEntry, words(0x80000021)).exit(); e.Code != 0x80000021 {
		t.Errorf("failed entry: %+v", e)
	}
	if e := stopped(ExitShutdown, nil).exit(); e.Reason != ExitShutdown || e.Reason.String() == "" {
		t.Errorf("shutdown: %+v", e)
	}
	if s := Reason(99).String(); s != "exit reason 99" {
		t.Errorf("unknown reason: %q", s)
	}
}

// What a read stores in Data is what the guest gets.
func TestDataIsTheKernelsOwn(t *testing.T) {
	c := stopped(ExitMMIO, words(0x1000, 0, 4))
	copy(c.exit().Data, []byte{1, 2, 3, 4})
	if !bytes.Equal(c.run[runUnion+8:runUnion+12], []byte{1, 2, 3, 4}) {
		t.Errorf("kvm_run has %x", c.run[runUnion+8:runUnion+12])
	}
}

func TestDecodingDoesNotAllocate(t *testing.T) {
	for _, c := range []*VCPU{
		stopped(ExitIO, words(1|1<<8|0xe9<<16|6<<32, 4096)),
		stopped(ExitMMIO, words(0xe0000000, 0, 4)),
	} {
		var e Exit
		if n := testing.AllocsPerRun(100, func() { e = c.exit() }); n != 0 {
			t.Errorf("%v: %v allocations", e.Reason, n)
		}
	}
}

// Whatever kvm_run holds, Data stays inside it, and is whole items.
func FuzzExit(f *testing.F) {
	f.Add(uint32(ExitIO), words(1|1<<8|0xe9<<16|6<<32, 4096))
	f.Add(uint32(ExitIO), words(^uint64(0), ^uint64(0)))
	f.Add(uint32(ExitMMIO), words(1, 2, ^uint64(0)))
	f.Add(uint32(ExitInternalError), words(^uint64(0)))
	f.Fuzz(func(t *testing.T, reason uint32, u []byte) {
		c := stopped(Reason(reason), u)
		e := c.exit()
		for i := range e.Data {
			e.Data[i] = 0xaa // would fault, or be found by the race detector's checks, outside
		}
		if len(e.Data) > kvmRunSize {
			t.Errorf("%d bytes of data", len(e.Data))
		}
		if e.Reason == ExitMMIO && (e.Size > 8 || len(e.Data) != e.Size) {
			t.Errorf("MMIO of %d bytes has %d", e.Size, len(e.Data))
		}
		if e.Reason == ExitIO && e.Size > 0 && len(e.Data)%e.Size != 0 {
			t.Errorf("%d bytes in items of %d", len(e.Data), e.Size)
		}
	})
}
