// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
)

const testDisk = 1 << 20

// testRing is a ring for translate alone: no host ring, no goroutine.
func testRing(registered bool) *Ring {
	r := &Ring{spec: uringpv.RingSpec{Policy: uringpv.Policy{
		Opcodes: abi.OpcodesOf(hostring.OpNop, hostring.OpReadFixed, hostring.OpWriteFixed, hostring.OpRead,
			hostring.OpWrite, hostring.OpFsync, hostring.OpFallocate),
		SQEFlags: allowedSQEFlags, SQEFlagsRequired: hostring.SQEFixedFile,
	}}}
	r.registered = registered
	size := func() (int64, error) { return testDisk, nil }
	r.files = []file{
		{host: 0, present: true, sized: true, size: testDisk, look: size, calls: &r.calls},
		{host: 1, present: true, sized: true, size: testDisk, look: size, calls: &r.calls, readOnly: true},
		{host: 2, present: true, sized: true, size: testDisk, look: size, calls: &r.calls, block: true},
	}
	r.layHosts(0)
	r.moved = noFile
	r.buffers = []buffer{{1 << 46, 1<<46 + 1<<20}, {1<<46 + 1<<20, 1<<46 + 3<<20}, {1<<46 + 1<<32, 1<<46 + 1<<32 + 1<<30}}
	r.sortBuffers()
	return r
}

// TestTranslateConfines: whatever 64 bytes a guest writes, what reaches the
// host's kernel is an allowed opcode on a file of the ring, at addresses in one
// of its buffers, and writes nothing past a file's end.
func TestTranslateConfines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := testRing(rapid.Bool().Draw(t, "registered"))
		u64 := func(name string, likely ...uint64) uint64 {
			return rapid.OneOf(rapid.SampledFrom(append(likely, 0)), rapid.Uint64()).Draw(t, name)
		}
		op := uint8(u64("opcode", uint64(hostring.OpReadFixed), uint64(hostring.OpWriteFixed), uint64(hostring.OpRead),
			uint64(hostring.OpWrite), uint64(hostring.OpFsync), uint64(hostring.OpFallocate)))
		flags := uint8(u64("flags", 1, 1, 1, 0x11))
		var w words
		w[0] = uint64(op) | uint64(flags)<<8 | u64("ioprio")&0xffff<<16 | u64("fd", 0, 1, 2)<<32
		w[1] = u64("off", testDisk, testDisk-1, testDisk-4096, 1<<63-1, ^uint64(0)) + rapid.Uint64Range(0, 8192).Draw(t, "more")
		w[2] = u64("addr", 1<<46, 1<<46+1<<20, 1<<46+3<<20-1, 1<<46+1<<32, 4096)
		w[3] = u64("len", 4096, 1<<20, 1<<30, 3)&0xffff_ffff | u64("op_flags", 1, 2, 6, 16)<<32
		w[4] = u64("user_data")
		w[5] = u64("buf_index, personality, splice_fd_in", 1, 2, 3, 1<<16, 1<<32)
		w[6] = u64("addr3")
		w[7] = u64("attributes", 1)
		sqe := hostring.SQE{UserData: 77, Personality: 9, Addr3: 9, Pad2: 9, SpliceFDIn: 9, IOPrio: 9}
		before := sqe
		q := slot{hot: hot{file: noFile}}
		no := r.translate(&w, &sqe, &q)
		if no != 0 {
			if no.errno() >= 4096 {
				t.Fatalf("errno %d", no.errno())
			}
			if sqe != before {
				t.Fatal("a refused SQE has left something behind")
			}
			return
		}
		if flags&^uint8(allowedSQEFlags) != 0 || flags&hostring.SQEFixedFile == 0 {
			t.Fatalf("flags %#x are allowed", flags)
		}
		if sqe.Personality != 0 || sqe.Addr3 != 0 || sqe.Pad2 != 0 || sqe.SpliceFDIn != 0 || sqe.IOPrio != 0 {
			t.Fatalf("a field that nobody checks reaches the host: %+v", sqe)
		}
		class := q.class
		if sqe.Opcode == hostring.OpNop {
			return
		}
		if sqe.Flags&hostring.SQEFixedFile == 0 || sqe.FD < 0 || int(sqe.FD) >= len(r.files) {
			t.Fatalf("not a file of the ring: %+v", sqe)
		}
		f := r.files[sqe.FD]
		end := sqe.Off + uint64(sqe.Len)
		switch sqe.Opcode {
		case hostring.OpReadFixed, hostring.OpWriteFixed, hostring.OpRead, hostring.OpWrite:
			fixed := sqe.Opcode == hostring.OpReadFixed || sqe.Opcode == hostring.OpWriteFixed
			if fixed != r.registered {
				t.Fatalf("opcode %d, with registered buffers: %v", sqe.Opcode, r.registered)
			}
			held := false
			for i, b := range r.buffers {
				held = held || (!fixed || int(sqe.BufIndex) == i) && sqe.Addr >= b.start && sqe.Addr+uint64(sqe.Len) <= b.end
			}
			if !held {
				t.Fatalf("memory outside the ring's buffers: %+v", sqe)
			}
			if sqe.OpFlags&^6 != 0 {
				t.Fatalf("rw_flags %#x", sqe.OpFlags)
			}
			if isWrite := sqe.Opcode == hostring.OpWriteFixed || sqe.Opcode == hostring.OpWrite; isWrite != (class == classWrite) {
				t.Fatalf("class %d of opcode %d", class, sqe.Opcode)
			} else if isWrite && (f.readOnly || sqe.Len > 0 && (end > testDisk || end < sqe.Off)) {
				t.Fatalf("a write that must not be: %+v", sqe)
			}
		case hostring.OpFsync:
			if sqe.Addr != 0 || sqe.BufIndex != 0 || sqe.OpFlags > 1 {
				t.Fatalf("%+v", sqe)
			}
		case hostring.OpFallocate:
			if f.readOnly || sqe.Off+sqe.Addr > testDisk || sqe.Off+sqe.Addr < sqe.Off || sqe.Addr == 0 {
				t.Fatalf("fallocate beyond the file: %+v", sqe)
			}
			switch sqe.Len {
			case 0, 3, 0x10, 0x11:
			default:
				t.Fatalf("fallocate mode %#x", sqe.Len)
			}
		default:
			t.Fatalf("opcode %d", sqe.Opcode)
		}
	})
}

func TestRoomAtTheEnd(t *testing.T) {
	r := testRing(true)
	for _, c := range []struct {
		file   int
		off, n uint64
		room   uint64
		errno  unix.Errno
	}{
		{0, 0, testDisk, testDisk, 0},
		{0, testDisk - 1, 1, 1, 0},
		{0, testDisk - 1, 2, 1, 0},
		{0, testDisk, 1, 0, unix.EFBIG},
		{0, maxOffset - 1, 1, 0, unix.EFBIG},
		{2, testDisk, 1, 0, unix.ENOSPC},
		{2, testDisk - 512, 4096, 512, 0},
	} {
		room, errno := r.files[c.file].room(c.off, c.n)
		if room != c.room || errno != c.errno {
			t.Errorf("file %d, %d bytes at %d: %d, %v; want %d, %v", c.file, c.n, c.off, room, errno, c.room, c.errno)
		}
	}
}

// TestPastTheEndCostsNoSystemCallEach: a guest that only writes past the end
// makes us look at the file's size now and then.
func TestPastTheEndCostsNoSystemCallEach(t *testing.T) {
	r := testRing(true)
	start := time.Now()
	const n = 100000
	for range n {
		if _, errno := r.files[0].room(testDisk, 1); errno != unix.EFBIG {
			t.Fatal(errno)
		}
	}
	if most := uint64(time.Since(start)/refresh) + 1; r.calls > most || r.calls == 0 {
		t.Errorf("%d looks at the size for %d writes, want 1 to %d", r.calls, n, most)
	}
}

func TestTranslateAllocatesNothing(t *testing.T) {
	r := testRing(true)
	w := words{uint64(hostring.OpWriteFixed) | 1<<8, 4096, 1 << 46, 4096, 1}
	var sqe hostring.SQE
	var q slot
	if n := testing.AllocsPerRun(1000, func() {
		q.reset(&w)
		if no := r.translate(&w, &sqe, &q); no != 0 {
			t.Fatal(no)
		}
	}); n != 0 {
		t.Errorf("%v allocations for each SQE, want 0", n)
	}
}

func BenchmarkTranslate(b *testing.B) {
	r := testRing(true)
	w := words{uint64(hostring.OpWriteFixed) | 1<<8, 4096, 1 << 46, 4096, 1}
	var sqe hostring.SQE
	var q slot
	b.ReportAllocs()
	for b.Loop() {
		q.reset(&w)
		if no := r.translate(&w, &sqe, &q); no != 0 {
			b.Fatal(no)
		}
	}
}

// BenchmarkTake is what the relay itself does for a request, from the SQE's copy to
// the CQE, without rings.
func BenchmarkTake(b *testing.B) {
	r := testRing(true)
	r.slots = newSlots(64, 64)
	w := words{uint64(hostring.OpReadFixed) | 1<<8, 4096, 1 << 46, 4096, 1}
	b.ReportAllocs()
	for b.Loop() {
		r.q.reset(&w)
		if no := r.translate(&w, &r.sqe, &r.q); no != 0 {
			b.Fatal(no)
		}
		r.hosts[r.q.file].refs++
		_, x := r.slots.take(&r.q)
		s := r.slots.find(x)
		r.bytes(s, 4096)
		r.slots.give(uint32(x))
		r.release(0)
	}
}
