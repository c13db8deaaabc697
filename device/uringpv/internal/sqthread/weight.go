// SPDX-License-Identifier: Apache-2.0

package sqthread

import (
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
)

// begun waits until a new ring's SQ thread runs and returns its id, -1 if it cannot be
// found out. Before, the kernel names its maker instead.
func begun(r *hostring.Ring) (tid int) {
	sqe, ok := r.SQE()
	if !ok {
		return -1
	}
	*sqe = hostring.SQE{Opcode: hostring.OpNop}
	if _, err := r.Submit(); err != nil {
		return -1
	}
	if err := r.WaitCQE(); err != nil {
		return -1
	}
	var cqes [1]hostring.CQE
	r.Reap(cqes[:])
	// While the thread has the ring's lock the kernel does not tell.
	for range 20 {
		if info, err := r.Info(); err == nil && info.SQThread > 0 {
			return ours(info.SQThread)
		}
		time.Sleep(100 * time.Microsecond)
	}
	return -1
}

// ours is tid if that is an SQ thread of this process, else -1: in a PID namespace the
// kernel's number may be that of a thread which has nothing to do with it.
func ours(tid int) int {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/comm", tid))
	if err != nil || !strings.HasPrefix(string(comm), "iou-sqp-") {
		return -1
	}
	return tid
}

// weigh gives the thread its weight in the scheduler. What it does is the work of all the
// threads that its rings would have had, and with the weight of one it would wait behind
// each vCPU that polls. Who may not lower a nice value (capabilities(7), CAP_SYS_NICE;
// RLIMIT_NICE) does without.
func (t *thread) weigh() {
	if t.tid < 0 {
		return
	}
	// The system call returns 20 less the nice value: getpriority(2), C library/kernel
	// differences.
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return
	}
	_ = unix.Setpriority(unix.PRIO_PROCESS, t.tid, niceOf(20-raw, t.holds))
}

// niceOf is the nice value of a thread that n rings share, among others of base. With the
// weight of n threads it gets what theirs would get together; with twice that, the
// scheduler leaves it a processor of its own if n vCPUs want some, too. Those which it
// put beside the thread would come off worse than others: what they ask for is done only
// when they do not run.
//
// One less is 1.25 times the weight (sched_prio_to_weight, kernel/sched/core.c).
func niceOf(base, n int) int {
	const leastNice = -20
	if n < 2 {
		return base
	}
	return max(base-int(math.Ceil(math.Log(2*float64(n))/math.Log(1.25))), leastNice)
}
