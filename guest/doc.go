// SPDX-License-Identifier: Apache-2.0

// Package guest holds the source of the Linux driver, kmod/, so that the tool can
// build it for a guest wherever it runs.
//
// It owns no code: what runs in guests is in the directories below. It must not
// know the monitor.
package guest
