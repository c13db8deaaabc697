// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A host's file that cannot be read or written any more: the guest gets an error,
// says so in its log, and lives on.

// nested says whether this is the nested machine.
func nested() bool { return os.Getenv("URINGPV_NESTED") != "" }

// inMachine skips a test that changes the host, unless that is the nested machine.
func inMachine(t *testing.T) {
	t.Helper()
	if !nested() {
		t.Skip("NOT TESTED: mounts file systems and makes devices, which is for the nested machine only")
	}
}

// failing is a script's function that runs a command which has to fail, not much later
// than the block layer's timeout of 30 s, and then looks for the kernel's message.
const failing = `
	failing() {
		dmesg -c >/dev/null
		began=$(cut -d. -f1 /proc/uptime)
		"$@" && { echo "no error: $*"; exit 1; }
		took=$(($(cut -d. -f1 /proc/uptime) - began))
		echo "after $took s: $*"
		[ $took -le 35 ] || { echo "that was too long"; exit 1; }
		dmesg | grep -E 'error, dev upv0' || { echo "nothing in dmesg: $*"; dmesg; exit 1; }
	}
	`

func TestLinuxWithATruncatedHostFile(t *testing.T) {
	eachLinuxOn(t, backendRelay, []int{1}, func(t *testing.T, r linuxRun) {
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
	eachLinuxOn(t, backendPassthrough, []int{1}, func(t *testing.T, r linuxRun) {
		dir := t.TempDir()
		if err := unix.Mount("small", dir, "tmpfs", 0, "size=8m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		path := imageIn(t, dir, 64<<20)
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

// nullBlock makes a device of the null_blk driver's, with settings of the form name=value
// (Documentation/block/null_blk.rst), until the test's end, and returns its path.
func nullBlock(t *testing.T, name string, settings ...string) string {
	t.Helper()
	if err := unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, ""); err != nil && err != unix.EBUSY {
		t.Fatal(err)
	}
	dir := "/sys/kernel/config/nullb/" + name
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	for _, s := range append(settings, "power=1") {
		attribute, value, _ := strings.Cut(s, "=")
		if err := os.WriteFile(filepath.Join(dir, attribute), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	index, err := os.ReadFile(filepath.Join(dir, "index"))
	if err != nil {
		t.Fatal(err)
	}
	device := "/dev/nullb" + strings.TrimSpace(string(index))
	if _, err := os.Stat(device); err != nil { // a device with a name has that one (since 6.6)
		device = "/dev/" + name
	}
	return device
}

// onHost runs a command that must succeed, and returns what it writes.
func onHost(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, status := output(t, name, args...)
	if status != 0 {
		t.Fatalf("%s %v: status %d\n%s", name, args, status, out)
	}
	return strings.TrimSpace(out)
}

// loopDevice makes a block device of a file, until the test's end, and returns its path.
func loopDevice(t *testing.T, file string) string {
	t.Helper()
	device := onHost(t, "losetup", "--find", "--show", file)
	t.Cleanup(func() { onHost(t, "losetup", "--detach", device) })
	return device
}

// flushes is how many flushes a block device has completed (Documentation/block/stat.rst).
// A write with FUA counts only where the device has none and gets a flush instead, as a
// loop device does.
func flushes(t *testing.T, device string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(device), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.Fields(string(b))[15])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestLinuxWithABadHostDevice(t *testing.T) {
	inMachine(t)
	device := nullBlock(t, "bad", "size=64", "memory_backed=1", "badblocks=+16384-16391")
	eachLinuxOn(t, backendRelay, []int{1}, func(t *testing.T, r linuxRun) {
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

// ioctls that stop all writing to a file system and let it go on (linux/fs.h); the
// argument counts for nothing.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// freezable mounts an ext4 file system of size bytes, kept in memory.
func freezable(t *testing.T, size int64) string {
	t.Helper()
	memory, dir := t.TempDir(), t.TempDir()
	mounted := func(what, at, kind string) {
		t.Helper()
		if err := unix.Mount(what, at, kind, 0, ""); err != nil {
			t.Fatalf("mount %s: %v", kind, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(at, 0); err != nil {
				t.Errorf("unmount %s: %v", kind, err)
			}
		})
	}
	mounted("memory", memory, "tmpfs")
	file := filepath.Join(memory, "ext4.img")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	onHost(t, "mkfs.ext4", "-q", "-F", file)
	mounted(loopDevice(t, file), dir, "ext4")
	return dir
}

// freeze stops all writing to the file system at dir, until thaw or the test's end.
// Nothing that writes can be killed before: this comes after what the test starts.
func freeze(t *testing.T, dir string) (thaw func()) {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(int(d.Fd()), fiFreeze, 0); err != nil {
		t.Fatalf("FIFREEZE: %v", err)
	}
	frozen := true
	thaw = func() {
		if !frozen {
			return
		}
		frozen = false
		if err := unix.IoctlSetInt(int(d.Fd()), fiThaw, 0); err != nil {
			t.Errorf("FITHAW: %v", err)
		}
		d.Close()
	}
	t.Cleanup(thaw)
	return thaw
}

// A host whose file system hangs for longer than the guest's patience: the driver
// resets, which cannot end, waits, and writes again what it does not know to be
// written. No program in the guest gets an error, and all that was written is there.
func TestLinuxWaitsForAStuckHost(t *testing.T) {
	inMachine(t)
	eachLinuxOn(t, backendPassthrough, []int{2}, func(t *testing.T, r linuxRun) {
		dir := freezable(t, 96<<20)
		path := imageIn(t, dir, 64<<20)
		r.fio = true
		r.disks = []string{path}
		r.script = `
			echo 2000 >/sys/block/upv0/queue/io_timeout
			exec 3<&0
			(read x <&3; touch /tmp/done) &
			n=0 status=0
			while [ ! -e /tmp/done ] && [ $status = 0 ]; do
				n=$((n + 1))
				fio --name=v --filename=/dev/upv0 --rw=randwrite --bs=4k --verify=crc32c --verify_fatal=1 --ioengine=io_uring --direct=1 \
					--iodepth=16 --size=4M --fsync=64 --randseed=$n >/tmp/log 2>&1 || { status=1; cat /tmp/log; }
				echo "pass $n: status $status"
			done
			dmesg | grep -i 'I/O error\|error, dev upv0' && status=1
			echo "$(dmesg | grep -c 'requests go on') times requests went on"
			exit $status`
		s := r.startSession(t)
		s.expect("pass 1: status 0")
		thaw := freeze(t, dir)
		begin := time.Now()
		s.expect("timed out on ring")
		s.expect("I/O is stuck on the host; waiting")
		t.Logf("the driver said that I/O is stuck after %v", time.Since(begin).Round(100*time.Millisecond))
		time.Sleep(time.Second)
		thaw()
		s.expect(": status 0")
		s.send("go")
		status, console := s.end()
		if status != 0 || !strings.Contains(console, "init: run: exit 0") {
			t.Errorf("exit status %d\n%s\n%s", status, console, &s.stderr)
		}
		m := regexp.MustCompile(`(?m)^(\d+) times requests went on`).FindStringSubmatch(console)
		if m == nil {
			t.Fatalf("no count of resets\n%s", console)
		}
		if n, _ := strconv.Atoi(m[1]); n < 1 {
			t.Errorf("no reset came to an end\n%s", console)
		}
	})
}

// A host that is slow but at it. Requests that wait behind others for longer than the
// guest's patience are not reset: all would begin again. One that takes longer by itself
// is, but gets more time then: else it would begin again for ever.
func TestLinuxWaitsForASlowHost(t *testing.T) {
	inMachine(t)
	common := []string{"size=64", "memory_backed=1", "irqmode=2", "submit_queues=1", "hw_queue_depth=1"}
	slow := nullBlock(t, "slow", append(slices.Clone(common), "completion_nsec=400000000")...)
	slower := nullBlock(t, "slower", append(slices.Clone(common), "completion_nsec=3000000000")...)
	eachLinux(t, []int{1}, func(t *testing.T, r linuxRun) {
		r.fio = true
		r.disks, r.options = []string{slow, slower}, "direct=on"
		r.script = `set -e
			for d in upv0 upv1; do echo 1000 >/sys/block/$d/queue/io_timeout; done
			began=$(cut -d. -f1 /proc/uptime)
			fio --name=v --filename=/dev/upv0 --rw=randwrite --bs=4k --verify=crc32c --verify_fatal=1 --ioengine=io_uring --direct=1 \
				--iodepth=16 --number_ios=16 --size=1M
			echo "sixteen: $(($(cut -d. -f1 /proc/uptime) - began)) s, resets $(cat /sys/block/upv0/device/uringpv/resets)"
			dd if=/dev/zero bs=4k count=1 | tr '\0' x >/tmp/x
			began=$(cut -d. -f1 /proc/uptime)
			dd if=/tmp/x of=/dev/upv1 bs=4k oflag=direct
			echo "one: $(($(cut -d. -f1 /proc/uptime) - began)) s, resets $(cat /sys/block/upv1/device/uringpv/resets)"
			dd if=/dev/upv1 bs=4k count=1 iflag=direct | cmp - /tmp/x
			! dmesg | grep 'I/O error\|error, dev'`
		console := r.run(t)
		said := func(what string) (seconds, resets int) {
			m := regexp.MustCompile(`(?m)^` + what + `: (\d+) s, resets (\d+)`).FindStringSubmatch(console)
			if m == nil {
				t.Fatalf("%s: no time\n%s", what, console)
			}
			seconds, _ = strconv.Atoi(m[1])
			resets, _ = strconv.Atoi(m[2])
			return seconds, resets
		}
		if s, n := said("sixteen"); s < 5 || n != 0 {
			t.Errorf("sixteen requests took %d s with %d resets; want at least 5, and none", s, n)
		}
		if s, n := said("one"); s < 3 || n == 0 {
			t.Errorf("one request took %d s with %d resets; want at least 3, and some", s, n)
		}
	})
}
