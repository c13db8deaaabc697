// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"testing"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
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
