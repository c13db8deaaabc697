// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func init() { programs["exits"] = (*program).exits }

// exits does reads on a mapped ring, and then nothing for as long as they took, each
// between two lines at which the host looks at its counters.
func (p *program) exits(args []string) {
	reads, err := strconv.Atoi(args[1])
	p.check(err)
	m, addr, index := p.undisturbed(args[0])
	if left, bad := loop(m, 1000, addr, index); left != 0 || bad != 0 {
		p.errorf("%d reads were not done, %d failed", left, bad)
	}
	// The console has exits of its own. They are past when the pause ends.
	stretch := func(name string, f func()) (took time.Duration) {
		const pause = 300 * time.Millisecond
		fmt.Printf("stretch: %s begins\n", name)
		time.Sleep(pause)
		begin := time.Now()
		f()
		took = time.Since(begin)
		time.Sleep(pause)
		fmt.Printf("stretch: %s ended\n", name)
		return took
	}
	before := p.doorbells()
	took := stretch("reads", func() {
		if left, bad := loop(m, reads, addr, index); left != 0 || bad != 0 {
			p.errorf("%d reads were not done, %d failed", left, bad)
		}
	})
	fmt.Printf("doorbells: %d\n", p.doorbells()-before)
	stretch("nothing", func() {
		for end := time.Now().Add(took); time.Now().Before(end); {
		}
	})
	p.check(m.Close())
}

// doorbells is how often the doorbell of the only mapped ring was rung.
func (p *program) doorbells() int {
	files, err := filepath.Glob("/sys/kernel/debug/uringpv-*/programs")
	p.check(err)
	for _, name := range files {
		b, err := os.ReadFile(name)
		p.check(err)
		for line := range strings.Lines(string(b)) {
			if w := strings.Fields(line); len(w) == 17 && w[1] == "mapped" {
				n, err := strconv.Atoi(w[15])
				p.check(err)
				return n
			}
		}
	}
	p.errorf("%v: there is no mapped ring", files)
	return 0
}

// watch passes a guest's console on and notes what f says when a line comes that
// begins with "stretch: ".
type watch struct {
	to    *bytes.Buffer
	line  []byte
	f     func() int
	notes map[string]int
}

func (w *watch) Write(b []byte) (int, error) {
	for _, c := range b {
		if w.line = append(w.line, c); c != '\n' {
			continue
		}
		if what, ok := strings.CutPrefix(strings.TrimSpace(string(w.line)), "stretch: "); ok {
			w.notes[what] = w.f()
		}
		w.line = w.line[:0]
	}
	return w.to.Write(b)
}

// guestExits is how many exits the host's guests have had that were of their own
// making, as KVM counts them: without the host's interrupts. There is one guest.
func guestExits(t *testing.T) (n int) {
	count := func(what string) (sum int) {
		files, err := filepath.Glob("/sys/kernel/debug/kvm/[0-9]*/" + what)
		if err != nil || len(files) == 0 {
			t.Errorf("KVM counts no %s: %v", what, err)
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Error(err)
			}
			v, _ := strconv.Atoi(strings.TrimSpace(string(b)))
			sum += v
		}
		return sum
	}
	return count("exits") - count("irq_exits")
}

// Reads on a mapped ring cost no exits: a guest that does 100,000 has no more of them
// than one that does nothing for as long, but for its clock's. One for each batch of
// sixteen would be 6250 more. A doorbell is rung when the host has begun to sleep: only
// then when the guest's vCPU has stood still for long.
func TestLinuxMappedReadsCauseNoExits(t *testing.T) {
	const reads, doorbellsAtMost, moreAtMost = 100_000, 30, 100
	eachLinuxRings(t, backendPassthrough, []int{2}, func(t *testing.T, r linuxRun) {
		r.withProgram(t)
		programRings(&r)
		r.disks = []string{image(t, 64<<20)}
		r.cmdline = "uringpv.sqpoll_idle_ms=1000" // the emulated machine's processors are slow, and not always there
		r.script = "GODEBUG=asyncpreemptoff=1 /uring-guest exits disk0 " + strconv.Itoa(reads)
		c := r.prepare(t)
		w := &watch{to: &c.stdout, notes: map[string]int{}, f: func() int { return guestExits(t) }}
		c.Stdout = w
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		status := c.finish()
		console := c.stdout.String()
		scan(t, console)
		if status != 0 || !strings.Contains(console, "init: run: exit 0") || len(w.notes) != 4 {
			t.Fatalf("exit status %d: %s\n%v\n%s", status, &c.stderr, w.notes, console)
		}
		busy := w.notes["reads ended"] - w.notes["reads begins"]
		idle := w.notes["nothing ended"] - w.notes["nothing begins"]
		_, after, _ := strings.Cut(console, "doorbells: ")
		var doorbells int
		if _, err := fmt.Sscanf(after, "%d", &doorbells); err != nil {
			t.Errorf("no count of doorbells: %v", err)
		}
		t.Logf("%d reads: %d exits, %d doorbells; nothing for as long: %d exits", reads, busy, doorbells, idle)
		// The guest's clock ticks a little differently each time.
		if busy > idle+idle/4+moreAtMost || doorbells > doorbellsAtMost {
			t.Errorf("%d reads in batches of 16 have %d exits and %d doorbells; nothing for as long has %d exits", reads, busy, doorbells, idle)
		}
	})
}
