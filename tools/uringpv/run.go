// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/images"
	"github.com/uringpv/uringpv/internal/feature"
)

// Built-in guests.
const (
	guestSelftest    = "selftest"
	guestChecksum    = "checksum"
	guestConformance = "conformance"
)

// scratchSize is the size of the disk that a run without --disk gets, in bytes.
const scratchSize = 64 << 20

// Bounds of a machine.
const (
	maxCPUs       = 64
	defaultMemory = 32 << 20 // the built-in guests need no more, and all of it is pinned
	minMemory     = 32 << 20
	maxMemory     = 128 << 30
)

// runOptions is the command line of `uringpv run`.
type runOptions struct {
	guest     choice
	linux     linuxOptions
	disks     diskList
	exports   exportOptions
	cpus      count
	memory    byteSize
	hugePages bool
	crowded   bool   // more rings of this process are in use at a time than SQ threads may poll
	sized     func() // as vmm.Config has it
	timeout   span
	report    choice
	verbosity int
	config    string
}

func newRunOptions() *runOptions {
	return &runOptions{
		guest:   choice{of: []string{guestSelftest, guestChecksum, guestConformance}, what: "NAME"},
		exports: newExportOptions(),
		cpus:    count{value: 1, min: 1, max: maxCPUs},
		memory:  defaultMemory,
		timeout: span{min: time.Millisecond, max: 24 * time.Hour},
		report:  choice{value: "text", of: []string{"text", "json"}},
	}
}

// flagConfig is the flag that names a file of machines.
const flagConfig = "config"

func newRunCommand() *cobra.Command { return runCommand(newRunOptions()) }

// runCommand is the command whose flags are o.
func runCommand(o *runOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [--guest NAME | --kernel FILE] [--disk PATH[,KEY=VALUE...]]... [flags]",
		Short: "Boot a guest: a built-in one, or a Linux kernel",
		Long: `Run boots a built-in guest and reports what it found, on stdout; or it boots a
Linux kernel, with the guest's serial console on stdin and stdout.

Built-in guests:
  selftest     tests the whole path, case by case, on every backend that this host
               has. It OVERWRITES its disk. Without --disk it gets a scratch disk
               of 64 MiB, which is removed. The default when there is no --disk.
  checksum     reads a whole disk and prints its SHA-256. It never writes.
  conformance  tests every feature of io_uring, case by case, on every backend that
               this host has, with files, sockets, a pipe and an eventfd made for
               the run. It OVERWRITES its disk. Without --disk it gets a scratch
               disk of 1 MiB.

Linux: --kernel is a vmlinuz or an ELF vmlinux for x86-64, not modified. In a
terminal every key goes to the guest, but Ctrl-a x ends the run and Ctrl-a Ctrl-a
sends one Ctrl-a. Power-off and restart end the run with exit status 0, a kernel
panic with 1. The guest sees its disks by the driver uringpv.ko, as /dev/upv0,
/dev/upv1 and so on, in the order of --disk.

A --disk is a file or a block device, taken as raw bytes, and keys:
` + diskHelp() + `
A comma in a path is written twice. Unknown keys are errors.

What the guest may use besides disks are the files of one more device, behind the
disks' devices, in the order given. A name is the guest's for it:
` + exportHelp() + `
` + policyHelp + `.

--config runs several machines at once in this process. FILE is YAML or JSON: a
list "machines", whose members have the keys name and run's flags, without the
dashes; a flag that may be repeated takes a list. Paths are as on the command line.
What a machine writes begins with its name. One that fails does not end the
others; the exit status is 1 then.`,
		Example: `  uringpv run
  uringpv run --guest checksum --disk disk.img --report json
  uringpv run --guest selftest --disk scratch.img,backend=relay,rings=8 -v
  uringpv run --guest conformance --export-backend isolated
  uringpv run --kernel vmlinuz --initrd initrd.img --disk root.img --root disk0 --cpus 4
  uringpv run --kernel vmlinuz --initrd initrd.img --file name=data,path=data.bin \
      --socket name=web,tcp=127.0.0.1:8080,listen=on --export-policy deny=connect
  uringpv run --config machines.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.defaults(cmd.Flags())
			if o.config != "" {
				return o.runConfig(cmd.Context(), cmd.Flags(), cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return o.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.Var(&o.guest, "guest", "what to run: selftest, checksum or conformance")
	f.StringVar(&o.linux.kernel, "kernel", "", "a Linux kernel to boot: vmlinuz or ELF vmlinux")
	f.StringArrayVar(&o.linux.initrds, "initrd", nil, "its initramfs; repeatable, each one adds to those before it")
	f.StringVar(&o.linux.cmdline, "cmdline", "", "words for the kernel's command line, behind \""+baseCmdline+"\"")
	f.StringVar(&o.linux.root, "root", "", "the id of the disk that holds the guest's root file system")
	f.Var(&o.disks, "disk", "a disk for the guest, see above; repeatable")
	o.exports.addTo(cmd, f)
	f.Var(&o.cpus, "cpus", "virtual CPUs")
	f.Var(&o.memory, "memory", "the guest's RAM, such as 512M or 2G (with --kernel: default 512M)")
	f.BoolVar(&o.hugePages, "huge-pages", false, "take the guest's RAM from the host's pool of 2 MiB pages, /proc/sys/vm/nr_hugepages")
	f.Var(&o.timeout, "timeout", "end the run after this time, as a failure")
	f.Var(&o.report, "report", "form of the report: text or json")
	f.StringVar(&o.config, flagConfig, "", "run the machines of this `FILE`, see above")
	f.CountVarP(&o.verbosity, "verbose", "v", "log more to stderr; twice for debugging")
	f.SortFlags = false
	mustComplete(cmd, "guest", o.guest.of)
	mustComplete(cmd, "report", o.report.of)
	mustCompleteFunc(cmd, "disk", func(_ *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
		if c := completeDisk(s); c != nil {
			return c, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoSpace // file names
	})
	return cmd
}

// mustComplete offers words as completions of a flag.
func mustComplete(cmd *cobra.Command, flag string, words []string) {
	mustCompleteFunc(cmd, flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// mustCompleteFunc is for flags that exist: anything else is a slip in this
// package, which its first test finds.
func mustCompleteFunc(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}

// validate checks what no flag can see by itself, and returns the guest to run
// and its disks. No disks means a scratch disk.
func (o *runOptions) validate() (guest string, disks []diskSpec, err error) {
	guest = o.guest.value
	switch {
	case guest == "" && len(o.disks.disks) > 0:
		return "", nil, usagef("--disk without --guest: say --guest checksum to read the disk, or --guest selftest to overwrite it")
	case guest == "":
		guest = guestSelftest
	case guest == guestChecksum && len(o.disks.disks) == 0:
		return "", nil, usagef("--guest checksum needs a disk to read: --disk PATH")
	case guest == guestConformance && len(o.exports.list) > 0:
		e := o.exports.list[0]
		return "", nil, usagef("--%s %s: --guest conformance makes its own exports; leave it out", e.Flag, e)
	}
	if err := o.checkMemory(); err != nil {
		return "", nil, err
	}
	if disks, err = o.disks.named(); err != nil {
		return "", nil, err
	}
	if err := o.exports.check(disks, guest == guestConformance); err != nil {
		return "", nil, err
	}
	for i := range disks {
		d := &disks[i]
		switch {
		case guest == guestChecksum:
			d.ReadOnly = true
		case d.ReadOnly:
			return "", nil, usagef("--disk %s: readonly=on, but --guest %s writes its disk", d.Path, guest)
		}
		if err := d.checkCPU(); err != nil {
			return "", nil, err
		}
	}
	return guest, disks, nil
}

func (o *runOptions) checkMemory() error {
	if o.memory < minMemory || o.memory > maxMemory || o.memory%(2<<20) != 0 {
		return usagef("--memory %s: must be a multiple of 2M from %s to %s", &o.memory, byteSize(minMemory), byteSize(maxMemory))
	}
	return nil
}

// onlineCPUs is the kernel's list of the CPUs that are there, such as 0-3.
func onlineCPUs() string {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return fmt.Sprintf("0-%d", runtime.NumCPU()-1)
	}
	return strings.TrimSpace(string(b))
}

func cpuExists(n int) bool {
	_, err := os.Stat(fmt.Sprintf("/sys/devices/system/cpu/cpu%d", n))
	return err == nil
}

// timeoutError ends a run whose --timeout is over.
type timeoutError struct{ limit time.Duration }

func (e *timeoutError) Error() string {
	return fmt.Sprintf("--timeout %s is over and the guest has not ended", e.limit)
}

// defaults sets what depends on other flags.
func (o *runOptions) defaults(f *pflag.FlagSet) {
	if _, linux := o.linux.given(); linux && !f.Changed("memory") {
		o.memory = defaultLinuxMemory
	}
}

// check is validate for a guest of either kind.
func (o *runOptions) check() (err error) {
	if _, linux := o.linux.given(); linux {
		_, err = o.validateLinux()
	} else {
		_, _, err = o.validate()
	}
	return err
}

// limited is ctx with --timeout.
func (o *runOptions) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if o.timeout.value == 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, o.timeout.value, &timeoutError{o.timeout.value})
}

// run runs one machine.
func (o *runOptions) run(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
	if err := o.check(); err != nil {
		return err
	}
	ctx, cancel := o.limited(ctx)
	defer cancel()
	log := newLogger(stderr, o.verbosity)
	o.crowded = o.crowded || crowded(o.pollers(), runtime.NumCPU())
	if _, linux := o.linux.given(); !linux {
		return o.runBuiltin(ctx, stdout, stderr, log)
	}
	if err := o.runLinux(ctx, stdin, stdout, stderr, log); err != nil {
		return endedBy(ctx, err)
	}
	return nil
}

// runConfig runs the machines of --config. Flags that make a machine stand there.
func (o *runOptions) runConfig(ctx context.Context, flags *pflag.FlagSet, stdout, stderr io.Writer) error {
	var err error
	flags.Visit(func(f *pflag.Flag) {
		if !slices.Contains(notKeys, f.Name) && f.Name != "timeout" && err == nil {
			err = usagef("--%s and --%s: a machine's flags are keys in %s; beside it there are --report, --timeout and --verbose", flagConfig, f.Name, o.config)
		}
	})
	if err != nil {
		return err
	}
	machines, err := readConfig(o.config)
	if err != nil {
		return err
	}
	ctx, cancel := o.limited(ctx)
	defer cancel()
	f := fleet{machines: machines, json: o.report.value == "json", verbosity: o.verbosity, stdout: stdout, stderr: stderr}
	return f.run(ctx)
}

// runBuiltin runs a built-in guest.
func (o *runOptions) runBuiltin(ctx context.Context, stdout, stderr io.Writer, log *slog.Logger) (err error) {
	guest, disks, err := o.validate()
	if err != nil {
		return err
	}
	host, err := lookAtHost()
	if err != nil {
		return err
	}
	if len(disks) == 0 {
		size := int64(scratchSize)
		if guest == guestConformance {
			size = conformanceSize
		}
		d, closeScratch, err := scratchDisk(size, images.Zeros)
		if err != nil {
			return err
		}
		defer finally(&err, log, closeScratch)
		disks = []diskSpec{d}
	}
	if o.crowded {
		shareThreads(disks)
	}

	exports, err := o.exports.open(ctx)
	if err != nil {
		return err
	}
	defer finally(&err, log, exports.close)

	var show reporter = jsonReporter{stdout}
	if o.report.value == "text" {
		show = &textReporter{w: stdout, colour: isTerminal(stdout), disks: len(disks)}
	}
	r := &report{Guest: guest, Host: host}
	start := time.Now()
	g := &guestRunner{options: o, guest: guest, exports: exports.files(), report: r, show: show, log: log, stderr: stderr}
	err = g.run(ctx, disks)
	r.WallMS = millis(time.Since(start))
	if err != nil && len(r.Runs) == 0 {
		return endedBy(ctx, err) // nothing was run, there is nothing to report
	}
	if err != nil {
		err = endedBy(ctx, err)
		r.Error = oneLine(err.Error())
	}
	if len(disks) == 1 && guest == guestChecksum {
		last := r.Runs[len(r.Runs)-1]
		r.SHA256, r.Bytes = last.SHA256, last.Bytes
	}
	if werr := show.done(r); werr != nil {
		return errors.Join(err, fmt.Errorf("write the report: %w", werr))
	}
	switch {
	case err != nil:
		return err
	case r.Failed > 0:
		return &failedCases{r.Failed}
	}
	return nil
}

// scratchDisk makes a disk for one run.
func scratchDisk(size int64, fill images.Fill) (d diskSpec, remove func() error, err error) {
	scratch, err := images.NewScratch("", size, fill)
	if err != nil {
		return d, nil, err
	}
	d = defaultDisk()
	d.Path, d.ID, d.Shown = scratch.Path(), "scratch", fmt.Sprintf("scratch file of %s", byteSize(size))
	return d, scratch.Close, nil
}

// finally ends what a function has made. Its failure is the function's error,
// unless there is one already: then it is logged, as the first is the one that
// says why.
func finally(err *error, log *slog.Logger, end func() error) {
	switch e := end(); {
	case e == nil:
	case *err == nil:
		*err = e
	default:
		log.Error("teardown", "error", oneLine(e.Error()))
	}
}

// endedBy is the reason why err ended a run: what ended the context, if anything
// did, and not what that made fail.
func endedBy(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// lookAtHost says which host this is, and fails where it cannot run guests.
func lookAtHost() (hostReport, error) {
	release, err := feature.KernelRelease()
	if err != nil {
		return hostReport{}, err
	}
	kvm := feature.ProbeKVM()
	if kvm.Err != nil {
		return hostReport{}, kvm.Err
	}
	if err := hostring.Available(); err != nil {
		return hostReport{}, err
	}
	return hostReport{KVM: kvm.Kind, Kernel: release}, nil
}

// isTerminal reports whether w is a terminal that shows colours.
func isTerminal(w io.Writer) bool {
	if p, ok := w.(*patientWriter); ok {
		w = p.w
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
