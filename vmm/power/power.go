// SPDX-License-Identifier: Apache-2.0

package power

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/uringpv/uringpv/vmm/boot"
)

// Where the registers are on this project's machines.
const (
	Ports     = 0x600
	SCI       = 9 // never raised: no event is ever due
	PanicPort = 0x505
)

// Event is what a guest asks for.
type Event int

// Events.
const (
	Off     Event = iota // soft-off, S5
	Restart              // the reset register
	Panic                // pvpanic: the guest's kernel has panicked
)

// timerHz is the frequency of the power-management timer.
const timerHz = 3579545

// PM1 control's bits.
const (
	controlSCI   = 1 << 0
	controlSleep = 1 << 13 // SLP_EN, write only
	typeShift    = 10
	typeMask     = 7
)

// Registers are the power-management registers. Their methods may be called from
// any goroutine.
type Registers struct {
	event func(Event)
	start time.Time

	mu      sync.Mutex // guards what follows
	enable  uint16     // PM1 enable; no event ever comes
	control uint16
}

// New makes the registers. event is called for each thing that the guest asks
// for.
func New(event func(Event)) *Registers { return &Registers{event: event, start: time.Now()} }

// Read fills p from the registers at off.
func (r *Registers) Read(off uint64, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b [boot.PMLen + 8]byte // an access may begin in the last register
	le := binary.LittleEndian
	le.PutUint16(b[boot.PMEvent+2:], r.enable)
	le.PutUint16(b[boot.PMControl:], r.control|controlSCI)
	le.PutUint32(b[boot.PMTimer:], timerTicks(time.Since(r.start)))
	copy(p, b[off:])
}

// timerTicks is the timer's value after d, of as many bits as it has.
func timerTicks(d time.Duration) uint32 {
	s, ns := d/time.Second, d%time.Second // one product of all would overflow within a month
	return uint32(int64(s)*timerHz + int64(ns)*timerHz/int64(time.Second))
}

// Write takes what the guest writes to the registers at off.
func (r *Registers) Write(off uint64, p []byte) {
	if off == boot.PMReset {
		if p[0] == boot.PMResetValue {
			r.event(Restart)
		}
		return
	}
	if r.write(off, p) {
		r.event(Off)
	}
}

// write says whether the machine is to be switched off.
func (r *Registers) write(off uint64, p []byte) (switchOff bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b [2]byte
	copy(b[:], p)
	v := binary.LittleEndian.Uint16(b[:])
	switch {
	case off == boot.PMEvent+2 && len(p) == 2:
		r.enable = v
	case off == boot.PMEvent && len(p) == 4:
		r.enable = binary.LittleEndian.Uint16(p[2:])
	case off == boot.PMControl && len(p) == 2:
		r.control = v &^ controlSleep
		return v&controlSleep != 0 && v>>typeShift&typeMask == boot.SleepTypeS5
	}
	return false
}

// PvPanic is the port by which a guest's kernel says that it has panicked.
type PvPanic struct{ event func(Event) }

// NewPvPanic makes the port.
func NewPvPanic(event func(Event)) PvPanic { return PvPanic{event} }

// pvPanicked is the one event that this port knows.
const pvPanicked = 1

// Read says which events the port knows.
func (PvPanic) Read(_ uint64, p []byte) {
	clear(p)
	p[0] = pvPanicked
}

// Write takes an event.
func (v PvPanic) Write(_ uint64, p []byte) {
	if p[0]&pvPanicked != 0 {
		v.event(Panic)
	}
}
