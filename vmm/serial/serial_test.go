// SPDX-License-Identifier: Apache-2.0

package serial

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// machine is a Port with its output and its interrupt line.
type machine struct {
	*Port
	output bytes.Buffer
	line   bool
	edges  int // rises of the line
}

func newMachine() *machine {
	m := &machine{}
	m.Port = New(&m.output, func(high bool) {
		if high && !m.line {
			m.edges++
		}
		m.line = high
	})
	return m
}

func (m *machine) in(reg uint64) byte {
	var b [1]byte
	m.Read(reg, b[:])
	return b[0]
}

func (m *machine) set(reg uint64, v byte) { m.Write(reg, []byte{v}) }

func TestOutputIsImmediate(t *testing.T) {
	m := newMachine()
	for i, c := range []byte("hello\n") {
		if m.in(regLSR) != lsrEmpty {
			t.Fatal("not ready to transmit")
		}
		if m.set(regData, c); m.output.Len() != i+1 {
			t.Fatal("output is held back")
		}
	}
	if m.output.String() != "hello\n" || m.edges != 0 {
		t.Errorf("output %q, %d interrupts", &m.output, m.edges)
	}
}

// failing is a reader that went away.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestAReaderThatWentAwayDoesNotStopTheGuest(t *testing.T) {
	p := New(failing{}, func(bool) {})
	p.Write(regData, []byte("x"))
	var b [1]byte
	if p.Read(regLSR, b[:]); b[0] != lsrEmpty {
		t.Errorf("line status %#x", b[0])
	}
}

func TestTransmitInterrupt(t *testing.T) {
	m := newMachine()
	m.set(regIER, ierTransmit)
	if !m.line || m.in(regIIR)&0x0f != iirTransmit {
		t.Fatal("no transmit interrupt after enabling it")
	}
	if m.line || m.in(regIIR)&0x0f != iirNone {
		t.Error("reading IIR did not acknowledge the interrupt")
	}
	// An interrupt for each byte, as an edge, whether the guest reads IIR or not.
	for i := range 3 {
		before := m.edges
		if m.set(regData, 'x'); !m.line || m.edges != before+1 {
			t.Errorf("byte %d: line %v, %d edges", i, m.line, m.edges-before)
		}
	}
	if m.set(regIER, 0); m.line {
		t.Error("the line is high with interrupts off")
	}
	if m.set(regIER, ierTransmit); !m.line {
		t.Error("no interrupt after enabling it once more")
	}
}

func TestInputRaisesTheLineUntilRead(t *testing.T) {
	m := newMachine()
	m.set(regIER, ierReceive)
	if n := m.Feed([]byte("abc")); n != 3 || !m.line || m.in(regIIR) != iirReceive {
		t.Fatalf("fed %d bytes, interrupt %v", n, m.line)
	}
	for _, want := range []byte("abc") {
		if !m.line || m.in(regLSR)&lsrReady == 0 {
			t.Errorf("%q is not announced", want)
		}
		if got := m.in(regData); got != want {
			t.Errorf("read %q, want %q", got, want)
		}
	}
	if m.line || m.in(regLSR)&lsrReady != 0 || m.in(regData) != 0 {
		t.Error("there is more to read")
	}
}

func TestReceiveGoesBeforeTransmit(t *testing.T) {
	m := newMachine()
	m.set(regIER, ierReceive|ierTransmit)
	m.Feed([]byte("a"))
	for range 2 { // reading IIR does not acknowledge input
		if m.in(regIIR) != iirReceive {
			t.Error("input is not the first interrupt")
		}
	}
	m.in(regData)
	if m.in(regIIR) != iirTransmit || m.line {
		t.Error("the transmit interrupt is lost, or stays")
	}
}

func TestInputIsBounded(t *testing.T) {
	m := newMachine()
	n := m.Feed(make([]byte, 1<<20))
	if n != maxPending {
		t.Errorf("took %d bytes at once", n)
	}
	n += m.Feed(make([]byte, 1<<20))
	if n != maxPending+1 { // one more is in the receiver
		t.Errorf("took %d bytes", n)
	}
	if m.in(regData); m.Feed([]byte("ab")) != 1 {
		t.Error("a byte read does not make room for one")
	}
}

func TestFIFOIsEmptiedByItsControlRegister(t *testing.T) {
	m := newMachine()
	m.set(regIIR, fcrEnable)
	m.Feed(bytes.Repeat([]byte("0123456789abcdef"), 2))
	if m.set(regIIR, fcrEnable); m.in(regData) != '0' {
		t.Error("the FIFO was emptied unasked")
	}
	// What is in it goes; what has not arrived yet does not.
	m.set(regIIR, fcrEnable|fcrClearReceive)
	if got := m.in(regData); got != '1' {
		t.Errorf("%q follows the FIFO", got)
	}
	m.set(regIIR, 0)
	m.Feed([]byte("z"))
	m.set(regIIR, fcrClearReceive) // not for a FIFO that is off
	if m.in(regData) != 'z' || m.in(regIIR)&iirFIFO != 0 {
		t.Error("a FIFO that is off was emptied, or shows")
	}
}

func TestOverrunIsReportedOnce(t *testing.T) {
	m := newMachine()
	m.set(regMCR, mcrLoop)
	m.set(regIER, ierLine)
	m.set(regData, 'a')
	if m.line {
		t.Error("the line is high without an overrun")
	}
	m.set(regData, 'b')
	if !m.line || m.in(regIIR) != iirLine {
		t.Error("no interrupt after an overrun")
	}
	if m.in(regLSR) != lsrEmpty|lsrReady|lsrOverrun || m.in(regLSR)&lsrOverrun != 0 || m.line {
		t.Error("the overrun is not reported once")
	}
	if m.in(regData) != 'b' { // without a FIFO the last byte stays
		t.Error("the wrong byte was lost")
	}
	m.set(regIIR, fcrEnable)
	for c := range byte(fifoSize + 1) {
		m.set(regData, c)
	}
	if m.in(regLSR)&lsrOverrun == 0 {
		t.Error("no overrun of the FIFO")
	}
	for c := range byte(fifoSize) {
		if m.in(regData) != c {
			t.Error("with a FIFO the first bytes stay")
		}
	}
	if m.in(regLSR)&lsrReady != 0 || m.output.Len() != 0 {
		t.Errorf("more in the FIFO than fits, or output %q in loopback", &m.output)
	}
}

func TestInputWaitsForLoopbackToEnd(t *testing.T) {
	m := newMachine()
	m.set(regMCR, mcrLoop)
	m.Feed([]byte("a"))
	if m.in(regLSR)&lsrReady != 0 {
		t.Error("input arrives in loopback")
	}
	if m.set(regMCR, 0); m.in(regData) != 'a' {
		t.Error("input is lost")
	}
}

func TestDivisorAndScratchAreKept(t *testing.T) {
	m := newMachine()
	m.set(regIER, ierReceive)
	m.set(regSCR, 0x5a)
	m.set(regLCR, lcrDLAB|3)
	m.Write(regData, []byte{0x34, 0x12}) // both halves at once
	if m.in(regData) != 0x34 || m.in(regIER) != 0x12 || m.output.Len() != 0 {
		t.Error("the divisor is not kept")
	}
	m.set(regLCR, 3)
	if m.in(regSCR) != 0x5a || m.in(regLCR) != 3 || m.in(regIER) != ierReceive {
		t.Error("scratch, line control or interrupt enable is not kept")
	}
	var b [4]byte
	if m.Read(regSCR, b[:]); b != [4]byte{0x5a, 0xff, 0xff, 0xff} {
		t.Errorf("read past the last register: %x", b)
	}
}

// TestLinuxFindsA16550A follows drivers/tty/serial/8250/8250_port.c: autoconfig,
// autoconfig_16550a, size_fifo and the tests of serial8250_do_startup.
func TestLinuxFindsA16550A(t *testing.T) {
	const (
		lcrModeA, lcrModeB = lcrDLAB, 0xbf
		mcrRTS, mcrOut2    = 0x02, 0x08
		fcr64              = 0x20
		ierXScale          = 0x40
	)
	m := newMachine()
	want := func(what string, got, want byte) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %#x, want %#x", what, got, want)
		}
	}
	// Is there anything? The upper bits of IER stay zero.
	m.set(regIER, 0)
	want("IER after 0", m.in(regIER), 0)
	m.set(regIER, 0xff)
	want("IER after all ones", m.in(regIER), 0x0f)
	m.set(regIER, 0)
	// Loopback: RTS and OUT2 come back as CTS and DCD.
	m.set(regMCR, mcrLoop|mcrOut2|mcrRTS)
	want("MSR in loopback", m.in(regMSR)&0xf0, 0x90)
	m.set(regMCR, 0)
	// Which kind? There is no EFR.
	m.set(regLCR, lcrModeB)
	m.set(regIIR, 0)
	m.set(regLCR, 0)
	m.set(regIIR, fcrEnable)
	want("IIR with the FIFO on", m.in(regIIR)>>6, 3)
	for _, mode := range []byte{lcrModeA, lcrModeB} {
		if m.set(regLCR, mode); m.in(regIIR) == 0 {
			t.Error("there seems to be an EFR")
		}
	}
	// No National Semiconductor: bank 2 has no EXCR1.
	m.set(regLCR, 0)
	mcr := m.in(regMCR)
	m.set(regLCR, 0xe0)
	before := m.in(regIIR)
	m.set(regLCR, 0)
	m.set(regMCR, mcr^mcrLoop)
	m.set(regLCR, 0xe0)
	want("EXCR1", m.in(regIIR), before)
	m.set(regLCR, 0)
	m.set(regMCR, mcr)
	// No TI16750: no FIFO of 64 bytes.
	m.set(regIIR, fcrEnable|fcr64)
	want("IIR with a FIFO of 64 bytes asked for", m.in(regIIR)>>5, 6)
	m.set(regLCR, lcrModeA)
	m.set(regIIR, fcrEnable|fcr64)
	want("IIR, DLAB set", m.in(regIIR)>>5, 6)
	m.set(regLCR, 0)
	// No XScale.
	m.set(regIER, ierXScale)
	want("IER", m.in(regIER), 0)

	// size_fifo: as many bytes as come back from 256.
	m.set(regIIR, fcrEnable|fcrClearReceive|0x04)
	m.set(regMCR, mcrLoop)
	m.set(regLCR, lcrModeA)
	m.Write(regData, []byte{1, 0})
	m.set(regLCR, 3)
	for c := range 256 {
		m.set(regData, byte(c))
	}
	n := 0
	for ; m.in(regLSR)&lsrReady != 0; n++ {
		want("byte of the FIFO", m.in(regData), byte(n))
	}
	want("size of the FIFO", byte(n), 16)
	m.set(regMCR, mcrOut2)
	if m.output.Len() != 0 {
		t.Errorf("output %q while probing", &m.output)
	}

	// The transmitter raises its interrupt each time that it is enabled
	// (UART_BUG_THRE) and at once (UART_BUG_TXEN).
	m.in(regLSR)
	for range 2 {
		m.set(regIER, ierTransmit)
		want("IIR", m.in(regIIR), iirFIFO|iirTransmit)
		m.set(regIER, 0)
	}
	m.set(regIER, ierTransmit)
	want("LSR", m.in(regLSR), lsrEmpty)
	want("IIR", m.in(regIIR)&0x0f, iirTransmit)
	m.set(regIER, 0)
	if m.line {
		t.Error("the line is high after probing")
	}
}

// Whatever a guest does and whenever input comes: output is the bytes written
// outside loopback, in order; input is read in order; and the line is high
// exactly when IIR names an interrupt.
func TestGuestAndHostExchangeBytesInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine()
		var sent, fed, got []byte
		dlab, loop, fifo, next := false, false, false, byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"transmit": func(t *rapid.T) {
				c := rapid.Byte().Draw(t, "byte")
				if m.set(regData, c); !dlab && !loop {
					sent = append(sent, c)
				}
			},
			"feed": func(t *rapid.T) {
				b := make([]byte, rapid.IntRange(0, 40).Draw(t, "bytes"))
				for i := range b {
					next++
					b[i] = next
				}
				fed = append(fed, b[:m.Feed(b)]...)
			},
			"receive": func(t *rapid.T) {
				if !dlab && !loop && m.in(regLSR)&lsrReady != 0 {
					got = append(got, m.in(regData))
				}
			},
			"status": func(t *rapid.T) { m.in(rapid.Uint64Range(regIIR, 9).Draw(t, "register")) },
			"enable": func(t *rapid.T) {
				if v := rapid.Byte().Draw(t, "interrupts"); !dlab {
					m.set(regIER, v)
				}
			},
			"divisor": func(t *rapid.T) {
				dlab = !dlab
				m.set(regLCR, map[bool]byte{true: lcrDLAB, false: 3}[dlab])
			},
			"FIFO": func(t *rapid.T) {
				// Only while it is empty: what it holds would be lost.
				if v := rapid.Byte().Draw(t, "control"); m.in(regLSR)&lsrReady == 0 {
					m.set(regIIR, v)
					fifo = v&fcrEnable != 0
				}
			},
			"loopback": func(t *rapid.T) {
				// Only while nothing is in the receiver, so that the two kinds of
				// bytes do not mix.
				if m.in(regLSR)&lsrReady == 0 {
					loop = true
					m.set(regMCR, mcrLoop)
					if rapid.Bool().Draw(t, "byte") && !dlab {
						m.set(regData, 'L')
						if c := m.in(regData); c != 'L' {
							t.Fatalf("looped back %q", c)
						}
					}
					loop = false
					m.set(regMCR, 0)
				}
			},
			"": func(t *rapid.T) {
				if !bytes.Equal(m.output.Bytes(), sent) {
					t.Fatalf("output %x, want %x", m.output.Bytes(), sent)
				}
				if !bytes.HasPrefix(fed, got) {
					t.Fatalf("input %x of %x", got, fed)
				}
				if m.line != (m.identify() != iirNone) {
					t.Fatalf("line %v, IIR %#x", m.line, m.identify())
				}
				if id := m.in(regIIR) & iirFIFO; (id == iirFIFO) != fifo {
					t.Fatalf("IIR shows FIFO bits %#x, FIFO on: %v", id, fifo)
				}
			},
		})
		// All that was fed can be read.
		m.set(regLCR, 0)
		for m.in(regLSR)&lsrReady != 0 {
			got = append(got, m.in(regData))
		}
		if !bytes.Equal(got, fed) {
			t.Fatalf("input %x, want %x", got, fed)
		}
	})
}

func TestVCPUsAndInputMayComeAtOnce(t *testing.T) {
	const n = 1000
	m := newMachine()
	m.set(regIER, 0x0f)
	var all sync.WaitGroup
	for _, c := range "ab" {
		all.Go(func() {
			for range n {
				m.set(regData, byte(c))
				m.in(regIIR)
			}
		})
	}
	all.Go(func() {
		for range n {
			m.Feed([]byte("x"))
		}
	})
	all.Go(func() {
		for got := 0; got < n; {
			if m.in(regLSR)&lsrReady != 0 {
				m.in(regData)
				got++
			}
		}
	})
	all.Wait()
	if out := m.output.String(); strings.Count(out, "a") != n || strings.Count(out, "b") != n || len(out) != 2*n {
		t.Errorf("output has %d bytes", len(out))
	}
}

func TestRegistersAllocateNothing(t *testing.T) {
	m := newMachine()
	m.output.Grow(1 << 10)
	var b [1]byte
	if n := testing.AllocsPerRun(100, func() {
		m.Write(regData, b[:])
		for reg := range uint64(Ports) {
			m.Read(reg, b[:])
		}
		m.Write(regIER, b[:])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever a guest does, by accesses of any width, the port lives and stays
// within its bounds. A step is three bytes: kind and width, register, value.
func FuzzRegisters(f *testing.F) {
	f.Add([]byte{1, regMCR, mcrLoop, 1, regData, 'x', 0, regData, 0})
	f.Add([]byte{2, 0, 200, 1, regIIR, fcrEnable, 0x81, regData, 0xff, 0x80, 5, 0})
	f.Fuzz(func(t *testing.T, steps []byte) {
		m := newMachine()
		for ; len(steps) >= 3; steps = steps[3:] {
			b := bytes.Repeat(steps[2:3], 1<<(steps[0]>>6))
			switch steps[0] % 3 {
			case 0:
				m.Read(uint64(steps[1]), b)
			case 1:
				m.Write(uint64(steps[1]%10), b)
			case 2:
				m.Feed(make([]byte, int(steps[2])*300))
			}
			if len(m.fifo) > m.depth() || cap(m.fifo) != fifoSize || len(m.queue) > maxPending {
				t.Fatalf("%d bytes of %d in the FIFO, %d wait", len(m.fifo), m.depth(), len(m.queue))
			}
			if m.line != (m.identify() != iirNone) {
				t.Fatalf("line %v, IIR %#x", m.line, m.identify())
			}
		}
	})
}
