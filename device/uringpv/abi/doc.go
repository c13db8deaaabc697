// SPDX-License-Identifier: Apache-2.0

// Package abi is the contract between a guest's driver and the uringpv device,
// in Go: the twin of uringpv.h beside it. docs/protocol.md is the normative
// text.
//
// It owns numbers and layouts. It must not know how the device works.
//
// Invariant: every constant, size and offset equals the header's; a test reads
// the header and compares.
package abi
