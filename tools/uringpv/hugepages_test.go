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

// freeHugePages is how many 2 MiB pages the host's pool has free.
func freeHugePages() int {
	b, err := os.ReadFile("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
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
	too := newCommand(t, "run", "--guest", "checksum", "--huge-pages", "--memory", strconv.Itoa((freeHugePages()+pages)*2)+"M", "--disk", disk+",readonly=on,backend=relay")
	if status := too.finish(); status != exitFailure {
		t.Errorf("more than the pool has: exit status %d", status)
	}
	too.says("huge pages")

	if free := freeHugePages(); free < pages {
		t.Skipf("NOT TESTED with huge pages: the pool has %d of %d (/proc/sys/vm/nr_hugepages; the nested machine has them)", free, pages)
	}
	for _, backend := range workingBackends(t) {
		before := freeHugePages()
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
				least = min(least, freeHugePages())
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
		for end := time.Now().Add(20 * time.Second); freeHugePages() < before && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		if free := freeHugePages(); free < before {
			t.Errorf("%s: the pool has %d pages afterwards, %d before", backend, free, before)
		}
	}
}
