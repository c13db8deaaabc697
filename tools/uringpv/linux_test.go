// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/uringpv/uringpv/images"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/vmm"
)

// guestFiles is a Linux guest as `uringpv image build` makes it.
type guestFiles struct {
	name string // the kernel's
	dir  string
}

func (g guestFiles) path(name string) string { return filepath.Join(g.dir, name) }

// linuxGuests are the guests to test with: the directories in
// URINGPV_TEST_GUESTS, which make test-nested fills.
func linuxGuests(t testing.TB) []guestFiles {
	t.Helper()
	testutil.NeedKVM(t)
	testutil.NeedIOUring(t)
	dir := os.Getenv("URINGPV_TEST_GUESTS")
	if dir == "" {
		t.Skip("NOT TESTED: URINGPV_TEST_GUESTS names no directory with Linux guests (make test-nested sets it)")
	}
	if err := vmm.CheckLinux(); err != nil {
		t.Fatalf("this host's KVM is to run the guests of URINGPV_TEST_GUESTS: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var guests []guestFiles
	for _, e := range entries {
		guests = append(guests, guestFiles{e.Name(), filepath.Join(dir, e.Name())})
	}
	if len(guests) == 0 {
		t.Fatalf("%s has no guest in it", dir)
	}
	return guests
}

// linuxRun is one life of a Linux guest.
type linuxRun struct {
	guest   guestFiles
	cpus    int
	memory  string
	monitor string   // the command; "": uringpv
	backend string   // "": relay
	disks   []string // files
	each    []string // backends, of one disk each; nil: backend is all disks'
	options string   // of every disk
	cmdline string
	args    []string // of uringpv run
	fio     bool     // the initramfs is the one with fio and xfs' tools
	script  string   // what /run does in the guest; "": no /run
	files   map[string]string
	stdin   string
	timeout time.Duration
}

// prepare makes the command; the script comes in an initramfs of its own.
func (r linuxRun) prepare(t testing.TB) *command {
	t.Helper()
	initrd := filepath.Join(t.TempDir(), "extra.cpio")
	out, err := os.Create(initrd)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	extra := images.NewTree()
	if r.script != "" {
		extra.File("run", 0o755, []byte("#!/bin/sh\n"+r.script))
	}
	for name, data := range r.files {
		extra.File(name, 0o755, []byte(data))
	}
	if err := extra.WriteCPIO(out); err != nil {
		t.Fatal(err)
	}
	base := r.guest.path(images.InitramfsFile)
	if r.fio {
		base = r.guest.path("fio.cpio")
	}
	args := []string{"run", "--kernel", r.guest.path(images.KernelFile), "--initrd", base, "--initrd", initrd, "--cpus", strconv.Itoa(max(r.cpus, 1))}
	if r.memory != "" {
		args = append(args, "--memory", r.memory)
	}
	backend := r.backend
	if backend == "" {
		backend = "relay"
	}
	for i, d := range r.disks {
		if r.each != nil {
			backend = r.each[i]
		}
		spec := d + ",backend=" + backend
		if r.options != "" {
			spec += "," + r.options
		}
		args = append(args, "--disk", spec)
	}
	cmdline := strings.TrimSpace("quiet loglevel=5 " + r.cmdline)
	args = append(args, "--cmdline", cmdline)
	if r.timeout == 0 {
		r.timeout = expectTime + time.Minute
	}
	c := newCommandFor(t, r.timeout, slices.Concat(args, r.args)...)
	if r.monitor != "" {
		if c.Path, err = exec.LookPath(r.monitor); err != nil {
			t.Fatal(err)
		}
		c.Args[0] = r.monitor
	}
	if r.stdin != "" {
		c.Stdin = strings.NewReader(r.stdin)
	}
	return c
}

// trouble is what a kernel says when something is wrong with it or a driver.
var trouble = regexp.MustCompile(`(?m)^.*(\bBUG\b|WARNING:|Oops|INFO: task|possible recursive locking|inconsistent lock state|circular locking|Call Trace|general protection|blocked for more than).*$`)

// scan looks for trouble on a guest's console.
func scan(t testing.TB, console string) {
	t.Helper()
	for _, line := range trouble.FindAllString(console, 20) {
		if strings.Contains(line, "/hw-vuln/") {
			continue // the emulated CPU's, told at the start
		}
		t.Errorf("the guest's console says: %s", line)
	}
}

// run runs the guest to its end, and checks that the script ended with status 0
// and the run too. It returns the console.
func (r linuxRun) run(t *testing.T) string {
	t.Helper()
	c := r.prepare(t)
	status := c.finish()
	console := c.stdout.String()
	scan(t, console)
	if r.script != "" && !strings.Contains(console, "init: run: exit 0") {
		t.Errorf("the guest's script did not end well")
	}
	if status != 0 {
		t.Errorf("exit status %d: %s", status, &c.stderr)
	}
	if t.Failed() {
		t.Logf("console:\n%s\nstderr:\n%s", console, &c.stderr)
	}
	return console
}

// copySparse copies a disk's content to the file to, without blocks of zeros.
func copySparse(t *testing.T, to, from string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	b := make([]byte, 1<<20)
	zeros := make([]byte, len(b))
	var off int64
	for {
		n, err := io.ReadFull(in, b)
		if !bytes.Equal(b[:n], zeros[:n]) {
			if _, err := out.WriteAt(b[:n], off); err != nil {
				t.Fatal(err)
			}
		}
		off += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Truncate(off); err != nil {
		t.Fatal(err)
	}
}

// image makes a file of size bytes for a disk, without blocks.
func image(t testing.TB, size int64) string {
	t.Helper()
	return imageIn(t, t.TempDir(), size)
}

// imageIn is image in a directory that is there.
func imageIn(t testing.TB, dir string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

// eachKernel runs f for every guest kernel, backend and number of vCPUs.
func eachKernel(t *testing.T, backends []string, cpus []int, f func(t *testing.T, r linuxRun)) {
	each(t, linuxGuests(t), backends, cpus, f)
}

// diskBackends are the working backends whose paths differ as a disk's: an isolated
// ring takes the same SQEs as one that is passed through, in another process.
func diskBackends(t *testing.T) []string {
	return slices.DeleteFunc(workingBackends(t), func(b string) bool { return b == backendIsolated })
}

// eachLinux runs f for every backend and number of vCPUs on one guest kernel, and
// on every one for the whole matrix.
func eachLinux(t *testing.T, cpus []int, f func(t *testing.T, r linuxRun)) {
	guests := linuxGuests(t)
	if !full() {
		guests = guests[len(guests)-1:]
	}
	each(t, guests, diskBackends(t), cpus, f)
}

// eachLinuxOn is eachLinux for what says little of the backend: outside the whole
// matrix it is one backend's, if that works here.
func eachLinuxOn(t *testing.T, backend string, cpus []int, f func(t *testing.T, r linuxRun)) {
	guests, backends := linuxGuests(t), diskBackends(t)
	if !full() {
		guests = guests[len(guests)-1:]
		if slices.Contains(backends, backend) {
			backends = []string{backend}
		}
	}
	each(t, guests, backends, cpus, f)
}

// eachGuest runs f on one guest kernel, and on every one for the whole matrix. f gives the
// guest as many disks as r.each has backends: one guest for all takes less time.
func eachGuest(t *testing.T, cpus int, f func(t *testing.T, r linuxRun)) {
	guests, backends := linuxGuests(t), diskBackends(t)
	if !full() {
		guests = guests[len(guests)-1:]
	}
	for _, g := range guests {
		t.Run(g.name, func(t *testing.T) { f(t, linuxRun{guest: g, each: backends, cpus: cpus}) })
	}
}

// each runs f for every combination of the whole matrix. Outside it each backend
// meets one of the kernels with one number of vCPUs, such that all have a turn.
func each(t *testing.T, guests []guestFiles, backends []string, cpus []int, f func(t *testing.T, r linuxRun)) {
	for i, g := range guests {
		for k, b := range backends {
			some := cpus
			if !full() {
				if k%len(guests) != i {
					continue
				}
				some = cpus[k%len(cpus):][:1]
			}
			for _, n := range some {
				t.Run(fmt.Sprintf("%s/%s/%d", g.name, b, n), func(t *testing.T) {
					f(t, linuxRun{guest: g, backend: b, cpus: n})
				})
			}
		}
	}
}

func TestLinuxFindsItsDisk(t *testing.T) {
	eachKernel(t, workingBackends(t), []int{1, 4}, func(t *testing.T, r linuxRun) {
		r.disks = []string{image(t, 64<<20)}
		r.script = `set -e
			lsblk -b /dev/upv0
			test "$(cat /sys/block/upv0/size)" = 131072
			cat /sys/block/upv0/serial /sys/block/upv0/host_name /sys/bus/pci/drivers/uringpv/0*/uringpv/*s
			dd if=/dev/urandom of=/tmp/data bs=1M count=4
			dd if=/tmp/data of=/dev/upv0 bs=1M oflag=direct
			dd if=/dev/upv0 of=/tmp/back bs=1M count=4 iflag=direct
			cmp /tmp/data /tmp/back
			cat /sys/kernel/debug/uringpv-*/rings
			clocks=/sys/devices/system/clocksource/clocksource0
			grep -w kvm-clock $clocks/available_clocksource
			grep -xE 'kvm-clock|tsc' $clocks/current_clocksource
			nproc`
		console := r.run(t)
		if !strings.Contains(console, "\n"+strconv.Itoa(r.cpus)+"\r\n") {
			t.Errorf("not %d CPUs:\n%s", r.cpus, console)
		}
		if testing.Verbose() {
			t.Log(console)
		}
	})
}

// output is what a command of the host's writes, and its exit status.
func output(t *testing.T, name string, args ...string) (string, int) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", name, err)
	}
	status := 0
	if exit != nil {
		status = exit.ExitCode()
	}
	return string(out), status
}
