// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
)

// TestRequestsThatNoCancelReachesEndWithTheirRing: as drains are on kernels before 6.16,
// and all that waits is on kernels before 6.0, which know no cancel for all. The ring is
// closed over them, and when Close has returned nothing of it touches guest RAM.
func TestRequestsThatNoCancelReachesEndWithTheirRing(t *testing.T) {
	testutil.NeedIOUring(t)
	for _, reach := range []struct {
		name   string
		cancel func(time.Duration) error
		waits  bool // for stubborn
	}{
		{"no cancel reaches them", func(time.Duration) error { return nil }, true},
		{"the kernel knows no such cancel", func(time.Duration) error { return unix.EINVAL }, false},
	} {
		for _, mode := range modes {
			t.Run(reach.name+"/"+mode, func(t *testing.T) {
				testutil.NoLeaks(t)
				b := relayBench(t, mode, slices.Concat(pipe(t), pair(unix.SOCK_STREAM, abi.FileStream)(t)))
				r := b.ring.(*Ring)
				b.fill(0, 4096, 'x')
				m := sqe(hostring.OpRecvmsg, fixed, 2)
				m.FD, m.Addr = 2, b.msg(8192, 0, 0, b.vec(8448, [2]uint64{2048, 5}), 1)
				drained := b.rw(hostring.OpRead, drain, 3, 0, 0, 3000, 5)
				b.submit([]hostring.SQE{b.rw(hostring.OpRead, fixed, 1, 0, 0, 1000, 5), m, drained})
				b.none()
				if err := r.inLoop(func() error {
					if r.slots.used != 3 {
						t.Errorf("%d requests are in flight, want 3", r.slots.used)
					}
					r.cancelAll = reach.cancel
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				short, cancel := context.WithTimeout(t.Context(), stubborn/10)
				defer cancel()
				if err := r.Close(short); reach.waits && !errors.Is(err, unix.ETIMEDOUT) {
					t.Errorf("Close before the ring is given up: %v, want ETIMEDOUT", err)
				}
				start := time.Now()
				if err := r.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took > stubborn+late {
					t.Errorf("Close took %v", took)
				}
				if !r.cut || r.end != nil || len(r.backend.ends) != 0 {
					t.Errorf("cut %v, the sentinel waits here: %v, with the backend: %v; want a ring that was cut over its requests, and that the kernel has freed",
						r.cut, r.end != nil, len(r.backend.ends) != 0)
				}
				// What they waited for comes, and finds nobody.
				for _, fd := range []int{b.peer(1), b.peer(3)} {
					if n, err := unix.Write(fd, []byte("hello")); n != 5 || err != nil {
						t.Errorf("write: %d, %v", n, err)
					}
				}
				time.Sleep(settle)
				if !bytes.Equal(b.data[:4096], bytes.Repeat([]byte{'x'}, 4096)) {
					t.Error("guest RAM has changed after the ring's end")
				}
				for _, fd := range []int{b.peer(0), b.peer(2)} {
					var left [8]byte
					if n, err := unix.Read(fd, left[:]); n != 5 || err != nil || string(left[:5]) != "hello" {
						t.Errorf("a request took what came after its ring's end: %d, %v, %q", n, err, left)
					}
				}
			})
		}
	}
}
