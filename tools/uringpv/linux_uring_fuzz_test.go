// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

func init() { programs["calls"] = (*program).calls }

// choices are the bytes of an input as a source of choices, two bytes for each. Behind
// the last byte all inputs go on in the same way.
type choices struct {
	left []byte
	rest *rand.PCG
}

func (c *choices) Uint64() uint64 {
	if len(c.left) < 2 {
		c.left = nil
		return c.rest.Uint64()
	}
	v := uint64(c.left[0])<<8 | uint64(c.left[1])
	c.left = c.left[2:]
	return v * 0x0001_0001_0001_0001 // wherever a choice takes its bits from
}

// calls is a storm of two threads that each do what one half of args[0] says, bytes in
// base64, and leave everything open.
func (p *program) calls(args []string) {
	b, err := base64.RawStdEncoding.DecodeString(args[0])
	p.check(err)
	half := len(b) / 2
	threads := []*choices{{b[:half], rand.NewPCG(1, 1)}, {b[half:], rand.NewPCG(2, 2)}}
	p.newStorm().rage(p, []rand.Source{threads[0], threads[1]}, func(i, _ int) bool { return len(threads[i].left) >= 2 })
}

// fuzzedGuest is a Linux guest that does what it is told by line after line, in this
// process, so that a fuzzer sees what of the monitor an input reaches.
type fuzzedGuest struct{ *session }

func startFuzzed(t testing.TB) *fuzzedGuest {
	t.Helper()
	guests := linuxGuests(t)
	r := linuxRun{guest: guests[len(guests)-1], cpus: 2, timeout: time.Hour}
	r.withProgram(t)
	r.args = []string{
		"--export-backend", "relay", "--export-rings", "12", "--file", "name=f,path=" + image(t, 1<<20), "--pipe", "name=p", "--eventfd", "name=e",
		"--socket", "name=echo,unix=" + echoes(t), "--socket", fmt.Sprintf("name=door,unix=@upv-fuzz-%d,listen=on", os.Getpid()),
	}
	r.script = `
		` + pins + `
		stty -echo
		before=$(pins)
		echo "guest: ready"
		while read -r input; do
			/uring-guest calls "$input" || echo "guest: the program failed"
			test "$(pins)" = "$before" || echo "guest: $(pins) pages are pinned, $before before"
			test $(grep -c 'mediated\|mapped' /sys/kernel/debug/uringpv-*/programs) = 0 || echo "guest: rings are left"
			echo "guest: done"
		done`
	c := r.prepare(t)
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &fuzzedGuest{session: &session{command: c, in: inW, patience: expectTime, changed: make(chan struct{})}}
	var stderr bytes.Buffer
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		root := newRootCommand()
		root.SetArgs(c.Args[1:])
		root.SetIn(inR)
		root.SetOut(outW)
		root.SetErr(&stderr)
		if err := root.ExecuteContext(ctx); err != nil {
			fmt.Fprintln(&stderr, err)
		}
		fmt.Fprintf(outW, "the monitor has ended: %s\n", &stderr)
		_ = outW.Close()
	}()
	go g.read(outR)
	t.Cleanup(func() {
		cancel()
		<-ended
		for _, f := range []io.Closer{inR, inW, outR} {
			_ = f.Close()
		}
	})
	g.expect("guest: ready")
	return g
}

// try has the guest make the calls that input says.
func (g *fuzzedGuest) try(t *testing.T, input []byte) {
	t.Helper()
	g.t = t
	t.Logf("input %q", input)
	from := g.seen
	g.send(base64.RawStdEncoding.EncodeToString(input))
	g.expect("guest: done\r\n")
	said := g.text()[from:g.seen]
	scan(t, said)
	if !strings.Contains(said, "calls: pass\r\n") || strings.Count(said, "guest: ") != 1 {
		t.Errorf("the guest says %q", said)
	}
}

// maxCalls is how long an input may be, in bytes: a terminal has no longer lines.
const maxCalls = 2900

// The calls of the Linux driver's, with whatever a program makes of an input's bytes.
// `go test -fuzz` needs a guest, as the tests of Linux guests do (make fuzz-linux). Its
// processes give an input ten seconds: the guest is there before the first, and one that
// does not answer is found out before they end and nobody knows why.
func FuzzLinuxCalls(f *testing.F) {
	for seed := range 4 {
		b := make([]byte, 600<<seed)
		c := rand.NewChaCha8([32]byte{byte(seed)})
		_, _ = c.Read(b)
		f.Add(b[:min(len(b), maxCalls)])
	}
	var g *fuzzedGuest
	fuzzing, tries := flag.Lookup("test.fuzz").Value.String() != "", flag.Lookup("test.fuzzworker").Value.String() == "true"
	if fuzzing && !tries {
		linuxGuests(f) // this process only has others try
	} else {
		g = startFuzzed(f)
	}
	if tries {
		g.patience = 8 * time.Second
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) < 4 || len(input) > maxCalls {
			t.Skip("too little or too much for a line")
		}
		g.try(t, input)
	})
}
