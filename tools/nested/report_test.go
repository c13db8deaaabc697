// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAReportKeepsTheRowsOfStepsThatDidNotRun(t *testing.T) {
	all := steps(true)
	path := filepath.Join(t.TempDir(), "report.md")
	day := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first := suite{full: true, report: path, done: []result{
		{step: all[0], passed: 7, begun: day},
		{step: all[1], passed: 8, failed: 1, begun: day, err: errors.New("one failed")},
	}}
	if err := first.writeReport(); err != nil {
		t.Fatal(err)
	}
	second := suite{full: true, report: path, done: []result{{step: all[1], passed: 9, begun: day.AddDate(0, 0, 1)}}}
	if err := second.writeReport(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, want := range []string{"| 7 | 0 | 0 | 0.0 | 2026-01-02 | pass |\n", "| 9 | 0 | 0 | 0.0 | 2026-01-03 | pass |\n"} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, text)
		}
	}
	if strings.Contains(text, "**fail**") {
		t.Errorf("the row of the step that ran again is still there:\n%s", text)
	}
}

// Rows of two steps with one key would take each other's place.
func TestStepsHaveDistinctRows(t *testing.T) {
	for _, full := range []bool{false, true} {
		seen := map[string]bool{}
		for _, st := range steps(full) {
			k := rowKey((&result{step: st}).row())
			if k == "" || seen[k] {
				t.Errorf("full %v: the row of %q has the key %q", full, st.name, k)
			}
			seen[k] = true
		}
	}
}

func TestAGroupIsOneRun(t *testing.T) {
	runs := []string{"^TestLinuxA$", "^TestLinuxQuick$", "^TestLinuxB$", "^TestLinuxQuicker$"}
	got := group(runs, regexp.MustCompile("^TestLinuxQuick"))
	if want := []string{"^TestLinuxQuick$|^TestLinuxQuicker$", "^TestLinuxA$", "^TestLinuxB$"}; !slices.Equal(got, want) {
		t.Errorf("runs %q, want %q", got, want)
	}
	if got := group(runs, regexp.MustCompile("^TestLinux$")); !slices.Equal(got, runs) {
		t.Errorf("runs %q, want %q", got, runs)
	}
}
