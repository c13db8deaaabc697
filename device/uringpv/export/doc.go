// SPDX-License-Identifier: Apache-2.0

// Package export opens what of the host's a guest may use besides disks: regular
// files, sockets, pipes, eventfds and network interfaces. It owns the descriptors
// and what had to be made on the host for them, such as a socket's name in a
// directory.
//
// It must not know rings, nor what a guest does with a file.
//
// Invariant: Close leaves nothing on the host that this package has made, and
// removes nothing that it has not made. A descriptor blocks, unless nobody could
// ever wait on it: io_uring answers a request on one that does not with -EAGAIN,
// where it would wait for the file to become ready.
package export
