// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// words is a list of distinct words, separated by commas.
type words struct{ values, of []string }

func (w *words) String() string { return strings.Join(w.values, ",") }

func (w *words) Set(s string) error {
	fields := strings.Split(s, ",")
	for i, f := range fields {
		if !slices.Contains(w.of, f) {
			return fmt.Errorf("must be %s, or several with commas between", alternatives(w.of))
		}
		if slices.Contains(fields[:i], f) {
			return fmt.Errorf("%s is given twice", f)
		}
	}
	w.values = fields
	return nil
}

func (*words) Type() string { return "NAME,..." }

// numbers is a list of distinct numbers from min to max, separated by commas.
type numbers struct {
	values   []int
	min, max int
}

func (n *numbers) String() string {
	var s []string
	for _, v := range n.values {
		s = append(s, strconv.Itoa(v))
	}
	return strings.Join(s, ",")
}

func (n *numbers) Set(s string) error {
	var values []int
	for _, f := range strings.Split(s, ",") {
		v, err := parseCount(f, n.min, n.max)
		if err != nil {
			return fmt.Errorf("must be whole numbers from %d to %d, with commas between", n.min, n.max)
		}
		if slices.Contains(values, v) {
			return fmt.Errorf("%d is given twice", v)
		}
		values = append(values, v)
	}
	n.values = values
	return nil
}

func (*numbers) Type() string { return "N,..." }

// sizeWithoutUnit is a byteSize whose unit may be left out: bytes.
type sizeWithoutUnit struct{ *byteSize }

func (s *sizeWithoutUnit) Set(v string) error {
	n, err := parseSize(v)
	if err != nil {
		return errors.New("a size is a number and a unit, such as 4k or 1M, or a number of bytes")
	}
	*s.byteSize = n
	return nil
}

// String is called on a zero value too, by the flag package.
func (s *sizeWithoutUnit) String() string {
	if s.byteSize == nil {
		return ""
	}
	return s.byteSize.String()
}
