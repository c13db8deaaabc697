// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

// bounded refuses what goes past its limit, as a file does under RLIMIT_FSIZE.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	room := b.limit - b.Len()
	if room >= len(p) {
		return b.Buffer.Write(p)
	}
	n, _ := b.Buffer.Write(p[:max(room, 0)])
	return n, syscall.EFBIG
}

func TestNothingIsLostOrReorderedUnderALimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := &bounded{limit: rapid.IntRange(0, 40).Draw(t, "limit")}
		p := &patientWriter{w: b}
		var want []byte
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				b.limit += rapid.IntRange(0, 40).Draw(t, "more")
			case 1:
				if err := p.Flush(); err != nil {
					t.Fatal(err)
				}
			default:
				text := rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "text")
				want = append(want, text...)
				if n, err := p.Write(text); n != len(text) || err != nil {
					t.Fatalf("Write: %d, %v", n, err)
				}
			}
			if b.Len() > b.limit || b.Len()+p.Kept() != len(want) || !bytes.HasPrefix(want, b.Bytes()) {
				t.Fatalf("written %q and kept %d of %q", b.Bytes(), p.Kept(), want)
			}
		}
		b.limit = 1 << 20
		if err := p.Flush(); err != nil || !bytes.Equal(b.Bytes(), want) || p.Kept() != 0 {
			t.Fatalf("in the end %q (%v), want %q", b.Bytes(), err, want)
		}
	})
}

// TestTheNewestIsKept: a guest may write without end.
func TestTheNewestIsKept(t *testing.T) {
	b := &bounded{limit: 3}
	p := &patientWriter{w: b}
	text := bytes.Repeat([]byte("0123456789abcde\n"), maxKept/16*3)
	for i := 0; i < len(text); i += 1000 {
		if _, err := p.Write(text[i:min(i+1000, len(text))]); err != nil {
			t.Fatal(err)
		}
		if p.Kept() > maxKept {
			t.Fatalf("%d bytes kept of %d", p.Kept(), i)
		}
	}
	kept := p.Kept()
	if kept < maxKept/4 {
		t.Errorf("%d bytes kept", kept)
	}
	b.limit = 1 << 30
	if err := p.Flush(); err != nil || p.Kept() != 0 {
		t.Fatal(err)
	}
	got := b.String()
	note := fmt.Sprintf("%d bytes are left out here", len(text)-3-kept)
	if !strings.HasPrefix(got, "012\n[uringpv: ") || !strings.Contains(got, note) || !strings.HasSuffix(got, string(text[len(text)-kept:])) {
		t.Errorf("%.100q..., want the end of it and %q", got, note)
	}
	if n, err := p.Write([]byte("more")); n != 4 || err != nil || !strings.HasSuffix(b.String(), "more") {
		t.Errorf("Write: %d, %v", n, err)
	}
}

func TestOtherRefusalsAreErrors(t *testing.T) {
	p := &patientWriter{w: fullDisk{}}
	if _, err := p.Write([]byte("x")); !errors.Is(err, errFull) || p.Kept() != 0 {
		t.Errorf("Write: %v, kept %d; want %v and nothing", err, p.Kept(), errFull)
	}
}
