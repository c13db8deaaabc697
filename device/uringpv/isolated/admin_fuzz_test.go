// SPDX-License-Identifier: Apache-2.0

package isolated

import (
	"testing"

	"github.com/uringpv/uringpv/device/uringpv/internal/devicetest"
	"github.com/uringpv/uringpv/internal/testutil"
)

func FuzzAdminCommand(f *testing.F) {
	testutil.NeedIOUring(f)
	devicetest.FuzzBackend(f, newTestBackend)
}
