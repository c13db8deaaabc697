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
		before := hugePages("free_hugepages")
		c := newCommand(t, "run", "--guest", "checksum", "--huge-pages", "--report", "json", "--disk", disk+",readonly=on,backend="+backend)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		least := before
		ended := make(chan struct{})
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			for {
				least = min(least, hugePages("free_hugepages"))
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
		if least > before-pages {
			t.Errorf("%s: the pool had %d pages, and at least %d while the guest ran with %d", backend, before, least, pages)
		}
		// The kernel frees a ring, and what it has pinned, a while after its process.
		for end := time.Now().Add(20 * time.Second); hugePages("free_hugepages") < before && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		if free := hugePages("free_hugepages"); free < before {
			t.Errorf("%s: the pool has %d pages afterwards, %d before", backend, free, before)
		}
	}
}
