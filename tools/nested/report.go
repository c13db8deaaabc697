// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// The results as a Markdown table. A row's first three cells say which step it is.
const (
	tableHead = "| tests | host kernel | guest kernels | passed | failed | skipped | minutes | on | |\n|---|---|---|---|---|---|---|---|---|\n"
	keyCells  = 3
)

// row is a result's row.
func (r *result) row() string {
	state := "pass"
	if r.err != nil {
		state = "**fail**"
	}
	if r.faults > 0 {
		state += fmt.Sprintf("; triple faults of guests: %d, and each test that had one was run again", r.faults)
	}
	return fmt.Sprintf("| %s | %s | %s | %d | %d | %d | %.1f | %s | %s |\n", r.name, r.where(), strings.Join(r.guests, ", "),
		r.passed, r.failed, r.skipped, r.took.Minutes(), r.begun.UTC().Format(time.DateOnly), state)
}

// noRow is the row of a step that has never run.
func (r *result) noRow() string {
	return fmt.Sprintf("| %s | %s | %s | | | | | | not run yet |\n", r.name, r.where(), strings.Join(r.guests, ", "))
}

// table is the results as a Markdown table.
func (s *suite) table() string {
	var b strings.Builder
	b.WriteString(tableHead)
	for i := range s.done {
		b.WriteString(s.done[i].row())
	}
	return b.String()
}

// rowKey is what says of which step a row is; empty if line is no row.
func rowKey(line string) string {
	cells := strings.Split(line, "|")
	if !strings.HasPrefix(line, "| ") || len(cells) <= keyCells+1 {
		return ""
	}
	return strings.Join(cells[1:1+keyCells], "|")
}

// writeReport writes the results to the file of --report. Steps that did not run
// this time keep the rows that they have there: the whole matrix takes hours, and
// may be run in parts.
func (s *suite) writeReport() error {
	old, err := os.ReadFile(s.report)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(old)) {
		rows[rowKey(line)] = line
	}
	for i := range s.done {
		line := s.done[i].row()
		rows[rowKey(line)] = line
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# The last run of %s

Written by the command itself. Each test in each of its variants counts: a test that is made of others is one more.
Kernels are Debian's: 6.1 and 6.12 of Debian 12, the newest of sid, without a suffix the cloud kernels. The host kernel is the nested machine's.

`, s.command())
	b.WriteString(tableHead)
	for _, st := range steps(s.full) {
		none := (&result{step: st}).noRow()
		b.WriteString(cmp.Or(rows[rowKey(none)], none))
	}
	return os.WriteFile(s.report, []byte(b.String()), 0o644)
}

// command is the make target that this run is.
func (s *suite) command() string {
	if s.full {
		return "`make test-nested-full`"
	}
	return "`make test-nested`"
}
