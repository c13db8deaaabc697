// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: features docs/protocol.md REPORT.json...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "features: %v\n", err)
		os.Exit(1)
	}
}

// run puts the table of the reports into the document.
func run(document string, reports []string) error {
	var all []result
	for _, path := range reports {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var r struct {
			Guest string   `json:"guest"`
			Cases []result `json:"cases"`
		}
		if err := json.Unmarshal(b, &r); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if r.Guest != "conformance" || len(r.Cases) == 0 {
			return fmt.Errorf("%s: a report of the guest %q with %d cases: must be one of --guest conformance", path, r.Guest, len(r.Cases))
		}
		all = append(all, r.Cases...)
	}
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	text, err = replace(text, table(all))
	if err != nil {
		return fmt.Errorf("%s: %w", document, err)
	}
	return os.WriteFile(document, text, 0o644)
}

// result is a case on one backend, as a report has it.
type result struct {
	Name    string `json:"name"`
	Backend string `json:"backend"`
	Result  string `json:"result"`
	Detail  string `json:"detail"`
}

// What ends the detail of a case for which a backend used extra opcodes: in all of
// its rings, in some.
const (
	extra = "(extra opcodes, by the relay)"
	part  = "(in part extra opcodes, by the relay)"
)

// backends are the table's columns.
var backends = []string{"relay", "isolated", "passthrough"}

// weight orders what several reports say of one case: a failure counts, and what
// was tried counts before what was not.
func (r result) weight() int { return slices.Index([]string{"skip", "pass", "fail"}, r.Result) }

// table is the Markdown table of results, a row for each case in the order of
// their first appearance.
func table(all []result) string {
	var names []string
	at := map[[2]string]result{}
	for _, r := range all {
		key := [2]string{r.Name, r.Backend}
		if !slices.Contains(names, r.Name) {
			names = append(names, r.Name)
		}
		if old, ok := at[key]; !ok || r.weight() > old.weight() {
			at[key] = r
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| feature | %s |\n|---|%s\n", strings.Join(backends, " | "), strings.Repeat("---|", len(backends)))
	for _, name := range names {
		fmt.Fprintf(&b, "| %s |", name)
		for _, backend := range backends {
			r, ok := at[[2]string{name, backend}]
			if !ok {
				r.Result = "not run"
			}
			fmt.Fprintf(&b, " %s |", r.cell())
		}
		b.WriteString("\n")
	}
	return b.String()
}

// cell is what the table says of r.
func (r result) cell() string {
	detail, all := strings.CutSuffix(r.Detail, extra)
	detail, some := strings.CutSuffix(detail, part)
	switch {
	case r.Result == "pass" && all:
		return "passed, extra"
	case r.Result == "pass" && some:
		return "passed, in part extra"
	case r.Result == "pass":
		return "passed"
	case r.Result == "skip":
		return "no: " + strings.ReplaceAll(strings.TrimSpace(detail), "|", `\|`)
	}
	return "**" + r.Result + "**"
}

// The table stands between these lines.
const (
	begin = "<!-- features: begin -->\n"
	end   = "<!-- features: end -->\n"
)

// replace puts table where the old one is.
func replace(text []byte, table string) ([]byte, error) {
	before, rest, ok := bytes.Cut(text, []byte(begin))
	_, after, ended := bytes.Cut(rest, []byte(end))
	if !ok || !ended {
		return nil, fmt.Errorf("no lines %q and %q to put the table between", begin, end)
	}
	return slices.Concat(before, []byte(begin), []byte(table), []byte(end), after), nil
}
