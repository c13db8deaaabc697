// SPDX-License-Identifier: Apache-2.0

// Package sqthread has the SQ threads that rings of this process share: one for each CPU
// that somebody asks for, and one that runs on any.
//
// It owns the rings that such threads are made with, to which nobody else submits, and the
// threads' weight in the scheduler. It must not know what the rings are that they poll.
//
// Invariant: a thread is there as long as somebody holds it.
package sqthread
