// SPDX-License-Identifier: Apache-2.0

package uringpv

import (
	"sync/atomic"

	"github.com/uringpv/uringpv/device/uringpv/abi"
)

// RingStats counts what happened on a ring, or on several.
type RingStats struct {
	SQEs         uint64 // SQEs consumed
	CQEs         uint64 // CQEs posted
	Errors       uint64 // CQEs with a negative result
	BytesRead    uint64 // by completed reads
	BytesWritten uint64 // by completed writes
	Doorbells    uint64 // doorbells served
	Interrupts   uint64 // completion signals sent
	Overflows    uint64 // CQEs that found the CQ ring full
}

// add adds t to s.
func (s *RingStats) add(t RingStats) {
	s.SQEs += t.SQEs
	s.CQEs += t.CQEs
	s.Errors += t.Errors
	s.BytesRead += t.BytesRead
	s.BytesWritten += t.BytesWritten
	s.Doorbells += t.Doorbells
	s.Interrupts += t.Interrupts
	s.Overflows += t.Overflows
}

// wire is s as RING_STATS returns it. Counters that valid does not name are
// zero, whatever s holds.
func (s RingStats) wire(valid uint64) abi.RingStats {
	w := abi.RingStats{Valid: valid}
	for _, c := range []struct {
		bit  uint64
		to   *uint64
		from uint64
	}{
		{abi.StatSQEs, &w.SQEs, s.SQEs},
		{abi.StatCQEs, &w.CQEs, s.CQEs},
		{abi.StatErrors, &w.Errors, s.Errors},
		{abi.StatBytes, &w.BytesRead, s.BytesRead},
		{abi.StatBytes, &w.BytesWritten, s.BytesWritten},
		{abi.StatDoorbells, &w.Doorbells, s.Doorbells},
		{abi.StatInterrupts, &w.Interrupts, s.Interrupts},
		{abi.StatOverflows, &w.Overflows, s.Overflows},
	} {
		if valid&c.bit != 0 {
			*c.to = c.from
		}
	}
	return w
}

// Counters are a ring's counters while it is at work, for a backend to keep.
// Any goroutine may read them; adding takes neither lock nor memory.
type Counters struct {
	SQEs         atomic.Uint64
	CQEs         atomic.Uint64
	Errors       atomic.Uint64
	BytesRead    atomic.Uint64
	BytesWritten atomic.Uint64
	Doorbells    atomic.Uint64
	Interrupts   atomic.Uint64
	Overflows    atomic.Uint64
	SystemCalls  atomic.Uint64 // made by the VMM to serve the ring
}

// Stats is the counters' state. Each is exact; together they need not be of one
// moment.
func (c *Counters) Stats() RingStats {
	return RingStats{
		SQEs:         c.SQEs.Load(),
		CQEs:         c.CQEs.Load(),
		Errors:       c.Errors.Load(),
		BytesRead:    c.BytesRead.Load(),
		BytesWritten: c.BytesWritten.Load(),
		Doorbells:    c.Doorbells.Load(),
		Interrupts:   c.Interrupts.Load(),
		Overflows:    c.Overflows.Load(),
	}
}

// Stats is what a device has done since New.
type Stats struct {
	Valid       uint64      // abi.Stat*: the counters that the device's backend knows
	Total       RingStats   // all rings, also those that are gone
	Rings       []RingStats // by ring index, over all rings that had it
	Commands    uint64      // admin commands executed
	SystemCalls uint64      // made by the VMM to serve rings
}
