// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"embed"
	"fmt"
	"path"
	"slices"
	"strings"
)

//go:embed liburing
var liburing embed.FS

// LiburingPort is the port of liburing, files by their names: build.sh builds with
// the others. The caller owns the map.
func LiburingPort() map[string][]byte {
	return directory(liburing, "liburing")
}

// LiburingProgram is a program of liburing's, or the port's example, and what is
// known of it in a guest.
type LiburingProgram struct {
	File   string   // "test/NAME.t", "examples/NAME" in liburing's source, or "NAME.c" of the port
	Args   []string // in the guest
	Result string   // one of LiburingResults
	Timed  bool     // it measures times, and fails where they are not kept
	Says   string   // a part of what it says; empty: whatever it says
	Why    string   // it does not pass, or what is to be known of its pass; Markdown
}

// Name is what the program is called when it has been built: its file's base name,
// without ".c".
func (p LiburingProgram) Name() string { return strings.TrimSuffix(path.Base(p.File), ".c") }

// LiburingResults are the ways in which a program ends: with status 0, with 77, with
// another or by a signal, or not at all; or it is only built.
var LiburingResults = []string{"pass", "skip", "fail", "hang", "built"}

// LiburingVersion is the version of liburing that LiburingPrograms speaks of.
const LiburingVersion = "2.9"

// LiburingPrograms is the list liburing/programs: a line each, "file and arguments |
// result | what it says | why", which may go on in lines that begin with a tab. The
// result is followed by ", timed" where that is so.
func LiburingPrograms() ([]LiburingProgram, error) {
	text, err := liburing.ReadFile("liburing/programs")
	if err != nil {
		return nil, err
	}
	var all []LiburingProgram
	for line := range bytes.Lines(bytes.ReplaceAll(text, []byte("\n\t"), []byte(" "))) {
		if len(bytes.TrimSpace(line)) == 0 || line[0] == '#' {
			continue
		}
		field := strings.SplitN(string(line), "|", 4)
		for i := range field {
			field[i] = strings.TrimSpace(field[i])
		}
		timed := false
		if len(field) == 4 {
			field[1], timed = strings.CutSuffix(field[1], ", timed")
		}
		if len(field) != 4 || field[0] == "" || !slices.Contains(LiburingResults, field[1]) {
			return nil, fmt.Errorf("liburing/programs: %q is not \"program | result | what it says | why\"", line)
		}
		words := strings.Fields(field[0])
		p := LiburingProgram{words[0], words[1:], field[1], timed, field[2], field[3]}
		if p.Why == "" && p.Result != "pass" {
			return nil, fmt.Errorf("liburing/programs: %s: no word why it does not pass", p.File)
		}
		all = append(all, p)
	}
	return all, nil
}
