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
	zero := ptr(uint64(0))
	measured := func(round int, engine string, depth int, ios uint64) sample {
		s := sample{setting: setting{engine, depth, 1}, Round: round, IOs: ios, Seconds: 2, Batches: ios / 2, Latency: latency{P50: float64(round)}}
		if engine != engineNative {
			s.KVMExits, s.VMMSyscalls, s.IRQs = ptr(uint64(round)), zero, zero
		}
		return s
	}
	r := &benchReport{
		common: row{RW: rwRandRead, Block: 1 << 20, KVM: "kvm-amd"},
		samples: []sample{
			measured(1, "native", 1, 1800), measured(1, "relay", 1, 1620),
			measured(2, "native", 1, 600), measured(2, "relay", 1, 600),
			measured(3, "native", 1, 2000), measured(3, "relay", 1, 1900),
			measured(1, "relay", 32, 10000),
		},
		missing: map[string]missing{"native": {"irqs_per_io": "none"}},
	}
	r.summarize((&benchOptions{depths: numbers{values: []int{1, 32}}, guests: numbers{values: []int{1}}}).settings([]string{"native", "relay", "isolated"}))
	want := []row{
		{
			Engine: "native", Depth: 1, IOPS: 900, MiBs: 900, Latency: latency{P50: 2}, Ratio: ptr(1.0), RatioMin: ptr(1.0), RatioMax: ptr(1.0),
			IOs: 4400, Batches: 0.5, IOPSByRound: []float64{900, 300, 1000}, Missing: missing{"irqs_per_io": "none"},
		},
		{
			Engine: "relay", Depth: 1, IOPS: 810, MiBs: 810, Latency: latency{P50: 2}, Ratio: ptr(0.95), RatioMin: ptr(0.9), RatioMax: ptr(1.0),
			KVMExits: ptr(6.0 / 4120), VMMSyscalls: ptr(0.0), IRQs: ptr(0.0), IOs: 4120, Batches: 0.5, IOPSByRound: []float64{810, 300, 950},
		},
		{
			Engine: "relay", Depth: 32, IOPS: 5000, MiBs: 5000, Latency: latency{P50: 1},
			KVMExits: ptr(1.0 / 10000), VMMSyscalls: ptr(0.0), IRQs: ptr(0.0), IOs: 10000, Batches: 0.5, IOPSByRound: []float64{5000},
		},
	}
	for i := range want {
		want[i].RW, want[i].Block, want[i].KVM, want[i].Guests = rwRandRead, 1<<20, "kvm-amd", 1
	}
	if diff := cmp.Diff(want, r.rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

func TestLostInterruptsAndFailuresAreSaid(t *testing.T) {
	r := &benchReport{
		common: row{RW: rwFsync, Block: 4096},
		samples: []sample{
			{setting: setting{"isolated", 1, 1}, Round: 1, IOs: 10, Seconds: 1, Lost: ptr(uint64(1)), Errors: 3, Why: "the first error is -5"},
			{setting: setting{"isolated", 1, 1}, Round: 2, IOs: 10, Seconds: 1, Lost: ptr(uint64(2))},
		},
	}
	r.summarize([]setting{{"isolated", 1, 1}})
	if len(r.rows) != 1 || *r.rows[0].Lost != 3 || r.rows[0].Errors != 3 || r.rows[0].MiBs != 0 || r.rows[0].Ratio != nil {
		t.Fatalf("%+v", r.rows)
	}
	if *r.samples[0].Lost != 1 {
		t.Error("a measurement was changed")
	}
	var b bytes.Buffer
	if err := r.writeTable(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "3 completions raised no interrupt") {
		t.Errorf("the table does not say so:\n%s", &b)
	}
	if err := r.failures(); err == nil || !strings.Contains(err.Error(), "isolated at depth 1: 3 of 10 requests failed (the first error is -5)") {
		t.Errorf("failures: %v", err)
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

func TestBusyHostIsSaid(t *testing.T) {
	for _, c := range []struct {
		row  row
		says bool
	}{
		{row{CPU: cpuUse{VCPU: 0.99}}, false},
		{row{CPU: cpuUse{VCPU: 0.5}}, true},
		{row{CPU: cpuUse{VCPU: 0.1}, IRQ: true}, false}, // it sleeps
	} {
		var b bytes.Buffer
		if err := (&benchReport{rows: []row{c.row}}).writeTable(&b); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(b.String(), "The host was busy: in 1 of 1 rows") != c.says {
			t.Errorf("%+v: the table says\n%s", c.row, &b)
		}
	}
}

func TestBenchTable(t *testing.T) {
	r := &benchReport{
		what: "random reads of 4K, by polling", rounds: 3,
		common: row{KVM: "kvm-amd", Kernel: "6.12.0", RuntimeMS: 1000, CPUs: 2, Load: 0.5},
		rows: []row{
			{
				Engine: "native", Depth: 1, IOPS: 800000.4, MiBs: 3125, Latency: latency{1.25, 2.5, 12.34},
				Ratio: ptr(1.0), RatioMin: ptr(1.0), RatioMax: ptr(1.0), CPU: cpuUse{1, 0, 0.98},
			},
			{
				Engine: "relay", Depth: 1, IOPS: 400000, Latency: latency{2.5, 5, 1234.5}, KVMExits: ptr(0.00001), VMMSyscalls: ptr(0.0), IRQs: ptr(1.25),
				Ratio: ptr(0.5), RatioMin: ptr(0.45), RatioMax: ptr(0.55), CPU: cpuUse{1, 1, 0},
			},
		},
		skipped: []runSkip{{"passthrough", "no lockable memory"}},
	}
	var b bytes.Buffer
	if err := r.writeTable(&b); err != nil {
		t.Fatal(err)
	}
	const want = `random reads of 4K, by polling; 3 rounds of 1s each; kvm-amd, Linux 6.12.0, 2 CPUs, load 0.50

  DEPTH  ENGINE    IOPS  MiB/s  TO NATIVE          SPREAD  P50 µs   P99  P99.9  EXITS/IO  SYSCALLS/IO  IRQS/IO  vCPU   VMM  KERNEL
      1  native  800000   3125      1.000               -    1.25  2.50   12.3         -            -        -  1.00  0.00    0.98
      1   relay  400000      -      0.500  0.450 to 0.550    2.50  5.00   1234     1e-05            0    1.250  1.00  1.00    0.00

passthrough is left out: no lockable memory
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestGuestsTogether(t *testing.T) {
	loop := func(ios, ns, p50 uint64) stretch {
		return stretch{values: map[string]uint64{"ios": ios, "ns": ns, "lat_p50": p50, "batches": 2, "kvm_exits": 3, "irqs": 1}, cpu: cpuUse{VCPU: 1.5}}
	}
	s := sample{setting: setting{"relay", 1, 2}, Memory: 10 << 20}
	// 1000 and 500 I/Os a second.
	if err := s.sum([]stretch{loop(2000, 2e9, 7000), loop(500, 1e9, 9000)}); err != nil {
		t.Fatal(err)
	}
	want := sample{
		setting: setting{"relay", 1, 2}, IOs: 2500, Seconds: 2500.0 / 1500, Batches: 4, Latency: latency{P50: 9}, CPU: cpuUse{VCPU: 1.5},
		KVMExits: ptr(uint64(6)), IRQs: ptr(uint64(2)), Fairness: 0.5, Memory: 10 << 20,
	}
	if diff := cmp.Diff(want, s, cmp.AllowUnexported(sample{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := new(sample).sum([]stretch{loop(1, 1, 1), {}}); err == nil {
		t.Error("a guest that did nothing is no measurement")
	}

	one := sample{setting: setting{"relay", 1, 1}, Round: 1, IOs: 2000, Seconds: 1, Memory: 8 << 20}
	s.Round = 1
	r := &benchReport{samples: []sample{one, s}, missing: map[string]missing{"relay": {}}}
	r.summarize((&benchOptions{depths: numbers{values: []int{1}}, guests: numbers{values: []int{1, 2}}}).settings([]string{"native", "relay"}))
	if len(r.rows) != 2 || *r.rows[1].ToOne != 0.75 || *r.rows[1].Fairness != 0.5 || *r.rows[1].Memory != 5 || *r.rows[0].Memory != 8 {
		t.Errorf("%+v", r.rows)
	}
	var b bytes.Buffer
	if err := r.writeTable(&b); err != nil {
		t.Fatal(err)
	}
	const table = `
  GUESTS  DEPTH  ENGINE  IOPS  TO ONE          SPREAD  SLOWEST  MiB EACH  MiB/s  TO NATIVE  SPREAD  P50 µs   P99  P99.9  EXITS/IO  SYSCALLS/IO  IRQS/IO  vCPU   VMM  KERNEL
       1      1   relay  2000       -               -        -       8.0      -          -       -    0.00  0.00   0.00         -            -        -  0.00  0.00    0.00
       2      1   relay  1500   0.750  0.750 to 0.750     0.50       5.0      -          -       -    9.00  0.00   0.00     0.002            -    8e-04  1.50  0.00    0.00
`
	if _, got, _ := strings.Cut(b.String(), "\n"); !strings.HasPrefix(got, table) {
		t.Errorf("table:\n%s", got)
	}
	if names, _ := r.columns(); !slices.Equal(names, []string{"depth 1", "2 guests, depth 1"}) {
		t.Errorf("columns of the plot: %q", names)
	}
}

func TestListsOfWordsAndNumbers(t *testing.T) {
	for in, says := range map[string]string{"native": "", "relay,native": "", "": "must be", "relay,": "must be", "relay,relay": "twice", "virtio": "must be native, passthrough, isolated, relay or virtio-blk"} {
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

func TestSeveralGuestsOfABenchmarkAreRefusedWhereTheyMeanNothing(t *testing.T) {
	for _, c := range []struct {
		rw, engines, guests, says string
	}{
		{rwRandRead, "native,relay", "8", ""},
		{rwNop, "relay", "1,63", ""},
		{rwRandWrite, "relay", "1,2", "several guests would write to the same disk"},
		{rwFsync, "relay", "2", "several guests would write"},
		{rwRandWrite, "relay", "1", ""},
		{rwRandRead, "native,virtio-blk", "2,3", "--guests 2,3: native,virtio-blk is measured with one; add 1"},
		{rwRandRead, "native", "1,3", ""},
	} {
		o := newBenchOptions()
		for _, err := range []error{o.rw.Set(c.rw), o.engines.Set(c.engines), o.guests.Set(c.guests)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		err := o.validate(false)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
