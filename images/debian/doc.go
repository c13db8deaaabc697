// SPDX-License-Identifier: Apache-2.0

// Package debian gets packages and source packages of a Debian suite by apt itself,
// without root and without touching the host's own apt: with a state, a cache and a
// source list in a directory of the caller's, from the mirrors that the host's apt
// uses.
//
// It owns that directory. It must not know what the packages are for.
//
// Invariant: a file that it names has the SHA-256 of a signed index.
//
// The rules are those of apt-get(8), apt-cache(8), sources.list(5), apt.conf(5),
// dpkg-deb(1) and dpkg-source(1).
package debian
