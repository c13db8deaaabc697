// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"testing"

	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
)

func FuzzSQE(f *testing.F)       { ringtest.FuzzSQE(f, newBackend) }
func FuzzRingWords(f *testing.F) { ringtest.FuzzRingWords(f, newBackend) }
