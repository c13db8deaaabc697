// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uringpv/uringpv/guest/bare"
	"github.com/uringpv/uringpv/vmm/kvm"
)

// errNoVirtio says that virtio-blk cannot be measured.
var errNoVirtio = errors.New("virtio-blk cannot be measured")

const (
	// virtioQueue is the size of a virtqueue: QEMU's largest.
	virtioQueue = 1024
	// maxVirtioDepth is how many requests of three descriptors fit.
	maxVirtioDepth = virtioQueue / 3
	// virtioPoll is for how long QEMU's iothread polls before it sleeps.
	virtioPoll = time.Millisecond
	// countingRun is the length of the run in which QEMU's system calls are counted.
	countingRun = 200 * time.Millisecond
)

// qemuCommand is QEMU's command and the words that every run has: the variable
// QEMU, split at blanks, or qemu-system-x86_64.
func qemuCommand() ([]string, error) {
	words := strings.Fields(os.Getenv("QEMU"))
	if len(words) == 0 {
		words = []string{"qemu-system-x86_64"}
	}
	path, err := exec.LookPath(words[0])
	if err != nil {
		return nil, fmt.Errorf("%w: %w (Debian's package is qemu-system-x86; the variable QEMU may name another program)", errNoVirtio, err)
	}
	words[0] = path
	return words, nil
}

// virtio measures the guest on QEMU's virtio-blk.
func (b *bencher) virtio(ctx context.Context, depth int, args string, length time.Duration, st *stretch) error {
	if canCountCalls() == nil && length > warmUp {
		// Counting slows system calls down, so it has a run of its own.
		var counted stretch
		short := strings.Replace(args, fmt.Sprintf("ms=%d", length.Milliseconds()), fmt.Sprintf("ms=%d", min(length, countingRun).Milliseconds()), 1)
		calls, err := b.qemu(ctx, depth, short, true, &counted)
		if err != nil {
			return err
		}
		if _, err := b.qemu(ctx, depth, args, false, st); err != nil {
			return err
		}
		st.values["vmm_syscalls"] = uint64(float64(calls) / float64(max(1, counted.values["ios"])) * float64(st.values["ios"]))
		return nil
	}
	_, err := b.qemu(ctx, depth, args, false, st)
	return err
}

// qemu runs QEMU once, and returns how many system calls it made if count asks for
// that.
func (b *bencher) qemu(ctx context.Context, depth int, args string, count bool, st *stretch) (calls uint64, err error) {
	qemu, err := qemuCommand()
	if err != nil {
		return 0, err
	}
	if b.tscKHz == 0 {
		if b.tscKHz, err = guestTSC(); err != nil {
			return 0, err
		}
	}
	guest, err := memoryFile("uringpv-guest", bare.Guest())
	if err != nil {
		return 0, err
	}
	defer guest.Close()
	flags := os.O_RDONLY
	if !b.options.readOnly() {
		flags = os.O_RDWR
	}
	disk, err := os.OpenFile(b.disk.Path, flags, 0)
	if err != nil {
		return 0, err
	}
	defer disk.Close()
	info, err := disk.Stat()
	if err != nil {
		return 0, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer read.Close()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	words := append(slices.Clone(qemu[1:]), b.qemuArguments(depth, args, info.Mode()&os.ModeDevice != 0)...)
	c := &child{cmd: exec.CommandContext(ctx, qemu[0], words...), name: "QEMU", console: read}
	c.cmd.ExtraFiles = []*os.File{disk, guest, write} // descriptors 3, 4 and 5
	monitor, err := newQMP(c.cmd)
	if err != nil {
		return 0, err
	}
	pid := 0
	var before vcpuStats
	var counter *callCounter
	defer func() { counter.close() }()
	ended := false
	c.line = st.listen(func() (cpuTimes, error) {
		// The guest lets a moment pass behind these lines.
		now, err := monitor.stats()
		if err != nil {
			return cpuTimes{}, err
		}
		if !ended {
			before = now
			if count {
				if counter, err = countCalls(pid); err != nil {
					return cpuTimes{}, err
				}
			}
		} else {
			if calls, err = counter.read(); err != nil {
				return cpuTimes{}, err
			}
			st.values["kvm_exits"] = now.guestExits() - before.guestExits()
			st.values["irqs"] = now.injections - before.injections
		}
		ended = true
		return readCPU(pid, func(_ int, name string) bool { return strings.HasPrefix(name, "CPU 0/") })
	}, cancel)
	listen := c.line
	c.line = func(l bare.Line) {
		switch l.Name {
		case "kvm_exits", "irqs", "irq_exits", "vmm_syscalls":
			return // the guest's zeros: this monitor has no such port
		case "done":
			if err := monitor.command("quit", nil, nil); err != nil {
				cancel(err)
			}
		}
		listen(l)
	}
	err = c.run(ctx, write, func(p int) { pid = p })
	if err == nil && st.values["ios"] > 0 {
		return calls, nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return 0, cause
	}
	if err == nil {
		err = errors.New("it ended without a result")
	}
	why := strings.Join(append(st.text, strings.TrimSpace(c.said.String())), "; ")
	if st.values["ios"] == 0 && len(st.text) == 0 {
		// It has not come as far as the guest.
		return 0, fmt.Errorf("%w: QEMU: %w: %s", errNoVirtio, err, oneLine(why))
	}
	return 0, fmt.Errorf("QEMU: %w: %s", err, oneLine(why))
}

// qemuArguments is a microvm with one virtio-blk device, the fastest that QEMU has
// of that kind.
func (b *bencher) qemuArguments(depth int, args string, block bool) []string {
	o := b.options
	onOff := map[bool]string{true: "on", false: "off"}
	driver := "file"
	if block {
		driver = "host_device"
	}
	return []string{
		"-machine", "microvm,accel=kvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=off",
		"-cpu", "host,arch-capabilities=off", // some software KVM offers that and refuses its MSR
		"-smp", "1", "-m", fmt.Sprintf("%dM", b.memory(depth)>>20),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", "bench,debug-threads=on",
		"-kernel", "/proc/self/fd/4", "-append", fmt.Sprintf("guest=bench-virtio tsc_khz=%d %s", b.tscKHz, args),
		"-chardev", "file,id=console,path=/dev/fd/5", "-device", "isa-debugcon,chardev=console,iobase=0xe9",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=4",
		"-chardev", "stdio,id=qmp,signal=off", "-mon", "chardev=qmp,mode=control",
		"-object", fmt.Sprintf("iothread,id=io,poll-max-ns=%d", virtioPoll.Nanoseconds()),
		"-blockdev", fmt.Sprintf("driver=%s,node-name=disk,filename=/proc/self/fd/3,aio=io_uring,cache.direct=%s,read-only=%s", driver, onOff[o.direct], onOff[o.readOnly()]),
		"-global", "virtio-mmio.force-legacy=off",
		"-device", fmt.Sprintf("virtio-blk-device,drive=disk,iothread=io,queue-size=%d,num-queues=%d", virtioQueue, o.rings.value),
	}
}

// guestTSC is the frequency of a guest's time-stamp counter, in kHz.
func guestTSC() (khz uint64, err error) {
	system, err := kvm.Open()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, system.Close()) }()
	vm, err := system.NewVM()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, vm.Close()) }()
	vcpu, err := vm.NewVCPU(0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, vcpu.Close()) }()
	if khz = vcpu.TSCkHz(); khz == 0 {
		return 0, fmt.Errorf("%w: this host does not say how fast the time-stamp counter is", errNoVirtio)
	}
	return khz, nil
}

// qmp is a connection to QEMU's monitor, over its stdin and stdout.
type qmp struct {
	to    io.WriteCloser
	from  *json.Decoder
	greet sync.Once
	err   error
}

func newQMP(cmd *exec.Cmd) (*qmp, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &qmp{to: in, from: json.NewDecoder(out)}, nil
}

// command executes one and decodes what it returns, past events.
func (q *qmp) command(name string, arguments, result any) error {
	msg := map[string]any{"execute": name}
	if arguments != nil {
		msg["arguments"] = arguments
	}
	b, err := json.Marshal(msg)
	if err != nil {
		return err
	}
	if _, err := q.to.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("QMP: %s: %w", name, err)
	}
	for {
		var reply struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := q.from.Decode(&reply); err != nil {
			return fmt.Errorf("QMP: %s: %w", name, err)
		}
		switch {
		case reply.Error != nil:
			return fmt.Errorf("QMP: %s: %s", name, reply.Error.Desc)
		case reply.Return != nil && result != nil:
			return json.Unmarshal(reply.Return, result)
		case reply.Return != nil:
			return nil
		}
	}
}

// vcpuStats are KVM's counts of QEMU's only vCPU.
type vcpuStats struct{ exits, irqExits, injections uint64 }

// guestExits are the exits of the guest's making.
func (s vcpuStats) guestExits() uint64 { return s.exits - min(s.exits, s.irqExits) }

// stats asks for them.
func (q *qmp) stats() (vcpuStats, error) {
	q.greet.Do(func() { q.err = q.command("qmp_capabilities", nil, nil) })
	if q.err != nil {
		return vcpuStats{}, q.err
	}
	var result []struct {
		Stats []struct {
			Name  string          `json:"name"`
			Value json.RawMessage `json:"value"`
		} `json:"stats"`
	}
	names := []string{"exits", "irq_exits", "irq_injections"}
	if err := q.command("query-stats", map[string]any{
		"target":    "vcpu",
		"providers": []any{map[string]any{"provider": "kvm", "names": names}},
	}, &result); err != nil {
		return vcpuStats{}, err
	}
	found := map[string]uint64{}
	for _, vcpu := range result {
		for _, s := range vcpu.Stats {
			var n uint64
			if err := json.Unmarshal(s.Value, &n); err != nil {
				return vcpuStats{}, fmt.Errorf("QMP: query-stats: %s: %w", s.Name, err)
			}
			found[s.Name] += n
		}
	}
	if len(found) != len(names) {
		return vcpuStats{}, fmt.Errorf("QMP: query-stats: %d of %d counts", len(found), len(names))
	}
	return vcpuStats{exits: found["exits"], irqExits: found["irq_exits"], injections: found["irq_injections"]}, nil
}
