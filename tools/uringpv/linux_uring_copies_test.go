// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/guest/uring"
)

func init() { programs["vectors"] = (*program).vectors }

// vectors is where the host denies READV and WRITEV: memory of many pages goes by a
// copy. Requests whose order with others would be lost by that are refused, and never
// move old bytes.
func (p *program) vectors([]string) {
	const eopnotsupp = -int32(unix.EOPNOTSUPP)
	before := p.pinned()
	r := p.open(uring.Config{Entries: 8})
	f, g := p.file("f", os.O_RDWR), p.file("g", os.O_RDWR)
	const size, page = 40 << 10, 4 << 10
	m := p.memory(3 * size)
	data, via, back := m[:size], m[size:][:size], m[2*size:]
	at := func(op, flags uint8, f *os.File, off uint64, b []byte) uring.SQE {
		return uring.SQE{Opcode: op, Flags: flags, FD: int32(f.Fd()), Off: off, Addr: uring.Addr(b), Len: uint32(len(b))}
	}
	read := func(f *os.File, off uint64, want []byte) {
		clear(back)
		p.want("READ", p.do(r, at(uring.OpRead, 0, f, off, back[:len(want)])), int32(len(want)))
		if !bytes.Equal(back[:len(want)], want) {
			p.errorf("%s at %#x has other bytes", f.Name(), off)
		}
	}
	random(data)
	p.want("WRITE", p.do(r, at(uring.OpWrite, 0, f, 0, data)), size)
	read(f, 0, data)
	p.want("WRITE of one page", p.do(r, at(uring.OpWrite, 0, f, size, data[:page])), page)
	read(f, size, data[:page])
	var pairs []byte
	for i := 0; i < size; i += 2000 {
		pairs = append(pairs, iovecs(data[i:min(i+2000, size)])...)
	}
	v := p.memory(page)
	copy(v, pairs)
	p.want("WRITEV", p.do(r, uring.SQE{Opcode: uring.OpWritev, FD: int32(g.Fd()), Addr: uring.Addr(v), Len: uint32(len(pairs) / 16)}), size)
	read(g, 0, data)

	// A chain through memory in one piece is as everywhere.
	random(data)
	p.want("WRITE", p.do(r, at(uring.OpWrite, 0, f, 0, data)), size)
	clear(via)
	p.same("a copy of a page", p.all(r, at(uring.OpRead, uring.SQELink, f, 0, via[:page]), at(uring.OpWrite, 0, g, 0, via[:page])), page, page)
	read(g, 0, data[:page])
	// One through scattered memory is refused, its end or its beginning.
	p.want("WRITE", p.do(r, at(uring.OpWrite, 0, g, 0, make([]byte, page))), page)
	p.put(r, 0, at(uring.OpRead, uring.SQELink, f, 0, via))
	p.same("a chain's first", []int32{p.take(r, 1)[0].Res}, eopnotsupp)
	for _, flags := range []uint8{0, uring.SQELink} {
		chain := []uring.SQE{at(uring.OpRead, uring.SQELink, f, 0, via[:page]), at(uring.OpWrite, flags, g, 0, via)}
		for i, sqe := range chain {
			e, _ := r.SQE()
			*e = sqe
			e.UserData = uint64(i)
		}
		_, err := r.Submit()
		p.check(err)
		var res [2]int32
		for _, c := range p.take(r, 2) {
			res[c.UserData] = c.Res
		}
		p.same("a chain's last", res[:], ecanceled, eopnotsupp)
	}
	read(g, 0, make([]byte, page))
	// What drains is refused, whatever its memory.
	for _, b := range [][]byte{via, via[:page]} {
		p.want("a WRITE that drains", p.do(r, at(uring.OpWrite, uring.SQEDrain, g, 0, b)), eopnotsupp)
	}
	read(g, 0, make([]byte, page))
	p.check(f.Close())
	p.check(g.Close())
	p.check(r.Close())
	if n := p.pinned(); n != before {
		p.errorf("%d pages are pinned at the end, %d before", n, before)
	}
}

func TestLinuxProgramsWithoutVectors(t *testing.T) {
	eachLinuxRings(t, backendPassthrough, []int{1}, func(t *testing.T, r linuxRun) {
		r.withProgram(t)
		r.args = []string{"--export-backend", r.backend, "--export-policy", "deny=readv,deny=writev"}
		for _, name := range []string{"f", "g"} {
			r.args = append(r.args, "--file", "name="+name+",path="+image(t, 1<<20))
		}
		r.script = `set -e
			for i in $(seq ` + strconv.Itoa(repeat) + `); do /uring-guest vectors; done`
		r.run(t)
	})
}
