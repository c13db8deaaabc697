// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// sample is one measurement, in one round.
type sample struct {
	setting
	Round   int
	IOs     uint64
	Seconds float64
	Errors  uint64
	Why     string // the first error, if there is one
	Batches uint64 // times that there were completions to take
	Latency latency
	CPU     cpuUse

	// Of the stretch that was measured. Counts that an engine does not have are nil.
	KVMExits, VMMSyscalls, IRQs *uint64
	Lost                        *uint64 // with interrupts

	Fairness float64 // the slowest guest's IOPS to the fastest's
	Memory   int64   // own memory for all guests, in bytes; 0: not of this process
}

func (s *sample) iops() float64 { return float64(s.IOs) / s.Seconds }

// latency is from a request's making to its completion's being seen, in
// microseconds, to within 1.6 %.
type latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
}

// cpuUse is the processors that threads kept busy, in units of one.
type cpuUse struct {
	VCPU   float64 `json:"vcpu"`   // native: the loop's thread
	VMM    float64 `json:"vmm"`    // the monitor's other threads
	Kernel float64 `json:"kernel"` // io_uring's: SQ threads and workers
}

// row is one engine at one depth over all rounds: medians, and for counts the
// mean. What an engine does not have is null, and missing says why.
type row struct {
	Engine string `json:"engine"`
	RW     string `json:"rw"`
	Block  uint64 `json:"bs"`
	Depth  int    `json:"iodepth"`
	Guests int    `json:"guests"` // at the same time; what follows is of all of them together

	IOPS        float64  `json:"iops"`
	MiBs        float64  `json:"mib_s"`
	Latency     latency  `json:"lat_us"`
	Errors      uint64   `json:"errors"` // of all rounds
	KVMExits    *float64 `json:"kvm_exits_per_io"`
	VMMSyscalls *float64 `json:"vmm_syscalls_per_io"`
	IRQs        *float64 `json:"irqs_per_io"`
	CPU         cpuUse   `json:"cpu"`

	// To native in the same round; null without native.
	Ratio    *float64 `json:"ratio"`
	RatioMin *float64 `json:"ratio_min"`
	RatioMax *float64 `json:"ratio_max"`

	// Of several guests: their IOPS to one guest's in the same round, if one was
	// measured too, and the slowest guest's IOPS to the fastest's.
	ToOne    *float64 `json:"to_one_guest,omitempty"`
	ToOneMin *float64 `json:"to_one_guest_min,omitempty"`
	ToOneMax *float64 `json:"to_one_guest_max,omitempty"`
	Fairness *float64 `json:"slowest_to_fastest,omitempty"`
	// The own memory of the monitor's process and of its ring owners for each guest,
	// in MiB, without guest RAM; null where the loop is not in a guest of this program.
	Memory *float64 `json:"own_memory_mib"`

	IOs         uint64    `json:"ios"`             // of all rounds
	Batches     float64   `json:"batches_per_io"`  // times that there were completions to take
	Lost        *uint64   `json:"interrupts_lost"` // of all rounds: completions that raised no interrupt; null without interrupts
	IOPSByRound []float64 `json:"iops_by_round"`
	Missing     missing   `json:"missing,omitempty"`

	Rings     int     `json:"rings"`
	IRQ       bool    `json:"irq"`
	Direct    bool    `json:"direct"`
	File      string  `json:"file"`
	RuntimeMS float64 `json:"runtime_ms"`
	KVM       string  `json:"kvm"`
	Kernel    string  `json:"kernel"`
	CPUs      int     `json:"cpus"`
	Load      float64 `json:"load"` // the host's load average over a minute, before the first round
}

// missing has a reason for each field that is null.
type missing map[string]string

// benchReport is a whole benchmark.
type benchReport struct {
	common  row // what all rows share
	what    string
	rounds  int
	samples []sample
	missing map[string]missing // by engine
	skipped []runSkip
	rows    []row
}

// runSkip is an engine that this host cannot run.
type runSkip struct{ Engine, Why string }

// summarize makes the rows, in the order of the settings.
func (r *benchReport) summarize(all []setting) {
	r.rows = []row{}
	for _, s := range all {
		if row, ok := r.row(s); ok {
			r.rows = append(r.rows, row)
		}
	}
}

// row is the row of one setting over all rounds, if there are measurements.
func (r *benchReport) row(what setting) (row, bool) {
	of := r.of(what)
	if len(of) == 0 {
		return row{}, false
	}
	out := r.common
	out.Engine, out.Depth, out.Guests, out.Missing = what.Engine, what.Depth, what.Guests, r.missing[what.Engine]
	middle := func(get func(*sample) float64) float64 {
		var v []float64
		for _, s := range of {
			v = append(v, get(s))
		}
		return median(v)
	}
	out.IOPS = middle((*sample).iops)
	out.Latency.P50 = middle(func(s *sample) float64 { return s.Latency.P50 })
	out.Latency.P99 = middle(func(s *sample) float64 { return s.Latency.P99 })
	out.Latency.P999 = middle(func(s *sample) float64 { return s.Latency.P999 })
	out.CPU.VCPU = middle(func(s *sample) float64 { return s.CPU.VCPU })
	out.CPU.VMM = middle(func(s *sample) float64 { return s.CPU.VMM })
	out.CPU.Kernel = middle(func(s *sample) float64 { return s.CPU.Kernel })
	batches := uint64(0)
	for _, s := range of {
		out.IOs += s.IOs
		out.Errors += s.Errors
		batches += s.Batches
		out.IOPSByRound = append(out.IOPSByRound, s.iops())
		out.Lost = plus(out.Lost, s.Lost)
	}
	if r.common.RW != rwNop && r.common.RW != rwFsync {
		out.MiBs = out.IOPS * float64(out.Block) / (1 << 20)
	}
	out.Batches = float64(batches) / float64(out.IOs)
	out.KVMExits = perIO(of, func(s *sample) *uint64 { return s.KVMExits })
	out.VMMSyscalls = perIO(of, func(s *sample) *uint64 { return s.VMMSyscalls })
	out.IRQs = perIO(of, func(s *sample) *uint64 { return s.IRQs })
	if each := middle(func(s *sample) float64 { return float64(s.Memory) / float64(what.Guests) / (1 << 20) }); each > 0 {
		out.Memory = &each
	}
	if what.Guests == 1 {
		out.Ratio, out.RatioMin, out.RatioMax = ratios(of, r.of(setting{engineNative, what.Depth, 1}))
		return out, true
	}
	fair := middle(func(s *sample) float64 { return s.Fairness })
	out.Fairness = &fair
	out.ToOne, out.ToOneMin, out.ToOneMax = ratios(of, r.of(setting{what.Engine, what.Depth, 1}))
	out.Missing = maps.Clone(out.Missing)
	out.Missing["ratio"] = "native is one loop, these are several"
	return out, true
}

// of are the measurements of one setting.
func (r *benchReport) of(what setting) []*sample {
	var of []*sample
	for i := range r.samples {
		if s := &r.samples[i]; s.setting == what {
			of = append(of, s)
		}
	}
	return of
}

// ratios are IOPS to those of base in the same round, nil if there are none: the
// median, the smallest and the largest.
func ratios(of, base []*sample) (mid, least, most *float64) {
	rounds := map[int]float64{}
	for _, s := range base {
		rounds[s.Round] = s.iops()
	}
	var all []float64
	for _, s := range of {
		if iops := rounds[s.Round]; iops > 0 {
			all = append(all, s.iops()/iops)
		}
	}
	if len(all) == 0 {
		return nil, nil, nil
	}
	m, l, h := median(all), slices.Min(all), slices.Max(all)
	return &m, &l, &h
}

// perIO is a count for each I/O, over the samples that have it.
func perIO(of []*sample, get func(*sample) *uint64) *float64 {
	n, ios := uint64(0), uint64(0)
	for _, s := range of {
		if v := get(s); v != nil {
			n, ios = n+*v, ios+s.IOs
		}
	}
	if ios == 0 {
		return nil
	}
	v := float64(n) / float64(ios)
	return &v
}

// median is the middle of values, the mean of the two middle ones if their
// number is even. values is not empty.
func median[T float64 | uint64](values []T) T {
	v := slices.Sorted(slices.Values(values))
	mid := len(v) / 2
	if len(v)%2 == 1 {
		return v[mid]
	}
	return v[mid-1] + (v[mid]-v[mid-1])/2
}

// failures says which requests failed, in one error.
func (r *benchReport) failures() error {
	var all []string
	for i := range r.samples {
		if s := &r.samples[i]; s.Errors > 0 {
			all = append(all, fmt.Sprintf("%s: %d of %d requests failed (%s)", s.setting, s.Errors, s.IOs, s.Why))
		}
	}
	if all == nil {
		return nil
	}
	if len(all) > 3 {
		all = append(all[:3], fmt.Sprintf("and %d measurements more", len(all)-3))
	}
	return fmt.Errorf("%s", strings.Join(all, "; "))
}

// quietVCPU is what a thread that polls has of a processor, at least, where nothing
// else wants it.
const quietVCPU = 0.9

// writeTable is the report for people.
func (r *benchReport) writeTable(w io.Writer) error {
	c := &r.common
	if _, err := fmt.Fprintf(w, "%s; %d rounds of %gs each; %s, Linux %s, %d CPUs, load %.2f\n\n",
		r.what, r.rounds, c.RuntimeMS/1000, c.KVM, c.Kernel, c.CPUs, c.Load); err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	several := slices.ContainsFunc(r.rows, func(s row) bool { return s.Guests > 1 })
	guests, scale := "", ""
	if several {
		guests, scale = "GUESTS\t", "TO ONE\tSPREAD\tSLOWEST\tMiB EACH\t"
	}
	fmt.Fprintf(tw, "%sDEPTH\tENGINE\tIOPS\t%sMiB/s\tTO NATIVE\tSPREAD\tP50 µs\tP99\tP99.9\tEXITS/IO\tSYSCALLS/IO\tIRQS/IO\tvCPU\tVMM\tKERNEL\t\n", guests, scale)
	lost, busy := uint64(0), 0
	for i := range r.rows {
		s := &r.rows[i]
		if several {
			ratio, spread := ratioWords(s.ToOne, s.ToOneMin, s.ToOneMax)
			guests = fmt.Sprintf("%d\t", s.Guests)
			scale = fmt.Sprintf("%s\t%s\t%s\t%s\t", ratio, spread, digits("%.2f", s.Fairness), digits("%.1f", s.Memory))
		}
		ratio, spread := ratioWords(s.Ratio, s.RatioMin, s.RatioMax)
		if s.Engine == engineNative {
			spread = "-"
		}
		mibs := "-"
		if s.MiBs > 0 {
			mibs = fmt.Sprintf("%.0f", s.MiBs)
		}
		fmt.Fprintf(tw, "%s%d\t%s\t%.0f\t%s%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t%.2f\t%.2f\t\n", guests, s.Depth, s.Engine, s.IOPS, scale, mibs, ratio, spread,
			micros(s.Latency.P50), micros(s.Latency.P99), micros(s.Latency.P999),
			rate(s.KVMExits), rate(s.VMMSyscalls), rate(s.IRQs), s.CPU.VCPU, s.CPU.VMM, s.CPU.Kernel)
		if s.Lost != nil {
			lost += *s.Lost
		}
		if !s.IRQ && s.Guests <= 1 && s.CPU.VCPU < quietVCPU {
			busy++
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if busy > 0 {
		if _, err := fmt.Fprintf(w, "\nThe host was busy: in %d of %d rows a loop that polls had less than %g of a processor.\nSuch figures say more about what else ran.\n",
			busy, len(r.rows), quietVCPU); err != nil {
			return err
		}
	}
	if lost > 0 {
		if _, err := fmt.Fprintf(w, "\n%d completions raised no interrupt\n", lost); err != nil {
			return err
		}
	}
	for _, s := range r.skipped {
		if _, err := fmt.Fprintf(w, "\n%s is left out: %s\n", s.Engine, s.Why); err != nil {
			return err
		}
	}
	return nil
}

// ratioWords are a ratio's median, and its spread in words.
func ratioWords(mid, least, most *float64) (ratio, spread string) {
	if mid == nil {
		return "-", "-"
	}
	return fmt.Sprintf("%.3f", *mid), fmt.Sprintf("%.3f to %.3f", *least, *most)
}

// digits writes a number that there may not be.
func digits(format string, v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf(format, *v)
}

// micros writes a time of so many microseconds with three digits.
func micros(us float64) string {
	switch {
	case us >= 100:
		return fmt.Sprintf("%.0f", us)
	case us >= 10:
		return fmt.Sprintf("%.1f", us)
	}
	return fmt.Sprintf("%.2f", us)
}

// rate writes a count for each I/O.
func rate(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v == 0:
		return "0"
	case *v < 0.001:
		return fmt.Sprintf("%.0e", *v)
	}
	return fmt.Sprintf("%.3f", *v)
}

// writeJSON writes v to path, or to stdout if path is "-".
func writeJSON(path string, stdout io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if path == "-" {
		_, err = stdout.Write(b)
		return err
	}
	return os.WriteFile(path, b, 0o666)
}
