// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/vmm/kvm"
)

// The machine's serial ports: the kernel's console is the first.
const (
	programTTY = "/dev/ttyS1" // the program's stdin, stdout and stderr
	statusTTY  = "/dev/ttyS2" // "exit N"
	pulseTTY   = "/dev/ttyS3" // of no meaning: pulsate says what it is for
)

// runInit is PID 1 in the machine. It never returns.
func runInit() {
	code, err := initialise()
	if err != nil {
		fmt.Fprintf(os.Stderr, "init: %v\n", err)
	} else if f, err := os.OpenFile(statusTTY, os.O_WRONLY, 0); err == nil {
		fmt.Fprintf(f, "exit %d\n", code)
		_ = f.Close() // waits for the port to be drained
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

// initialise makes the machine usable, runs the job and returns its exit status.
func initialise() (int, error) {
	for _, m := range []struct {
		what, at, data string
	}{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""}, {"tmpfs", "/tmp", "mode=1777"}, {"tmpfs", "/run", "mode=0755"},
		{"debugfs", "/sys/kernel/debug", ""}, {"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := unix.Mount(m.what, m.at, m.what, 0, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return 0, fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	for _, dir := range []string{"/dev/shm", "/dev/pts"} {
		_ = os.MkdirAll(dir, 0o755)
	}
	_ = unix.Mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777")
	_ = unix.Mount("devpts", "/dev/pts", "devpts", 0, "mode=0620,ptmxmode=0666")
	for link, target := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2"} {
		_ = os.Symlink(target, link)
	}
	var j job
	b, err := os.ReadFile("/" + jobPath)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return 0, err
	}
	if err := loadModules(); err != nil {
		return 0, err
	}
	term := "dumb"
	if j.TTY {
		term = "linux"
	}
	env := append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/busybox", "HOME=/", "TMPDIR=/tmp", "TERM=" + term}, j.Env...)
	_ = os.Setenv("PATH", strings.TrimPrefix(env[0], "PATH="))
	if out, err := exec.Command("/bin/busybox", "--install", "-s", "/busybox").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("busybox --install: %w: %s", err, out)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("loopback: %w: %s", err, out)
	}
	if j.Disk {
		if err := scratch(); err != nil {
			return 0, err
		}
		env = append(env, "TMPDIR=/disk")
	}
	if err := linkImages(j.Images); err != nil {
		return 0, err
	}
	if err := feelPulse(); err != nil {
		return 0, err
	}
	keep()
	defer traceShutdowns()()
	return execute(&j, env)
}

// loadModules loads the machine's modules in their order.
func loadModules() error {
	b, err := os.ReadFile("/" + modulesDir + "order")
	if err != nil {
		return err
	}
	for name := range strings.Lines(string(b)) {
		name = strings.TrimSpace(name)
		f, err := os.Open("/" + modulesDir + name + ".ko")
		if err != nil {
			return err
		}
		params := ""
		if name == "null_blk" {
			params = "nr_devices=0"
		}
		err = unix.FinitModule(int(f.Fd()), params, 0)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// diskOf waits for the NVMe disk with a serial number, and returns its device.
func diskOf(serial string) (string, error) {
	for range 200 { // the driver probes in the background
		found, err := filepath.Glob("/sys/block/nvme*n1/device/serial")
		if err != nil {
			return "", err
		}
		for _, path := range found {
			b, err := os.ReadFile(path)
			if err == nil && strings.TrimSpace(string(b)) == serial {
				return "/dev/" + strings.Split(path, "/")[3], nil
			}
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 50e6}, nil)
	}
	return "", fmt.Errorf("there is no disk with the serial number %s", serial)
}

// linkImages gives the disks of images their names.
func linkImages(names []string) error {
	for i, name := range names {
		dev, err := diskOf(fmt.Sprintf("image%d", i))
		if err != nil {
			return err
		}
		if err := os.MkdirAll("/"+imagesDir, 0o755); err != nil {
			return err
		}
		if err := os.Symlink(dev, "/"+imagesDir+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

// scratch makes the file system at /disk.
func scratch() error {
	dev, err := diskOf("scratch")
	if err != nil {
		return err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", dev).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4 %s: %w: %s", dev, err, out)
	}
	if err := unix.Mount(dev, "/disk", "ext4", 0, "discard"); err != nil {
		return fmt.Errorf("mount /disk: %w", err)
	}
	return os.Chmod("/disk", 0o1777)
}

// feelPulse reads what comes from pulsate, for as long as the machine runs.
func feelPulse() error {
	tty, err := os.OpenFile(pulseTTY, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	t, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	t.Lflag &^= unix.ICANON | unix.ECHO | unix.ISIG
	if err := unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, t); err != nil {
		return err
	}
	go func() { _, _ = io.Copy(io.Discard, tty) }()
	return nil
}

// What an Intel host would use of the address space of a guest that never runs.
const (
	identityMapAddr = 0xfffbc000
	tssAddr         = 0xfffbd000
)

// kept is what keep has made.
var kept []any

// keep makes a virtual machine and a ring that are there until the machine ends. A kernel
// has static keys for the first of each, in its scheduler and in io_uring, and changes its
// code whenever a first one comes and a last one goes; staleInt3 says why that is not good
// here.
func keep() {
	if r, err := hostring.New(hostring.Config{Entries: 1}); err == nil {
		kept = append(kept, r)
	}
	s, err := kvm.Open()
	if err != nil {
		return // the program will say so, if it needs it
	}
	vm, err := s.NewVM()
	if err != nil {
		return
	}
	kept = append(kept, s, vm)
	// One with a local APIC, which is switched off until a guest switches it on.
	if vm.CreateIRQChip(tssAddr, identityMapAddr) != nil {
		return
	}
	if c, err := vm.NewVCPU(0); err == nil {
		kept = append(kept, c)
	}
}

// Where the kernel's trace events are.
const tracing = "/sys/kernel/tracing"

// traceShutdowns makes the kernel note where virtual CPUs were that had a triple fault,
// which KVM tells nobody; done writes that to the program's terminal.
func traceShutdowns() (done func()) {
	_ = unix.Mount("tracefs", tracing, "tracefs", 0, "")
	event := filepath.Join(tracing, "events/kvm/kvm_exit")
	const shutdown = 0x7f // SVM_EXIT_SHUTDOWN
	for _, w := range []struct{ file, text string }{{"filter", fmt.Sprintf("exit_reason == %d", shutdown)}, {"enable", "1"}} {
		if err := os.WriteFile(filepath.Join(event, w.file), []byte(w.text), 0); err != nil {
			return func() {}
		}
	}
	return func() {
		b, err := os.ReadFile(filepath.Join(tracing, "trace"))
		tty, oerr := os.OpenFile(programTTY, os.O_WRONLY|unix.O_NOCTTY, 0)
		if err != nil || oerr != nil {
			return
		}
		defer tty.Close()
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, "kvm_exit") && !strings.HasPrefix(line, "#") {
				fmt.Fprintf(tty, "nested: %s", strings.TrimLeft(line, " "))
			}
		}
	}
}

// execute runs the job's program.
func execute(j *job, env []string) (int, error) {
	tty, err := os.OpenFile(programTTY, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return 0, err
	}
	t, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		return 0, err
	}
	t.Cflag = t.Cflag&^unix.CBAUD | unix.B115200
	if !j.TTY {
		t.Oflag &^= unix.OPOST // the program's bytes, and no others
		t.Lflag &^= unix.ECHO
	}
	if err := unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, t); err != nil {
		return 0, err
	}
	cmd := &exec.Cmd{Path: j.Args[0], Args: j.Args, Env: env, Dir: "/" + workDir, Stdin: tty, Stdout: tty, Stderr: tty}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: j.TTY}
	if !filepath.IsAbs(cmd.Path) {
		return 0, fmt.Errorf("program %q", cmd.Path)
	}
	err = cmd.Run()
	_ = unix.IoctlSetInt(int(tty.Fd()), unix.TCSBRK, 1) // tcdrain
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		ws := exit.Sys().(syscall.WaitStatus)
		if ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return ws.ExitStatus(), nil
	}
	return 0, err
}
