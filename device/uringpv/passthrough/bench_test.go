// SPDX-License-Identifier: Apache-2.0

package passthrough

import (
	"testing"

	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
)

func BenchmarkPassthrough(b *testing.B) { ringtest.Bench(b, newBackend) }
func BenchmarkNative(b *testing.B)      { ringtest.BenchNative(b) }
