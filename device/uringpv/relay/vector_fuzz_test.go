// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
)

// Where FuzzVectors has things in the guest's data: what is moved, a struct msghdr
// with a name behind it, the iovec array.
const (
	vectorData = 256 << 10
	headerAt   = vectorData
	nameAt     = headerAt + 64
	vectorAt   = headerAt + 4096
	vectorSeen = vectorAt + 64<<10 // all that is looked at
)

// iovecKinds says where an iovec of FuzzVectors' input lies.
const (
	iovecInside = iota // in the data
	iovecAround        // in the data, or what is behind it: the msghdr, the iovecs
	iovecAtEnd         // across the end of guest RAM
	iovecBefore        // across its beginning
	iovecHost          // in memory of the host's
	iovecRaw           // anywhere
	iovecKinds
)

// FuzzVectors has the relay move what iovecs and msghdrs in guest RAM say, which are
// any. Whatever comes of it, what is written lies in the ranges that they name, what
// is sent is what they name, and memory of the host's is neither.
func FuzzVectors(f *testing.F) {
	const record = 9 // kind, offset, length
	iovec := func(kind byte, off, n uint32) []byte {
		return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32([]byte{kind}, off), n)
	}
	for op := range byte(4) {
		f.Add(op, uint64(0), slices.Concat(iovec(iovecInside, 0, 100), iovec(iovecInside, 5000, 0), iovec(iovecInside, 4095, 4098)))
		f.Add(op, uint64(1), slices.Concat(iovec(iovecInside, 8, 8), iovec(iovecHost, 0, 64)))
		f.Add(op, uint64(2), slices.Concat(iovec(iovecAtEnd, 16, 32), iovec(iovecBefore, 16, 32)))
		f.Add(op, uint64(3), iovec(iovecAround, vectorAt, 64))
		f.Add(op, uint64(4), slices.Concat(iovec(iovecInside, 0, 1<<31), iovec(iovecInside, 0, 1<<31-1), iovec(iovecInside, 0, ^uint32(0))))
		f.Add(op, uint64(1)<<40|5, bytes.Repeat(iovec(iovecInside, 77, 3), 40))
	}

	host, err := unix.Mmap(-1, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { unix.Munmap(host) })
	for i := range host {
		host[i] = 0x5a
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { unix.Close(pair[1]) })
	disk := ringtest.Disk(f, 1<<20, false)
	content := make([]byte, 64<<10)
	for i := range content {
		content[i] = byte(i*7 + i>>8)
	}
	if _, err := unix.Pwrite(disk.FD, content, 0); err != nil {
		f.Fatal(err)
	}
	g := ringtest.NewRig(f, newBackend, disk, end(f, pair[0], abi.FileDgram))
	d := g.Setup(f, ringtest.Config{SQ: 8, Flags: hostring.SetupSQPoll})
	before, got := make([]byte, vectorSeen), make([]byte, 1<<20)
	hostAddr := ringtest.AddrOf(host)
	user := uint64(0)

	f.Fuzz(func(t *testing.T, op byte, header uint64, in []byte) {
		le := binary.LittleEndian
		data := g.Data[:vectorSeen]
		for i := range data {
			data[i] = byte(i>>3) ^ byte(i*5)
		}
		type span struct{ at, n uint64 }
		var spans []span // in the guest's data, in order
		inside := true   // all of them
		n := 0
		for ; len(in) >= record && n < 1024; n, in = n+1, in[record:] {
			off, size := uint64(le.Uint32(in[1:])), uint64(le.Uint32(in[5:]))
			var at uint64
			switch in[0] % iovecKinds {
			case iovecInside:
				off %= vectorData
				at, size = g.Addr(off), min(size, vectorData-off)
			case iovecAround:
				at = g.Addr(off % vectorSeen)
			case iovecAtEnd:
				at = g.Addr(uint64(len(g.Data)) - off%64)
			case iovecBefore:
				at = uint64(g.Memory.Base()) - 1 - off%64 // not the first byte: there are the rings
			case iovecHost:
				at = hostAddr + off%uint64(len(host))
			default:
				at, size = off<<32|size, size<<20
			}
			copy(data[vectorAt+16*n:], le.AppendUint64(le.AppendUint64(nil, at), size))
			if size > 0 {
				base := at - g.Addr(0)
				inside = inside && at >= g.Addr(0) && base < vectorSeen && size <= vectorSeen-base
				spans = append(spans, span{base, size})
			}
		}
		user++
		sqe := hostring.SQE{Flags: hostring.SQEFixedFile, Addr: g.Addr(vectorAt), Len: uint32(n), UserData: user}
		message := op&2 != 0
		if message {
			// Fields of the header: name and its length, the count, control data.
			var name, namelen, control uint64
			if header&4 != 0 {
				name, namelen = g.Addr(nameAt), header>>8&0xff
			}
			if header&8 != 0 {
				name, namelen = hostAddr, 64
			}
			if header&16 != 0 {
				control = hostAddr
			}
			count := uint64(n) + header>>40
			h := le.AppendUint64(le.AppendUint64(nil, name), namelen)
			h = le.AppendUint64(le.AppendUint64(h, g.Addr(vectorAt)), count)
			h = le.AppendUint64(le.AppendUint64(h, control), control&64)
			copy(data[headerAt:], le.AppendUint64(h, 0))
			inside = inside && count == uint64(n) && name == 0 && control == 0
			sqe.Addr, sqe.Len, sqe.FD, sqe.OpFlags = g.Addr(headerAt), 1, 1, unix.MSG_DONTWAIT
		}
		copy(before, data)
		sqe.Opcode = []uint8{hostring.OpReadv, hostring.OpWritev, hostring.OpRecvmsg, hostring.OpSendmsg}[op&3]
		if sqe.Opcode == hostring.OpRecvmsg {
			if _, err := unix.Write(pair[1], content[:3000]); err != nil {
				t.Fatal(err)
			}
		}
		res := d.Do(t, sqe)

		// What the spans are together, one after another, as far as they lie in what is
		// looked at.
		var all []byte
		for _, s := range spans {
			if s.at < vectorSeen {
				all = append(all, before[s.at:min(s.at+s.n, vectorSeen)]...)
			}
		}
		if inside && n > 0 && len(all) < 100<<10 && res < 0 && sqe.Opcode != hostring.OpSendmsg {
			t.Errorf("opcode %d with %d iovecs in guest RAM ends in %d", sqe.Opcode, n, res)
		}
		switch sqe.Opcode {
		case hostring.OpWritev:
			if _, err := unix.Pread(disk.FD, got[:max(res, 0)], 0); err != nil {
				t.Fatal(err)
			}
			if res > 0 && inside && !bytes.Equal(got[:res], all[:res]) {
				t.Errorf("WRITEV has written other bytes than the %d iovecs name", n)
			}
			if bytes.Contains(got[:max(res, 0)], host[:16]) {
				t.Error("WRITEV has written memory of the host's")
			}
			if _, err := unix.Pwrite(disk.FD, content, 0); err != nil {
				t.Fatal(err)
			}
		case hostring.OpSendmsg:
			k, err := unix.Read(pair[1], got)
			if res < 0 && err != unix.EAGAIN || res >= 0 && (err != nil || k != int(res)) {
				t.Fatalf("SENDMSG ends in %d, and the other end has %d, %v", res, k, err)
			}
			if res > 0 && inside && !bytes.Equal(got[:k], all[:k]) {
				t.Errorf("SENDMSG has sent other bytes than the %d iovecs name", n)
			}
			if res > 0 && bytes.Contains(got[:k], host[:16]) {
				t.Error("SENDMSG has sent memory of the host's")
			}
		case hostring.OpRecvmsg:
			_, _ = unix.Read(pair[0], got) // what is left
		}
		// Only what the iovecs and the header name has changed.
		allowed := make([]bool, vectorSeen)
		if sqe.Opcode == hostring.OpReadv || sqe.Opcode == hostring.OpRecvmsg {
			for _, s := range spans {
				if s.at < vectorSeen {
					for i := s.at; i < min(s.at+s.n, vectorSeen); i++ {
						allowed[i] = true
					}
				}
			}
		}
		if sqe.Opcode == hostring.OpRecvmsg {
			for i := range 256 { // the header, and the name behind it
				allowed[headerAt+i] = true
			}
		}
		for i, b := range data {
			if b != before[i] && !allowed[i] {
				t.Fatalf("opcode %d has changed byte %#x of the guest's memory, which nothing names; it ended in %d", sqe.Opcode, i, res)
			}
		}
		for i, b := range host {
			if b != 0x5a {
				t.Fatalf("opcode %d has changed byte %d of the host's memory", sqe.Opcode, i)
			}
		}
	})
}
