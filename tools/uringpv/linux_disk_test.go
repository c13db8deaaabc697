// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// full says whether the whole matrix is to be tested.
func full() bool { return os.Getenv("URINGPV_TEST_FULL") != "" }

// whole says whether a test is to do all of its work. In the whole matrix one guest
// kernel does it; what the driver does with the others is the same code.
func (r linuxRun) whole() bool { return full() && r.guest.name == "6.12" }

// amount is the work for CI, or all of it.
func (r linuxRun) amount(ci, whole int) int {
	if r.whole() {
		return whole
	}
	return ci
}

// allocated is how many bytes of a file have blocks.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// fioJob is a script's function that runs fio once more if its job did not start: it has five
// seconds for that, which can be too short in an emulated machine, and fio calls it no error.
const fioJob = `
	job() {
		for try in 1 2 3; do
			fio --name=job "$@" >/tmp/log 2>&1 || { cat /tmp/log; return 1; }
			grep 'failed to start' /tmp/log || return 0
		done
		return 1
	}
	`

func TestLinuxVerifiedIO(t *testing.T) {
	eachLinux(t, []int{2}, func(t *testing.T, r linuxRun) {
		r.fio = true
		r.disks = []string{image(t, 256<<20)}
		r.memory = "1G"
		r.timeout = time.Duration(r.amount(10, 20)) * time.Minute
		depths := "64"
		if r.whole() {
			depths = "1 4 16 64"
		}
		r.script = fmt.Sprintf(`
			status=0
			for direct in 1 0; do
				for engine in io_uring libaio psync; do
					depths="%s"
					[ $engine = psync ] && depths=1
					for depth in $depths; do
						fio --name=v --filename=/dev/upv0 --rw=randrw --bsrange=4k-256k --verify=crc32c --verify_fatal=1 \
							--ioengine=$engine --direct=$direct --iodepth=$depth --numjobs=2 --size=%dM --offset_increment=64M \
							--cpus_allowed=0-1 --cpus_allowed_policy=split --randseed=$depth --end_fsync=1 >/tmp/log 2>&1 ||
							{ cat /tmp/log; status=1; }
						echo "fio $engine direct=$direct depth=$depth: $(grep -c 'err= 0' /tmp/log) jobs without an error"
					done
				done
			done
			cat /sys/kernel/debug/uringpv-*/rings
			exit $status`, depths, r.amount(4, 32))
		console := r.run(t)
		want := r.amount(6, 18)
		if n := strings.Count(console, ": 2 jobs without an error"); n != want {
			t.Errorf("%d of %d fio runs without an error\n%s", n, want, console)
		}
		// Two jobs on two CPUs are to be two queues' work.
		for _, ring := range []string{"0", "1"} {
			m := regexp.MustCompile(`(?m)^` + ring + ` \d+ 0x\d+ (\d+) `).FindStringSubmatch(console)
			if m == nil {
				t.Fatalf("no counters of ring %s\n%s", ring, console)
			}
			if n, _ := strconv.Atoi(m[1]); n < 100 {
				t.Errorf("ring %s took %d SQEs", ring, n)
			}
		}
	})
}

// Each CPU has a queue of its own, and a disk that all of them use.
func TestLinuxWithEightCPUs(t *testing.T) {
	const cpus = 8
	r := anyLinux(t)
	r.cpus, r.disks = cpus, []string{image(t, 32<<20)}
	r.script = `set -e
		each() { for cpu in 0 1 2 3 4 5 6 7; do taskset -c $cpu "$@" $cpu & done; }
		fill() { dd if=/dev/urandom of=/tmp/$1 bs=64k count=16 && dd if=/tmp/$1 of=/dev/upv0 bs=64k count=16 seek=$(($1 * 16)) oflag=direct; }
		check() { dd if=/dev/upv0 bs=64k count=16 skip=$(($1 * 16)) iflag=direct | cmp - /tmp/$1 && echo "as written by CPU $1."; }
		if [ $# = 2 ]; then $1 $2; exit; fi
		echo "$(nproc) CPUs"
		each /run fill; wait
		each /run check; wait
		cat /sys/kernel/debug/uringpv-*/rings`
	console := r.run(t)
	if !strings.Contains(console, fmt.Sprintf("%d CPUs", cpus)) {
		t.Errorf("not %d CPUs\n%s", cpus, console)
	}
	for cpu := range cpus {
		if !strings.Contains(console, fmt.Sprintf("as written by CPU %d.", cpu)) {
			t.Errorf("what CPU %d wrote is not there\n%s", cpu, console)
		}
		m := regexp.MustCompile(fmt.Sprintf(`(?m)^%d \d+ 0x\d+ (\d+) `, cpu)).FindStringSubmatch(console)
		if m == nil {
			t.Fatalf("no counters of ring %d\n%s", cpu, console)
		}
		if n, _ := strconv.Atoi(m[1]); n < 32 {
			t.Errorf("ring %d took %d SQEs\n%s", cpu, n, console)
		}
	}
}

func TestLinuxFileSystems(t *testing.T) {
	eachLinuxOn(t, backendPassthrough, []int{2}, func(t *testing.T, r linuxRun) {
		r.fio = true
		// One size: what passthrough writes to is bounded by one limit.
		size := int64(r.amount(384, 3072)) << 20
		ext4, xfs := image(t, size), image(t, size)
		r.disks = []string{ext4, xfs}
		r.timeout = time.Duration(r.amount(6, 40)) * time.Minute
		copies := map[string]int{"ext4": r.amount(2, 40), "xfs": r.amount(1, 10)}
		// Every copy is compared with the tree, or with the first by the host's own kernel,
		// which is sooner done with it.
		every := 1
		if nested() {
			every = 8
		}
		// The tree: directories of files of many sizes, as a kernel's source has them.
		r.files = map[string]string{"tree": `
			dir=$1 dirs=$2 files=$3
			d=0
			while [ $d -lt $dirs ]; do
				mkdir -p $dir/$d
				f=0
				while [ $f -lt $files ]; do
					head -c $(((d * 7919 + f * 104729) % 40000)) /lib/modules/uringpv.ko >$dir/$d/$f
					f=$((f + 1))
				done
				d=$((d + 1))
			done`}
		r.script = fmt.Sprintf(`set -e
			mkdir -p /mnt/e /mnt/x /tmp/tree
			sh /tree /tmp/tree 20 %d
			now() { echo "$@ $(cut -d ' ' -f 1 /proc/uptime)"; }
			check() {
				now $1: $3 copies of $(find /tmp/tree -type f | wc -l) files
				mount $1 $2
				i=0; while [ $i -lt $3 ]; do cp -r /tmp/tree $2/$i; i=$((i + 1)); done
				umount $2
				now $1: copied
				mount $1 $2
				i=0; while [ $i -lt $3 ]; do
					for d in $2/$i/*; do cat $d/* >/dev/null & done; wait # diff reads file by file: it finds them in memory
					diff -r /tmp/tree $2/$i; i=$((i + %d))
				done
				umount $2
				now $1: compared
			}
			mkfs.ext4 -q /dev/upv0
			check /dev/upv0 /mnt/e %d
			e2fsck -fn /dev/upv0
			mkfs.xfs -q /dev/upv1
			check /dev/upv1 /mnt/x %d
			xfs_repair -n /dev/upv1`, r.amount(8, 100), every, copies["ext4"], copies["xfs"])
		t.Log(strings.Join(regexp.MustCompile("(?m)^/dev/upv.: .*").FindAllString(r.run(t), -1), "\n"))
		fsckOnHost(t, ext4)
		onHost(t, "xfs_repair", "-n", "-f", xfs)
		if nested() {
			compareCopies(t, ext4, "ext4", copies["ext4"])
			compareCopies(t, xfs, "xfs", copies["xfs"])
		}
	})
}

// compareCopies mounts an image and compares the copies of a tree on it, directories 0 to
// n-1, with each other.
func compareCopies(t *testing.T, image, kind string, n int) {
	t.Helper()
	start := time.Now()
	dir := t.TempDir()
	if err := unix.Mount(loopDevice(t, image), dir, kind, unix.MS_RDONLY, ""); err != nil {
		t.Fatalf("mount %s: %v", kind, err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", kind, err)
		}
	}()
	read := func(copy int, file func(name string, data []byte)) {
		t.Helper()
		top := os.DirFS(filepath.Join(dir, strconv.Itoa(copy)))
		err := fs.WalkDir(top, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := fs.ReadFile(top, name)
			file(name, data)
			return err
		})
		if err != nil {
			t.Fatalf("copy %d: %v", copy, err)
		}
	}
	first := map[string][]byte{}
	read(0, func(name string, data []byte) { first[name] = data })
	if len(first) < 20*8 {
		t.Errorf("%s: the first copy has %d files", kind, len(first))
	}
	for copy := 1; copy < n; copy++ {
		same := 0
		read(copy, func(name string, data []byte) {
			if want, ok := first[name]; ok && bytes.Equal(data, want) {
				same++
			} else {
				t.Errorf("%s: file %s of copy %d is not that of the first", kind, name, copy)
			}
		})
		if same != len(first) {
			t.Errorf("%s: %d files of copy %d are those of the first, which has %d", kind, same, copy, len(first))
		}
	}
	t.Logf("%s: %d copies of %d files compared by the host in %v", kind, n, len(first), time.Since(start).Round(time.Millisecond))
}

func TestLinuxDiscardAndWriteZeroes(t *testing.T) {
	eachLinuxOn(t, backendRelay, []int{1}, func(t *testing.T, r linuxRun) {
		path := image(t, 64<<20)
		r.disks = []string{path}
		s := linuxRun{guest: r.guest, backend: r.backend, disks: r.disks, script: `set -e
			dd if=/dev/urandom of=/dev/upv0 bs=1M count=64 oflag=direct
			echo full; read x
			blkdiscard -o 8M -l 40M /dev/upv0
			dd if=/dev/upv0 bs=1M skip=8 count=40 iflag=direct | cmp -n 41943040 - /dev/zero
			echo discarded; read x
			dd if=/dev/upv0 bs=1M count=4 iflag=direct >/tmp/a
			cmp -s -n 4194304 /tmp/a /dev/zero && exit 1
			blkdiscard -z -o 0 -l 4M /dev/upv0
			dd if=/dev/upv0 bs=1M count=4 iflag=direct | cmp -n 4194304 - /dev/zero
			mkfs.ext4 -q -E nodiscard /dev/upv0
			mount /dev/upv0 /mnt
			dd if=/dev/urandom of=/mnt/f bs=1M count=40
			sync
			echo filled; read x
			rm /mnt/f
			sync
			fstrim -v /mnt
			umount /mnt
			e2fsck -fn /dev/upv0
			echo trimmed; read x`}.startSession(t)
		sizes := map[string]int64{}
		for _, at := range []string{"full", "discarded", "filled", "trimmed"} {
			s.expect("\n" + at + "\r\n")
			sizes[at] = allocated(t, path)
			s.send("go")
		}
		status, console := s.end()
		if status != 0 || !strings.Contains(console, "init: run: exit 0") {
			t.Errorf("exit status %d\n%s", status, console)
		}
		t.Logf("allocated bytes: %v", sizes)
		if sizes["full"] < 64<<20 || sizes["discarded"] > sizes["full"]-40<<20 {
			t.Errorf("blkdiscard of 40 MiB: allocated bytes %v", sizes)
		}
		if sizes["trimmed"] > sizes["filled"]-36<<20 {
			t.Errorf("fstrim after the removal of 40 MiB: allocated bytes %v", sizes)
		}
		fsckOnHost(t, path)
	})
}

func TestLinuxReadOnlyDisk(t *testing.T) {
	r := anyLinux(t)
	r.disks, r.options = []string{image(t, 16<<20)}, "readonly=on,id=S123"
	r.script = `set -e
		test "$(cat /sys/block/upv0/ro)" = 1
		test "$(cat /sys/block/upv0/serial)" = S123
		dd if=/dev/zero of=/dev/upv0 bs=4k count=1 oflag=direct && exit 1
		blkdiscard /dev/upv0 && exit 1
		dd if=/dev/upv0 of=/dev/null bs=1M count=16`
	r.run(t)
}

// What users choose when they load the driver is what they get.
func TestLinuxModuleParameters(t *testing.T) {
	const (
		parameters = "/sys/module/uringpv/parameters/"
		queue      = "/sys/block/upv0/queue/"
		function   = "/sys/bus/pci/drivers/uringpv/0*/uringpv/"
	)
	r := anyLinux(t)
	r.cpus = 2
	// A host whose threads poll for long, so that a guest that wants less can be told from one that does not.
	r.disks, r.options = []string{image(t, 16<<20)}, "rings=8,sqpoll-idle=1s"
	cases := []struct {
		set, value string
		want       []string // what a command says, a colon, and the command
	}{
		{"queues", "1", []string{"1:cat " + function + "queues", "1:ls /sys/block/upv0/mq | wc -l"}},
		{"poll_queues", "2", []string{"2:cat " + function + "poll_queues", "1:cat " + queue + "io_poll", "4:ls /sys/block/upv0/mq | wc -l"}},
		{"queue_depth", "32", []string{"32:cat /sys/block/upv0/mq/0/nr_tags"}},
		{"max_segments", "16", []string{"16:cat " + queue + "max_segments"}},
		{"max_sectors_kb", "128", []string{"128:cat " + queue + "max_hw_sectors_kb", "128:cat " + queue + "max_sectors_kb"}},
		{"sqpoll", "N", []string{"0:rings 3"}},
		{"sqpoll_idle_ms", "1", []string{"yes:wakes"}},
		{"user_pool_mb", "3", []string{"5:echo 5 >" + parameters + "user_pool_mb; cat " + parameters + "user_pool_mb"}},
	}
	script := new(strings.Builder)
	script.WriteString(`
		status=0
		is() { got=$(eval "$2"); [ "$got" = "$1" ] || { echo "$2: $got, want $1"; status=1; }; }
		# Column $1 of the rings, the sum.
		rings() { awk -v c=$1 'NR > 1 { n += c == 3 && $c != "0" && $c != "0x0" ? 1 : $c } END { print n + 0 }' /sys/kernel/debug/uringpv-*/rings; }
		# Does each of some requests, one now and then, need a doorbell?
		wakes() {
			before=$(rings 7)
			for i in 1 2 3 4 5 6 7 8; do sleep 0.1; dd if=/dev/upv0 of=/dev/null bs=4k count=1 skip=$i iflag=direct 2>/dev/null; done
			n=$(($(rings 7) - before))
			[ $n -ge 6 ] && echo yes || echo $n
		}
		try() {
			dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null
			dd if=/tmp/data of=/dev/upv0 bs=64k oflag=direct 2>/dev/null && dd if=/dev/upv0 bs=64k count=16 iflag=direct 2>/dev/null | cmp - /tmp/data
		}
`)
	for _, c := range cases {
		fmt.Fprintf(script, "rmmod uringpv && insmod /lib/modules/uringpv.ko %s=%s && try || exit 1\n", c.set, c.value)
		fmt.Fprintf(script, "is %s 'cat %s%s'\n", c.value, parameters, c.set)
		for _, w := range c.want {
			want, command, _ := strings.Cut(w, ":")
			fmt.Fprintf(script, "is %s '%s'\n", want, command)
		}
	}
	refused := []string{"queue_depth=0", "queue_depth=1025", "max_segments=0", "max_sectors_kb=3", "queue_depth=many"}
	script.WriteString("rmmod uringpv\n")
	for _, set := range refused {
		says := set + "[: ].*must be"
		if strings.HasSuffix(set, "many") {
			says = "invalid"
		}
		fmt.Fprintf(script, "dmesg -c >/dev/null; insmod /lib/modules/uringpv.ko %s && exit 1; dmesg | grep -i 'uringpv.*%s' || exit 1\n", set, says)
	}
	script.WriteString("insmod /lib/modules/uringpv.ko && is 128 'cat /sys/block/upv0/mq/0/nr_tags' && try || exit 1; exit $status\n")
	r.script = script.String()
	r.run(t)
}

func TestLinuxLoadsAndUnloadsTheDriver(t *testing.T) {
	eachLinuxOn(t, backendPassthrough, []int{2}, func(t *testing.T, r linuxRun) {
		r.disks, r.options = []string{image(t, 32<<20)}, "entries=4096"
		r.timeout = 10 * time.Minute
		cycles := 10
		if full() {
			cycles = 50
		}
		// Rings as large as can be, so that one that stays behind shows. Their pages are in no
		// count of the kernel's: they are what all the others leave.
		r.script = fmt.Sprintf(`set -e
			cycle() {
				dd if=/dev/zero of=/dev/upv0 bs=64k count=8 oflag=direct 2>/dev/null
				dd if=/dev/upv0 of=/dev/null bs=4k count=64 iflag=direct 2>/dev/null
				rmmod uringpv
				insmod /lib/modules/uringpv.ko queue_depth=1024
				udevadm settle 2>/dev/null || true
			}
			echo 1000000 >/proc/sys/vm/percpu_pagelist_high_fraction # few pages that are neither free nor used
			look() {
				sleep 1; sync; echo 3 >/proc/sys/vm/drop_caches
				set -- $(awk '/^(SUnreclaim|VmallocUsed|Percpu):/ { kernel += $2 }
					/^MemTotal:/ { others += $2 }
					/^(MemFree|Buffers|Cached|AnonPages|PageTables|KernelStack|Slab|VmallocUsed|Percpu):/ { others -= $2 }
					END { print kernel, others }' /proc/meminfo)
				kernel=$1 others=$2
				echo "after $i cycles $kernel KiB of the kernel's objects, $others KiB of other pages"
			}
			i=0; while [ $i -lt 10 ]; do cycle; i=$((i + 1)); done
			look; before=$kernel pages=$others
			while [ $i -lt %d ]; do cycle; i=$((i + 1)); [ $((i %% 5)) = 0 ] && look; done
			look
			test $((kernel - before)) -lt 400
			test $((others - pages)) -lt 700
			dev=$(basename /sys/bus/pci/drivers/uringpv/0*)
			for k in 1 2 3; do
				echo 1 >/sys/bus/pci/devices/$dev/remove
				test ! -e /dev/upv0
				echo 1 >/sys/bus/pci/rescan
				sleep 0.2
				dd if=/dev/upv0 of=/dev/null bs=4k count=64 iflag=direct
			done
			dmesg | grep -ci 'leak' && exit 1
			exit 0`, 10+cycles)
		for _, line := range regexp.MustCompile(`(?m)^after \d+ cycles.*pages`).FindAllString(r.run(t), -1) {
			t.Log(line)
		}
	})
}

func TestLinuxResetLosesNothing(t *testing.T) {
	eachLinuxOn(t, backendRelay, []int{2}, func(t *testing.T, r linuxRun) {
		r.fio = true
		r.disks = []string{image(t, 128<<20)}
		r.timeout = 6 * time.Minute
		r.script = fmt.Sprintf(`
			reset=$(echo /sys/bus/pci/drivers/uringpv/0*/uringpv/reset)
			(while [ ! -e /tmp/done ]; do echo 1 >$reset; sleep 0.1; done) &
			fio --name=v --filename=/dev/upv0 --rw=randwrite --bs=4k --verify=crc32c --verify_fatal=1 --ioengine=io_uring --direct=1 \
				--iodepth=32 --numjobs=2 --size=%dM --offset_increment=64M --fsync=64 >/tmp/log 2>&1
			status=$?
			[ $status = 0 ] || cat /tmp/log
			touch /tmp/done; wait
			echo "resets $(cat /sys/bus/pci/drivers/uringpv/0*/uringpv/resets)"
			exit $status`, r.amount(8, 48))
		console := r.run(t)
		m := regexp.MustCompile(`(?m)^resets (\d+)\r?$`).FindStringSubmatch(console)
		if m == nil {
			t.Fatalf("no count of resets\n%s", console)
		}
		if n, _ := strconv.Atoi(m[1]); n < 5 {
			t.Errorf("%d resets", n)
		}
	})
}

func TestLinuxPolledQueues(t *testing.T) {
	eachLinuxOn(t, backendPassthrough, []int{2}, func(t *testing.T, r linuxRun) {
		r.fio = true
		path := image(t, 64<<20)
		if err := os.WriteFile(path, bytes.Repeat([]byte("uringpv "), 8<<20), 0); err != nil { // the file system has all blocks
			t.Fatal(err)
		}
		r.disks, r.options = []string{path}, "rings=4,direct=on"
		r.cmdline = "uringpv.poll_queues=1"
		r.script = fioJob + fmt.Sprintf(`
			status=0
			for with in "io_uring --hipri --iodepth=8 --size=%[1]dM" "io_uring --hipri --iodepth=8 --sync=dsync --size=%[1]dM" "pvsync2 --hipri --fsync=8 --size=4M"; do
				job --filename=/dev/upv0 --rw=randrw --bs=4k --verify=crc32c --verify_fatal=1 --direct=1 --ioengine=$with || status=1
			done
			awk '{ print $16 " flushes" }' /sys/block/upv0/stat
			cat /sys/kernel/debug/uringpv-*/rings
			dmesg | grep 'polled by the host too' && echo "IOPOLL is on"
			exit $status`, r.amount(1, 4))
		var under string // the device that the file is on
		before := 0
		nested := os.Getenv("URINGPV_NESTED") != ""
		if nested {
			under = deviceOf(t, path)
			before = flushes(t, under)
		}
		console := r.run(t)
		// FSYNC is nothing for a ring that polls: another one has to take it.
		m := regexp.MustCompile(`(?m)^(\d+) flushes`).FindStringSubmatch(console)
		if m == nil {
			t.Fatalf("no count of flushes\n%s", console)
		}
		asked, _ := strconv.Atoi(m[1])
		if asked < 32 {
			t.Errorf("the guest flushed %d times\n%s", asked, console)
		}
		if nested {
			if done := flushes(t, under) - before; done < asked {
				t.Errorf("the guest flushed %d times, %s %d times\n%s", asked, under, done, console)
			}
		}
		// On the machine's NVMe disk the host can poll, which every backend hands on.
		if !strings.Contains(console, "IOPOLL is on") && nested {
			t.Errorf("the host does not poll\n%s", console)
		}
		m = regexp.MustCompile(`(?m)^2 -1 0x\d+ (\d+) `).FindStringSubmatch(console)
		if m == nil || m[1] == "0" {
			t.Errorf("the polled ring took nothing\n%s", console)
		}
	})
}

// upvs are the guest's names of disks.
func upvs(disks []string) string {
	var names []string
	for i := range disks {
		names = append(names, fmt.Sprintf("upv%d", i))
	}
	return strings.Join(names, " ")
}

// A request whose memory lies in several entries of the buffer table is one SQE for each.
// fio's buffers are huge pages: what is not cut is one SQE, and one entry has to hold it.
func TestLinuxSplitsAtBufferBoundaries(t *testing.T) {
	eachGuest(t, 2, func(t *testing.T, r linuxRun) {
		r.monitor, r.memory, r.fio = "uringpv-with-small-buffers", "480M", true
		for range r.each {
			r.disks = append(r.disks, image(t, 64<<20))
		}
		r.script = fioJob + fmt.Sprintf(`
			echo 32 >/proc/sys/vm/nr_hugepages
			requests() { awk '{ print $1 + $5 }' /sys/block/$1/stat; }
			sqes() { awk 'NR > 1 { n += $4 - $6 } END { print n }' /sys/kernel/debug/uringpv-$(basename $(readlink -f /sys/block/$1/device))/rings; }
			verify() {
				job --filename=/dev/$disk --rw=randrw --bsrange=4k-1m --verify=crc32c --verify_fatal=1 --verify_backlog=16 \
					--cpus_allowed=0-1 --size=%dM "$@" || exit 1
			}
			for disk in %s; do
				requests=$(requests $disk) sqes=$(sqes $disk)
				verify --ioengine=io_uring --direct=1 --iodepth=16 --mem=mmaphuge
				echo "$disk: $(($(requests $disk) - requests)) requests, $(($(sqes $disk) - sqes)) SQEs."
				verify --ioengine=psync --direct=0 --end_fsync=1
			done`, r.amount(24, 64), upvs(r.disks))
		console := r.run(t)
		for i, backend := range r.each {
			m := regexp.MustCompile(fmt.Sprintf(`(?m)^upv%d: (\d+) requests, (\d+) SQEs\.`, i)).FindStringSubmatch(console)
			if m == nil {
				t.Fatalf("%s: no counts\n%s", backend, console)
			}
			requests, _ := strconv.Atoi(m[1])
			sqes, _ := strconv.Atoi(m[2])
			t.Logf("%s: %d requests were %d SQEs", backend, requests, sqes)
			if requests < 16 || sqes < requests*9/8 {
				t.Errorf("%s: %d requests of up to 1 MiB, in memory cut every %d KiB, were %d SQEs\n%s", backend, requests, smallBuffer>>10, sqes, console)
			}
		}
	})
}

// What the guest is told is durable has been flushed to the host's device: each FSYNC, and
// each write with FUA, which no flush of the guest's stands for.
func TestLinuxFlushesReachTheHostsDevice(t *testing.T) {
	inMachine(t)
	eachGuest(t, 2, func(t *testing.T, r linuxRun) {
		const writes = 64
		r.fio = true
		for range r.each {
			r.disks = append(r.disks, loopDevice(t, image(t, 16<<20)))
		}
		kinds := []string{"fsync=1", "sync=dsync"}
		r.script = fioJob + fmt.Sprintf(`
			flushed() { awk '{ print $16 }' /sys/block/$1/stat; }
			for disk in %s; do
				grep -x 'write back' /sys/block/$disk/queue/write_cache || exit 1
				grep -x 1 /sys/block/$disk/queue/fua || exit 1
				for kind in %s; do
					echo "$disk $kind:"; read x
					before=$(flushed $disk)
					job --filename=/dev/$disk --rw=write --bs=4k --size=%dk --ioengine=psync --direct=1 --$kind || exit 1
					echo "$disk $kind took $(($(flushed $disk) - before)) flushes."
				done
			done`, upvs(r.disks), strings.Join(kinds, " "), 4*writes)
		s := r.startSession(t)
		for i, device := range r.disks {
			for _, kind := range kinds {
				s.expect(fmt.Sprintf("upv%d %s:", i, kind))
				before := flushes(t, device)
				s.send("go")
				said := regexp.MustCompile(fmt.Sprintf(`upv%d %s took (\d+) flushes\.`, i, kind))
				s.expect(fmt.Sprintf("upv%d %s took ", i, kind))
				s.expect("flushes.")
				done := flushes(t, device) - before
				asked, err := strconv.Atoi(said.FindStringSubmatch(s.text())[1])
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s, %d writes with %s: %d flushes in the guest, %d on the host", r.each[i], writes, kind, asked, done)
				want := asked
				if kind == "fsync=1" && asked < writes-1 {
					t.Errorf("%s: the guest flushed %d times in %d writes", r.each[i], asked, writes)
				} else if kind == "sync=dsync" {
					want += writes
				}
				if done < want {
					t.Errorf("%s: %d writes with %s and %d flushes of the guest's made %d flushes on the host", r.each[i], writes, kind, asked, done)
				}
			}
		}
		if status, console := s.end(); status != 0 || !strings.Contains(console, "init: run: exit 0") {
			t.Errorf("exit status %d\n%s", status, console)
		}
	})
}

// deviceOf is the block device that a file is on.
func deviceOf(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		t.Fatal(err)
	}
	return "/dev/" + filepath.Base(link)
}

// A host's device with logical blocks of 4 KiB is a disk with such blocks.
func TestLinuxWithBlocksOf4KiB(t *testing.T) {
	inMachine(t)
	eachGuest(t, 2, func(t *testing.T, r linuxRun) {
		r.fio = true
		r.options = "direct=on"
		for _, backend := range r.each {
			r.disks = append(r.disks, nullBlock(t, backend, "size=32", "memory_backed=1", "blocksize=4096"))
		}
		r.script = fioJob + fmt.Sprintf(`
			for disk in %s; do
				for limit in logical_block_size physical_block_size minimum_io_size; do
					grep -x 4096 /sys/block/$disk/queue/$limit || exit 1
				done
				fio --name=v --filename=/dev/$disk --rw=read --bs=512 --size=4k --ioengine=psync --direct=1 >/tmp/log 2>&1 && exit 1
				for with in "io_uring --direct=1 --iodepth=16" "psync --direct=0 --end_fsync=1"; do
					job --filename=/dev/$disk --rw=randrw --bsrange=4k-64k --verify=crc32c --verify_fatal=1 --size=8M --ioengine=$with || exit 1
				done
				mkfs.ext4 -q /dev/$disk && e2fsck -fn /dev/$disk || exit 1
			done`, upvs(r.disks))
		r.run(t)
	})
}

func TestLinuxSeesACapacityChange(t *testing.T) {
	eachLinuxOn(t, backendRelay, []int{1}, func(t *testing.T, r linuxRun) {
		path := image(t, 16<<20)
		r.disks = []string{path}
		r.script = `size() { cat /sys/block/upv0/size; }
			echo ready
			until [ "$(size)" = 65536 ]; do sleep 0.1; done
			echo seen; read x
			echo 1 >/sys/block/upv0/rescan
			[ "$(size)" = 32768 ]`
		s := r.startSession(t)
		s.expect("ready\r\n")
		for _, size := range []int64{32 << 20, 16 << 20} {
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
			if size == 32<<20 {
				s.expect("seen\r\n")
			}
		}
		s.send("go")
		if status, console := s.end(); status != 0 || !strings.Contains(console, "init: run: exit 0") {
			t.Errorf("exit status %d\n%s", status, console)
		}
	})
}

// SIGKILL of the monitor at any moment: what the guest was told is on the disk is
// in the host's file, and the file system recovers.
func TestLinuxAcknowledgedWritesSurviveTheMonitor(t *testing.T) {
	eachLinuxOn(t, backendRelay, []int{2}, func(t *testing.T, r linuxRun) {
		rounds := r.amount(2, 30)
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		path := image(t, 64<<20)
		r.disks = []string{path}
		const mkfs = "mkfs.ext4 -q -F /dev/upv0 || exit 1"
		const work = `
			mount /dev/upv0 /mnt || exit 1
			cat /mnt/* >/dev/null
			n=$(ls /mnt | grep -c record)
			while :; do
				echo "record $n of the writer" >/mnt/record$n
				sync /mnt/record$n && sync /mnt && echo "ack $n."
				n=$((n + 1))
			done`
		line := regexp.MustCompile(`(?m)^ack (\d+)\.`)
		var acked []int
		early := 0           // rounds that ended before they had acknowledged anything
		first := time.Second // what a round takes to acknowledge something
		for round := 0; round < rounds || early*5 < rounds; round++ {
			if round == 2*rounds {
				t.Fatalf("%d of %d rounds ended before an acknowledgement", early, round)
			}
			// Nothing has been acknowledged of a file system that was half made.
			r.script = "echo begin.\n"
			if len(acked) == 0 {
				r.script += mkfs
			}
			r.script += work
			s := r.startSession(t)
			s.expect("begin.\r\n")
			begin := time.Now()
			soon := early*5 < min(round+1, rounds)
			if soon {
				time.Sleep(time.Duration(random.Int64N(int64(first))))
			} else {
				s.expect("\nack ")
				s.expect(".") // all of it
				first = time.Since(begin)
				time.Sleep(time.Duration(random.Int64N(int64(1500 * time.Millisecond))))
			}
			if err := s.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			_ = s.Wait()
			console := s.text()
			scan(t, console)
			said := line.FindAllStringSubmatch(console, -1)
			switch {
			case len(said) > 0:
			case soon:
				early++
			default:
				t.Fatalf("round %d acknowledged nothing\n%s", round, console)
			}
			for _, m := range said {
				n, _ := strconv.Atoi(m[1])
				acked = append(acked, n)
			}
			if len(acked) > 0 {
				checkRecords(t, path, acked)
			}
			if t.Failed() {
				t.Fatalf("in round %d\n%s", round, console)
			}
		}
		t.Logf("%d acknowledged writes; %d rounds ended before the first", len(acked), early)
	})
}

// checkRecords lets a copy of the image recover and looks for the records.
func checkRecords(t *testing.T, path string, records []int) {
	t.Helper()
	copied := image(t, 1)
	command := func(ok func(status int) bool, name string, args ...string) string {
		out, status := output(t, name, args...)
		if !ok(status) {
			t.Errorf("%s %v: status %d\n%s", name, args, status, out)
		}
		return out
	}
	zero := func(s int) bool { return s == 0 }
	copySparse(t, copied, path)
	// 1: the journal was replayed or something small corrected; more is damage.
	command(func(s int) bool { return s <= 1 }, "e2fsck", "-fy", copied)
	fsckOnHost(t, copied)
	script := new(strings.Builder)
	for _, n := range records {
		fmt.Fprintf(script, "cat /record%d\n", n)
	}
	commands := copied + ".commands"
	if err := os.WriteFile(commands, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	got := command(zero, "debugfs", "-f", commands, copied)
	for _, n := range records {
		if !strings.Contains(got, fmt.Sprintf("record %d of the writer\n", n)) {
			t.Errorf("record %d was acknowledged and is not on the disk", n)
		}
	}
}
