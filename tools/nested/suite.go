// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/uringpv/uringpv/guest"
	"github.com/uringpv/uringpv/images"
)

// suite runs the project's tests in the machine.
type suite struct {
	full   bool
	cache  images.CacheOptions
	report string // where to write the results, Markdown; empty: nowhere
	only   string // steps to run, a regular expression

	stdout, stderr io.Writer

	images *images.Cache
	guests string          // directory of guests' files, one below it for each kernel
	self   string          // this program
	made   map[string]bool // guests' files of this run, by kernel
	done   []result
}

// step is one run of go test.
type step struct {
	name     string
	host     string   // the machine's kernel; empty: not in a machine
	guests   []string // kernels of the Linux guests
	liburing bool     // programs on liburing
	packages []string
	run      string // of go test
	skip     string // likewise; empty: none
	full     bool   // the tests' whole matrix
	memory   int    // MiB, 0: the machine's default
	cpus     int    // the machine's, 0: its default; of those with 1 several run at a time
	timeout  time.Duration
	each     bool     // every test in a machine of its own
	together []string // but those that match one of these share one
}

// result is how a step ended.
type result struct {
	step
	passed, failed, skipped int
	faults                  int             // tests that failed and whose guests had a triple fault
	failures                []string        // tests of the last run of go test that failed
	faulted                 map[string]bool // tests whose guests had a triple fault, passed or not
	begun                   time.Time
	took                    time.Duration
	err                     error
}

// The monitor and the device with the built-in guest, and everything with Linux
// guests.
const (
	withBareGuests  = "^Test([^L]|L[^i])"
	withLinuxGuests = "^(TestLinux|FuzzLinux)"
	withMuchRAM     = "^TestLinuxWithMoreThan4GiB$"
	withLiburing    = "^TestLinuxLiburing$"
	longWithLinux   = "^TestLinux(UnbindsWhile|WaitsFor|DiskOutlives|WithBlocks|ModuleParam|SplitsAt|AsELF|ProgramsUseMed|ProgramsWithoutV)"                                                                                                                                                                                    // the whole matrix has them
	longOnTCG       = "^Test(RunLeavesNothingInTheProcess|ChecksumIsSha256sum|WatchdogSleepsWithTheRing|FloodStopsTheRing|BenchMeasuresEveryEngine|BenchMeasuresSeveralGuests|BenchSharesSQThreads|PolicyTakesOpcodesAndFlagsFromTheGuest|PolledStretchMakesNoSystemCall|ChecksumOfADirectDisk|CrowdedFleetSharesOneSQThread)$" // make test has them, on the host
	bootsLinux      = "^TestLinux(DisksOfDifferent|FindsItsDisk|RootDisk|PowerOff|Panic|Discard)"
	linuxBoots      = "^TestLinux(DisksOfDifferent|PowerOff|Panic|Shell|GoesOn|RootDisk|AsELF|FindsItsDisk|WithEightCPUs)"
	linuxData       = "^TestLinux(ModuleParam|Flushes|SplitsAt|WithBlocks|VerifiedIO|FileSystems|Discard|ReadOnlyDisk|PolledQueues|SeesACapacity)"
	linuxFaults     = "^TestLinux(LoadsAndUnloads|ResetLoses|Acknowledged|WithATruncated|WithAFull|WithABad|WaitsFor|DiskOutlives)"
	linuxPrograms   = "^(TestLinux(ProgramsWithout|ProgramsUseE|ProgramsUseI|ProgramsUseMed|ProgramsMay|ProgramsHarm|ProgramsOutlive|RingsOutlive|UnbindsWhile)|FuzzLinux)"
	linuxPolling    = "^TestLinux(MappedReads|ProgramsUseMapped)" // the guest polls, and so does the host
	linuxAtOnce     = "^TestLinux(VerifiedIO|ResetLoses|ProgramsMayDoAnything)"
	// Of a size that suits a machine for all of them.
	quickWithLinux    = "^TestLinux(DisksOfDifferent|PowerOff|Panic|Shell|GoesOn|AsELF|FindsItsDisk|WithEight|ReadOnly)"
	disksWithLinux    = "^TestLinux(ModuleParam|Flushes|SplitsAt|WithBlocks|Discard|PolledQueues|SeesACapacity|LoadsAndUnloads|WithATruncated|WithAFull|WithABad)"
	programsWithLinux = "^(TestLinux(Programs|RingsOutlive)|FuzzLinux)"
)

// steps are what CI runs, or the whole matrix. Linux guests run in machines with one CPU:
// with more, QEMU runs each in a thread of its own, and then a guest with several virtual
// CPUs, whatever it does, has a triple fault sooner or later (docs/rationale.md). Two rows
// have them all the same, for guests that poll and for what only virtual CPUs that run at
// once can show.
func steps(full bool) []step {
	bare := []string{"./vmm/...", "./device/...", "./tools/uringpv"}
	// What a real KVM can change; the whole matrix has all of bare.
	some := []string{"./vmm", "./vmm/kvm", "./tools/uringpv"}
	linux := []string{"./tools/uringpv"}
	ci := []step{
		{name: "driver, images, machine", packages: []string{"./images/...", "./tools/nested"}, run: ".", full: full, timeout: 30 * time.Minute},
		{name: "bare guests", host: "6.12", packages: some, run: withBareGuests, skip: longOnTCG, timeout: 10 * time.Minute},
		{name: "Linux guests", host: "6.12", guests: []string{"6.1", "6.12"}, packages: linux, run: withLinuxGuests, skip: withMuchRAM + "|" + withLiburing + "|" + linuxPolling + "|" + longWithLinux, cpus: 1, each: true, together: []string{quickWithLinux, disksWithLinux, programsWithLinux}, timeout: 10 * time.Minute},
		{name: "Linux: polling", host: "6.12", guests: []string{"6.12"}, packages: linux, run: linuxPolling, each: true, together: []string{linuxPolling}, timeout: 5 * time.Minute},
	}
	if !full {
		return ci
	}
	all := images.KernelNames()
	guests := []string{"6.1", "6.12", "newest"}
	return []step{
		ci[0],
		{name: "RAM above 4 GiB", host: "6.12", guests: []string{"6.12"}, packages: linux, run: withMuchRAM, memory: 7168, cpus: 1, each: true, timeout: 5 * time.Minute},
		{name: "liburing", host: "6.12", guests: []string{"6.12"}, liburing: true, packages: linux, run: withLiburing, cpus: 1, each: true, timeout: 10 * time.Minute},
		{name: "bare guests", host: "6.12", packages: bare, run: withBareGuests, full: true, timeout: 30 * time.Minute},
		{name: "Linux: boot and console", host: "6.12", guests: guests, packages: linux, run: linuxBoots, full: true, cpus: 1, each: true, timeout: time.Hour},
		{name: "Linux: data", host: "6.12", guests: guests, packages: linux, run: linuxData, full: true, cpus: 1, each: true, timeout: 2 * time.Hour},
		{name: "Linux: faults and kills", host: "6.12", guests: guests, packages: linux, run: linuxFaults, full: true, cpus: 1, each: true, timeout: time.Hour},
		{name: "Linux: programs", host: "6.12", guests: guests, packages: linux, run: linuxPrograms, full: true, cpus: 1, each: true, timeout: time.Hour},
		{name: "Linux: polling", host: "6.12", guests: guests, packages: linux, run: linuxPolling, full: true, each: true, timeout: 20 * time.Minute},
		{name: "Linux: virtual CPUs at once", host: "6.12", guests: []string{"6.12"}, packages: linux, run: linuxAtOnce, full: true, each: true, timeout: time.Hour},
		{name: "generic kernels", host: "6.12", guests: []string{all[1], all[3], all[5]}, packages: linux, run: bootsLinux, full: true, cpus: 1, each: true, timeout: time.Hour},
		{name: "bare guests", host: "6.1", packages: bare[2:], run: withBareGuests, timeout: 20 * time.Minute},
		{name: "Linux guests boot", host: "6.1", guests: guests, packages: linux, run: bootsLinux, full: true, cpus: 1, each: true, timeout: time.Hour},
		{name: "bare guests", host: "newest", packages: bare[2:], run: withBareGuests, timeout: 20 * time.Minute},
		{name: "Linux guests boot", host: "newest", guests: guests, packages: linux, run: bootsLinux, full: true, cpus: 1, each: true, timeout: time.Hour},
	}
}

func newTestCommand() *cobra.Command {
	s := &suite{}
	cmd := &cobra.Command{
		Use:   "test",
		Short: "Run the project's tests in the machine",
		Long: `test makes the machine and the Linux guests, and runs the project's tests in it by
"go test -exec", in the directory of the module. With --full it runs the whole
matrix of host kernels, guest kernels, backends and virtual CPUs, which takes hours.

Exit status: 0 if all tests passed, 1 if not, 125 if a machine could not be made.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.stdout, s.stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return s.runAll(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.BoolVar(&s.full, "full", false, "the whole matrix")
	f.StringVar(&s.report, "report", "", "write the results to this file, as Markdown")
	f.StringVar(&s.only, "only", ".", "run the steps that match this regular expression, which are called \"bare guests on Linux 6.12\" and so on")
	f.StringVar(&s.guests, "guests", filepath.Join("bin", "guests"), "directory for the guests' files")
	cacheFlags(f, &s.cache)
	return cmd
}

// runAll runs the steps, all of them whatever fails.
func (s *suite) runAll(ctx context.Context) (err error) {
	only, err := regexp.Compile(s.only)
	if err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	if s.self, err = os.Executable(); err != nil {
		return err
	}
	if s.guests, err = filepath.Abs(s.guests); err != nil {
		return err
	}
	s.cache.Report = s.stderr
	if s.images, err = images.OpenCache(s.cache); err != nil {
		return &machineError{exitMachine, err}
	}
	start := time.Now()
	failed, code := 0, 1
	for _, st := range steps(s.full) {
		r := result{step: st, begun: time.Now()}
		if !only.MatchString(st.name + " on " + r.where()) {
			continue
		}
		r.err = s.run(ctx, &r)
		r.took = time.Since(r.begun)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.err != nil {
			failed++
			if m, ok := errors.AsType[*machineError](r.err); ok {
				code = m.code
			}
		}
		fmt.Fprintf(s.stdout, "== %s\n", r)
		s.done = append(s.done, r)
		if s.report != "" {
			if err := s.writeReport(); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(s.stdout, "\n%s", s.table())
	fmt.Fprintf(s.stdout, "%v in all\n", time.Since(start).Round(time.Second))
	if failed > 0 {
		return &machineError{code, fmt.Errorf("%d of %d steps failed", failed, len(s.done))}
	}
	return nil
}

// where says what the step runs on.
func (r *result) where() string {
	if r.host == "" {
		return "this host"
	}
	return "Linux " + r.host
}

func (r result) String() string {
	state := "pass"
	if r.err != nil {
		state = "FAIL: " + r.err.Error()
	}
	return fmt.Sprintf("%s on %s: %d passed, %d failed, %d skipped, %v: %s", r.name, r.where(), r.passed, r.failed, r.skipped, r.took.Round(time.Second), state)
}

// run makes what the step needs and runs it.
func (s *suite) run(ctx context.Context, r *result) error {
	// Guests and the host poll: in a machine one package at a time.
	packages := "1"
	if r.host == "" {
		packages = "2"
	}
	args := []string{"test", "-v", "-count=1", "-p", packages, "-timeout", r.timeout.String()}
	if r.skip != "" {
		args = append(args, "-skip", r.skip)
	}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if r.full {
		env = append(env, "URINGPV_TEST_FULL=1")
	}
	if r.host == "" {
		env = append(env, "URINGPV_TEST_CACHE="+s.images.Dir())
	} else {
		machine, err := prepare(ctx, s.images, r.host)
		if err != nil {
			return &machineError{exitMachine, err}
		}
		in := []string{s.self, "run", "--machine", machine, "--timeout", (r.timeout + 30*time.Second).String()} // go test ends it after a minute more
		if r.cpus != 0 {
			in = append(in, "--cpus", strconv.Itoa(r.cpus))
		}
		if r.memory != 0 {
			in = append(in, "--memory", strconv.Itoa(r.memory))
		}
		if err := s.makeGuests(ctx, r.guests); err != nil {
			return &machineError{exitMachine, err}
		}
		for _, g := range r.guests {
			in = append(in, "--put", filepath.Join(s.guests, g)+":/guests/"+g, "--image", s.root(g))
		}
		if len(r.guests) > 0 {
			env = append(env, "URINGPV_TEST_GUESTS=/guests", "URINGPV_TEST_ROOTS=/images")
		}
		if r.liburing {
			dir, err := s.makeLiburing(ctx)
			if err != nil {
				return &machineError{exitMachine, err}
			}
			in = append(in, "--put", dir+":/liburing")
			env = append(env, "URINGPV_TEST_LIBURING=/liburing")
		}
		env = append(env, "REQUIRE_KVM=1", "REQUIRE_IO_URING=1")
		for i, a := range in {
			if strings.ContainsAny(a, "'\n") {
				return fmt.Errorf("%q: a quote in a path", a)
			}
			in[i] = "'" + a + "'"
		}
		args = append(args, "-exec", strings.Join(append(in, "--"), " "))
	}
	fmt.Fprintf(s.stdout, "== %s on %s\n", r.name, r.where())
	runs := []string{r.run}
	if r.each {
		var err error
		if runs, err = listTests(ctx, r.run, r.skip, r.packages); err != nil {
			return err
		}
		runs = group(runs, r.together)
	}
	failed := s.runEach(ctx, r, env, args, runs)
	switch {
	case failed > 0:
		return fmt.Errorf("%d of %d runs of go test failed", failed, len(runs))
	case r.passed == 0:
		return errors.New("no test has run")
	}
	return nil
}

// mostMachines is how many run side by side at most: each takes gigabytes of memory.
const mostMachines = 4

// runEach runs go test for each of runs, and returns how many failed. Machines with one
// CPU run side by side, one on each of this host's.
func (s *suite) runEach(ctx context.Context, r *result, env, args, runs []string) (failed int) {
	workers := 1
	if r.cpus == 1 {
		workers = min(runtime.NumCPU(), mostMachines)
	}
	todo := make(chan string)
	var mu sync.Mutex // of r, failed, and stdout when there are several
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for run := range todo {
				one, out := result{step: r.step}, s.stdout
				var kept bytes.Buffer
				if workers > 1 {
					out = &kept
				}
				err := s.goTest(ctx, &one, out, env, slices.Concat(args, []string{"-run", run}, r.packages))
				if err != nil && one.faults > 0 && ctx.Err() == nil && s.again(ctx, &one, out, env, args) {
					// Those that failed have passed since.
					one.passed, one.failed = one.passed+one.failed, 0
					err = nil
				}
				mu.Lock()
				_, _ = s.stdout.Write(kept.Bytes())
				r.passed, r.failed, r.skipped, r.faults = r.passed+one.passed, r.failed+one.failed, r.skipped+one.skipped, r.faults+one.faults
				if err != nil {
					failed++
				}
				mu.Unlock()
			}
		})
	}
	for _, run := range runs {
		todo <- run
	}
	close(todo)
	all.Wait()
	return failed
}

// again runs those tests of r's last run once more that have failed, if the guests of
// all of them had triple faults, each up to faultTries-1 times as long as they have
// some, and says whether all have passed in the end.
func (s *suite) again(ctx context.Context, r *result, out io.Writer, env, args []string) bool {
	failures := innermost(r.failures)
	for _, test := range failures {
		if !r.faulted[test] {
			return false // for another reason
		}
		passed := false
		for try := 1; try < faultTries && !passed; try++ {
			fmt.Fprintf(out, "nested: a guest's emulated CPU had a triple fault: %s once more\n", test)
			once := result{step: r.step}
			err := s.goTest(ctx, &once, out, env, slices.Concat(args, []string{"-run", exactly(test)}, r.packages))
			passed = err == nil && once.passed > 0
			r.faults += once.faults
			if !passed && once.faults == 0 {
				return false
			}
		}
		if !passed {
			return false
		}
	}
	return len(failures) > 0
}

// innermost are those of the failed tests of which no subtest has failed, in order.
func innermost(failed []string) []string {
	return slices.DeleteFunc(slices.Clone(failed), func(test string) bool {
		return slices.ContainsFunc(failed, func(other string) bool { return strings.HasPrefix(other, test+"/") })
	})
}

// exactly is what go test -run wants for one test or subtest.
func exactly(test string) string {
	levels := strings.Split(test, "/")
	for i, l := range levels {
		levels[i] = "^" + regexp.QuoteMeta(l) + "$"
	}
	return strings.Join(levels, "/")
}

// goTest runs go with args, counts the tests and writes to out what count shows.
func (s *suite) goTest(ctx context.Context, r *result, out io.Writer, env, args []string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env, cmd.Stderr = env, s.stderr
	// go does not end the program of -exec when it is killed, and waits for it when it is
	// interrupted, as it is by a terminal: then all of the group are.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	said, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r.count(said, out)
	return cmd.Wait()
}

// group makes one of those of runs, which are regular expressions of one test each,
// whose tests match the same one of together. Groups come first.
func group(runs, together []string) []string {
	var groups []string
	for _, t := range together {
		match := regexp.MustCompile(t)
		var shared, rest []string
		for _, run := range runs {
			if match.MatchString(strings.Trim(run, "^$")) {
				shared = append(shared, run)
			} else {
				rest = append(rest, run)
			}
		}
		if len(shared) > 0 {
			groups = append(groups, strings.Join(shared, "|"))
		}
		runs = rest
	}
	return append(groups, runs...)
}

// listTests lists the tests that match run and not skip, as regular expressions.
func listTests(ctx context.Context, run, skip string, packages []string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"test", "-list", run}, packages)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go test -list %s: %w\n%s", run, err, out)
	}
	not, err := regexp.Compile(skip)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if name := strings.TrimSpace(line); (strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz")) && (skip == "" || !not.MatchString(name)) {
			names = append(names, "^"+name+"$")
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("go test -list %s: no tests", run)
	}
	return names, nil
}

// testLine is a test's end in the output of go test -v.
var testLine = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+)`)

// beginLine says whose output comes next.
var beginLine = regexp.MustCompile(`^=== (?:RUN|NAME|CONT)\s+(\S+)`)

// tripleFault is what the monitor says of a guest that has had one. A Linux kernel
// that is broken, or whose memory is, panics or says Oops first, and a built-in guest
// prints the exception; without that it is QEMU's emulation of nested virtual CPUs,
// which has one now and then (errReset is the same for the machine's own CPUs).
const tripleFault = "shutdown (triple fault)"

// faultTries is how often a test is run whose guests have triple faults.
const faultTries = 4

// count counts the tests in go test's output, and shows of it what is not a test
// that passed.
func (r *result) count(in io.Reader, out io.Writer) {
	lines := bufio.NewReader(in)
	current := "" // the test that says what comes
	for {
		line, err := lines.ReadString('\n')
		m := testLine.FindStringSubmatch(line)
		switch {
		case m == nil:
		case m[1] == "PASS":
			r.passed++
		case m[1] == "FAIL":
			r.failed++
			r.failures = append(r.failures, m[2])
			if r.faulted[m[2]] {
				r.faults++
			}
		default:
			r.skipped++
		}
		if m := beginLine.FindStringSubmatch(line); m != nil {
			current = m[1]
		}
		if strings.Contains(line, tripleFault) {
			if r.faulted == nil {
				r.faulted = map[string]bool{}
			}
			r.faulted[current] = true
		}
		if !strings.HasPrefix(line, "=== ") && line != "PASS\n" {
			fmt.Fprint(out, line)
		}
		if err != nil {
			return
		}
	}
}

// fioFile is the initramfs with fio and xfs' tools: larger, for the tests that
// need them.
const fioFile = "fio.cpio"

// makeGuests makes the files of guest kernels, and keeps them for later steps.
func (s *suite) makeGuests(ctx context.Context, kernels []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for _, k := range kernels {
		if !s.made[k] {
			g.Go(func() error { return s.makeGuest(ctx, k) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if s.made == nil {
		s.made = map[string]bool{}
	}
	for _, k := range kernels {
		s.made[k] = true
	}
	return nil
}

// makeGuest makes the files of one guest kernel, and its root disk.
func (s *suite) makeGuest(ctx context.Context, kernel string) error {
	dir := filepath.Join(s.guests, kernel)
	for _, o := range []images.BuildOptions{{Kernel: kernel, Fio: true, XFS: true}, {Kernel: kernel}} {
		if err := s.images.Build(ctx, dir, o); err != nil {
			return err
		}
		if o.Fio {
			if err := os.Rename(filepath.Join(dir, images.InitramfsFile), filepath.Join(dir, fioFile)); err != nil {
				return err
			}
		}
	}
	return s.images.BuildRoot(ctx, s.root(kernel), rootSize(kernel), kernel)
}

// root is the path of a guest kernel's root disk.
func (s *suite) root(kernel string) string {
	return filepath.Join(s.guests, "root-"+kernel+".img")
}

// rootSize is a root disk's size in bytes: those of generic kernels have many modules.
func rootSize(kernel string) int64 {
	if strings.HasSuffix(kernel, "-generic") {
		return 704 << 20
	}
	return 384 << 20
}

// makeLiburing builds the programs of guest/liburing/programs, and returns their directory.
func (s *suite) makeLiburing(ctx context.Context) (string, error) {
	programs, err := guest.LiburingPrograms()
	if err != nil {
		return "", err
	}
	var files []string
	for _, p := range programs {
		files = append(files, p.File)
	}
	return s.images.BuildLiburing(ctx, guest.LiburingPort(), slices.Compact(slices.Sorted(slices.Values(files))))
}
