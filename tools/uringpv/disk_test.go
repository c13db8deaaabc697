// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParseDisk(t *testing.T) {
	with := func(change func(d *diskSpec)) diskSpec {
		d := defaultDisk()
		d.Path = "a.img"
		change(&d)
		return d
	}
	for _, tt := range []struct {
		in   string
		want diskSpec
	}{
		{"a.img", with(func(*diskSpec) {})},
		{"a.img,id=root", with(func(d *diskSpec) { d.ID = "root" })},
		{"a.img,readonly=on,direct=on", with(func(d *diskSpec) { d.ReadOnly, d.Direct = true, true })},
		{"a.img,readonly=off", with(func(*diskSpec) {})},
		{"a.img,backend=relay", with(func(d *diskSpec) { d.Backend = "relay" })},
		{"a.img,rings=64,entries=16384", with(func(d *diskSpec) { d.Rings, d.Entries = 64, 16384 })},
		{"a.img,rings=1,entries=1", with(func(d *diskSpec) { d.Rings, d.Entries = 1, 1 })},
		{"a.img,sqpoll=off", with(func(d *diskSpec) { d.SQPoll = false })},
		{"a.img,sqpoll-idle=50ms,sqpoll-cpu=0", with(func(d *diskSpec) { d.SQPollIdle, d.SQPollCPU = 50*time.Millisecond, 0 })},
		{"a.img,sqpoll-thread=shared,backend=passthrough", with(func(d *diskSpec) { d.SQPollThread, d.Backend = "shared", "passthrough" })},
		{"a.img,sqpoll-thread=own,backend=relay", with(func(d *diskSpec) { d.SQPollThread, d.Backend = "own", "relay" })},
		{"a.img,sqpoll-idle=1h", with(func(d *diskSpec) { d.SQPollIdle = time.Hour })},
		{"a,,b.img,id=x", with(func(d *diskSpec) { d.Path, d.ID = "a,b.img", "x" })},
		{"a=b.img", with(func(d *diskSpec) { d.Path = "a=b.img" })},
		{"./id=1", with(func(d *diskSpec) { d.Path = "./id=1" })},
	} {
		got, err := parseDisk(tt.in)
		if err != nil {
			t.Errorf("parseDisk(%q): %v", tt.in, err)
		} else if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("parseDisk(%q) (-want +got):\n%s", tt.in, diff)
		}
	}
}

func TestParseDiskSaysWhatWouldBeRight(t *testing.T) {
	for _, tt := range []struct{ in, says string }{
		{"", "the path comes first"},
		{",readonly=on", "the path comes first"},
		{"readonly=on", "PATH,readonly=on"},
		{"a,", `unknown key ""`},
		{"a,colour=red", `unknown key "colour"; there are id, readonly, direct, backend, rings, entries, sqpoll, sqpoll-idle, sqpoll-cpu, sqpoll-thread`},
		{"a,ReadOnly=on", `unknown key "ReadOnly"`},
		{"a,readonly", "write readonly=on|off"},
		{"a,readonly=", "readonly=: must be on or off"},
		{"a,readonly=yes", "readonly=yes: must be on or off"},
		{"a,readonly=on,readonly=on", "key readonly is given twice"},
		{"a,backend=virtio", "backend=virtio: must be auto, relay, passthrough or isolated"},
		{"a,rings=0", "rings=0: must be a whole number from 1 to 64"},
		{"a,rings=65", "from 1 to 64"},
		{"a,rings=many", "from 1 to 64"},
		{"a,entries=100", "entries=100: must be a power of two from 1 to 16384"},
		{"a,entries=65536", "from 1 to 16384"},
		{"a,entries=-1", "from 1 to 16384"},
		{"a,sqpoll=1", "must be on or off"},
		{"a,sqpoll-idle=50", "whole milliseconds from 1ms to 1h"},
		{"a,sqpoll-idle=1500us", "whole milliseconds from 1ms to 1h"},
		{"a,sqpoll-idle=0ms", "whole milliseconds from 1ms to 1h"},
		{"a,sqpoll-idle=2h", "whole milliseconds from 1ms to 1h"},
		{"a,sqpoll-cpu=-1", "whole number from 0 to"},
		{"a,sqpoll-thread=both", "must be auto, own or shared"},
		{"a,sqpoll=off,sqpoll-thread=shared", "sqpoll-thread has no meaning with sqpoll=off"},
		{"a,sqpoll-thread=shared,backend=relay", "sqpoll-thread=shared has no meaning with backend=relay"},
		{"a,backend=isolated,sqpoll-thread=shared", "sqpoll-thread=shared has no meaning with backend=isolated"},
		{"a,sqpoll=off,sqpoll-cpu=1", "sqpoll-cpu has no meaning with sqpoll=off"},
		{"a,sqpoll-idle=1s,sqpoll=off", "sqpoll-idle has no meaning with sqpoll=off"},
		{"a,id=", "must be 1 to 31 characters"},
		{"a,id=" + strings.Repeat("x", 32), "must be 1 to 31 characters"},
		{"a,id=a b", "must be letters, digits"},
		{"a,id=é", "must be letters, digits"},
	} {
		if _, err := parseDisk(tt.in); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("parseDisk(%q): %v; want an error that says %q", tt.in, err, tt.says)
		}
	}
}

func drawDisk(t *rapid.T) diskSpec {
	d := diskSpec{
		Path:      rapid.StringMatching(`[a-z/., =-]{1,20}`).Filter(func(s string) bool { _, err := parseDisk(strings.ReplaceAll(s, ",", ",,")); return err == nil }).Draw(t, "path"),
		ID:        rapid.StringMatching(`([A-Za-z0-9._-]{1,31})?`).Draw(t, "id"),
		ReadOnly:  rapid.Bool().Draw(t, "readonly"),
		Direct:    rapid.Bool().Draw(t, "direct"),
		Backend:   rapid.SampledFrom([]string{backendAuto, backendRelay, backendPassthrough, backendIsolated}).Draw(t, "backend"),
		Rings:     rapid.IntRange(1, maxRings).Draw(t, "rings"),
		Entries:   1 << rapid.IntRange(0, 14).Draw(t, "entries"),
		SQPoll:    rapid.Bool().Draw(t, "sqpoll"),
		SQPollCPU: -1, SQPollThread: threadAuto,
	}
	if d.SQPoll {
		d.SQPollIdle = time.Duration(rapid.IntRange(0, 3600_000).Draw(t, "idle")) * time.Millisecond
		d.SQPollCPU = rapid.IntRange(-1, maxCPU).Draw(t, "cpu")
		of := []string{threadAuto, threadOwn, threadShared}
		if d.Backend == backendRelay || d.Backend == backendIsolated {
			of = of[:2]
		}
		d.SQPollThread = rapid.SampledFrom(of).Draw(t, "thread")
	}
	return d
}

func TestDisksReadBackAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawDisk(t)
		got, err := parseDisk(want.String())
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", want, diff)
		}
	})
}

func FuzzParseDisk(f *testing.F) {
	for _, s := range []string{
		"a.img", "a,,b,id=x", "a,rings=2,entries=64,sqpoll-idle=1s", "a,sqpoll=off", ",", "a,readonly=on,readonly=off", "id=1", "a\x00b", "\xff,id=\xff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDisk(s)
		if err != nil {
			if err.Error() == "" {
				t.Errorf("%q: an error without words", s)
			}
			return
		}
		switch {
		case d.Path == "",
			d.Rings < 0 || d.Rings > maxRings,
			d.Entries < 1 || d.Entries > maxEntries || d.Entries&(d.Entries-1) != 0,
			d.SQPollIdle < 0 || d.SQPollIdle > maxSQPollIdle || d.SQPollIdle%time.Millisecond != 0,
			d.SQPollCPU < -1 || d.SQPollCPU > maxCPU,
			len(d.ID) > maxIDLength:
			t.Fatalf("%q is read as %+v", s, d)
		}
		again, err := parseDisk(d.String())
		if err != nil || again != d {
			t.Fatalf("%q is read as %+v, written as %s and read back as %+v, %v", s, d, d, again, err)
		}
	})
}

func TestDisksGetDistinctIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l diskList
		l.disks = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) diskSpec {
			d := defaultDisk()
			d.ID = rapid.SampledFrom([]string{"", "", "disk0", "disk1", "disk2", "a", "b"}).Draw(t, "id")
			return d
		}), 0, 5).Draw(t, "disks")
		given := map[string]int{}
		for _, d := range l.disks {
			given[d.ID]++
		}
		delete(given, "")
		twice := false
		for _, n := range given {
			twice = twice || n > 1
		}
		named, err := l.named()
		if (err != nil) != twice {
			t.Fatalf("ids %v: error %v", given, err)
		}
		seen := map[string]bool{}
		for i, d := range named {
			if d.ID == "" || seen[d.ID] || l.disks[i].ID != "" && l.disks[i].ID != d.ID {
				t.Fatalf("disk %d of %v is named %q", i, l.disks, d.ID)
			}
			seen[d.ID] = true
		}
	})
}

func TestEveryDiskKeyIsInHelp(t *testing.T) {
	help := diskHelp()
	for key := range diskKeys {
		if !slices.Contains(diskKeyOrder, key) || !strings.Contains(help, "  "+key+"=") {
			t.Errorf("key %s is not in the help:\n%s", key, help)
		}
	}
	if len(diskKeyOrder) != len(diskKeys) {
		t.Errorf("%d keys in order, %d keys", len(diskKeyOrder), len(diskKeys))
	}
}

func TestDiskKeysComplete(t *testing.T) {
	got := completeDisk("a.img,readonly=on,b")
	if !slices.Contains(got, "a.img,readonly=on,backend=relay") || slices.ContainsFunc(got, func(s string) bool { return strings.HasSuffix(s, "readonly=off") }) {
		t.Errorf("completions %q; want backend's words and no second readonly", got)
	}
	if got := completeDisk("a.i"); got != nil {
		t.Errorf("a path is completed by keys: %q", got)
	}
}
