// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// guestPage is where, in guest RAM, the tests put what SQEs point at; it is inside the
// first of the ring's buffers.
const guestPage = memmap.Addr(1 << 20)

// memoryRing is a testRing with RAM: two buffers that adjoin, and one apart.
func memoryRing(t testing.TB) (*Ring, *memmap.Memory) {
	t.Helper()
	l, err := memmap.NewLayout(32 << 20)
	if err != nil {
		t.Fatal(err)
	}
	m, err := memmap.New(l, memmap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := testRing(true)
	r.spec.Memory = m
	r.spec.Policy.Opcodes = abi.OpcodesOf(opcodes...)
	base := uint64(m.Base()) + uint64(guestPage)
	r.buffers = []buffer{{base, base + 1<<16}, {base + 1<<16, base + 1<<17}, {base + 1<<18, base + 1<<18 + 4096}}
	r.sortBuffers()
	peer := must(peerBytes(&unix.SockaddrInet4{Port: 7, Addr: [4]byte{127, 0, 0, 1}}))
	r.files = append(r.files,
		file{host: 3, present: true, socket: true, peer: peer},
		file{host: 4, present: true, socket: true, unconnected: true, peer: peer},
		file{host: 5, present: true, readOnly: true},
		file{host: 6})
	r.layHosts(2 * len(r.files))
	r.multishot = true
	for i := range r.files {
		r.hosts[i].bound = true
	}
	r.slots = newSlots(16, 64)
	r.arena.most = 64
	return r, m
}

// confined fails the test if what the host's kernel is given names memory outside the
// ring's buffers and the request's own block, files that are not the ring's, or bytes
// behind a disk's end.
func confined(t interface {
	Helper()
	Fatalf(string, ...any)
}, r *Ring, s *hostring.SQE, q *slot) {
	t.Helper()
	covered := func(what string, addr, n uint64) {
		t.Helper()
		for n > 0 {
			at := addr
			for _, b := range r.buffers {
				if addr >= b.start && addr < b.end {
					k := min(n, b.end-addr)
					addr, n = addr+k, n-k
					break
				}
			}
			if at == addr {
				t.Fatalf("%s at %#x, %d bytes of it: outside the ring's buffers; %+v", what, addr, n, *s)
			}
		}
	}
	own := func(what string, addr, n uint64) {
		t.Helper()
		if q.block == 0 || addr < r.arena.addr(q.block, 0) || n > 0 && !inBlock(r, q.block, addr, n) {
			t.Fatalf("%s at %#x, %d bytes: not in the request's block; %+v", what, addr, n, *s)
		}
	}
	vectors := func(addr, n uint64) (total uint64) {
		if n == 0 {
			return 0
		}
		own("iovecs", addr, n*iovecSize)
		for i := range uint32(n) {
			base, length := r.arena.word(q.block, blockIovecs+i*iovecSize), r.arena.word(q.block, blockIovecs+i*iovecSize+8)
			covered("an iovec", base, length)
			total += length
		}
		if total > maxRW {
			t.Fatalf("iovecs of %d bytes", total)
		}
		return total
	}
	ends := func(n uint64) {
		t.Helper()
		if int(q.file) < len(r.files) && r.files[q.file].sized && n > 0 {
			if f := r.files[q.file]; f.readOnly || s.Off+n > f.size || s.Off+n < s.Off {
				t.Fatalf("a write that must not be: %+v", *s)
			}
		}
	}
	if s.UserData != 0 || s.Personality != 0 || s.Addr3 != 0 || s.Pad2 != 0 {
		t.Fatalf("a field that nobody checks reaches the host: %+v", *s)
	}
	if s.Flags&^passedSQEFlags != 0 {
		t.Fatalf("flags %#x", s.Flags)
	}
	if s.Flags&hostring.SQEFixedFile != 0 {
		if s.FD < 0 || int(s.FD) >= len(r.hosts) || uint16(s.FD) != q.file {
			t.Fatalf("not a file of the ring: %+v", *s)
		}
	}
	needsFile := true
	switch s.Opcode {
	case hostring.OpReadFixed, hostring.OpRead, hostring.OpRecv:
		covered("memory", s.Addr, uint64(s.Len))
	case hostring.OpWriteFixed, hostring.OpWrite:
		covered("memory", s.Addr, uint64(s.Len))
		ends(uint64(s.Len))
	case hostring.OpSend:
		covered("memory", s.Addr, uint64(s.Len))
		if s.Off != 0 {
			own("name", s.Off, uint64(s.SpliceFDIn))
		} else if s.SpliceFDIn != 0 {
			t.Fatalf("a length without a name: %+v", *s)
		}
	case hostring.OpReadv:
		vectors(s.Addr, uint64(s.Len))
	case hostring.OpWritev:
		ends(vectors(s.Addr, uint64(s.Len)))
	case hostring.OpSendmsg, hostring.OpRecvmsg:
		own("msghdr", s.Addr, msghdrSize)
		at := uint32(s.Addr - r.arena.addr(q.block, 0))
		if name := r.arena.word(q.block, at+msgName); name != 0 {
			own("name", name, uint64(r.arena.half(q.block, at+msgNameLen)))
		} else if r.arena.half(q.block, at+msgNameLen) != 0 {
			t.Fatalf("a length without a name")
		}
		if r.arena.word(q.block, at+msgControl) != 0 || r.arena.word(q.block, at+msgControlLen) != 0 {
			t.Fatalf("a control message")
		}
		vectors(r.arena.word(q.block, at+msgIov), r.arena.word(q.block, at+msgIovLen))
	case hostring.OpConnect:
		own("name", s.Addr, s.Off)
		if q.file != 4 {
			t.Fatalf("CONNECT of a file that is not to be connected: %+v", *s)
		}
	case hostring.OpAccept:
		if s.Addr != 0 && s.Addr != badAddr {
			own("name", s.Addr, sockaddrSize)
			own("length", s.Off, socklenSize)
		} else if s.Off != s.Addr {
			t.Fatalf("a length without a name: %+v", *s)
		}
		if multi := s.IOPrio&acceptMultishot != 0; multi != (s.SpliceFDIn == -1) || !multi && (s.SpliceFDIn < 1 || int(s.SpliceFDIn) > int(r.pool)) {
			t.Fatalf("ACCEPT into no entry of the ring: %+v", *s)
		}
	case hostring.OpFallocate:
		ends(s.Addr)
	case hostring.OpTimeout, hostring.OpLinkTimeout:
		needsFile = false
		own("timespec", s.Addr, timespecSize)
	case hostring.OpTimeoutRemove:
		needsFile = false
		if s.Off != 0 {
			own("timespec", s.Off, timespecSize)
		}
	case hostring.OpPollAdd, hostring.OpShutdown, hostring.OpFsync, hostring.OpSyncFileRange:
		if s.Addr != 0 {
			t.Fatalf("an address: %+v", *s)
		}
	case hostring.OpClose:
		needsFile = false
		if s.SpliceFDIn < 1 || int(s.SpliceFDIn) > int(r.pool) || s.FD != 0 {
			t.Fatalf("CLOSE of no entry of the ring: %+v", *s)
		}
	case hostring.OpNop, hostring.OpPollRemove, hostring.OpAsyncCancel:
		needsFile = false
	default:
		t.Fatalf("opcode %d", s.Opcode)
	}
	if needsFile && s.Flags&hostring.SQEFixedFile == 0 {
		t.Fatalf("a descriptor of this process: %+v", *s)
	}
}

// inBlock says whether [addr, addr+n) is in b.
func inBlock(r *Ring, b block, addr, n uint64) bool {
	off := addr - r.arena.addr(b, 0)
	at, size := uint32(b)-1, uint32(0)
	for i := range blockSize {
		if at >= r.arena.start[i] {
			size = blockSize[i]
		}
	}
	return off <= uint64(size) && n <= uint64(size)-off
}

// tried translates w and checks the result.
func tried(t interface {
	Helper()
	Fatalf(string, ...any)
}, r *Ring, w *words) {
	t.Helper()
	before := hostring.SQE{UserData: 1, Personality: 9, Addr3: 9, Pad2: 9}
	s, q := before, slot{hot: hot{file: noFile, op: w.opcode()}}
	no := r.translate(w, &s, &q)
	if no == 0 {
		s.UserData--
		if s.UserData == ^uint64(0) {
			s.UserData = 0
		}
		confined(t, r, &s, &q)
	} else if no.errno() == 0 || no.errno() >= 4096 {
		t.Fatalf("refused with %#x", no)
	}
	if q.block != 0 {
		r.arena.give(q.block)
	}
	for i := range r.files { // an ACCEPT may have reserved one
		r.files[i].reserved = false
	}
	r.moved = noFile
}

// TestTranslateConfinesEveryOpcode is TestTranslateConfines for those that point at
// more than bytes.
func TestTranslateConfinesEveryOpcode(t *testing.T) {
	ring, m := memoryRing(t)
	defer m.Close()
	defer ring.arena.close()
	base := uint64(m.Base()) + uint64(guestPage)
	ops := make([]uint64, len(opcodes))
	for i, op := range opcodes {
		ops[i] = uint64(op)
	}
	rapid.Check(t, func(t *rapid.T) {
		// Mostly what passes the first checks, so that the later ones are tried.
		sane := rapid.IntRange(0, 3).Draw(t, "sane") > 0
		u64 := func(name string, usual uint64, likely ...uint64) uint64 {
			if sane && rapid.IntRange(0, 4).Draw(t, "usual") > 0 {
				return usual
			}
			return rapid.OneOf(rapid.SampledFrom(append(likely, usual)), rapid.Uint64()).Draw(t, name)
		}
		word := rapid.SampledFrom([]uint64{0, 1, 2, 16, 4096, base, base + 4096, base + 1<<16 - 8, base + 1<<17, base + 1<<18, base - 1, 0x0100007f_07000002})
		n := rapid.IntRange(0, 24).Draw(t, "words that are pointed at")
		for i := range n {
			if err := m.WriteAt(binary.LittleEndian.AppendUint64(nil, word.Draw(t, "word")), guestPage+memmap.Addr(8*i)); err != nil {
				t.Fatal(err)
			}
		}
		addr := []uint64{base, base + 8, base + 64, base + 1<<16 - 8, base + 1<<17 - 16, base + 1<<18, base - 1, 4096, 1 << 63, 0}
		op := rapid.SampledFrom(ops).Draw(t, "opcode")
		file, length, off := rapid.Uint64Range(0, 7).Draw(t, "file"), rapid.SampledFrom([]uint64{0, 1, 2, 3, 40}).Draw(t, "length"), uint64(0)
		switch uint8(op) {
		case hostring.OpConnect:
			off = 16
		case hostring.OpAccept:
			off = base + 8
		}
		var w words
		w[0] = op | (uint64(fixed)|u64("flags", 0, 4, 8, 2, 0x40)&0x5f)<<8 | u64("ioprio", 0, 1, 2, 4)&0xffff<<16 | u64("fd", file)<<32
		w[1] = u64("off", off, append(addr, 16, 128, testDisk-4, testDisk)...)
		w[2] = u64("addr", base, addr...)
		w[3] = u64("len", length, 1024, 4096, 1<<18)&0xffff_ffff | u64("op_flags", 0, 1, 2, 4, 8, 16, 64, 0x100)<<32
		w[5] = u64("buf_index, personality, file_index", 0, 1, 1<<32, 16<<32, 7<<32, 0xffff_ffff<<32)
		w[6], w[7] = u64("addr3", 0), u64("attributes", 0)
		ring.skipped = false
		tried(t, ring, &w)
	})
}

// place puts b where SQEs of the fuzz targets point at, with the words that are marked
// made addresses of RAM. Outside the buffers it leaves a canary.
func place(t testing.TB, m *memmap.Memory, at memmap.Addr, b []byte, mark uint64) {
	t.Helper()
	b = append([]byte(nil), b...)
	for i := 0; i+8 <= len(b); i += 8 {
		if mark>>(i/8%64)&1 != 0 {
			v := binary.LittleEndian.Uint64(b[i:])
			binary.LittleEndian.PutUint64(b[i:], uint64(m.Base())+uint64(guestPage)+v%(1<<18+8192))
		}
	}
	if err := m.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// FuzzIovecs: whatever a guest has READV and WRITEV point at, no address outside the
// ring's buffers reaches the host's kernel, nor a byte behind a disk's end.
func FuzzIovecs(f *testing.F) {
	entry := func(base, n uint64) []byte {
		return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, base), n)
	}
	f.Add(entry(0, 16), uint64(1), uint64(0), uint32(1), uint64(0), byte(0))
	f.Add(append(entry(8, 4096), entry(1<<16-8, 64)...), uint64(5), uint64(8), uint32(2), uint64(testDisk-100), byte(1))
	f.Add(append(entry(1<<17, 1), entry(5, 1<<63)...), uint64(5), uint64(0), uint32(2), uint64(0), byte(3))
	f.Add(entry(1<<17+8192, 64), uint64(1), uint64(0), uint32(1), uint64(0), byte(0))
	f.Add(append(entry(0, 64), entry(1<<18, 8192)...), uint64(5), uint64(64), uint32(2), uint64(0), byte(8))
	f.Add(append(entry(0, 64), entry(1<<17-8, 9)...), uint64(5), uint64(64), uint32(2), uint64(0), byte(0))
	f.Add(entry(1<<18, 8192), uint64(1), uint64(1<<17-16), uint32(1024), uint64(1), byte(9))
	var r *Ring
	var m *memmap.Memory
	f.Fuzz(func(t *testing.T, raw []byte, mark, where uint64, n uint32, off uint64, how byte) {
		if r == nil {
			r, m = memoryRing(t)
		}
		at := where % (1<<17 + 4096)
		place(t, m, guestPage+memmap.Addr(at), raw[:min(len(raw), maxIovecs*iovecSize+64)], mark)
		op := hostring.OpReadv
		if how&1 != 0 {
			op = hostring.OpWritev
		}
		addr := uint64(m.Base()) + uint64(guestPage) + at
		if how&128 != 0 {
			addr = where
		}
		if how&64 == 0 {
			n %= maxIovecs + 2
		}
		w := words{uint64(op) | uint64(fixed)<<8 | uint64(how>>1&7)<<32, off, addr, uint64(n)}
		tried(t, r, &w)
	})
}

// FuzzMsghdr is FuzzIovecs for SENDMSG and RECVMSG: the msghdr, its name and its iovecs.
// What comes back from the kernel goes nowhere but to the guest's buffers.
func FuzzMsghdr(f *testing.F) {
	header := func(words ...uint64) (b []byte) {
		for _, w := range words {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
		return b
	}
	peer := must(peerBytes(&unix.SockaddrInet4{Port: 7, Addr: [4]byte{127, 0, 0, 1}}))
	f.Add(header(0, 0, 4096, 1, 0, 0, 0), header(100, 50), peer, uint64(4), uint64(1), byte(0))
	f.Add(header(8192, 16, 4096, 2, 0, 0, 0), header(100, 50, 200, 8), peer, uint64(5), uint64(5), byte(0))
	f.Add(header(8192, 128, 4096, 1, 0, 0, 0), header(1<<16-8, 64), peer, uint64(5), uint64(1), byte(1))
	f.Add(header(0, 0, 4096, 1, 0, 0, 0), header(1<<17+8192, 64), peer, uint64(4), uint64(1), byte(6))
	f.Add(header(8192, 128, 4096, 1, 0, 0, 0), header(64, 64), peer, uint64(5), uint64(1), byte(7))
	f.Add(header(1<<17-20, 128, 4096, 1, 0, 0, 0), header(64, 64), peer, uint64(5), uint64(1), byte(7))
	f.Add(header(0, 0, 4096, 1, 8192, 64, 0), header(64, 64), peer, uint64(4), uint64(1), byte(6))
	f.Add(header(8192, 1<<31, 4096, 1025, 77, 8, 3), header(1<<17, 1), peer, uint64(21), uint64(1), byte(1))
	var r *Ring
	var m *memmap.Memory
	canary := make([]byte, 4096)
	f.Fuzz(func(t *testing.T, head, vec, name []byte, markHead, markVec uint64, how byte) {
		if r == nil {
			r, m = memoryRing(t)
		}
		place(t, m, guestPage, head[:min(len(head), 2048)], markHead)
		place(t, m, guestPage+4096, vec[:min(len(vec), 4096)], markVec)
		place(t, m, guestPage+8192, name[:min(len(name), 256)], 0)
		for i := range canary {
			canary[i] = 0xa5
		}
		if err := m.WriteAt(canary, guestPage+1<<17); err != nil { // behind the first two buffers
			t.Fatal(err)
		}
		op := hostring.OpSendmsg
		if how&1 != 0 {
			op = hostring.OpRecvmsg
		}
		w := words{uint64(op) | uint64(fixed)<<8 | uint64(how>>1&7)<<32, 0, uint64(m.Base()) + uint64(guestPage), 1}
		if how&128 != 0 {
			w[2] += 1<<17 - 56 + uint64(how>>4&7)
		}
		var s hostring.SQE
		q := slot{hot: hot{file: noFile, op: op}}
		if no := r.translate(&w, &s, &q); no == 0 {
			confined(t, r, &s, &q)
			if op == hostring.OpRecvmsg {
				// The kernel's answer, and not a modest one.
				b := r.arena.at(q.block, blockMsg, msghdrSize)
				binary.LittleEndian.PutUint32(b[msgNameLen:], 1<<20)
				r.received(&q)
			}
		}
		if q.block != 0 {
			r.arena.give(q.block)
		}
		have := make([]byte, len(canary))
		if err := m.ReadAt(have, guestPage+1<<17); err != nil {
			t.Fatal(err)
		}
		for i := range have {
			if have[i] != canary[i] {
				t.Fatalf("byte %d behind the buffers was written", i)
			}
		}
	})
}
