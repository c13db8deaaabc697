// SPDX-License-Identifier: Apache-2.0

package isolated

import (
	"testing"

	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
)

func FuzzSQE(f *testing.F)       { ringtest.FuzzSQE(f, newTestBackend) }
func FuzzRingWords(f *testing.F) { ringtest.FuzzRingWords(f, newTestBackend) }
