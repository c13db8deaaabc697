// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/vmm"
)

// TestAKVMThatRunsNoLinuxIsRefusedAtOnce: the refusal has a reason and a way out, and
// comes before anything else is looked at.
func TestAKVMThatRunsNoLinuxIsRefusedAtOnce(t *testing.T) {
	testutil.NeedKVM(t)
	err := vmm.CheckLinux()
	if err == nil {
		t.Skip("this host's KVM runs Linux: Linux guests are tested instead")
	}
	if !errors.Is(err, vmm.ErrNoLinux) {
		t.Fatal(err)
	}
	c := newCommand(t, "run", "--kernel", "no-such-kernel")
	begin := time.Now()
	status := c.finish()
	if took := time.Since(begin); took > time.Second {
		t.Errorf("the refusal took %v, want a second at most", took)
	}
	if status != exitFailure {
		t.Errorf("exit status %d, want %d", status, exitFailure)
	}
	for _, part := range []string{"cannot run a Linux kernel", "int3", "make linux"} {
		if !strings.Contains(c.stderr.String(), part) {
			t.Errorf("the refusal does not say %q: %s", part, &c.stderr)
		}
	}
}

// TestTheKernelsCommandLineNamesItsRoot: upv0, upv1, ... are the disks in their order.
func TestTheKernelsCommandLineNamesItsRoot(t *testing.T) {
	for _, tt := range []struct {
		disks         []diskSpec
		root, cmdline string
		want          string // at the end
		err           string
	}{
		{nil, "", "", baseCmdline, ""},
		{nil, "", "debug", baseCmdline + " debug", ""},
		{[]diskSpec{{ID: "a"}}, "a", "", " root=/dev/upv0 rw", ""},
		{[]diskSpec{{ID: "a"}, {ID: "b"}}, "b", "", " root=/dev/upv1 rw", ""},
		{[]diskSpec{{ID: "a"}, {ID: "b", ReadOnly: true}}, "b", "init=/bin/sh", " root=/dev/upv1 ro init=/bin/sh", ""},
		{[]diskSpec{{ID: "a"}, {ID: "b"}}, "c", "", "", "--root c: no disk has this id; there are a, b"},
		{nil, "a", "", "", "--root a: there is no --disk"},
	} {
		o := runOptions{linux: linuxOptions{root: tt.root, cmdline: tt.cmdline}}
		got, err := o.linux.fullCmdline(tt.disks)
		switch {
		case tt.err != "" && (err == nil || err.Error() != tt.err):
			t.Errorf("--root %q: %q, %v; want the error %q", tt.root, got, err, tt.err)
		case tt.err == "" && (err != nil || !strings.HasSuffix(got, tt.want) || !strings.HasPrefix(got, baseCmdline)):
			t.Errorf("--root %q --cmdline %q: %q, %v; want %q at its end", tt.root, tt.cmdline, got, err, tt.want)
		}
	}
}
