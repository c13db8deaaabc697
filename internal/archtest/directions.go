// SPDX-License-Identifier: Apache-2.0

package archtest

import "strings"

// Module is the path of the module whose shape is held.
const Module = "github.com/uringpv/uringpv"

// layer is a part of the tree: every package at or below prefix, except those
// that a longer prefix of the table claims.
type layer struct {
	prefix string
	// may lists the layers, by prefix, that this one may import besides itself.
	may []string
}

// layers is the table of directions, lowest first. A dependency that it does not
// list is refused, whether direct or not, and so is a package that belongs to
// no layer.
var layers = []layer{
	{prefix: "internal"},
	{prefix: "hostring", may: []string{"internal"}},
	{prefix: "memmap", may: []string{"internal"}},
	{prefix: "device/uringpv/abi"},
	{prefix: "device/uringpv", may: []string{"device/uringpv/abi", "hostring", "memmap", "internal"}},
	// The backends implement what the device declares. The device must not know
	// them: the choice among them is vmm's.
	{prefix: "device/uringpv/relay", may: []string{"device/uringpv", "device/uringpv/abi", "hostring", "memmap", "internal"}},
	{prefix: "device/uringpv/passthrough", may: []string{"device/uringpv", "device/uringpv/abi", "hostring", "memmap", "internal"}},
	{prefix: "device/uringpv/isolated", may: []string{"device/uringpv", "device/uringpv/abi", "hostring", "memmap", "internal"}},
	{prefix: "device/uringpv/mixed", may: []string{"device/uringpv", "device/uringpv/abi", "hostring", "memmap", "internal"}},
	{prefix: "vmm", may: []string{"device/uringpv/mixed", "device/uringpv/relay", "device/uringpv/passthrough", "device/uringpv/isolated", "device/uringpv", "device/uringpv/abi", "hostring", "memmap", "internal"}},
	// What runs in guests knows the contract and nothing of the monitor.
	{prefix: "guest", may: []string{"device/uringpv/abi", "internal"}},
	{prefix: "images", may: []string{"guest", "device/uringpv/abi", "internal"}},
	{prefix: "tools", may: []string{"vmm", "guest", "images", "device/uringpv/mixed", "device/uringpv/relay", "device/uringpv/passthrough", "device/uringpv/isolated", "device/uringpv", "device/uringpv/abi", "hostring", "memmap", "internal"}},
}

// layerOf returns the layer that owns the package at path, relative to the
// module, and false when no layer does.
func layerOf(path string) (layer, bool) {
	var best layer
	found := false
	for _, l := range layers {
		if path != l.prefix && !strings.HasPrefix(path, l.prefix+"/") {
			continue
		}
		if !found || len(l.prefix) > len(best.prefix) {
			best, found = l, true
		}
	}
	return best, found
}

// allowed reports whether the package at from may depend on the one at to; both
// are relative to the module. The reason is empty when it may.
func allowed(from, to string) (reason string) {
	f, ok := layerOf(from)
	if !ok {
		return from + " belongs to no layer; add it to the table in internal/archtest"
	}
	t, ok := layerOf(to)
	if !ok {
		return to + " belongs to no layer; add it to the table in internal/archtest"
	}
	if f.prefix == t.prefix {
		return ""
	}
	for _, m := range f.may {
		if m == t.prefix {
			return ""
		}
	}
	return from + " depends on " + to + ", but " + f.prefix + " may import only " + list(f.may)
}

func list(may []string) string {
	if len(may) == 0 {
		return "itself"
	}
	return "itself, " + strings.Join(may, ", ")
}
