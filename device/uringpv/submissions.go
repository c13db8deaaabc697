// SPDX-License-Identifier: Apache-2.0

package uringpv

import "sync/atomic"

// Submissions adds up what RING_ENTER commands ask a ring's thread to take, until the
// thread does. It is for backends.
type Submissions struct{ n atomic.Uint32 }

// Add asks for n SQEs more. Together they are at most as many as the SQ ring has
// entries, most: more cannot be in it.
func (s *Submissions) Add(n, most uint32) {
	for {
		old := s.n.Load()
		if s.n.CompareAndSwap(old, old+min(n, most-min(most, old))) {
			return
		}
	}
}

// Take is what was asked for since it was last called.
func (s *Submissions) Take() uint32 { return s.n.Swap(0) }
