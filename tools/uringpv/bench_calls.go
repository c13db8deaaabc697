// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// callEvent is the kernel's trace point at each system call's entry.
const callEvent = "events/raw_syscalls/sys_enter/id"

var callID = sync.OnceValues(func() (uint64, error) {
	b, err := os.ReadFile("/sys/kernel/tracing/" + callEvent)
	if err != nil {
		b, err = readTracing(callEvent)
	}
	if err != nil {
		return 0, fmt.Errorf("system calls of another program cannot be counted: %w", err)
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
})

// canCountCalls says why system calls of another process cannot be counted, nil if
// they can.
var canCountCalls = sync.OnceValue(func() error {
	c, err := countCalls(os.Getpid())
	c.close()
	return err
})

// readTracing reads a file of tracefs through a mount of its own, which no
// directory shows.
func readTracing(path string) ([]byte, error) {
	fs, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("tracefs: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("tracefs: %w", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("tracefs: %w", err)
	}
	defer unix.Close(mount)
	fd, err := unix.Openat(mount, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("tracefs: %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var b [32]byte
	n, err := f.Read(b[:])
	return b[:n], err
}

// callCounter counts the system calls of a process's threads (perf_event_open(2)).
type callCounter struct{ fds []int }

// countCalls begins to count those of the threads that process pid has now and of
// those that they start.
func countCalls(pid int) (_ *callCounter, err error) {
	id, err := callID()
	if err != nil {
		return nil, err
	}
	c := &callCounter{}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Bits: unix.PerfBitInherit}
	attr.Size = unix.PERF_ATTR_SIZE_VER0
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			continue
		}
		fd, err := unix.PerfEventOpen(&attr, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, fmt.Errorf("perf_event_open for system calls: %w", err)
		}
		c.fds = append(c.fds, fd)
	}
	return c, nil
}

// read is the count so far. A nil counter counts nothing.
func (c *callCounter) read() (uint64, error) {
	if c == nil {
		return 0, nil
	}
	sum := uint64(0)
	var b [8]byte
	for _, fd := range c.fds {
		if n, err := unix.Read(fd, b[:]); err != nil || n != len(b) {
			return 0, fmt.Errorf("read a counter of system calls: %d bytes, %w", n, err)
		}
		sum += binary.NativeEndian.Uint64(b[:])
	}
	return sum, nil
}

func (c *callCounter) close() {
	if c == nil {
		return
	}
	for _, fd := range c.fds {
		_ = unix.Close(fd)
	}
	c.fds = nil
}
