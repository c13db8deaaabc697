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
	if got, want := strings.Count(text, "| not run yet |\n"), len(all)-2; got != want {
		t.Errorf("%d steps have not run, want %d:\n%s", got, want, text)
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
	for _, tt := range []struct{ together, want []string }{
		{nil, runs},
		{[]string{"^TestLinux$"}, runs},
		{[]string{"^TestLinuxQuick"}, []string{"^TestLinuxQuick$|^TestLinuxQuicker$", "^TestLinuxA$", "^TestLinuxB$"}},
		{[]string{"^TestLinuxB", "r$", "^TestLinux"}, []string{"^TestLinuxB$", "^TestLinuxQuicker$", "^TestLinuxA$|^TestLinuxQuick$"}},
	} {
		if got := group(runs, tt.together); !slices.Equal(got, tt.want) {
			t.Errorf("together %q: runs %q, want %q", tt.together, got, tt.want)
		}
	}
}

// Each test of a Linux guest is in one row of the matrix on Debian's 6.12, and in no
// other.
func TestEachLinuxTestIsInOneRow(t *testing.T) {
	files, err := filepath.Glob("../uringpv/linux*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	tests := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)Linux\w+)\(`).FindAllSubmatch(b, -1) {
			name := string(m[1])
			tests++
			var in []string
			for _, st := range steps(true) {
				if st.host == "6.12" && len(st.guests) > 0 && st.run != bootsLinux && st.run != linuxAtOnce && regexp.MustCompile(st.run).MatchString(name) {
					in = append(in, st.name)
				}
			}
			if len(in) != 1 {
				t.Errorf("%s is in the rows %q, not in one", name, in)
			}
		}
	}
	if tests < 20 {
		t.Errorf("%d tests of Linux guests were found", tests)
	}
}

func TestWhatFailedIsRunAgain(t *testing.T) {
	out := `=== RUN   TestCrash
    crash_test.go:1: shutdown (triple fault)
--- PASS: TestCrash (0.10s)
=== RUN   TestLinuxA
=== RUN   TestLinuxA/6.1/relay/2
=== RUN   TestLinuxA/6.12/relay/2
    a_test.go:1: shutdown (triple fault)
--- FAIL: TestLinuxA (1.00s)
    --- PASS: TestLinuxA/6.1/relay/2 (0.50s)
    --- FAIL: TestLinuxA/6.12/relay/2 (0.50s)
--- FAIL: TestLinuxAB (0.10s)
--- SKIP: TestLinuxC (0.00s)
`
	var r result
	r.count(strings.NewReader(out), &strings.Builder{})
	if r.passed != 2 || r.failed != 3 || r.skipped != 1 || r.faults != 1 {
		t.Errorf("%+v", r)
	}
	if len(r.faulted) != 2 || !r.faulted["TestCrash"] || !r.faulted["TestLinuxA/6.12/relay/2"] {
		t.Errorf("triple faults of %v", r.faulted)
	}
	got := innermost(r.failures)
	if want := []string{"TestLinuxA/6.12/relay/2", "TestLinuxAB"}; !slices.Equal(got, want) {
		t.Errorf("%q are run again, want %q", got, want)
	}
	if got, want := exactly(got[0]), `^TestLinuxA$/^6\.12$/^relay$/^2$`; got != want {
		t.Errorf("by %s, want %s", got, want)
	}
}
