// SPDX-License-Identifier: Apache-2.0

package isolated

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
)

func BenchmarkIsolated(b *testing.B) { ringtest.Bench(b, newTestBackend) }
func BenchmarkNative(b *testing.B)   { ringtest.BenchNative(b) }

// unreclaimable is how many bytes of slabs the kernel cannot give back.
func unreclaimable(b *testing.B) int64 {
	b.Helper()
	all, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(all)) {
		var n int64
		if _, err := fmt.Sscanf(line, "SUnreclaim: %d kB", &n); err == nil {
			return n << 10
		}
	}
	b.Fatal("/proc/meminfo has no SUnreclaim")
	return 0
}

// BenchmarkMemoryOfWaitingRequests is what one request that waits for ever costs the
// host's kernel, as far as its slabs tell: the whole host's, so let nothing else run.
func BenchmarkMemoryOfWaitingRequests(b *testing.B) {
	for _, k := range []struct {
		name    string
		drained bool // behind a drain that waits
		link    bool // behind one that waits, in chains of 64
		op      uint8
	}{
		{"POLL_ADD", false, false, hostring.OpPollAdd},
		{"TIMEOUT", false, false, hostring.OpTimeout},
		{"NOP behind a drain", true, false, hostring.OpNop},
		{"READ_FIXED behind a drain", true, false, hostring.OpReadFixed},
		{"TIMEOUT behind a drain", true, false, hostring.OpTimeout},
		{"WRITEV of 1024 iovecs behind a drain", true, false, hostring.OpWritev},
		{"SENDMSG of 1024 iovecs behind a drain", true, false, hostring.OpSendmsg},
		{"NOP behind a link", false, true, hostring.OpNop},
	} {
		b.Run(k.name, func(b *testing.B) {
			g := ringtest.NewRig(b, newTestBackend, ringtest.Disk(b, 1<<20, false), ringtest.Pipe(b))
			many := 100_000
			if k.op == hostring.OpWritev || k.op == hostring.OpSendmsg {
				many /= 10
			}
			var sum int64
			for b.Loop() {
				d := g.Setup(b, ringtest.Config{SQ: 4096, Flags: hostring.SetupSQPoll})
				poll := op(hostring.OpPollAdd, 0, 0)
				poll.FD, poll.OpFlags = 1, unix.POLLIN
				s := op(k.op, 0, 0)
				switch k.op {
				case hostring.OpPollAdd:
					s = poll
				case hostring.OpTimeout:
					le.PutUint64(g.Data[atTime:], 1<<20)
					le.PutUint64(g.Data[atTime+8:], 0)
					s.Addr, s.Len = g.Addr(atTime), 1
				case hostring.OpReadFixed:
					s.FD, s.Addr, s.Len = 0, g.Addr(atData), 512
				case hostring.OpWritev:
					s.FD, s.Addr, s.Len = 0, g.Addr(atData), 1024 // of no bytes each
				case hostring.OpSendmsg:
					s.FD, s.Addr = 1, msg(g, 0, 0, g.Addr(atData), 0, 0)
					le.PutUint64(g.Data[atMsg+24:], 1024)
				}
				before := unreclaimable(b)
				for i := range many {
					next := s
					switch {
					case k.drained && i == 0:
						next = poll
					case k.drained && i == 1:
						next.Flags |= hostring.SQEIODrain
					case k.link && i%64 == 0:
						next = poll
						next.Flags |= hostring.SQEIOLink
					case k.link && i%64 != 63:
						next.Flags |= hostring.SQEIOLink
					}
					d.MustPut(b, &next)
					if i%64 == 63 {
						d.Submit()
					}
				}
				d.Submit()
				time.Sleep(200 * time.Millisecond)
				sum += unreclaimable(b) - before
				b.StopTimer()
				d.Destroy(b)
				b.StartTimer()
			}
			b.ReportMetric(float64(sum)/float64(many)/float64(b.N), "kernel-B/request")
		})
	}
}
