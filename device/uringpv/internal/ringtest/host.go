// SPDX-License-Identifier: Apache-2.0

package ringtest

import (
	"os"
	"strings"
	"testing"

	"github.com/uringpv/uringpv/hostring"
)

// One submits s to a host ring that has nothing else to do, and returns its CQE.
func One(t testing.TB, r *hostring.Ring, s hostring.SQE) hostring.CQE {
	t.Helper()
	to, ok := r.SQE()
	if !ok {
		t.Fatal("no SQE free")
	}
	*to = s
	if _, err := r.Submit(); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitCQE(); err != nil {
		t.Fatal(err)
	}
	var c [1]hostring.CQE
	if n := r.Reap(c[:]); n != 1 {
		t.Fatalf("%d completions of one request", n)
	}
	return c[0]
}

// SQThreads is how many SQ threads this process has.
func SQThreads(t testing.TB) int {
	t.Helper()
	const tasks = "/proc/self/task/"
	all, err := os.ReadDir(tasks)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range all {
		if comm, err := os.ReadFile(tasks + e.Name() + "/comm"); err == nil && strings.HasPrefix(string(comm), "iou-sqp-") {
			n++
		}
	}
	return n
}
