// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func ptr[T any](v T) *T { return &v }

func TestRatiosAreTakenWithinARound(t *testing.T) {
	// The host is three times as slow in the second round; the guest keeps pace.
	samples := []sample{
		{Round: 1, Engine: "native", Depth: 1, IOPS: 900},
		{Round: 1, Engine: "relay", Depth: 1, IOPS: 810, KVMExits: ptr(uint64(4)), VMMSyscalls: ptr(uint64(0))},
		{Round: 2, Engine: "native", Depth: 1, IOPS: 300},
		{Round: 2, Engine: "relay", Depth: 1, IOPS: 300, KVMExits: ptr(uint64(6)), VMMSyscalls: ptr(uint64(0))},
		{Round: 3, Engine: "native", Depth: 1, IOPS: 1000},
		{Round: 3, Engine: "relay", Depth: 1, IOPS: 950, KVMExits: ptr(uint64(5)), VMMSyscalls: ptr(uint64(0))},
		{Round: 1, Engine: "relay", Depth: 32, IOPS: 5000, KVMExits: ptr(uint64(1)), VMMSyscalls: ptr(uint64(0))},
	}
	got := summarize(samples, []int{1, 32}, []string{"native", "relay"})
	want := []summary{
		{Engine: "native", Depth: 1, IOPS: 900, Ratio: 1, RatioMin: 1, RatioMax: 1},
		{Engine: "relay", Depth: 1, IOPS: 810, KVMExits: ptr(uint64(5)), Syscalls: ptr(uint64(0)), Ratio: 0.95, RatioMin: 0.9, RatioMax: 1},
		{Engine: "relay", Depth: 32, IOPS: 5000, KVMExits: ptr(uint64(1)), Syscalls: ptr(uint64(0))},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
}

func TestMedianLiesInTheMiddle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Uint64(), 1, 20).Draw(t, "values")
		kept := slices.Clone(v)
		m := median(v)
		if !slices.Equal(v, kept) {
			t.Fatal("the values are reordered")
		}
		below, above := 0, 0
		for _, x := range v {
			if x < m {
				below++
			}
			if x > m {
				above++
			}
		}
		if below > len(v)/2 || above > len(v)/2 {
			t.Fatalf("median %d of %v: %d below, %d above", m, v, below, above)
		}
	})
}

func TestBenchTable(t *testing.T) {
	r := &benchReport{
		Host: hostReport{KVM: "kvm-amd", Kernel: "6.12.0"}, RW: "randread", Block: 4096, RuntimeMS: 1000, Rounds: 3,
		Summary: []summary{
			{Engine: "native", Depth: 1, IOPS: 800000.4, Ratio: 1, RatioMin: 1, RatioMax: 1},
			{Engine: "relay", Depth: 1, IOPS: 400000, KVMExits: ptr(uint64(12)), Syscalls: ptr(uint64(0)), Ratio: 0.5, RatioMin: 0.45, RatioMax: 0.55},
		},
		Skipped: []runSkip{{"passthrough", "no lockable memory"}},
	}
	var b bytes.Buffer
	if err := writeBenchTable(&b, r); err != nil {
		t.Fatal(err)
	}
	const want = `random reads of 4K, 3 rounds of 1s each, on kvm-amd, Linux 6.12.0

  DEPTH  ENGINE    IOPS  TO NATIVE          SPREAD  VM EXITS  VMM SYSTEM CALLS
      1  native  800000      1.000               -         -                 -
      1   relay  400000      0.500  0.450 to 0.550        12                 0

passthrough is left out: no lockable memory
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestListsOfWordsAndNumbers(t *testing.T) {
	for in, says := range map[string]string{"native": "", "relay,native": "", "": "must be", "relay,": "must be", "relay,relay": "twice", "virtio": "must be native, passthrough or relay"} {
		w := newBenchOptions().engines
		if err := w.Set(in); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("words %q: %v, want %q", in, err, says)
		} else if err == nil && w.String() != in {
			t.Errorf("words %q are written %q", in, w.String())
		}
	}
	for in, says := range map[string]string{"1": "", "1,32,1024": "", "": "must be", "0": "from 1 to 1024", "1025": "from 1 to 1024", "1,1": "twice", "1, 2": "must be"} {
		n := newBenchOptions().depths
		if err := n.Set(in); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("numbers %q: %v, want %q", in, err, says)
		} else if err == nil && n.String() != in {
			t.Errorf("numbers %q are written %q", in, n.String())
		}
	}
}
