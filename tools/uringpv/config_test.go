// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/uringpv/uringpv/internal/testutil"
)

func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "machines.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigKeysAreRunsFlags(t *testing.T) {
	machines, err := readConfig(configFile(t, `
machines:
  - name: first
    kernel: vmlinuz
    initrd: [one, two]
    disk: &disks [a.img, "b,,c.img,readonly=on"]
    cpus: 4
    root: disk1
    eventfd: name=e
  - {guest: checksum, disk: *disks, memory: 64M, timeout: 3s}
  - {}
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(machines) != 3 || machines[0].name != "first" || machines[1].name != "m1" || machines[2].name != "m2" {
		t.Fatalf("%+v", machines)
	}
	o := machines[0].options
	if o.linux.kernel != "vmlinuz" || strings.Join(o.linux.initrds, " ") != "one two" || o.cpus.value != 4 || o.memory != defaultLinuxMemory || len(o.exports.list) != 1 {
		t.Errorf("%+v", o)
	}
	for _, o := range []*runOptions{o, machines[1].options} {
		if d := o.disks.disks; len(d) != 2 || d[0].Path != "a.img" || d[1].Path != "b,c.img" || !d[1].ReadOnly {
			t.Errorf("disks %+v", d)
		}
	}
	if o := machines[1].options; o.guest.value != guestChecksum || o.memory != 64<<20 || o.timeout.value.Seconds() != 3 {
		t.Errorf("%+v", o)
	}
}

func TestJSONIsAConfigToo(t *testing.T) {
	machines, err := readConfig(configFile(t, `{"machines": [{"name": "j", "cpus": 2, "disk": "x", "guest": "checksum"}]}`))
	if err != nil || len(machines) != 1 || machines[0].name != "j" || machines[0].options.cpus.value != 2 {
		t.Errorf("%+v, %v", machines, err)
	}
}

func TestConfigErrorsNameTheLineAndWhatWouldBeRight(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "empty"},
		{"[", "line 1"},
		{"machines: []", ":1: machines: must be a list of 1 to 63 machines"},
		{"machines: 3", "must be a list"},
		{"- a", `must be an object with the key "machines"`},
		{"guests: []", `guests: unknown key; there is "machines"`},
		{"machines: [{}]\nmachines: [{}]", ":2: machines: a second time"},
		{"machines: [{}]\n---\nmachines: [{}]", "more than one document"},
		{"machines:\n  - 3", ":2: machine 0: must be an object"},
		{"machines:\n  - name: a\n    fish: b", ":3: machine a: fish: no such key"},
		{"machines:\n  - name: a\n    verbose: 1", "verbose: no such key"},
		{"machines:\n  - config: a", "config: no such key"},
		{"machines:\n  - name: a b", `:2: name "a b": must be`},
		{"machines:\n  - name: a\n  - name: a", ":3: machine a: there are two"},
		{"machines:\n  - cpus: 0", `:2: machine m0: --cpus "0": must be a whole number from 1 to 64`},
		{"machines:\n  - cpus: [1, 2]", "cpus: takes one value"},
		{"machines:\n  - cpus: {}", "cpus: must be a value"},
		{"machines:\n  - cpus:", "cpus: must be a value"},
		{"machines:\n  - cpus: 1\n    cpus: 2", ":3: machine m0: cpus: a second time"},
		{"machines:\n  - guest: checksum", ":2: machine m0: --guest checksum needs a disk"},
		{"machines:\n  - disk: x,fish=1", `disk "x,fish=1"`},
		{"machines:\n  - initrd: x", "--initrd without --kernel"},
	} {
		_, err := readConfig(configFile(t, c.text))
		if err == nil || exitStatus(err) != exitUsage || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
	if _, err := readConfig("missing.yaml"); err == nil || exitStatus(err) != exitFailure || !strings.Contains(err.Error(), "missing.yaml") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("machines: [{name: a, kernel: k, disk: [x, y], cpus: 2}]")
	f.Add(`{"machines": [{"guest": "selftest"}, {}]}`)
	f.Add("machines: &a [*a]")
	f.Add("machines: [{<<: {cpus: 1}}]")
	f.Fuzz(func(t *testing.T, text string) {
		machines, err := readConfig(configFile(t, text))
		if (err == nil) == (len(machines) == 0) {
			t.Errorf("%d machines, %v", len(machines), err)
		}
	})
}

// Several machines at once: each one's lines have its name, and the one that fails
// is the only one that does.
func TestMachinesOfAConfigRunAtOnce(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(disk, bytes.Repeat([]byte("uringpv"), 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	path := configFile(t, `
machines:
  - {name: sum, guest: checksum, disk: `+disk+`}
  - {name: missing, guest: checksum, disk: `+disk+`.not}
  - {name: again, guest: checksum, disk: "`+disk+`,backend=relay"}
`)
	c := newCommand(t, "run", "--config", path)
	if status := c.finish(); status != exitFailure {
		t.Errorf("exit status %d", status)
	}
	sums := map[string]string{}
	for line := range strings.Lines(c.stdout.String()) {
		name, rest, ok := strings.Cut(line, " | ")
		if !ok {
			t.Errorf("a line of no machine's: %q", line)
		}
		if sum, _, ok := strings.Cut(rest, "  "+disk); ok {
			sums[strings.TrimSpace(name)] = sum
		}
	}
	if len(sums) != 2 || len(sums["sum"]) != 64 || sums["sum"] != sums["again"] {
		t.Errorf("sums %v; stdout:\n%s", sums, &c.stdout)
	}
	if e := c.stderr.String(); !strings.Contains(e, "missing | uringpv: "+disk+".not: no such file") || !strings.Contains(e, "uringpv: 1 of 3 machines failed") {
		t.Errorf("stderr: %s", e)
	}

	c = newCommand(t, "run", "--config", path, "--report", "json")
	if status := c.finish(); status != exitFailure {
		t.Errorf("exit status %d", status)
	}
	var r fleetReport
	if err := json.Unmarshal(c.stdout.Bytes(), &r); err != nil || len(r.Machines) != 3 {
		t.Fatalf("%v: %s", err, &c.stdout)
	}
	for i, name := range []string{"sum", "missing", "again"} {
		m := r.Machines[i]
		if m.Name != name || (m.Error != "") != (name == "missing") {
			t.Errorf("%+v", m)
		}
		if name == "missing" {
			continue
		}
		var one report
		if err := json.Unmarshal(m.Report, &one); err != nil || one.SHA256 != sums[name] {
			t.Errorf("%s: %v, sum %s, want %s", name, err, one.SHA256, sums[name])
		}
	}
}

// Disks of many machines share an SQ thread, those of few do not, and who says what is
// wanted gets that.
func TestManyMachinesShareSQThreads(t *testing.T) {
	for _, c := range []struct {
		rings, cpus int
		want        bool
	}{{1, 1, false}, {2, 1, true}, {2, 2, true}, {2, 4, false}, {3, 4, true}, {32, 64, false}, {33, 64, true}} {
		if got := crowded(c.rings, c.cpus); got != c.want {
			t.Errorf("%d rings on %d CPUs share: %v", c.rings, c.cpus, got)
		}
	}
	for _, c := range []struct {
		kernel string
		cpus   int
		disks  []string
		want   int
	}{
		{"", 4, nil, 1},
		{"", 4, []string{"a", "b,rings=8"}, 1},
		{"vmlinuz", 4, nil, 0},
		{"vmlinuz", 1, []string{"a"}, 1},
		{"vmlinuz", 4, []string{"a", "b,rings=2", "c,rings=9"}, 10},
	} {
		o := newRunOptions()
		o.cpus.value, o.linux.kernel = c.cpus, c.kernel
		for _, d := range c.disks {
			if err := o.disks.Set(d); err != nil {
				t.Fatal(err)
			}
		}
		if got := o.pollers(); got != c.want {
			t.Errorf("--kernel %q --cpus %d --disk %q: %d rings in use, want %d", c.kernel, c.cpus, c.disks, got, c.want)
		}
	}
	var l diskList
	for _, s := range []string{"a", "b,sqpoll-thread=own", "c,sqpoll-thread=shared"} {
		if err := l.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	shares := func() (all []bool) {
		for _, d := range l.disks {
			all = append(all, d.device(nil, backendPassthrough).SQThreadShared)
		}
		return all
	}
	if got := shares(); !slices.Equal(got, []bool{false, false, true}) {
		t.Errorf("few: %v", got)
	}
	shareThreads(l.disks)
	if got := shares(); !slices.Equal(got, []bool{true, false, true}) {
		t.Errorf("many: %v", got)
	}
}

func TestCrowdedFleetSharesOneSQThread(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	if !slices.Contains(workingBackends(t), backendPassthrough) {
		t.Skip("this host has no passthrough")
	}
	machines := runtime.NumCPU()/2 + 1
	if machines > 16 {
		t.Skipf("NOT TESTED: more machines than half of %d CPUs are too many for a test", runtime.NumCPU())
	}
	machines = max(machines, 2)
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	for options, want := range map[string]int{"": 1, ",sqpoll-thread=own": machines} {
		config := "machines:\n"
		for range machines {
			config += `  - {guest: checksum, disk: "` + disk + `,readonly=on,backend=passthrough` + options + "\"}\n"
		}
		if often, seen := usualSQThreads(t, newCommand(t, "run", "--config", configFile(t, config))); often != want {
			t.Errorf("%d machines%s have mostly %d SQ threads, want %d; times for each number: %v", machines, options, often, want, seen)
		}
	}
}

func TestATimeoutEndsAllMachines(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	path := configFile(t, "machines: [{guest: selftest, memory: 64M}, {guest: selftest, memory: 64M}]")
	c := newCommand(t, "run", "--config", path, "--timeout", "300ms")
	if status := c.finish(); status != exitFailure || !strings.Contains(c.stderr.String(), "--timeout 300ms is over") {
		t.Errorf("exit status %d, stderr %s", status, &c.stderr)
	}
}
