// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cpuTimes are what the threads of a process and of its children have used of the
// host's processors, by what they are.
type cpuTimes struct {
	vcpu, vmm, kernel time.Duration
	at                time.Time
}

// isVCPU says whether a thread runs the guest, or is the native loop.
type isVCPU func(tid int, name string) bool

// readCPU reads the times of process pid. Threads that have ended are not in
// them; those that count live as long as their rings.
func readCPU(pid int, vcpu isVCPU) (cpuTimes, error) {
	t := cpuTimes{at: time.Now()}
	if err := t.addProcess(pid, vcpu); err != nil {
		return t, err
	}
	for _, child := range children(pid) {
		// A ring owner: its only thread that works is the kernel's.
		_ = t.addProcess(child, func(int, string) bool { return false })
	}
	return t, nil
}

func (t *cpuTimes) addProcess(pid int, vcpu isVCPU) error {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, task := range tasks {
		// proc(5): "run time" in nanoseconds comes first.
		stat, err := os.ReadFile(filepath.Join(dir, task.Name(), "schedstat"))
		if err != nil {
			continue // it has ended
		}
		comm, _ := os.ReadFile(filepath.Join(dir, task.Name(), "comm"))
		name := strings.TrimSpace(string(comm))
		first, _, _ := strings.Cut(string(stat), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return fmt.Errorf("%s/%s/schedstat: %q", dir, task.Name(), stat)
		}
		tid, _ := strconv.Atoi(task.Name())
		switch used := time.Duration(ns); {
		case strings.HasPrefix(name, "iou-"):
			t.kernel += used
		case vcpu(tid, name):
			t.vcpu += used
		default:
			t.vmm += used
		}
	}
	return nil
}

// use is what was used from before to t.
func (t cpuTimes) use(before cpuTimes) cpuUse {
	wall := float64(t.at.Sub(before.at))
	if wall <= 0 {
		return cpuUse{}
	}
	per := func(d time.Duration) float64 { return float64(max(d, 0)) / wall }
	return cpuUse{VCPU: per(t.vcpu - before.vcpu), VMM: per(t.vmm - before.vmm), Kernel: per(t.kernel - before.kernel)}
}

// children are the processes whose parent is pid.
func children(pid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var out []int
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// PID (COMM) STATE PPID: a comm may hold anything, also parentheses.
		s := string(b)
		fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
		if len(fields) < 2 || fields[1] != strconv.Itoa(pid) {
			continue
		}
		if child, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			out = append(out, child)
		}
	}
	return out
}
