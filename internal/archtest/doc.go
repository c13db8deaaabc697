// SPDX-License-Identifier: Apache-2.0

// Package archtest holds the shape of the source tree: which package may import
// which, where package unsafe may appear, and what every package and file
// carries.
//
// It owns the table of directions. It must not import any other package of the
// module: it looks at them through the go command and their source only.
//
// Its one invariant: what ARCHITECTURE.md says about directions is what the
// test enforces.
package archtest
