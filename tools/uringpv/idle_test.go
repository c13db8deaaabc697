// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
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
	end := restingGuests(path, backend, thread, guests)
	time.Sleep(idleSettles)
	look := func() cpuTimes {
		now, e := readCPU(os.Getpid(), func(int, string) bool { return false })
		err = errors.Join(err, e)
		return now
	}
	before := look()
	time.Sleep(idleStretch)
	u := look().use(before)
	return u.VMM + u.Kernel, errors.Join(err, end())
}

// restingGuests runs guests, and returns when all of them have come to rest. end ends
// them; its error says which have not, or have ended by themselves.
func restingGuests(path, backend, thread string, guests int) (end func() error) {
	ctx, cancel := context.WithCancelCause(context.Background())
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
	return func() error {
		cancel(done)
		running.Wait()
		return errors.Join(errs...)
	}
}

// A guest at rest leaves its SQ thread asleep: sooner or later there is a while in which
// none uses any time.
func TestGuestAtRestLetsItsSQThreadSleep(t *testing.T) {
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ backend, thread string }{{backendPassthrough, threadOwn}, {backendPassthrough, threadShared}, {backendIsolated, threadOwn}} {
		if !slices.Contains(workingBackends(t), c.backend) {
			continue
		}
		end := restingGuests(disk, c.backend, c.thread, 2)
		slept := false
		for until := time.Now().Add(30 * time.Second); !slept && time.Now().Before(until); {
			before, err := readCPU(os.Getpid(), func(int, string) bool { return false })
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
			after, err := readCPU(os.Getpid(), func(int, string) bool { return false })
			if err != nil {
				t.Fatal(err)
			}
			if before.kernel == 0 {
				t.Fatalf("%s: guests at rest have no SQ thread", c.backend)
			}
			slept = after.kernel == before.kernel
		}
		if !slept {
			t.Errorf("%s, %s: the SQ threads of guests at rest never sleep", c.backend, c.thread)
		}
		if err := end(); err != nil {
			t.Errorf("%s: %v", c.backend, err)
		}
	}
}
