// SPDX-License-Identifier: Apache-2.0

package power

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/uringpv/uringpv/vmm/boot"
)

func TestSwitchingOffAndRestarting(t *testing.T) {
	var got []Event
	r := New(func(e Event) { got = append(got, e) })
	v := NewPvPanic(r.event)
	word := func(v uint16) []byte { return binary.LittleEndian.AppendUint16(nil, v) }

	r.Write(boot.PMControl, word(3<<typeShift|controlSleep))                // S3, which there is not
	r.Write(boot.PMControl, word(boot.SleepTypeS5<<typeShift))              // not yet
	r.Write(boot.PMControl, []byte{0xff})                                   // half a register
	r.Write(boot.PMReset, []byte{0x55})                                     // not the value
	v.Write(0, []byte{2})                                                   // crash loaded: not a panic
	r.Write(boot.PMControl, word(boot.SleepTypeS5<<typeShift|controlSleep)) // off
	r.Write(boot.PMReset, []byte{boot.PMResetValue})
	v.Write(0, []byte{pvPanicked})
	if want := []Event{Off, Restart, Panic}; !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	b := make([]byte, 2)
	if r.Read(boot.PMControl, b); binary.LittleEndian.Uint16(b) != boot.SleepTypeS5<<typeShift|controlSCI {
		t.Errorf("PM1 control reads %x: SLP_EN is write only, SCI_EN is set", b)
	}
}

func TestTheTimerRuns(t *testing.T) {
	r := New(func(Event) {})
	r.start = time.Now().Add(-time.Hour)
	b := make([]byte, 4)
	r.Read(boot.PMTimer, b)
	ticks := uint64(3600 * timerHz)
	if got := binary.LittleEndian.Uint32(b) - uint32(ticks); got > 60*timerHz {
		t.Errorf("an hour and %d ticks", got)
	}
}

// Any access, of any width, at any offset that the bus hands on, is served.
func TestAccessesOfAnyShape(t *testing.T) {
	r := New(func(Event) {})
	for off := range uint64(boot.PMLen) {
		for n := 1; n <= 8; n++ {
			p := make([]byte, n)
			r.Read(off, p)
			if off != boot.PMReset && off != boot.PMControl {
				r.Write(off, p)
			}
		}
	}
}

// The timer has all ticks since the machine began, as many of their bits as it has, for
// years.
func TestTheTimerDoesNotJump(t *testing.T) {
	for seconds := uint64(0); seconds < 3*365*24*3600; seconds += 7 * 3600 {
		if got, want := timerTicks(time.Duration(seconds)*time.Second), uint32(seconds*timerHz); got != want {
			t.Fatalf("after %d s the timer reads %d, want %d", seconds, got, want)
		}
	}
	if got := timerTicks(1500 * time.Millisecond); got != 5369317 {
		t.Errorf("1.5 s are %d ticks", got)
	}
}
