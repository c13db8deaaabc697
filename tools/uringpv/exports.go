// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/export"
	"github.com/uringpv/uringpv/vmm"
)

// exportsDevice is the name of the device that carries what is exported, behind
// the disks' devices.
const exportsDevice = "exports"

// exportOptions are the flags of `uringpv run` for what is exported.
type exportOptions struct {
	list    []exportSpec
	backend choice
	rings   count
	policy  policyValue
}

func newExportOptions() exportOptions {
	return exportOptions{
		backend: choice{value: backendAuto, of: []string{backendAuto, backendRelay, backendPassthrough, backendIsolated}, what: "BACKEND"},
		rings:   count{value: defaultRings, min: 1, max: maxRings},
	}
}

// addTo adds the flags to cmd.
func (o *exportOptions) addTo(cmd *cobra.Command, f *pflag.FlagSet) {
	for i := range exportFlags {
		flag := &exportFlags[i]
		f.Var(exportValue{flag, &o.list}, flag.name, flag.short+" for the guest, see above; repeatable")
		mustCompleteFunc(cmd, flag.name, func(_ *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
			return flag.complete(s), cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
		})
	}
	f.Var(&o.backend, "export-backend", "how their requests reach the host's kernel: auto, relay, passthrough or isolated")
	f.Var(&o.rings, "export-rings", "rings that the guest may set up for them")
	f.Var(&o.policy, "export-policy", "opcodes and SQE flags that the guest may not use with them, see above")
	mustComplete(cmd, "export-backend", o.backend.of)
	mustCompleteFunc(cmd, "export-policy", func(_ *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
		return o.policy.complete(s), cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	})
}

// check checks what no flag can see by itself.
// An own guest makes exports itself.
func (o *exportOptions) check(disks []diskSpec, own bool) error {
	if len(o.list) == 0 && !own {
		for _, f := range []struct {
			name    string
			changed bool
		}{
			{"export-backend", o.backend.value != backendAuto}, {"export-rings", o.rings.value != defaultRings}, {"export-policy", o.policy.text != ""},
		} {
			if f.changed {
				return usagef("--%s without exports: add --file, --socket, --pipe, --eventfd or --tap, or leave it out", f.name)
			}
		}
		return nil
	}
	taken := map[string]exportSpec{}
	files := 0
	for _, e := range o.list {
		for _, name := range e.names() {
			if other, ok := taken[name]; ok {
				return usagef("--%s %s: --%s %s has the name %s too; each needs its own", e.Flag, e, other.Flag, other, name)
			}
			taken[name] = e
			files++
		}
	}
	names := slices.Sorted(maps.Keys(taken))
	if own {
		names = conformanceNames
	}
	if err := o.policy.check(names); err != nil {
		return usagef("--export-policy %q: %v", o.policy.text, err)
	}
	if b := o.backend.value; o.policy.files != nil && b != backendRelay && (own || b != backendAuto) {
		return usagef("--export-policy %q with --export-backend %s: only the relay looks at each request, as a rule for one file wants; take --export-backend relay", o.policy.text, b)
	}
	if files > uringpv.ReservedFile {
		return usagef("%d exports: a device has %d files at most", files, uringpv.ReservedFile)
	}
	for _, d := range disks {
		if d.ID == exportsDevice {
			return usagef("--disk %s: id=%s is the name of the device that carries exports; take another", d.Path, exportsDevice)
		}
	}
	return nil
}

// device is the device that carries files.
func (o *exportOptions) device(files []uringpv.File, backend vmm.Choice) vmm.DeviceConfig {
	d := defaultDisk()
	return vmm.DeviceConfig{
		Name: exportsDevice, Files: o.policy.apply(files), Backend: backend, Rings: o.rings.value, MaxEntries: uint32(d.Entries),
		SQPoll: d.SQPoll, SQThreadIdle: d.SQPollIdle, SQThreadCPU: d.SQPollCPU, Deny: o.policy.deny, DenyFlags: o.policy.flags,
	}
}

// openExports is what is open for a run.
type openExports struct{ all []*export.Export }

// files are the files of all exports, in order.
func (o *openExports) files() (files []uringpv.File) {
	for _, e := range o.all {
		files = append(files, e.Files()...)
	}
	return files
}

// add takes over what an opening function of package export returns.
func (o *openExports) add(e *export.Export, err error) error {
	if err == nil {
		o.all = append(o.all, e)
	}
	return err
}

// close closes all.
func (o *openExports) close() error {
	var errs []error
	for _, e := range o.all {
		errs = append(errs, e.Close())
	}
	o.all = nil
	return errors.Join(errs...)
}

// open opens what the flags name. The error names the flag.
func (o *exportOptions) open(ctx context.Context) (*openExports, error) {
	open := &openExports{}
	for _, spec := range o.list {
		if err := open.add(spec.open(ctx)); err != nil {
			if ctx.Err() == nil {
				err = fmt.Errorf("--%s %s: %w", spec.Flag, spec, err)
			}
			return nil, errors.Join(err, open.close())
		}
	}
	return open, nil
}

// open opens what e names.
func (e exportSpec) open(ctx context.Context) (*export.Export, error) {
	switch e.Flag {
	case "file":
		return export.OpenFile(export.FileOptions{Name: e.Name, Path: e.Path, ReadOnly: e.ReadOnly, Direct: e.Direct})
	case "socket":
		return export.OpenSocket(ctx, e.socket())
	case "pipe":
		return export.OpenPipe(export.PipeOptions{Name: e.Name, Path: e.Path, Write: e.WriteEnd})
	case "eventfd":
		return export.OpenEventfd(e.Name)
	default:
		return export.OpenTap(e.Name, e.Interface)
	}
}
