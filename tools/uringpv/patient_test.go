// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
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

func TestOtherRefusalsAreErrors(t *testing.T) {
	p := &patientWriter{w: fullDisk{}}
	if _, err := p.Write([]byte("x")); !errors.Is(err, errFull) || p.Kept() != 0 {
		t.Errorf("Write: %v, kept %d; want %v and nothing", err, p.Kept(), errFull)
	}
}
