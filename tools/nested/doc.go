// SPDX-License-Identifier: Apache-2.0

// Command nested runs a program on a real kvm-amd, on any host: in a machine that
// QEMU emulates by its TCG, whose CPU has AMD-V, on a stock Debian kernel. It
// needs neither root nor /dev/kvm.
//
//	nested prepare              make the machine: kernel, initramfs, QEMU
//	nested run -- PROGRAM ARGS  run a static program in it; for `go test -exec`
//
// The same program is PID 1 inside (init.go).
package main
