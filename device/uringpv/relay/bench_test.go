// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/shm"
	"github.com/uringpv/uringpv/memmap"
)

func BenchmarkRelay(b *testing.B) { ringtest.Bench(b, newBackend) }

func BenchmarkInline(b *testing.B) {
	ringtest.Bench(b, func(t testing.TB, m *memmap.Memory, f []uringpv.File) uringpv.Backend {
		x := newBackend(t, m, f).(*Backend)
		x.inline = true
		return x
	})
}
func BenchmarkNative(b *testing.B) { ringtest.BenchNative(b) }

// BenchmarkGuestRings is what a request costs on the guest's two rings, in batches
// of 32: its SQE's copy, its CQE, and its share of what is published.
func BenchmarkGuestRings(b *testing.B) {
	const entries = 32
	area := func(n int) shm.View {
		m, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { unix.Munmap(m) })
		v, err := shm.Of(m)
		if err != nil {
			b.Fatal(err)
		}
		return v
	}
	g, _, err := newGuestRings(&uringpv.RingSpec{
		SQEntries: entries, CQEntries: entries, Rings: area(4096), SQEs: area(entries * hostring.SQESize),
	})
	if err != nil {
		b.Fatal(err)
	}
	var w words
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if !g.next(&w) {
			b.Fatal("no SQE")
		}
		g.head++
		if g.full() {
			b.Fatal("no room for a CQE")
		}
		g.put(hostring.CQE{UserData: w.userData(), Res: 4096})
		if i%entries == entries-1 {
			g.consumed()
			g.publish()
			g.cqHead.Store(g.tail) // the guest takes them
		}
	}
}
