// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/uringpv/uringpv/guest"
	"github.com/uringpv/uringpv/images"
)

// runLiburing runs the programs of a list, lines "tries seconds program arguments",
// each in a directory and a process group of its own, as often as that if it fails,
// and says how each ended.
const runLiburing = `n=0
while read -r tries limit program args; do
	mkdir /tmp/w
	cd /tmp/w
	before=$(cut -d' ' -f1 /proc/uptime)
	status=1
	while [ $status != 0 ] && [ "$tries" -gt 0 ]; do
		# shellcheck disable=SC2086 # words
		setsid timeout -s KILL "$limit" "/liburing/$program" $args >/tmp/out 2>&1 </dev/null &
		wait $!
		status=$?
		kill -9 -$! 2>/dev/null
		tries=$((tries - 1))
	done
	echo "== $n ended $status from $before to $(cut -d' ' -f1 /proc/uptime)"
	head -c 4000 /tmp/out | tr -cd '\n -~'
	echo
	echo "== $n"
	cd /
	rm -r /tmp/w
	n=$((n + 1))
done </liburing/list
`

// Time limits of a program that ends, and of one that does not, in seconds.
const (
	liburingLimit = 60
	hangLimit     = 10
)

// timedTries are the runs of a program that measures times: the machine is emulated.
const timedTries = 3

// ended is a program's end in what runLiburing says.
var ended = regexp.MustCompile(`(?ms)^== (\d+) ended (\d+) from ([\d.]+) to ([\d.]+)\r?$(.*?)^== (\d+)\r?$`)

// Programs of liburing's, built for the port, end as guest/liburing/programs has it.
func TestLinuxLiburing(t *testing.T) {
	dir := os.Getenv("URINGPV_TEST_LIBURING")
	if dir == "" {
		t.Skip("NOT TESTED: URINGPV_TEST_LIBURING names no directory with programs on liburing (make test-nested-full sets it)")
	}
	version, err := os.ReadFile(filepath.Join(dir, images.LiburingVersionFile))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(version), guest.LiburingVersion+"-") {
		t.Errorf("liburing %s: the list of programs is that of %s", bytes.TrimSpace(version), guest.LiburingVersion)
	}
	programs, err := guest.LiburingPrograms()
	if err != nil {
		t.Fatal(err)
	}
	programs = slices.DeleteFunc(programs, func(p guest.LiburingProgram) bool { return p.Result == "built" })
	guests := linuxGuests(t)
	each(t, guests[len(guests)-1:], []string{backendRelay}, []int{2}, func(t *testing.T, r linuxRun) {
		r.memory, r.timeout = "1G", 9*time.Minute
		r.files = map[string]string{}
		var list strings.Builder
		for _, p := range programs {
			b, err := os.ReadFile(filepath.Join(dir, p.Name()))
			if err != nil {
				t.Fatal(err)
			}
			r.files["liburing/"+p.Name()] = string(b)
			tries, limit := 1, liburingLimit
			if p.Timed {
				tries = timedTries
			}
			if p.Result == "hang" {
				limit = hangLimit
			}
			fmt.Fprintln(&list, tries, limit, p.Name(), strings.Join(p.Args, " "))
		}
		r.files["liburing/list"] = list.String()
		r.script = runLiburing
		tmp := t.TempDir()
		for name, size := range map[string]int{"a": 1 << 20, "b": 1 << 20, "c": 1 << 20, "d": 2500, "e": 2500} {
			b := make([]byte, size)
			random(b)
			if err := os.WriteFile(filepath.Join(tmp, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
			r.args = append(r.args, "--file", "name="+name+",path="+filepath.Join(tmp, name))
		}
		r.args = append(r.args, "--export-backend", r.backend, "--export-rings", strconv.Itoa(maxRings))
		console := r.run(t)
		ends := ended.FindAllStringSubmatch(console, -1)
		if len(ends) != len(programs) {
			t.Fatalf("%d programs of %d have ended", len(ends), len(programs))
		}
		for i, p := range programs {
			checkLiburing(t, p, ends[i][1:])
			if p.Result == "pass" && len(p.Args) == 2 { // a copy
				sameFile(t, p, filepath.Join(tmp, filepath.Base(p.Args[0])), filepath.Join(tmp, filepath.Base(p.Args[1])))
			}
		}
	})
}

// checkLiburing compares how p has ended, in the words of the regular expression
// ended, with what is known of it.
func checkLiburing(t *testing.T, p guest.LiburingProgram, end []string) {
	t.Helper()
	status, said := end[1], strings.ReplaceAll(strings.TrimSpace(end[4]), "\r", "")
	result := map[string]string{"0": "pass", "77": "skip", "137": "hang"}[status]
	if result == "" {
		result = "fail"
	}
	from, _ := strconv.ParseFloat(end[2], 64)
	to, _ := strconv.ParseFloat(end[3], 64)
	t.Logf("%s: %s after %.1f s", p.File, result, to-from)
	if result != p.Result || !strings.Contains(said, p.Says) {
		t.Errorf("%s: %s (status %s), want %s and %q. It said:\n%s", p.File, result, status, p.Result, p.Says, said)
	}
}

// sameFile checks what a program has copied.
func sameFile(t *testing.T, p guest.LiburingProgram, from, to string) {
	t.Helper()
	a, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("%s %v has not copied the file", p.File, p.Args)
	}
}
