// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/uringpv/uringpv/guest/bare"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/vmm"
)

// What guests at rest are looked at for, after they have come to rest.
const (
	idleSettles = 3 * time.Second
	idleStretch = 5 * time.Second
)

// BenchmarkIdle is what guests cost that have done an I/O and have nothing to do: the
// processor time of this process and of its ring owners, for each guest.
func BenchmarkIdle(b *testing.B) {
	testutil.NeedKVM(b)
	testutil.NeedIOUring(b)
	disk := filepath.Join(b.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ backend, thread string }{
		{backendPassthrough, threadOwn}, {backendPassthrough, threadShared}, {backendIsolated, threadOwn}, {backendRelay, threadOwn},
	} {
		for _, guests := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s-%s/%d", c.backend, c.thread, guests), func(b *testing.B) {
				var all []float64
				for range b.N {
					use, err := idleUse(disk, c.backend, c.thread, guests)
					if err != nil {
						b.Fatal(err)
					}
					all = append(all, 100*use/float64(guests))
				}
				b.ReportMetric(median(all), "%-of-a-CPU/guest")
			})
		}
	}
}

// idleUse is how many processors so many guests at rest keep busy.
func idleUse(path, backend, thread string, guests int) (use float64, err error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	done := errors.New("done")
	var running, resting sync.WaitGroup
	resting.Add(guests)
	errs := make([]error, guests)
	for i := range guests {
		running.Go(func() {
			d := defaultDisk()
			d.Path, d.ID, d.ReadOnly, d.SQPollThread = path, "disk0", true, thread
			var once sync.Once
			m := machine{
				memory: defaultMemory, cpus: 1, disk: d, backend: vmm.Choice(backend), cmdline: "guest=idle device=0",
				log: slog.New(slog.DiscardHandler), begin: func(vmm.Chosen) {},
				line: func(l bare.Line) {
					if l.Kind == bare.Value && l.Name == "idle" {
						once.Do(resting.Done)
					}
				},
			}
			out, err := m.run(ctx)
			if !errors.Is(err, done) {
				errs[i] = errors.Join(err, fmt.Errorf("the guest ended by itself, %v", out.exit))
				once.Do(resting.Done)
			}
		})
	}
	resting.Wait()
	time.Sleep(idleSettles)
	look := func() cpuTimes {
		now, e := readCPU(os.Getpid(), func(int, string) bool { return false })
		err = errors.Join(err, e)
		return now
	}
	before := look()
	time.Sleep(idleStretch)
	u := look().use(before)
	cancel(done)
	running.Wait()
	return u.VMM + u.Kernel, errors.Join(err, errors.Join(errs...))
}
