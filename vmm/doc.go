// SPDX-License-Identifier: Apache-2.0

// Package vmm is the virtual machine monitor: it wires guest memory, vCPUs,
// buses and uringpv devices into a machine, runs a guest on it, and takes it
// down again.
//
// It owns a machine's life: New, Run, Close. It must not know what a guest's
// output means, nor how a command line looks.
//
// Invariant: whatever the guest does, the process lives, and after Close nothing
// of the machine is left in it.
package vmm
