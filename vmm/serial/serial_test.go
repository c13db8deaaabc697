// SPDX-License-Identifier: Apache-2.0

package serial

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// port is a Port with its output and its interrupt line.
func port() (p *Port, out *bytes.Buffer, line *bool) {
	out, line = new(bytes.Buffer), new(bool)
	return New(out, func(high bool) { *line = high }), out, line
}

func in(p *Port, reg uint64) byte {
	var b [1]byte
	p.Read(reg, b[:])
	return b[0]
}

func TestOutputIsImmediate(t *testing.T) {
	p, out, line := port()
	for _, c := range []byte("hello\n") {
		if in(p, regLSR)&0x20 == 0 {
			t.Fatal("not ready to transmit")
		}
		p.Write(regData, []byte{c})
	}
	if out.String() != "hello\n" || *line {
		t.Errorf("output %q, interrupt %v", out, *line)
	}
}

func TestTransmitInterrupt(t *testing.T) {
	p, _, line := port()
	p.Write(regIER, []byte{ierTransmit})
	if !*line || in(p, regIIR)&0x0f != iirTransmit {
		t.Fatal("no transmit interrupt after enabling it")
	}
	if *line {
		t.Error("reading IIR did not acknowledge the interrupt")
	}
	p.Write(regData, []byte("x"))
	if !*line {
		t.Error("no interrupt after a byte went out")
	}
}

func TestInputRaisesTheLineUntilRead(t *testing.T) {
	p, _, line := port()
	p.Write(regIER, []byte{ierReceive})
	if n := p.Feed([]byte("ab")); n != 2 || !*line || in(p, regIIR)&0x0f != iirReceive {
		t.Fatalf("fed %d bytes, interrupt %v", n, *line)
	}
	if a, b := in(p, regData), in(p, regData); a != 'a' || b != 'b' || *line || in(p, regLSR)&lsrReady != 0 {
		t.Errorf("read %q %q, interrupt %v", a, b, *line)
	}
	if n := p.Feed(make([]byte, 1<<20)); n != maxPending {
		t.Errorf("took %d bytes of input, want %d", n, maxPending)
	}
}

func TestRegistersThatADriverProbes(t *testing.T) {
	p, out, _ := port()
	p.Write(regSCR, []byte{0x5a})
	p.Write(regIIR, []byte{fcrEnable})
	p.Write(regLCR, []byte{lcrDLAB | 3})
	p.Write(regData, []byte{0x34, 0x12})
	if in(p, regData) != 0x34 || in(p, regIER) != 0x12 || out.Len() != 0 {
		t.Error("the divisor is not kept")
	}
	p.Write(regLCR, []byte{3})
	if in(p, regSCR) != 0x5a || in(p, regIIR)&iirFIFO != iirFIFO || in(p, regLCR) != 3 {
		t.Error("scratch, FIFO identification or LCR is off")
	}
	p.Write(regMCR, []byte{mcrLoop | 0x0b})
	p.Write(regData, []byte("l"))
	if in(p, regMSR) != 0xb0 || in(p, regData) != 'l' || out.Len() != 0 {
		t.Error("loopback is off")
	}
}

// Whatever a guest does, the line is high exactly when IIR names an interrupt.
func TestLineFollowsIIR(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, _, line := port()
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			off := rapid.Uint64Range(0, 9).Draw(t, "register")
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				p.Write(off, []byte{rapid.Byte().Draw(t, "value")})
			case 1:
				in(p, off)
			case 2:
				p.Feed([]byte("in"))
			}
			if *line != (p.identify() != iirNone) {
				t.Fatalf("line %v, IIR %#x", *line, p.identify())
			}
		}
	})
}
