// SPDX-License-Identifier: Apache-2.0

package uring

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// around is what the second of the guide's examples stands in: "..." is whatever one
// does with errors.
const around = `package main

import (
	"log"
	"os"

	"github.com/uringpv/uringpv/guest/uring"
)

func use([]byte) {}

func main() {
	f, err := os.Open(uring.Directory + "/disk0")
	if err != nil {
		log.Fatal(err)
	}
	var cqes [8]uring.CQE
BODY}
`

func TestTheGuidesGoProgramsAreRight(t *testing.T) {
	text, err := os.ReadFile("../../docs/guest-programs.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)\n```go\n(.*?)```\n").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 2 {
		t.Fatalf("%d Go programs in the guide, want 2", len(blocks))
	}
	whole, part := blocks[0][1], strings.Replace(blocks[1][1], "\t...\n", "\tif err != nil {\n\t\tlog.Fatal(err)\n\t}\n", 1)
	for name, source := range map[string]string{"mediated": whole, "mapped": strings.Replace(around, "BODY", part, 1)} {
		file := filepath.Join(t.TempDir(), name+".go")
		if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("go", "vet", file)
		cmd.Dir = "../.."
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("the guide's program for a %s ring: %v\n%s\n%s", name, err, out, source)
		}
		if out, err := exec.Command("gofmt", "-l", file).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("the guide's program for a %s ring is not as gofmt has it: %v\n%s", name, err, out)
		}
	}
}
