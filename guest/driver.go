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
	source := directory(kmod, "kmod")
	source["uringpv.h"] = abi.Header()
	return source
}

// directory is the files of a directory by their names.
func directory(embedded embed.FS, dir string) map[string][]byte {
	files := map[string][]byte{}
	entries, err := fs.ReadDir(embedded, dir)
	for _, e := range entries {
		var b []byte
		if b, err = embedded.ReadFile(dir + "/" + e.Name()); err != nil {
			break
		}
		files[e.Name()] = b
	}
	if err != nil {
		panic(err) // embedded files can be read
	}
	return files
}
