// SPDX-License-Identifier: Apache-2.0

package abi

import (
	_ "embed" // uringpv.h
	"slices"
)

//go:embed uringpv.h
var header []byte

// Header is uringpv.h, for whoever builds a driver. The caller owns the bytes.
func Header() []byte { return slices.Clone(header) }
