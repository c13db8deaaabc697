// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/uringpv/uringpv/device/uringpv/passthrough"
)

// TestLinuxDisksOfDifferentBackends: auto gives each disk the fastest backend that can
// serve it, the next one where that cannot, and says so without being asked.
func TestLinuxDisksOfDifferentBackends(t *testing.T) {
	guests := linuxGuests(t)
	larger := "passthrough"
	if err := passthrough.Supported(); err != nil {
		t.Logf("no passthrough on this host: %v", err)
		larger = "relay"
	}
	r := linuxRun{guest: guests[len(guests)-1], cpus: 2, backend: "auto", disks: []string{image(t, 8<<20), image(t, 16<<20)}}
	// The monitor bounds what it writes to any file at the size of the disk that is passed
	// through: the smaller one could grow.
	r.script = `set -e
		for d in 0 1; do
			echo "upv$d: $(cat /sys/block/upv$d/size), $(cat /sys/block/upv$d/device/uringpv/backend)"
			dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null
			dd if=/tmp/data of=/dev/upv$d bs=1M oflag=direct conv=fsync 2>/dev/null
			dd if=/dev/upv$d of=/tmp/back bs=1M count=4 iflag=direct 2>/dev/null
			cmp /tmp/data /tmp/back
		done`
	c := r.prepare(t)
	status := c.finish()
	console, said := c.stdout.String(), c.stderr.String()
	scan(t, console)
	if status != exitOK || !strings.Contains(console, "init: run: exit 0") || !strings.Contains(console, "upv1: 32768, "+larger) {
		t.Errorf("exit status %d, want upv1 on %s; console:\n%s", status, larger, console)
	}
	for _, disk := range []string{"disk0", "disk1"} {
		var line string
		for l := range strings.Lines(said) {
			if strings.Contains(l, "not the fastest backend") && strings.Contains(l, "device="+disk+" ") {
				line = l
			}
		}
		if fastest := disk == "disk1" && larger == "passthrough"; fastest != (line == "") {
			t.Errorf("%s has the fastest backend: %v; the run says %q", disk, fastest, line)
		} else if line != "" && !strings.Contains(line, "why=") {
			t.Errorf("%s: no reason in %q", disk, line)
		}
	}
	if t.Failed() {
		t.Logf("stderr:\n%s", said)
	}
}
