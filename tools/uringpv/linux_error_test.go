// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A host's file that cannot be read or written any more: the guest gets an error,
// says so in its log, and lives on.

// inMachine skips a test that changes the host, unless that is the nested machine.
func inMachine(t *testing.T) {
	t.Helper()
	if os.Getenv("URINGPV_NESTED") == "" {
		t.Skip("NOT TESTED: mounts file systems and makes devices, which is for the nested machine only")
	}
}

// failing is a script's function that runs a command which has to fail, and then
// looks for the kernel's message.
const failing = `
	failing() {
		dmesg -c >/dev/null
		"$@" && { echo "no error: $*"; exit 1; }
		dmesg | grep -E 'error, dev upv0' || { echo "nothing in dmesg: $*"; dmesg; exit 1; }
	}
	`

func TestLinuxWithATruncatedHostFile(t *testing.T) {
	eachLinux(t, []int{1}, func(t *testing.T, r linuxRun) {
		path := image(t, 16<<20)
		r.disks, r.cmdline = []string{path}, "uringpv.capacity_poll_ms=0"
		r.script = failing + `
			dd if=/dev/urandom of=/dev/upv0 bs=1M count=16 oflag=direct || exit 1
			echo ready; read x
			failing dd if=/dev/upv0 of=/dev/null bs=1M skip=8 count=1 iflag=direct
			failing dd if=/dev/upv0 of=/dev/null bs=1M skip=3 count=2 iflag=direct
			dd if=/dev/upv0 of=/dev/null bs=1M count=3 iflag=direct || exit 1
			echo alive`
		s := r.startSession(t)
		s.expect("ready\r\n")
		if err := os.Truncate(path, 3<<20+4096); err != nil {
			t.Fatal(err)
		}
		s.send("go")
		if status, console := s.end(); status != 0 || !strings.Contains(console, "alive") || !strings.Contains(console, "init: run: exit 0") {
			t.Errorf("exit status %d\n%s", status, console)
		}
	})
}

func TestLinuxWithAFullHostFileSystem(t *testing.T) {
	inMachine(t)
	eachLinux(t, []int{1}, func(t *testing.T, r linuxRun) {
		dir := t.TempDir()
		if err := unix.Mount("small", dir, "tmpfs", 0, "size=8m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		path := filepath.Join(dir, "disk.img")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 64<<20); err != nil {
			t.Fatal(err)
		}
		r.disks = []string{path}
		r.script = failing + `
			failing dd if=/dev/zero of=/dev/upv0 bs=1M count=32 oflag=direct
			dd if=/dev/upv0 of=/dev/null bs=1M count=64 iflag=direct || exit 1
			/sbin/blkdiscard -l 4M /dev/upv0 || exit 1
			dd if=/dev/zero of=/dev/upv0 bs=1M count=2 oflag=direct || exit 1
			echo alive`
		if console := r.run(t); !strings.Contains(console, "alive") {
			t.Error(console)
		}
	})
}

func TestLinuxWithABadHostDevice(t *testing.T) {
	inMachine(t)
	if err := unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, ""); err != nil && err != unix.EBUSY {
		t.Fatal(err)
	}
	dir := "/sys/kernel/config/nullb/bad"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	for _, set := range []struct{ name, value string }{
		{"size", "64"}, {"memory_backed", "1"}, {"badblocks", "+16384-16391"}, {"power", "1"},
	} {
		if err := os.WriteFile(filepath.Join(dir, set.name), []byte(set.value), 0); err != nil {
			t.Fatal(err)
		}
	}
	index, err := os.ReadFile(filepath.Join(dir, "index"))
	if err != nil {
		t.Fatal(err)
	}
	device := "/dev/nullb" + strings.TrimSpace(string(index))
	if _, err := os.Stat(device); err != nil { // a device with a name has that one (since 6.6)
		device = "/dev/bad"
	}
	eachLinux(t, []int{1}, func(t *testing.T, r linuxRun) {
		r.disks, r.options = []string{device}, "direct=on"
		r.script = failing + `
			dd if=/dev/zero of=/dev/upv0 bs=1M count=8 oflag=direct || exit 1
			failing dd if=/dev/upv0 of=/dev/null bs=1M skip=8 count=1 iflag=direct
			failing dd if=/dev/zero of=/dev/upv0 bs=1M seek=8 count=1 oflag=direct
			dd if=/dev/upv0 of=/dev/null bs=1M skip=9 count=4 iflag=direct || exit 1
			echo alive`
		if console := r.run(t); !strings.Contains(console, "alive") {
			t.Error(console)
		}
	})
}
