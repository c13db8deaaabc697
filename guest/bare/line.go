// SPDX-License-Identifier: Apache-2.0

package bare

import "strings"

// Kind is what a line of the guest's is.
type Kind int

// Kinds of lines. Whatever is not a well-formed case or value is text.
const (
	Text  Kind = iota
	Case       // "case NAME pass|fail|skip [DETAIL]"
	Value      // "value NAME DETAIL"
)

// Results of a case.
const (
	Pass = "pass"
	Fail = "fail"
	Skip = "skip"
)

// Line is one line that the guest wrote, or native.
type Line struct {
	Kind   Kind
	Name   string // of the case or value: 1 to MaxName characters of a-z, 0-9, '_' and '-'
	Result string // of a case: Pass, Fail or Skip
	Detail string // what the case says; the value; or the text
}

// MaxName is the length of the longest name, in bytes.
const MaxName = 64

// ParseLine reads a line, given without its line feed. It never fails: a guest
// may write anything, and what is neither case nor value is text.
func ParseLine(s string) Line {
	text := Line{Kind: Text, Detail: s}
	kind, rest, ok := strings.Cut(s, " ")
	if !ok {
		return text
	}
	name, rest, ok := strings.Cut(rest, " ")
	if !ok || !isName(name) {
		return text
	}
	switch kind {
	case "case":
		result, detail, _ := strings.Cut(rest, " ")
		if result != Pass && result != Fail && result != Skip {
			return text
		}
		return Line{Kind: Case, Name: name, Result: result, Detail: strings.TrimSpace(detail)}
	case "value":
		v := strings.TrimSpace(rest)
		if v == "" {
			return text
		}
		return Line{Kind: Value, Name: name, Detail: v}
	}
	return text
}

func isName(s string) bool {
	if len(s) < 1 || len(s) > MaxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
