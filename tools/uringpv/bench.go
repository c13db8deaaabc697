// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// Engines of a benchmark: who does the I/O.
const (
	engineNative      = "native"
	enginePassthrough = backendPassthrough
	engineRelay       = backendRelay
)

// Bounds of a benchmark.
const (
	minBlock  = 512
	maxBlock  = 1 << 20
	maxDepth  = 1024
	maxRounds = 1000
)

// benchOptions is the command line of `uringpv bench`.
type benchOptions struct {
	engines   words
	rw        choice
	block     byteSize
	depths    numbers
	runtime   span
	rounds    count
	size      byteSize
	file      string
	json      string
	verbosity int
}

func newBenchOptions() *benchOptions {
	all := []string{engineNative, enginePassthrough, engineRelay}
	return &benchOptions{
		engines: words{values: all, of: all},
		rw:      choice{value: "randread", of: []string{"randread", "nop"}},
		block:   4096,
		depths:  numbers{values: []int{1, 32}, min: 1, max: maxDepth},
		runtime: span{value: time.Second, min: 10 * time.Millisecond, max: time.Hour},
		rounds:  count{value: 3, min: 1, max: maxRounds},
		size:    64 << 20,
	}
}

func newBenchCommand() *cobra.Command {
	o := newBenchOptions()
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Compare a guest's I/O with the same loop on the host",
		Long: `Bench runs one loop of I/O in a guest, on each backend, and on the host itself,
and prints how they compare.

Engines:
  native       the guest's own loop as a process of the host: an io_uring of its
               own with SQPOLL, registered buffers and files
  passthrough  the guest's ring is the host's
  relay        the monitor copies requests to a ring of its own

The engines take turns within each round, so that what else the host does hits all
of them. The table has medians over the rounds; the ratio is to native in the same
round, with the smallest and the largest beside it. Without --file the disk is a
scratch file in the page cache; a file is only read.`,
		Example: `  uringpv bench
  uringpv bench --engine native,passthrough --iodepth 1,32,128 --rounds 9 --json bench.json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.Flags().Changed("size"), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.Var(&o.engines, "engine", "engines to compare, separated by commas")
	f.Var(&o.rw, "rw", "the I/O: randread (random reads) or nop (requests that do nothing)")
	f.Var(&sizeWithoutUnit{&o.block}, "bs", "bytes of each read, a power of two")
	f.Var(&o.depths, "iodepth", "requests in flight, one or several depths")
	f.Var(&o.runtime, "runtime", "time of each measurement")
	f.Var(&o.rounds, "rounds", "rounds; in each, every engine runs once at every depth")
	f.Var(&o.size, "size", "size of the scratch file")
	f.StringVar(&o.file, "file", "", "read the file or block device at `PATH` instead of a scratch file")
	f.StringVar(&o.json, "json", "", "write every measurement to `PATH`; - is stdout, instead of the table")
	f.CountVarP(&o.verbosity, "verbose", "v", "log more to stderr; twice for debugging")
	f.SortFlags = false
	mustComplete(cmd, "engine", o.engines.of)
	mustComplete(cmd, "rw", o.rw.of)
	return cmd
}

func (o *benchOptions) validate(sizeGiven bool) error {
	if o.block < minBlock || o.block > maxBlock || o.block&(o.block-1) != 0 {
		return usagef("--bs %s: must be a power of two from %s to %s", o.block, byteSize(minBlock), byteSize(maxBlock))
	}
	if o.size < o.block {
		return usagef("--size %s: must be at least one block, --bs %s", o.size, o.block)
	}
	if sizeGiven && o.file != "" {
		return usagef("--size is of the scratch file; leave it out with --file")
	}
	return nil
}

// sample is one measurement: one engine at one depth in one round.
type sample struct {
	Round  int     `json:"round"`
	Engine string  `json:"engine"`
	Depth  int     `json:"iodepth"`
	IOPS   float64 `json:"iops"`
	IOs    uint64  `json:"ios"`
	// Of the stretch that was measured; nil for native, which has neither.
	KVMExits    *uint64 `json:"kvm_exits,omitempty"`
	VMMSyscalls *uint64 `json:"vmm_syscalls,omitempty"`
}

// summary is one engine at one depth over all rounds.
type summary struct {
	Engine   string  `json:"engine"`
	Depth    int     `json:"iodepth"`
	IOPS     float64 `json:"iops"` // median
	KVMExits *uint64 `json:"kvm_exits,omitempty"`
	Syscalls *uint64 `json:"vmm_syscalls,omitempty"`
	// To native in the same round; zero without native.
	Ratio    float64 `json:"ratio,omitempty"` // median
	RatioMin float64 `json:"ratio_min,omitempty"`
	RatioMax float64 `json:"ratio_max,omitempty"`
}

// benchReport is the JSON form of a benchmark.
type benchReport struct {
	Host      hostReport `json:"host"`
	RW        string     `json:"rw"`
	Block     uint64     `json:"bs"`
	File      string     `json:"file"`
	RuntimeMS float64    `json:"runtime_ms"`
	Rounds    int        `json:"rounds"`
	Summary   []summary  `json:"summary"`
	Samples   []sample   `json:"samples"`
	Skipped   []runSkip  `json:"skipped,omitempty"`
}

// runSkip is an engine that this host cannot run.
type runSkip struct {
	Engine string `json:"engine"`
	Why    string `json:"why"`
}

// summarize takes the medians of samples, in the order of depths and engines.
func summarize(samples []sample, depths []int, engines []string) []summary {
	type key struct{ round, depth int }
	native := map[key]float64{}
	for _, s := range samples {
		if s.Engine == engineNative {
			native[key{s.Round, s.Depth}] = s.IOPS
		}
	}
	var out []summary
	for _, depth := range depths {
		for _, engine := range engines {
			var iops, ratios []float64
			var exits, calls []uint64
			for _, s := range samples {
				if s.Engine != engine || s.Depth != depth {
					continue
				}
				iops = append(iops, s.IOPS)
				if base := native[key{s.Round, s.Depth}]; base > 0 {
					ratios = append(ratios, s.IOPS/base)
				}
				if s.KVMExits != nil {
					exits = append(exits, *s.KVMExits)
				}
				if s.VMMSyscalls != nil {
					calls = append(calls, *s.VMMSyscalls)
				}
			}
			if len(iops) == 0 {
				continue
			}
			row := summary{Engine: engine, Depth: depth, IOPS: median(iops)}
			if len(ratios) > 0 {
				row.Ratio, row.RatioMin, row.RatioMax = median(ratios), slices.Min(ratios), slices.Max(ratios)
			}
			if len(exits) > 0 {
				m := median(exits)
				row.KVMExits = &m
			}
			if len(calls) > 0 {
				m := median(calls)
				row.Syscalls = &m
			}
			out = append(out, row)
		}
	}
	return out
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

func writeBenchTable(w io.Writer, r *benchReport) error {
	what := fmt.Sprintf("random reads of %s", byteSize(r.Block))
	if r.RW == "nop" {
		what = "requests that do nothing"
	}
	if _, err := fmt.Fprintf(w, "%s, %d rounds of %v each, on %s, Linux %s\n\n", what, r.Rounds,
		time.Duration(r.RuntimeMS*float64(time.Millisecond)), r.Host.KVM, r.Host.Kernel); err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "DEPTH\tENGINE\tIOPS\tTO NATIVE\tSPREAD\tVM EXITS\tVMM SYSTEM CALLS\t")
	for _, s := range r.Summary {
		ratio, spread := "-", "-"
		if s.Ratio > 0 {
			ratio = fmt.Sprintf("%.3f", s.Ratio)
			if s.Engine != engineNative {
				spread = fmt.Sprintf("%.3f to %.3f", s.RatioMin, s.RatioMax)
			}
		}
		fmt.Fprintf(tw, "%d\t%s\t%.0f\t%s\t%s\t%s\t%s\t\n", s.Depth, s.Engine, s.IOPS, ratio, spread, orDash(s.KVMExits), orDash(s.Syscalls))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, s := range r.Skipped {
		if _, err := fmt.Fprintf(w, "\n%s is left out: %s\n", s.Engine, s.Why); err != nil {
			return err
		}
	}
	return nil
}

func orDash(n *uint64) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatUint(*n, 10)
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

// words is a list of distinct words, separated by commas.
type words struct{ values, of []string }

func (w *words) String() string { return strings.Join(w.values, ",") }

func (w *words) Set(s string) error {
	fields := strings.Split(s, ",")
	for i, f := range fields {
		if !slices.Contains(w.of, f) {
			return fmt.Errorf("must be %s, or several with commas between", alternatives(w.of))
		}
		if slices.Contains(fields[:i], f) {
			return fmt.Errorf("%s is given twice", f)
		}
	}
	w.values = fields
	return nil
}

func (*words) Type() string { return "NAME,..." }

// numbers is a list of distinct numbers from min to max, separated by commas.
type numbers struct {
	values   []int
	min, max int
}

func (n *numbers) String() string {
	var s []string
	for _, v := range n.values {
		s = append(s, strconv.Itoa(v))
	}
	return strings.Join(s, ",")
}

func (n *numbers) Set(s string) error {
	var values []int
	for _, f := range strings.Split(s, ",") {
		v, err := parseCount(f, n.min, n.max)
		if err != nil {
			return fmt.Errorf("must be whole numbers from %d to %d, with commas between", n.min, n.max)
		}
		if slices.Contains(values, v) {
			return fmt.Errorf("%d is given twice", v)
		}
		values = append(values, v)
	}
	n.values = values
	return nil
}

func (*numbers) Type() string { return "N,..." }

// sizeWithoutUnit is a byteSize whose unit may be left out: bytes.
type sizeWithoutUnit struct{ *byteSize }

func (s *sizeWithoutUnit) Set(v string) error {
	n, err := parseSize(v)
	if err != nil {
		return errors.New("a size is a number and a unit, such as 4k or 1M, or a number of bytes")
	}
	*s.byteSize = n
	return nil
}

// String is called on a zero value too, by the flag package.
func (s *sizeWithoutUnit) String() string {
	if s.byteSize == nil {
		return ""
	}
	return s.byteSize.String()
}
