// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Who interrupts a run of tests leaves no machine behind.
func TestAnInterruptEndsWhatGoTestExecutes(t *testing.T) {
	dir := t.TempDir()
	program, said := filepath.Join(dir, "program"), filepath.Join(dir, "pid")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho $$ >"+said+".part\nmv "+said+".part "+said+"\nexec sleep 600\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	var stderr bytes.Buffer
	s := &suite{stderr: &stderr}
	go func() {
		ended <- s.goTest(ctx, &result{}, io.Discard, os.Environ(), []string{"test", "-count=1", "-exec", program, "."})
	}()
	var pid int
	for pid == 0 {
		select {
		case err := <-ended:
			t.Fatalf("go test has ended: %v\n%s", err, &stderr)
		case <-time.After(10 * time.Millisecond):
		}
		if b, err := os.ReadFile(said); err == nil {
			if pid, err = strconv.Atoi(string(bytes.TrimSpace(b))); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("go test was interrupted and has succeeded")
	}
	for end := time.Now().Add(5 * time.Second); !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("process %d, which go test has executed, lives on", pid)
		}
	}
}
