// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/disk"
	"github.com/uringpv/uringpv/internal/feature"
	"github.com/uringpv/uringpv/vmm"
	"github.com/uringpv/uringpv/vmm/kvm"
)

// linuxOptions are the flags of `uringpv run` that boot a Linux kernel.
type linuxOptions struct {
	kernel  string
	initrds []string
	cmdline string
	root    string
}

// defaultLinuxMemory is a Linux guest's RAM without --memory, in bytes.
const defaultLinuxMemory = 512 << 20

// baseCmdline comes before --cmdline: the console that this program shows, and a
// restart at once after a panic, which ends the run.
const baseCmdline = "console=ttyS0 panic=-1"

// given says whether one of the flags was given, and which first.
func (o *linuxOptions) given() (flag string, ok bool) {
	for _, f := range []struct{ name, value string }{
		{"--kernel", o.kernel}, {"--initrd", strings.Join(o.initrds, " ")}, {"--cmdline", o.cmdline}, {"--root", o.root},
	} {
		if f.value != "" {
			return f.name, true
		}
	}
	return "", false
}

// validateLinux checks the flags of a run with --kernel, and returns its disks.
func (o *runOptions) validateLinux() ([]diskSpec, error) {
	switch {
	case o.linux.kernel == "":
		flag, _ := o.linux.given()
		return nil, usagef("%s without --kernel: it is for Linux guests; name a kernel by --kernel", flag)
	case o.guest.value != "":
		return nil, usagef("--kernel and --guest %s: a machine runs one of the two", o.guest.value)
	case o.report.value != "text":
		return nil, usagef("--kernel and --report %s: a Linux guest has no report; its console is shown", o.report.value)
	}
	if err := o.checkMemory(); err != nil {
		return nil, err
	}
	disks, err := o.disks.named()
	if err != nil {
		return nil, err
	}
	if err := o.exports.check(disks, false); err != nil {
		return nil, err
	}
	for i := range disks {
		if err := disks[i].checkCPU(); err != nil {
			return nil, err
		}
	}
	_, err = o.linux.fullCmdline(disks)
	return disks, err
}

// fullCmdline is the kernel's command line. Its disks are upv0, upv1, ... in the
// order of --disk.
func (o *linuxOptions) fullCmdline(disks []diskSpec) (string, error) {
	words := []string{baseCmdline}
	if o.root != "" {
		at := -1
		var ids []string
		for i, d := range disks {
			ids = append(ids, d.ID)
			if d.ID == o.root {
				at = i
			}
		}
		if at < 0 {
			if len(disks) == 0 {
				return "", usagef("--root %s: there is no --disk", o.root)
			}
			return "", usagef("--root %s: no disk has this id; there are %s", o.root, strings.Join(ids, ", "))
		}
		mode := "rw"
		if disks[at].ReadOnly {
			mode = "ro"
		}
		words = append(words, fmt.Sprintf("root=/dev/upv%d %s", at, mode))
	}
	if o.cmdline != "" {
		words = append(words, o.cmdline)
	}
	return strings.Join(words, " "), nil
}

// logBackend says which backend a device got, without -v only if the fastest cannot
// serve it here.
func logBackend(ctx context.Context, log *slog.Logger, b vmm.Chosen) {
	level, what := slog.LevelInfo, "backend"
	if b.Fallback {
		level, what = slog.LevelWarn, "not the fastest backend"
	}
	log.Log(ctx, level, what, "device", b.Device, "backend", b.Backend, "why", oneLine(b.Why))
}

// panicError is a guest whose kernel has panicked.
type panicError struct{}

func (*panicError) Error() string { return "the guest's kernel panicked" }

// runLinux boots a Linux kernel, its console on stdin and stdout.
func (o *runOptions) runLinux(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, log *slog.Logger) (err error) {
	disks, err := o.validateLinux()
	if err != nil {
		return err
	}
	if o.crowded {
		shareThreads(disks)
	}
	if _, err := lookAtHost(); err != nil {
		return err
	}
	if err := vmm.CheckLinux(); err != nil {
		if errors.Is(err, vmm.ErrNoLinux) {
			return fmt.Errorf("%w (%s is %s); use a host with VT-x or AMD-V, or `make linux`, which boots a Linux guest in an emulated machine with a KVM that can", err, kvm.Device, feature.ProbeKVM().Kind)
		}
		return err
	}
	cmdline, err := o.linux.fullCmdline(disks)
	if err != nil {
		return err
	}
	guest := vmm.Guest{Cmdline: cmdline}
	if guest.Kernel, err = os.ReadFile(o.linux.kernel); err != nil {
		return fmt.Errorf("--kernel: %w", err)
	}
	initrd, err := openInitrd(o.linux.initrds)
	if err != nil {
		return err
	}
	defer initrd.Close()
	guest.Initrd, guest.InitrdSize = initrd, initrd.size
	var devices []vmm.DeviceConfig
	var opened []*disk.Disk
	defer func() {
		for _, d := range opened {
			finally(&err, log, d.Close)
		}
	}()
	for _, spec := range disks {
		d, err := disk.OpenDisk(spec.Path, disk.Options{ID: spec.ID, ReadOnly: spec.ReadOnly, Direct: spec.Direct})
		if err != nil {
			return err
		}
		opened = append(opened, d)
		c := spec.device([]uringpv.File{d.File()}, vmm.Choice(spec.Backend))
		if spec.Rings == 0 {
			// One for each CPU, and one for what those cannot do.
			c.Rings = min(o.cpus.value+1, maxRings)
		}
		devices = append(devices, c)
	}
	exports, err := o.exports.open(ctx)
	if err != nil {
		return endedBy(ctx, err)
	}
	defer finally(&err, log, exports.close)
	if files := exports.files(); len(files) > 0 {
		c := o.exports.device(files, vmm.Choice(o.exports.backend.value))
		c.SQThreadShared = o.crowded
		devices = append(devices, c)
	}
	vm, err := vmm.New(vmm.Config{
		Memory: uint64(o.memory), HugePages: o.hugePages, BufferSize: bufferSize, CPUs: o.cpus.value, Guest: guest, Devices: devices, Serial: stdout, Logger: log, Sized: o.sized,
	})
	guest = vmm.Guest{} // it is in the machine's memory now
	if err != nil {
		return err
	}
	defer finally(&err, log, vm.Close)
	for _, b := range vm.Backends() {
		logBackend(ctx, log, b)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	term, err := openTerminal(stdin, vm.SerialInput, func() { cancel(errEscape) })
	if err != nil {
		return err
	}
	defer finally(&err, log, term.Close)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	exit, err := vm.Run(ctx)
	switch {
	case errors.Is(err, errEscape):
		return nil
	case err != nil:
		var crash *vmm.GuestCrash
		if errors.As(err, &crash) {
			fmt.Fprint(stderr, crash.Report)
		}
		return err
	case exit.How == vmm.ByPanic:
		for _, line := range exit.Last {
			fmt.Fprintf(stderr, "guest: %s\n", strings.Map(printable, line))
		}
		return &panicError{}
	}
	return nil
}

// bufferSize is vmm.Config's BufferSize. A test of what crosses the ends of buffers has smaller ones.
var bufferSize uint64

// errEscape ends a run by Ctrl-a x.
var errEscape = errors.New("ended by Ctrl-a x")
