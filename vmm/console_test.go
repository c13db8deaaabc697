// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"fmt"
	"strings"
	"testing"
)

func TestConsoleTailKeepsTheEnd(t *testing.T) {
	var c consoleTail
	for i := range 10000 {
		fmt.Fprintf(&c, "line %d\r\n", i)
	}
	lines := c.lines()
	if len(lines) != tailLines || lines[tailLines-1] != "line 9999" || lines[0] != fmt.Sprintf("line %d", 10000-tailLines) {
		t.Errorf("%d lines, from %q to %q", len(lines), lines[0], lines[len(lines)-1])
	}
	if n, _ := c.Write([]byte(strings.Repeat("x", 5*tailBytes))); n != 5*tailBytes || len(c.b) > 2*tailBytes {
		t.Errorf("wrote %d, kept %d", n, len(c.b))
	}
}

func TestPanicIsTheKernelsOwnLine(t *testing.T) {
	for text, want := range map[string]bool{
		"[    1.234567] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n": true,
		"Kernel panic - not syncing: sysrq triggered crash\n":                         true,
		"$ grep 'Kernel panic - not syncing' log\n":                                   false,
		"all is well\n": false,
		"":              false,
	} {
		var c consoleTail
		fmt.Fprint(&c, text)
		if got := c.panicked(); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// What comes behind a panic, its trace, may be longer than what is shown else.
func TestLongPanicIsShownFromItsBeginning(t *testing.T) {
	var c consoleTail
	for i := range 100 {
		fmt.Fprintf(&c, "before %d\n", i)
	}
	fmt.Fprint(&c, "[    2.8] Kernel panic - not syncing: a test\n")
	for i := range 2 * tailLines {
		fmt.Fprintf(&c, "trace %d\n", i)
	}
	lines := c.lines()
	if len(lines) != beforePanic+1+2*tailLines || lines[0] != "before 90" || !tellsOfPanic(lines[beforePanic]) {
		t.Errorf("%d lines, from %q", len(lines), lines[0])
	}
	if !c.panicked() {
		t.Error("no panic is seen")
	}
}
