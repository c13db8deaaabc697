// SPDX-License-Identifier: Apache-2.0

// Package power is a machine's ACPI power-management registers: the timer, the
// way to switch off and to restart, and pvpanic, by which a guest's kernel says
// that it has panicked.
//
// It owns the registers. It must not know what the machine does when it is
// switched off.
//
// The rules are those of ACPI 6.5, chapter 4.8, and QEMU's docs/specs/pvpanic.
package power
