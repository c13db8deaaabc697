// SPDX-License-Identifier: Apache-2.0

// Package guest holds the source of the Linux driver, kmod/, so that the tool can
// build it for a guest wherever it runs, and liburing/, the port of liburing, with
// what is known of liburing's own programs on it.
//
// It owns no code: what runs in guests is in the directories below. It must not
// know the monitor.
package guest
