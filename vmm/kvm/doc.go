// SPDX-License-Identifier: Apache-2.0

// Package kvm is a typed layer over /dev/kvm: the system, a VM, its vCPUs, their
// exits and statistics. It uses gokvm's calls where those serve and adds what
// they lack.
//
// It owns the ioctls and kvm_run. It must not know what a guest is or does.
//
// Invariant: an exit is decoded without allocation, and its data stays inside
// the vCPU's kvm_run mapping whatever the kernel reports.
//
// The rules are those of Documentation/virt/kvm/api.rst and linux/kvm.h.
package kvm
