// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"testing"

	"pgregory.net/rapid"
)

// marker answers reads with its number and remembers the last write's offset.
type marker struct {
	n    byte
	last uint64
}

func (m *marker) Read(_ uint64, p []byte) {
	for i := range p {
		p[i] = m.n
	}
}
func (m *marker) Write(off uint64, _ []byte) { m.last = off }

// However claims come and go, an access reaches the one that holds its address.
func TestAccessReachesItsClaim(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b Bus
		var owner [64]*marker
		starts := map[uint64]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"claim": func(t *rapid.T) {
				start := rapid.Uint64Range(0, 63).Draw(t, "start")
				n := rapid.Uint64Range(1, 64-start).Draw(t, "n")
				free := true
				for a := start; a < start+n; a++ {
					free = free && owner[a] == nil
				}
				m := &marker{n: byte(start)}
				if err := b.Claim(start, n, m); (err == nil) != free {
					t.Fatalf("claim [%d, +%d): %v, free %v", start, n, err, free)
				}
				if free {
					starts[start] = true
					for a := start; a < start+n; a++ {
						owner[a] = m
					}
				}
			},
			"release": func(t *rapid.T) {
				start := rapid.Uint64Range(0, 63).Draw(t, "start")
				b.Release(start)
				if starts[start] {
					delete(starts, start)
					m := owner[start]
					for a := range owner {
						if owner[a] == m {
							owner[a] = nil
						}
					}
				}
			},
			"": func(t *rapid.T) {
				for a := range owner {
					var p [1]byte
					got := b.Read(uint64(a), p[:])
					switch m := owner[a]; {
					case m == nil && (got || p[0] != 0xff):
						t.Fatalf("unclaimed %d: %v, %#x", a, got, p[0])
					case m != nil && (!got || p[0] != m.n):
						t.Fatalf("%d: %v, %#x, want %#x", a, got, p[0], m.n)
					}
					if wrote := b.Write(uint64(a), p[:]); wrote != (owner[a] != nil) {
						t.Fatalf("write to %d: %v", a, wrote)
					}
					if m := owner[a]; m != nil && m.last != uint64(a)-uint64(m.n) {
						t.Fatalf("write to %d has offset %d", a, m.last)
					}
				}
			},
		})
	})
}

func TestClaimRefusesWhatWraps(t *testing.T) {
	var b Bus
	if b.Claim(1<<64-1, 2, &marker{}) == nil || b.Claim(5, 0, &marker{}) == nil {
		t.Error("claimed what is no range")
	}
}

func TestDispatchAllocatesNothing(t *testing.T) {
	var b Bus
	for i := range uint64(16) {
		if err := b.Claim(i*16, 8, &marker{}); err != nil {
			t.Fatal(err)
		}
	}
	var p [4]byte
	if n := testing.AllocsPerRun(100, func() { b.Read(36, p[:]); b.Write(36, p[:]); b.Read(1000, p[:]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
