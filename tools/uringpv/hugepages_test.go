// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/uringpv/uringpv/internal/testutil"
)

// hugePages is what a file of the host's pool of 2 MiB pages says.
func hugePages(file string) int {
	b, err := os.ReadFile("/sys/kernel/mm/hugepages/hugepages-2048kB/" + file)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(string(bytes.TrimSpace(b)))
	return n
}

// usedHugePages is how many pages of the pool are in use. Those that are free may leave
// the pool at any time, if it has become smaller meanwhile.
func usedHugePages() int { return hugePages("nr_hugepages") - hugePages("free_hugepages") }

// Guest RAM comes from the host's pool of huge pages and goes back to it; without
// enough of them the error says what to do.
func TestHugePages(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	const pages = defaultMemory / (2 << 20)
	disk := filepath.Join(t.TempDir(), "disk")
	b := make([]byte, 3<<20)
	random(b)
	if err := os.WriteFile(disk, b, 0o600); err != nil {
		t.Fatal(err)
	}
	// More than the pool has, and may grow to.
	if more := (hugePages("free_hugepages") + hugePages("nr_overcommit_hugepages") + pages) * 2 << 20; more <= maxMemory {
		too := newCommand(t, "run", "--guest", "checksum", "--huge-pages", "--memory", strconv.Itoa(more>>20)+"M", "--disk", disk+",readonly=on,backend=relay")
		if status := too.finish(); status != exitFailure {
			t.Errorf("more than the pool has: exit status %d", status)
		}
		too.says("huge pages")
	}

	if free := hugePages("free_hugepages"); free < pages {
		t.Skipf("NOT TESTED with huge pages: the pool has %d of %d (/proc/sys/vm/nr_hugepages; the nested machine has them)", free, pages)
	}
	for _, backend := range workingBackends(t) {
		before := usedHugePages()
		c := newCommand(t, "run", "--guest", "checksum", "--huge-pages", "--report", "json", "--disk", disk+",readonly=on,backend="+backend)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		most := before
		ended := make(chan struct{})
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			for {
				most = max(most, usedHugePages())
				select {
				case <-ended:
					return
				case <-time.After(time.Millisecond):
				}
			}
		}()
		status := c.finish()
		close(ended)
		<-watched
		if r := c.report(); status != exitOK || len(r.Runs) != 1 || r.Runs[0].SHA256 != sha256Of(t, disk) {
			t.Errorf("%s: exit status %d, %+v: %s", backend, status, r, &c.stderr)
		}
		if most < before+pages {
			t.Errorf("%s: %d pages of the pool were in use, and %d at most while the guest ran with %d", backend, before, most, pages)
		}
		// The kernel frees a ring, and what it has pinned, a while after its process.
		for end := time.Now().Add(20 * time.Second); usedHugePages() > before && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		if used := usedHugePages(); used > before {
			t.Errorf("%s: %d pages of the pool are in use afterwards, %d before", backend, used, before)
		}
	}
}
