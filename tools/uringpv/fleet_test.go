// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/uringpv/uringpv/internal/testutil"
)

func TestBarrierOpensWhenAllHaveCome(t *testing.T) {
	b := newBarrier(3)
	through := make(chan struct{})
	go func() {
		b.arrive()
		b.wait(context.Background())
		close(through)
	}()
	b.arrive()
	select {
	case <-through:
		t.Fatal("open with one missing")
	case <-time.After(10 * time.Millisecond):
	}
	b.arrive()
	<-through
	b.wait(context.Background())

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	newBarrier(1).wait(ctx) // nobody comes
}

// TestFleetHasItsRAMBeforeADiskBoundsIt: a disk that is passed through bounds every
// file of the process, and RAM is one.
func TestFleetHasItsRAMBeforeADiskBoundsIt(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	if !slices.Contains(workingBackends(t), backendPassthrough) {
		t.Skip("NOT TESTED: passthrough bounds what the process writes")
	}
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	machines := "machines:\n  - {guest: checksum, disk: \"" + disk + ",backend=passthrough\"}\n"
	large := filepath.Join(t.TempDir(), "large.img")
	if err := os.WriteFile(large, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	machines += "  - {guest: checksum, memory: 64M, disk: \"" + large + ",readonly=on,backend=relay\"}\n"
	c := newCommand(t, "run", "--config", configFile(t, machines))
	if status := c.finish(); status != exitOK {
		t.Errorf("exit status %d; stdout:\n%s\nstderr:\n%s", status, &c.stdout, &c.stderr)
	}
}
