// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/disk"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

// TestPolledRings: completions are looked for by the kernel's thread or, where there is
// none, by the ring's own; also those of a ring that ends.
func TestPolledRings(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.NeedIOUring(t)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := disk.OpenDisk(path, disk.Options{Direct: true})
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED: O_DIRECT: %v", err)
	}
	defer d.Close()
	if !d.File().Poll {
		if os.Getenv("URINGPV_NESTED") != "" && os.Getenv("REQUIRE_IO_URING") == "1" {
			t.Fatal("the machine's disk does not poll for completions")
		}
		t.Skip("SKIPPED, NOT TESTED: no disk here polls for completions")
	}
	for name, inline := range map[string]bool{"the kernel's thread": false, "the ring's thread": true} {
		t.Run(name, func(t *testing.T) {
			g := ringtest.NewRig(t, func(t testing.TB, m *memmap.Memory, files []uringpv.File) uringpv.Backend {
				b := newBackend(t, m, files).(*Backend)
				b.inline = inline
				return b
			}, d.File())
			for round := range 20 {
				r := g.Setup(t, ringtest.Config{SQ: 64, Flags: hostring.SetupSQPoll | hostring.SetupIOPoll})
				for i := range uint64(32) {
					r.MustPut(t, &hostring.SQE{Opcode: hostring.OpReadFixed, Flags: hostring.SQEFixedFile, Addr: g.Addr(i * 4096), Len: 4096, Off: i * 4096, UserData: i})
				}
				r.Submit()
				for range 32 * (round % 2) {
					if c := r.Wait(t); c.Res != 4096 {
						t.Fatalf("read %d: %d", c.UserData, c.Res)
					}
				}
				r.Destroy(t)
			}
		})
	}
}
