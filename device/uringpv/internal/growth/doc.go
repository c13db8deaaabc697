// SPDX-License-Identifier: Apache-2.0

// Package growth keeps host files from growing when nobody looks at the offsets
// that a guest writes at: a registered file bounds no offset, so on a ring that
// the guest shares with the kernel only RLIMIT_FSIZE does (setrlimit(2)).
//
// It owns that limit, and makes the process ignore SIGXFSZ. Both belong to the
// whole process, and there is one limit for all its files; that is why the backends
// that write themselves announce what they need here, too. It must not know
// rings, devices or files.
//
// Invariant: while a bound is held, RLIMIT_FSIZE is that bound; when the last
// one is released, it is what it was before the first.
package growth
