// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheTableSaysWhatTheReportsSay(t *testing.T) {
	got := table([]result{
		{"rings", "relay", "pass", "5 rings"},
		{"rings", "isolated", "pass", "5 rings"},
		{"rings", "passthrough", "fail", "no ring"},
		{"poll", "relay", "pass", ""},
		{"poll", "isolated", "skip", "no | host polls"},
		{"poll", "passthrough", "pass", "by 2 " + extra},
		{"poll", "isolated", "pass", "on another host"},
		{"poll", "isolated", "skip", "on a third it could not be tried"},
		{"skip", "relay", "skip", "a | b " + extra},
		{"skip", "isolated", "pass", "x " + part},
	})
	want := `| feature | relay | isolated | passthrough |
|---|---|---|---|
| rings | passed | passed | **fail** |
| poll | passed | passed | passed, extra |
| skip | no: a \| b | passed, in part extra | **not run** |
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOnlyTheTableIsReplaced(t *testing.T) {
	got, err := replace([]byte("a\n"+begin+"old\n"+end+"b\n"), "new\n")
	if want := "a\n" + begin + "new\n" + end + "b\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for _, text := range []string{"", begin, end + begin} {
		if got, err := replace([]byte(text), "new\n"); err == nil {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// The document's table has a row for each case that the guest has, and no
// failure.
func TestTheDocumentHasEveryCase(t *testing.T) {
	b, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), begin)
	text, _, ok := strings.Cut(rest, end)
	if !ok {
		t.Fatal("docs/protocol.md has no table of features")
	}
	if strings.Contains(text, "**") {
		t.Errorf("the table has what failed or was not run:\n%s", text)
	}
	var rows []string
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z-]+) \|`).FindAllStringSubmatch(text, -1) {
		if m[1] != "feature" {
			rows = append(rows, m[1])
		}
	}
	var cases []string
	for _, file := range []string{"sequence.c", "conformance.c"} {
		source, err := os.ReadFile(filepath.Join("../../guest/bare/src", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\t\{ "([a-z-]+)", (?:seq|test)_`).FindAllStringSubmatch(string(source), -1) {
			cases = append(cases, m[1])
		}
	}
	slices.Sort(rows)
	slices.Sort(cases)
	if diff := cmp.Diff(cases, rows); diff != "" {
		t.Errorf("make features writes the table anew (-cases +rows):\n%s", diff)
	}
}
