// SPDX-License-Identifier: Apache-2.0

// Command uringpv runs virtual machines whose guests do their I/O on the host's
// own io_uring.
//
// It owns the command line: flags, reports, progress, exit statuses and signals.
// It must not know how a guest is run, only how to ask package vmm for it.
//
// Its one invariant: whatever ends a command, be it an error, a signal or a
// timeout, everything that the command made is taken down first, and what went
// wrong is one line on stderr.
package main
