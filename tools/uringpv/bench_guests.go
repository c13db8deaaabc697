// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/vmm"
)

// guests measures several guests at the same time, each on a machine of its own in
// this process, and fills in a stretch for each. memory is the own memory, without
// guest RAM, of this process and of its ring owners while they run, in bytes.
func (b *bencher) guests(ctx context.Context, what setting, args string, all []stretch) (memory int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	meet := newMeeting(len(all))
	var running sync.WaitGroup
	for i := range all {
		running.Go(func() {
			if err := b.guest(ctx, what, args, &all[i], meet, cancel); err != nil {
				// The others would wait for it.
				cancel(err)
			}
		})
	}
	running.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	return meet.memory, nil
}

// guest measures one of them.
func (b *bencher) guest(ctx context.Context, what setting, args string, st *stretch, meet *meeting, fail func(error)) error {
	d := b.disk
	d.Rings, d.Entries = b.options.rings.value, 1<<bits.Len(uint(max(what.Depth-1, 0)))
	d.SQPollThread = threadOwn
	if what.Engine == enginePassthrough && b.options.sharesThread(what.Guests, runtime.NumCPU()) {
		d.SQPollThread = threadShared
	}
	m := machine{
		memory: b.memory(what.Depth), huge: b.options.hugePages, cpus: 1, disk: d, backend: vmm.Choice(what.Engine),
		cmdline: "guest=bench device=0 " + args, log: b.log, begin: func(vmm.Chosen) {},
		// Lines come on the vCPU's own thread.
		line: st.listen(func() (cpuTimes, error) { return meet.arrive(ctx, unix.Gettid()) }, fail),
	}
	out, err := m.run(ctx)
	if err == nil && out.exit.Code != 0 {
		err = out.gaveUp()
	}
	return err
}

// sharesThread says whether one SQ thread polls all rings of so many guests on so many
// CPUs.
func (o *benchOptions) sharesThread(guests, cpus int) bool {
	return o.sqThread.value == threadShared || o.sqThread.value == threadAuto && crowded(guests*o.rings.value, cpus)
}

// meeting is where guests wait for each other, on their vCPUs' threads: before the
// loop begins, and when it has ended, so that all of them run at the same time and
// none has gone when processor times are read.
type meeting struct {
	size int

	mu     sync.Mutex // guards what follows
	vcpus  map[int]bool
	here   int
	met    chan struct{} // closed when all are here
	now    cpuTimes
	memory int64
	err    error // of now and memory
}

func newMeeting(size int) *meeting {
	return &meeting{size: size, vcpus: map[int]bool{}, met: make(chan struct{})}
}

// arrive waits until all are here and returns the processor times of that moment,
// the same to all. tid is the thread of the vCPU that arrives. The error is the
// context's cause if it ends first.
func (m *meeting) arrive(ctx context.Context, tid int) (cpuTimes, error) {
	met := m.join(tid)
	select {
	case <-met:
	case <-ctx.Done():
		return cpuTimes{}, context.Cause(ctx)
	}
	// Nobody is late: who is not here yet keeps the next meeting from ending.
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now, m.err
}

// join counts one who has arrived. The last one opens the door.
func (m *meeting) join(tid int) (met chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vcpus[tid] = true
	met = m.met
	if m.here++; m.here == m.size {
		m.here, m.met = 0, make(chan struct{})
		m.look()
		close(met)
	}
	return met
}

// look reads what the guests have used. The lock is held. Memory is read once, before
// the loop, as that takes a while.
func (m *meeting) look() {
	pid := os.Getpid()
	if m.memory == 0 {
		if m.memory, m.err = memoryOfAll(pid); m.err != nil {
			return
		}
	}
	m.now, m.err = readCPU(pid, func(tid int, _ string) bool { return m.vcpus[tid] })
}

// memoryOfAll is the own memory of a process and of its children, in bytes.
func memoryOfAll(pid int) (int64, error) {
	sum, err := ownMemory(pid)
	if err != nil {
		return 0, err
	}
	for _, child := range children(pid) {
		bytes, err := ownMemory(child)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return 0, fmt.Errorf("memory of a ring owner: %w", err)
		}
		sum += bytes
	}
	return sum, nil
}
