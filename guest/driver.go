// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"embed"
	"io/fs"

	"github.com/uringpv/uringpv/device/uringpv/abi"
)

//go:embed kmod
var kmod embed.FS

// DriverName is the module's name, as the kernel has it.
const DriverName = "uringpv"

// DriverSource is all that it takes to build the driver, in one directory: file
// names and what is in them. The caller owns the map.
func DriverSource() map[string][]byte {
	source := map[string][]byte{"uringpv.h": abi.Header()}
	entries, err := fs.ReadDir(kmod, "kmod")
	for _, e := range entries {
		var b []byte
		if b, err = kmod.ReadFile("kmod/" + e.Name()); err != nil {
			break
		}
		source[e.Name()] = b
	}
	if err != nil {
		panic(err) // embedded files can be read
	}
	return source
}
