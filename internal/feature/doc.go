// SPDX-License-Identifier: Apache-2.0

// Package feature looks at the host: which KVM it has, which kernel, what this
// process may pin and do.
//
// It owns the reading of /dev/kvm, /sys, /proc and resource limits for these
// questions, and the words that answer them. It must not know io_uring's own
// features (package hostring probes them by doing), devices or guests.
//
// Its one invariant: a probe changes nothing on the host and leaves nothing open.
package feature
