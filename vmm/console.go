// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"slices"
	"strings"
	"sync"
)

// consoleTail keeps the end of what a guest writes to COM1.
type consoleTail struct {
	mu sync.Mutex
	b  []byte
}

// Bounds of what is kept and shown.
const (
	tailBytes   = 16 << 10
	tailLines   = 60
	beforePanic = 10 // lines
)

func (t *consoleTail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.b == nil {
		t.b = make([]byte, 0, 2*tailBytes)
	}
	if len(t.b)+len(p) > cap(t.b) {
		t.b = append(t.b[:0], t.b[max(0, len(t.b)-tailBytes):]...)
	}
	t.b = append(t.b, p[max(0, len(p)-tailBytes):]...)
	return len(p), nil
}

// all are the lines that are kept.
func (t *consoleTail) all() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for line := range strings.Lines(string(t.b)) {
		out = append(out, strings.TrimRight(line, "\r\n"))
	}
	return out
}

// lines are the last lines: at least those from shortly before a panic on.
func (t *consoleTail) lines() []string {
	out := t.all()
	from := max(0, len(out)-tailLines)
	if at := slices.IndexFunc(out, tellsOfPanic); at >= 0 {
		from = min(from, max(0, at-beforePanic))
	}
	return out[from:]
}

// panicText begins what Linux says of a panic (kernel/panic.c).
const panicText = "Kernel panic - not syncing"

// tellsOfPanic says whether a line tells of a panic.
func tellsOfPanic(line string) bool {
	// At the line's start, or behind the kernel's time stamp.
	if _, rest, ok := strings.Cut(line, "] "); ok && strings.HasPrefix(line, "[") {
		line = rest
	}
	return strings.HasPrefix(line, panicText)
}

// panicked says whether what is kept tells of a panic.
func (t *consoleTail) panicked() bool { return slices.ContainsFunc(t.all(), tellsOfPanic) }
