// SPDX-License-Identifier: Apache-2.0

// Package bare holds the freestanding guest, as it was built from the C sources
// beside it, and reads what it prints.
//
// It owns the form of a guest's report. It must not know the monitor.
//
// Invariant: the programs in generated/ are what the sources make; a test and
// `make check` compare.
package bare
