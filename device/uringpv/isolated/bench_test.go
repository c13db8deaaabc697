// SPDX-License-Identifier: Apache-2.0

package isolated

import (
	"testing"

	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
)

func BenchmarkIsolated(b *testing.B) { ringtest.Bench(b, newTestBackend) }
func BenchmarkNative(b *testing.B)   { ringtest.BenchNative(b) }
