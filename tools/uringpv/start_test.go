// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/testutil"
)

// BenchmarkFirstIO is the time from exec to the guest's first completed I/O, and the
// program's own resident memory at that moment: all but guest RAM. It is seen from
// outside: by the kernel's note that the disk was read (inotify(7)).
func BenchmarkFirstIO(b *testing.B) {
	testutil.NeedKVM(b)
	testutil.NeedIOUring(b)
	program := filepath.Join(b.TempDir(), "uringpv")
	build := exec.Command("go", "build", "-trimpath", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build does
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("go build: %v: %s", err, out)
	}
	disk := filepath.Join(b.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 16<<20), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, backend := range []string{backendPassthrough, backendIsolated, backendRelay} {
		for _, memory := range []string{"32M", "256M"} {
			b.Run(backend+"/"+memory, func(b *testing.B) {
				var times, own []float64
				for range b.N {
					took, bytes, err := firstIO(program, disk, backend, memory)
					if err != nil {
						b.Fatal(err)
					}
					times, own = append(times, float64(took.Microseconds())/1000), append(own, float64(bytes)/(1<<20))
				}
				b.ReportMetric(median(times), "ms-to-first-I/O")
				b.ReportMetric(median(own), "MiB-own")
			})
		}
	}
}

// firstIO runs a guest that reads the disk.
func firstIO(program, disk, backend, memory string) (took time.Duration, own int64, err error) {
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, disk, unix.IN_ACCESS); err != nil {
		return 0, 0, err
	}
	cmd := exec.Command(program, "run", "--guest", "checksum", "--memory", memory, "--disk", disk+",readonly=on,backend="+backend)
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	defer func() {
		if e := cmd.Wait(); e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), e))
		}
	}()
	poll := []unix.PollFd{{Fd: int32(watch), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 10_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		if n == 0 {
			return 0, 0, errors.New("the guest has not read the disk")
		}
		break
	}
	took = time.Since(begin)
	own, err = memoryOfAll(cmd.Process.Pid)
	return took, own, err
}
