// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
)

// This file has the values of flags: how each is written, and what is said of one
// that is not right. The flag's name and the value are put before it by flagError.

// byteSize is a number of bytes, written as 4k, 512M or 2G.
type byteSize uint64

const sizeUnits = "KMGT"

// parseSize reads a number of bytes with an optional unit: K, M, G and T are
// powers of 1024, in either case, and may be followed by iB or B.
func parseSize(s string) (byteSize, error) {
	wrong := errors.New("a size is a number and a unit, such as 512M or 2G")
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(s)
	}
	n, err := strconv.ParseUint(s[:end], 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("the size is above 16 EiB")
	} else if err != nil {
		return 0, wrong
	}
	unit := strings.ToUpper(s[end:])
	if unit == "" || unit == "B" {
		return byteSize(n), nil
	}
	power := strings.IndexByte(sizeUnits, unit[0])
	if rest := unit[1:]; power < 0 || rest != "" && rest != "B" && rest != "IB" {
		return 0, wrong
	}
	hi, lo := bits.Mul64(n, 1<<(10*(power+1)))
	if hi != 0 {
		return 0, errors.New("the size is above 16 EiB")
	}
	return byteSize(lo), nil
}

// String is the shortest way to write b, such as 512M.
func (b byteSize) String() string {
	power := 0
	for b != 0 && b%1024 == 0 && power < len(sizeUnits) {
		b /= 1024
		power++
	}
	s := strconv.FormatUint(uint64(b), 10)
	if power > 0 {
		s += sizeUnits[power-1 : power]
	}
	return s
}

// Set reads s, which needs a unit: a bare number means bytes to some programs
// and MiB to others.
func (b *byteSize) Set(s string) error {
	n, err := parseSize(s)
	if err != nil {
		return err
	}
	if last := s[len(s)-1]; last >= '0' && last <= '9' {
		return fmt.Errorf("a size needs a unit, such as %sM for MiB or %sG for GiB", s, s)
	}
	*b = n
	return nil
}

// Type is what help calls the value.
func (*byteSize) Type() string { return "SIZE" }

// choice is one word of a few.
type choice struct {
	value string
	of    []string
	what  string // what help calls the value; empty: the words
}

func (c *choice) String() string { return c.value }

func (c *choice) Set(s string) error {
	if !slices.Contains(c.of, s) {
		return fmt.Errorf("must be %s", alternatives(c.of))
	}
	c.value = s
	return nil
}

func (c *choice) Type() string {
	if c.what != "" {
		return c.what
	}
	return strings.Join(c.of, "|")
}

// count is a whole number from min to max.
type count struct {
	value, min, max int
}

func (c *count) String() string { return strconv.Itoa(c.value) }

func (c *count) Set(s string) error {
	n, err := parseCount(s, c.min, c.max)
	if err != nil {
		return err
	}
	c.value = n
	return nil
}

func (*count) Type() string { return "N" }

func parseCount(s string, min, max int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < min || n > max {
		return 0, fmt.Errorf("must be a whole number from %d to %d", min, max)
	}
	return n, nil
}

// span is a time with a unit, from min to max.
type span struct {
	value, min, max time.Duration
}

// String is empty for no time at all, which is a default that help need not show.
func (d *span) String() string {
	if d.value == 0 {
		return ""
	}
	return d.value.String()
}

func (d *span) Set(s string) error {
	v, err := time.ParseDuration(s)
	if err != nil || v < d.min || v > d.max {
		return fmt.Errorf("must be a time from %s to %s, such as 500ms, 30s or 2m", short(d.min), short(d.max))
	}
	d.value = v
	return nil
}

func (*span) Type() string { return "DURATION" }

// short writes d without the zero minutes and seconds that Duration's String has.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// alternatives writes a few words as a sentence needs them: "a, b or c".
func alternatives(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
