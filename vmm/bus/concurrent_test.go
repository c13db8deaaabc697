// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"math"
	"strings"
	"sync"
	"testing"
)

// constant answers reads with its number and drops writes.
type constant byte

func (c constant) Read(_ uint64, p []byte) {
	for i := range p {
		p[i] = byte(c)
	}
}
func (constant) Write(uint64, []byte) {}

// While claims come and go on one vCPU, those of others answer all the same, and
// the ones that move answer as themselves or not at all.
func TestClaimsMayChangeDuringDispatch(t *testing.T) {
	var b Bus
	if err := b.Claim(100, 10, constant(1)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var cpus sync.WaitGroup
	for range 3 {
		cpus.Go(func() {
			var p [4]byte
			for {
				select {
				case <-stop:
					return
				default:
				}
				if !b.Read(105, p[:]) || p[0] != 1 || !b.Write(105, p[:]) {
					t.Errorf("the claim that stays reads %d", p[0])
					return
				}
				for _, at := range []uint64{55, 155} {
					if got := b.Read(at, p[:]); got && p[0] != 2 || !got && p[0] != 0xff {
						t.Errorf("the claim that moves: %v, %d", got, p[0])
						return
					}
				}
			}
		})
	}
	for range 2000 {
		for _, at := range []uint64{50, 150} {
			if err := b.Claim(at, 10, constant(2)); err != nil {
				t.Error(err)
			}
			b.Release(at)
		}
	}
	close(stop)
	cpus.Wait()
}

func TestClaimsReachBothEndsOfTheAddressSpace(t *testing.T) {
	var b Bus
	for _, start := range []uint64{0, math.MaxUint64 - 16} {
		if err := b.Claim(start, 16, constant(byte(start))); err != nil {
			t.Fatal(err)
		}
	}
	var p [8]byte
	for addr, want := range map[uint64]byte{
		0: 0, 15: 0, 16: 0xff, 1 << 63: 0xff, math.MaxUint64 - 17: 0xff, math.MaxUint64 - 16: 0xef, math.MaxUint64 - 1: 0xef, math.MaxUint64: 0xff,
	} {
		if b.Read(addr, p[:]); p[0] != want || p[7] != want {
			t.Errorf("%#x reads %#x", addr, p)
		}
	}
}

func TestARefusedClaimNamesWhatIsInTheWay(t *testing.T) {
	var b Bus
	if err := b.Claim(0x3f8, 8, constant(1)); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]uint64{{0x3f8, 8}, {0x3f7, 2}, {0x3ff, 1}, {0, 0x10000}, {0x3fa, 2}} {
		if err := b.Claim(r[0], r[1], constant(2)); err == nil || !strings.Contains(err.Error(), "[0x3f8, 0x400)") {
			t.Errorf("claim of %#x at %#x: %v", r[1], r[0], err)
		}
	}
	b.Release(0x3f9) // no claim begins there
	if !b.Read(0x3f9, make([]byte, 1)) {
		t.Error("released by an address inside")
	}
}

func BenchmarkDispatch(b *testing.B) {
	var bus Bus
	for i := range uint64(100) {
		if err := bus.Claim(i*0x1000, 0x1000, constant(1)); err != nil {
			b.Fatal(err)
		}
	}
	var p [4]byte
	for i := uint64(0); b.Loop(); i++ {
		bus.Read(i%100*0x1000, p[:])
	}
}
