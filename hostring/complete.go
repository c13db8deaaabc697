// SPDX-License-Identifier: Apache-2.0

package hostring

// Ready is the number of CQEs in the ring.
func (r *Ring) Ready() uint32 { return r.cqTail.Load() - r.cqHead.Load() }

// Reap takes CQEs, oldest first, until dst is full or the ring is empty, and
// returns their number.
func (r *Ring) Reap(dst []CQE) int {
	head, tail := r.cqHead.Load(), r.cqTail.Load()
	n := 0
	for ; head != tail && n < len(dst); head, n = head+1, n+1 {
		off := uint64(head&r.cqMask) * CQESize
		lo, ok1 := r.cqes.Uint64(off)
		hi, ok2 := r.cqes.Uint64(off + 8)
		if !ok1 || !ok2 {
			break // cannot be: the ring was measured at set-up
		}
		w := hi.Load()
		dst[n] = CQE{UserData: lo.Load(), Res: int32(uint32(w)), Flags: uint32(w >> 32)}
	}
	if n > 0 {
		r.cqHead.Store(head) // after the loads above: the kernel may reuse the entries
	}
	return n
}

// Dropped is the number of SQEs that the kernel dropped for a bad index.
func (r *Ring) Dropped() uint32 { return r.sqDropped.Load() }

// OverflowCount is the number of CQEs that were lost. It stays 0 on a kernel
// with FeatNodrop unless that is out of memory.
func (r *Ring) OverflowCount() uint32 { return r.cqOverflow.Load() }

// DisableEventfd masks (or unmasks) the eventfd: a masked ring completes without
// a signal. After unmasking look at the CQ ring once more.
func (r *Ring) DisableEventfd(mask bool) {
	if mask {
		r.cqFlags.Or(CQEventfdDisabled)
	} else {
		r.cqFlags.And(^CQEventfdDisabled)
	}
}
