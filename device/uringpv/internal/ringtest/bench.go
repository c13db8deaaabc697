// SPDX-License-Identifier: Apache-2.0

package ringtest

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
)

// The loops of Bench and BenchNative: NOPs, and random 4 KiB reads from the page
// cache, by polling, at these depths. The ring polls as well.
var benchDepths = []uint32{1, 32, 128}

const (
	benchFile = 64 << 20
	benchIdle = time.Second
)

// benchSQE is what request i executes on slot's buffer.
func benchSQE(s *hostring.SQE, nop bool, rng *rand.Rand, base uint64, slot uint64) {
	*s = hostring.SQE{Opcode: hostring.OpNop, Flags: hostring.SQEFixedFile, UserData: slot}
	if !nop {
		s.Opcode, s.Off, s.Addr, s.Len = hostring.OpReadFixed, rng.Uint64N(benchFile/4096)*4096, base+slot*4096, 4096
	}
}

// benchDisk is a disk whose bytes are in the page cache.
func benchDisk(b *testing.B) uringpv.File {
	f := Disk(b, benchFile, false)
	chunk := make([]byte, 1<<20)
	for off := int64(0); off < benchFile; off += int64(len(chunk)) {
		fill(chunk, byte(off>>20))
		if _, err := unix.Pwrite(f.FD, chunk, off); err != nil {
			b.Fatal(err)
		}
	}
	return f
}

// eachBench runs loop for each kind of request at each depth.
func eachBench(b *testing.B, loop func(b *testing.B, nop bool, depth uint32)) {
	for _, kind := range []string{"NOP", "READ_FIXED-4K"} {
		for _, depth := range benchDepths {
			b.Run(fmt.Sprintf("%s/depth-%d", kind, depth), func(b *testing.B) {
				loop(b, kind == "NOP", depth)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "IOPS")
			})
		}
	}
}

// Bench measures the backend, and BenchNative the same loops on a ring of the
// host's, to be compared in one run.
func Bench(b *testing.B, make Make) {
	g := NewRig(b, make, benchDisk(b))
	eachBench(b, func(b *testing.B, nop bool, depth uint32) {
		d := g.Setup(b, Config{SQ: depth, Flags: hostring.SetupSQPoll, Idle: benchIdle})
		rng := rand.New(rand.NewPCG(1, 2))
		var s hostring.SQE
		b.ReportAllocs()
		b.ResetTimer()
		for put, done := 0, 0; done < b.N; {
			if put < b.N && put-done < int(depth) && d.room() > 0 {
				for put < b.N && put-done < int(depth) && d.room() > 0 {
					benchSQE(&s, nop, rng, g.Addr(0), uint64(put)%uint64(depth))
					d.Put(&s)
					put++
				}
				d.Submit()
			}
			for {
				c, ok := d.Reap()
				if !ok {
					break
				}
				if c.Res < 0 {
					b.Fatalf("result %d", c.Res)
				}
				done++
			}
		}
		b.StopTimer()
		d.Destroy(b)
	})
	b.Run("setup-and-destroy", func(b *testing.B) {
		for range b.N {
			d := g.Setup(b, Config{SQ: 128, Flags: hostring.SetupSQPoll})
			d.Destroy(b)
		}
	})
}

// BenchNative is Bench without a guest.
func BenchNative(b *testing.B) {
	testutil.NeedIOUring(b)
	f := benchDisk(b)
	const size = 128 * 4096
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Munmap(mem)
	open := func(b *testing.B, depth uint32) *hostring.Ring {
		r, err := hostring.New(hostring.Config{Entries: depth, Flags: hostring.SetupSQPoll, SQThreadIdle: benchIdle})
		if err != nil {
			b.Fatal(err)
		}
		if err := r.RegisterFiles([]int32{int32(f.FD)}); err != nil {
			b.Fatal(err)
		}
		if err := r.RegisterBuffers([]hostring.Buffer{{Addr: uintptr(addrOf(mem)), Length: size}}); err != nil {
			b.Fatal(err)
		}
		return r
	}
	eachBench(b, func(b *testing.B, nop bool, depth uint32) {
		r := open(b, depth)
		defer r.Close()
		rng := rand.New(rand.NewPCG(1, 2))
		var cqes [32]hostring.CQE
		b.ReportAllocs()
		b.ResetTimer()
		for put, done := 0, 0; done < b.N; {
			fresh := false
			for put < b.N && put-done < int(depth) {
				s, ok := r.SQE()
				if !ok {
					break
				}
				benchSQE(s, nop, rng, addrOf(mem), uint64(put)%uint64(depth))
				put++
				fresh = true
			}
			if fresh {
				if _, err := r.Submit(); err != nil {
					b.Fatal(err)
				}
			}
			for {
				n := r.Reap(cqes[:])
				if n == 0 {
					break
				}
				for _, c := range cqes[:n] {
					if c.Res < 0 {
						b.Fatalf("result %d", c.Res)
					}
				}
				done += n
			}
		}
		b.StopTimer()
	})
	b.Run("setup-and-destroy", func(b *testing.B) {
		for range b.N {
			open(b, 128).Close()
		}
	})
}
