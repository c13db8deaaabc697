// SPDX-License-Identifier: Apache-2.0

package serial

import (
	"io"
	"sync"
)

// COM1's place on a PC.
const (
	COM1    = 0x3f8
	COM1IRQ = 4
	Ports   = 8 // registers, one byte each
)

// Registers, by offset, and their bits (National Semiconductor PC16550D).
const (
	regData = 0 // RBR, THR; divisor's low byte with DLAB
	regIER  = 1 // divisor's high byte with DLAB
	regIIR  = 2 // FCR when written
	regLCR  = 3
	regMCR  = 4
	regLSR  = 5
	regMSR  = 6
	regSCR  = 7

	ierReceive  = 0x01
	ierTransmit = 0x02
	ierLine     = 0x04
	ierMask     = 0x0f // with the modem's, whose lines never change

	iirNone     = 0x01
	iirTransmit = 0x02
	iirReceive  = 0x04
	iirLine     = 0x06
	iirFIFO     = 0xc0

	fcrEnable       = 0x01
	fcrClearReceive = 0x02

	lcrDLAB = 0x80

	mcrLoop = 0x10
	mcrMask = 0x1f

	lsrReady   = 0x01
	lsrOverrun = 0x02
	lsrEmpty   = 0x60 // THR and shift register: always, output is immediate

	msrConnected = 0xb0 // CTS, DSR, DCD
)

// fifoSize is the receiver's depth in bytes.
const fifoSize = 16

// maxPending bounds input that waits for room in the FIFO, in bytes.
const maxPending = 1 << 16

// Port is a serial port. Its methods may be called from any goroutine.
type Port struct {
	out io.Writer
	irq func(high bool)

	output sync.Mutex // held while out is written, without mu

	mu       sync.Mutex // guards what follows
	ier, lcr byte
	mcr, scr byte
	fifoOn   bool
	divisor  uint16
	transmit bool   // the transmit interrupt is due
	overrun  bool   // a byte found the receiver full
	fifo     []byte // received; at most depth bytes
	queue    []byte // input that waits for the receiver
	level    bool   // of the interrupt line
}

// New makes a port that writes to out, byte by byte, and sets its interrupt line
// by irq, which must not call back. An out that blocks holds up the vCPU, and others that
// write to it, but nothing else.
func New(out io.Writer, irq func(high bool)) *Port {
	return &Port{out: out, irq: irq, divisor: 1, fifo: make([]byte, 0, fifoSize)}
}

// Feed gives the guest input, and returns how many bytes of b it took: up to 64
// KiB wait for a guest that does not read.
func (p *Port) Feed(b []byte) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(b), maxPending-len(p.queue))
	p.queue = append(p.queue, b[:n]...)
	p.update()
	return n
}

// depth is how many bytes the receiver holds.
func (p *Port) depth() int {
	if p.fifoOn {
		return fifoSize
	}
	return 1
}

// update lets input into the receiver and sets the interrupt line to what is
// due.
func (p *Port) update() {
	if p.mcr&mcrLoop == 0 { // else the receiver is not connected
		n := min(len(p.queue), p.depth()-len(p.fifo))
		p.fifo = append(p.fifo, p.queue[:n]...)
		if p.queue = p.queue[n:]; len(p.queue) == 0 {
			p.queue = nil
		}
	}
	if level := p.identify() != iirNone; level != p.level {
		p.level = level
		p.irq(level)
	}
}

// identify is the most urgent interrupt that is due.
func (p *Port) identify() byte {
	switch {
	case p.ier&ierLine != 0 && p.overrun:
		return iirLine
	case p.ier&ierReceive != 0 && len(p.fifo) > 0:
		return iirReceive
	case p.ier&ierTransmit != 0 && p.transmit:
		return iirTransmit
	}
	return iirNone
}

// Read is a guest's read of len(b) registers from off on.
func (p *Port) Read(off uint64, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range b {
		b[i] = p.read(off + uint64(i))
	}
	p.update()
}

func (p *Port) read(off uint64) byte {
	dlab := p.lcr&lcrDLAB != 0
	switch off {
	case regData:
		if dlab {
			return byte(p.divisor)
		}
		if len(p.fifo) == 0 {
			return 0
		}
		c := p.fifo[0]
		p.fifo = p.fifo[:copy(p.fifo, p.fifo[1:])]
		return c
	case regIER:
		if dlab {
			return byte(p.divisor >> 8)
		}
		return p.ier
	case regIIR:
		id := p.identify()
		if id == iirTransmit {
			p.transmit = false // reading it acknowledges it
		}
		if p.fifoOn {
			id |= iirFIFO
		}
		return id
	case regLCR:
		return p.lcr
	case regMCR:
		return p.mcr
	case regLSR:
		v := byte(lsrEmpty)
		if len(p.fifo) > 0 {
			v |= lsrReady
		}
		if p.overrun {
			v |= lsrOverrun
			p.overrun = false
		}
		return v
	case regMSR:
		if p.mcr&mcrLoop != 0 { // the outputs, looped back: DTR, RTS, OUT1, OUT2
			return p.mcr&0x01<<5 | p.mcr&0x02<<3 | p.mcr&0x04<<4 | p.mcr&0x08<<4
		}
		return msrConnected
	case regSCR:
		return p.scr
	}
	return 0xff
}

// Write is a guest's write to len(b) registers from off on. A string instruction
// is several writes to one register.
func (p *Port) Write(off uint64, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range b {
		p.write(off+uint64(i), b[i:i+1])
	}
	p.update()
}

func (p *Port) write(off uint64, b []byte) {
	v := b[0]
	dlab := p.lcr&lcrDLAB != 0
	switch off {
	case regData:
		if dlab {
			p.divisor = p.divisor&0xff00 | uint16(v)
			return
		}
		// Writing acknowledges the last transmit interrupt before the next one is
		// due, at once: to an edge-triggered line that is an edge.
		p.transmit = false
		p.update()
		if p.mcr&mcrLoop == 0 {
			p.mu.Unlock() // out may block: not Feed with it
			p.output.Lock()
			_, _ = p.out.Write(b) // a reader that went away is not the guest's fault
			p.output.Unlock()
			p.mu.Lock()
		} else {
			p.receive(v)
		}
		p.transmit = true
	case regIER:
		if dlab {
			p.divisor = p.divisor&0x00ff | uint16(v)<<8
			return
		}
		if v&ierTransmit != 0 && p.ier&ierTransmit == 0 {
			p.transmit = true // enabling it while the register is empty raises it
		}
		p.ier = v & ierMask
	case regIIR:
		// Turning the FIFO on or off empties it too.
		if on := v&fcrEnable != 0; on != p.fifoOn || on && v&fcrClearReceive != 0 {
			p.fifoOn, p.fifo = on, p.fifo[:0]
		}
	case regLCR:
		p.lcr = v
	case regMCR:
		p.mcr = v & mcrMask
	case regSCR:
		p.scr = v
	}
}

// receive takes a byte that the port has sent to itself.
func (p *Port) receive(v byte) {
	switch {
	case len(p.fifo) < p.depth():
		p.fifo = append(p.fifo, v)
	case p.fifoOn: // the new byte is lost
		p.overrun = true
	default: // the old one is
		p.overrun, p.fifo[0] = true, v
	}
}
