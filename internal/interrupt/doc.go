// SPDX-License-Identifier: Apache-2.0

// Package interrupt turns the signals that ask a program to end into the end of a
// context, so that all it made is taken down, and into its exit status.
//
// It owns which signals those are, and what their errors and statuses look like. It must
// not know what is taken down.
package interrupt
