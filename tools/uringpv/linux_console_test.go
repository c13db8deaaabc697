// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/images"
)

// anyLinux is a guest for what does not depend on the kernel.
func anyLinux(t *testing.T) linuxRun {
	t.Helper()
	guests := linuxGuests(t)
	return linuxRun{guest: guests[len(guests)-1]}
}

func TestLinuxPowerOffAndRebootAreSuccess(t *testing.T) {
	for _, how := range []string{"poweroff -f", "reboot -f"} {
		r := anyLinux(t)
		r.script = "echo bye; " + how + "; sleep 100"
		c := r.prepare(t)
		if status := c.finish(); status != 0 || !strings.Contains(c.stdout.String(), "bye") {
			t.Errorf("%s: exit status %d:\n%s\n%s", how, status, &c.stdout, &c.stderr)
		}
		scan(t, c.stdout.String())
	}
}

func TestLinuxPanicIsAFailureWithTheLastLines(t *testing.T) {
	r := anyLinux(t)
	r.script = "echo 1 >/proc/sys/kernel/sysrq; echo the last words; echo c >/proc/sysrq-trigger; sleep 100"
	c := r.prepare(t)
	if status := c.finish(); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	stderr := c.stderr.String()
	if !strings.Contains(stderr, "the guest's kernel panicked") || !strings.Contains(stderr, "Kernel panic - not syncing") {
		t.Errorf("stderr: %s", stderr)
	}
	if !strings.Contains(c.stdout.String(), "the last words") {
		t.Errorf("console: %s", &c.stdout)
	}
}

// A pipe is a console too, in both directions, and the shell's end is the guest's.
func TestLinuxShellOnAPipe(t *testing.T) {
	s := anyLinux(t).startSession(t)
	s.expect("a shell")
	s.expect("# ")
	s.send("echo sum $((40 + 2)); sleep 1; exit")
	s.expect("sum 42")
	if status, console := s.end(); status != 0 {
		t.Errorf("exit status %d\n%s", status, console)
	}
}

// Nobody closes a guest's console: the end of stdin is no end of the guest.
func TestLinuxGoesOnWithoutInput(t *testing.T) {
	r := anyLinux(t)
	r.script = "sleep 2; echo still there"
	if console := r.run(t); !strings.Contains(console, "still there") {
		t.Errorf("console: %s", console)
	}
}

func TestLinuxWithMoreThan4GiB(t *testing.T) {
	eachLinux(t, []int{2}, func(t *testing.T, r linuxRun) {
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil {
			t.Fatal(err)
		}
		if info.Freeram < 5<<30 {
			t.Skipf("NOT TESTED: %d MiB of the host's RAM are free, the guest's RAM is pinned", info.Freeram>>20)
		}
		r.memory, r.disks = "4608M", []string{image(t, 64<<20)}
		// Reads land in memory on both sides of the hole below 4 GiB: a file in memory
		// that takes most of it would take too long to fill, so the buffers are where
		// the kernel puts them, which begins at the top.
		r.script = `set -e
			test "$(awk '/MemTotal/ { print $2 }' /proc/meminfo)" -gt 4300000
			grep -q 'System RAM' /proc/iomem && grep -q '^10*-.*System RAM' /proc/iomem
			dd if=/dev/urandom of=/tmp/data bs=1M count=16
			dd if=/tmp/data of=/dev/upv0 bs=1M oflag=direct
			echo 3 >/proc/sys/vm/drop_caches
			dd if=/dev/upv0 bs=1M count=16 | cmp - /tmp/data`
		r.run(t)
	})
}

// The Debian root disk that image build makes, to its login prompt and back: as the
// second disk, behind one that has nothing to do with it and stays as it is, and as the
// first, to be checked before it is used.
func TestLinuxRootDiskToALogin(t *testing.T) {
	eachKernel(t, diskBackends(t), []int{1, 4}, func(t *testing.T, r linuxRun) {
		roots := os.Getenv("URINGPV_TEST_ROOTS")
		if roots == "" {
			t.Skip("NOT TESTED: URINGPV_TEST_ROOTS names no directory of root disks (make test-nested sets it)")
		}
		disk := image(t, 1)
		copySparse(t, disk, filepath.Join(roots, "root-"+r.guest.name+".img"))
		info, err := os.Stat(disk)
		if err != nil {
			t.Fatal(err)
		}
		other := image(t, info.Size())
		r.disks, r.args = []string{other, disk}, []string{"--root", "disk1"}
		at := "/dev/upv1"
		if r.cpus > 1 {
			r.disks, r.args = r.disks[1:], []string{"--root", "disk0"}
			at = "/dev/upv0"
			// EXT2_ERROR_FS: a kernel has found an error in it.
			if out, err := exec.Command("debugfs", "-w", "-R", "set_super_value state 2", disk).CombinedOutput(); err != nil {
				t.Fatalf("debugfs: %v\n%s", err, out)
			}
		}
		s := r.startSession(t)
		if r.cpus > 1 {
			s.expect("root contains a file system with errors, check forced")
		} else {
			s.expect("root: clean, ")
		}
		s.expect("debian login: ")
		s.send("root")
		s.expect("# ")
		s.send("echo root is $(findmnt -n -o SOURCE,FSTYPE,OPTIONS /); cat /etc/debian_version; echo kept >/kept")
		s.expect("root is " + at + " ext4 rw")
		s.expect("# ")
		// A module that needs others, and the driver, which the initramfs has loaded.
		s.send("modprobe dm-snapshot; echo there are $(lsmod | grep -c '^dm_snapshot\\|^dm_bufio\\|^dm_mod'); echo of $(modinfo -n uringpv); modprobe uringpv && echo loaded $?")
		s.expect("there are 3\r\n")
		s.expect("of /lib/modules/")
		s.expect("/updates/dkms/uringpv.ko")
		s.expect("loaded 0")
		s.expect("# ")
		s.send("poweroff")
		if status, console := s.end(); status != 0 {
			t.Errorf("exit status %d\n%s", status, console)
		}
		if used := allocated(t, other); used != 0 {
			t.Errorf("the other disk has %d bytes", used)
		}
		fsckOnHost(t, disk)
		if out, err := exec.Command("debugfs", "-R", "cat /kept", disk).Output(); err != nil || string(out) != "kept\n" {
			t.Errorf("on the host the file has %q, %v", out, err)
		}
	})
}

// fsckOnHost checks the ext4 file system on an image with the host's e2fsck.
func fsckOnHost(t *testing.T, path string) {
	t.Helper()
	start := time.Now()
	out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput()
	if err != nil {
		t.Errorf("e2fsck -fn on the host: %v\n%s", err, out)
	}
	t.Logf("e2fsck on the host took %v", time.Since(start).Round(time.Millisecond))
}

// The kernel as an ELF file: what is compressed in Debian's vmlinuz.
func TestLinuxAsELF(t *testing.T) {
	r := anyLinux(t)
	bz, err := os.ReadFile(r.guest.path(images.KernelFile))
	if err != nil {
		t.Fatal(err)
	}
	// Documentation/arch/x86/boot.rst: setup_sects, payload_offset and _length.
	start := (int(bz[0x1f1]) + 1) * 512
	start += int(binary.LittleEndian.Uint32(bz[0x248:]))
	payload := bz[start : start+int(binary.LittleEndian.Uint32(bz[0x24c:]))]
	if !bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		t.Skipf("NOT TESTED: the payload of %s is not zstd's: % x", r.guest.name, payload[:4])
	}
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	// Behind the compressed data is its length, four bytes.
	elf, err := d.DecodeAll(payload[:len(payload)-4], nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, images.KernelFile), elf, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(r.guest.path(images.InitramfsFile), filepath.Join(dir, images.InitramfsFile)); err != nil {
		t.Fatal(err)
	}
	r.guest.dir = dir
	r.cpus, r.disks = 2, []string{image(t, 16<<20)}
	r.script = "set -e; uname -a; nproc; lsblk /dev/upv0"
	if console := r.run(t); !strings.Contains(console, "SMP") || !strings.Contains(console, "upv0") {
		t.Error(console)
	}
}
