// SPDX-License-Identifier: Apache-2.0

package memmap

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// populateStep is how much RAM is populated at a time, in bytes: what needs the address
// space for itself waits for no more than that, which is a millisecond.
const populateStep = 1 << 20

// population is the populating of a Memory, if somebody wants that.
type population struct {
	once sync.Once
	stop atomic.Bool
	done chan struct{} // nil before once
}

// Populate begins to put all guest RAM into the host's memory, and returns a channel
// that is closed when that is done, has failed, or Close was called. It takes 2 to 3 µs
// for each page that nobody has touched yet, since the kernel has to find and to clear
// it. A failure is none of the Memory's: who touches a page finds it or has the error.
// Further calls return the same channel.
func (m *Memory) Populate() <-chan struct{} {
	m.population.once.Do(func() {
		m.population.done = make(chan struct{})
		go m.populate()
	})
	return m.population.done
}

func (m *Memory) populate() {
	defer close(m.population.done)
	for _, b := range m.ram {
		for len(b) > 0 {
			n := min(populateStep, len(b))
			// MADV_POPULATE_WRITE came with Linux 5.14.
			if m.population.stop.Load() || unix.Madvise(b[:n], unix.MADV_POPULATE_WRITE) != nil {
				return
			}
			b = b[n:]
		}
	}
}

// end waits until nothing is populated any more.
func (p *population) end() {
	p.stop.Store(true)
	p.once.Do(func() {
		p.done = make(chan struct{})
		close(p.done)
	})
	<-p.done
}
