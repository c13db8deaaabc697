// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseSize(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want byteSize
		ok   bool
	}{
		{"0", 0, true},
		{"512", 512, true},
		{"512B", 512, true},
		{"4k", 4096, true},
		{"4K", 4096, true},
		{"4KiB", 4096, true},
		{"4KB", 4096, true},
		{"512M", 512 << 20, true},
		{"2G", 2 << 30, true},
		{"1T", 1 << 40, true},
		{"16777215T", 16777215 << 40, true},
		{"16777216T", 0, false},
		{"18446744073709551615", 1<<64 - 1, true},
		{"18446744073709551616", 0, false},
		{"", 0, false},
		{"M", 0, false},
		{"-1M", 0, false},
		{"+1M", 0, false},
		{"1.5G", 0, false},
		{"1 G", 0, false},
		{"1Gi", 0, false},
		{"1X", 0, false},
		{"1MM", 0, false},
		{"1é", 0, false},
	} {
		got, err := parseSize(tt.in)
		if (err == nil) != tt.ok || got != tt.want {
			t.Errorf("parseSize(%q) = %d, %v; want %d, ok = %v", tt.in, got, err, tt.want, tt.ok)
		}
	}
}

func TestSizesReadBackAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := byteSize(rapid.Uint64().Draw(t, "size"))
		if got, err := parseSize(want.String()); err != nil || got != want {
			t.Fatalf("%d is written %s and read back as %d, %v", want, want, got, err)
		}
	})
}

func TestSizeFlagNeedsAUnit(t *testing.T) {
	var b byteSize
	if err := b.Set("512"); err == nil || !strings.Contains(err.Error(), "512M") {
		t.Errorf("Set(512): %v; want an error that proposes 512M", err)
	}
	if err := b.Set("512M"); err != nil || b != 512<<20 {
		t.Errorf("Set(512M): %d, %v", b, err)
	}
}

func TestSpanFlagKeepsItsBounds(t *testing.T) {
	for in, ok := range map[string]bool{"1s": true, "1ms": true, "1h": true, "2h": false, "0s": false, "5": false, "": false, "-1s": false} {
		d := span{min: time.Millisecond, max: time.Hour}
		if err := d.Set(in); (err == nil) != ok {
			t.Errorf("Set(%q): %v, want ok = %v", in, err, ok)
		} else if err != nil && !strings.Contains(err.Error(), "from 1ms to 1h,") {
			t.Errorf("Set(%q): %q does not say what would be right", in, err)
		}
	}
}

func TestAlternatives(t *testing.T) {
	for want, words := range map[string][]string{"": nil, "a": {"a"}, "a or b": {"a", "b"}, "a, b or c": {"a", "b", "c"}} {
		if got := alternatives(words); got != want {
			t.Errorf("alternatives(%q) = %q, want %q", words, got, want)
		}
	}
}
