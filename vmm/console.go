// SPDX-License-Identifier: Apache-2.0

package vmm

import (
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
	tailBytes = 16 << 10
	tailLines = 60
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

// lines are the last lines.
func (t *consoleTail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for line := range strings.Lines(string(t.b)) {
		out = append(out, strings.TrimRight(line, "\r\n"))
	}
	return out[max(0, len(out)-tailLines):]
}

// panicText begins what Linux says of a panic (kernel/panic.c).
const panicText = "Kernel panic - not syncing"

// panicked says whether the last lines tell of a panic.
func (t *consoleTail) panicked() bool {
	for _, line := range t.lines() {
		// At the line's start, or behind the kernel's time stamp.
		if _, rest, ok := strings.Cut(line, "] "); ok && strings.HasPrefix(line, "[") {
			line = rest
		}
		if strings.HasPrefix(line, panicText) {
			return true
		}
	}
	return false
}
