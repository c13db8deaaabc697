// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/images"
)

// run is one boot of the machine.
type run struct {
	machine string
	cpus    int
	memory  int // MiB
	disk    int // MiB
	timeout time.Duration
	put     []string
	images  []string
	tty     bool
	verbose bool
	tmp     string // directory for temporary files; empty: os.TempDir()

	stdout, stderr io.Writer
}

// Where things lie in the machine.
const (
	modulesDir  = "nested/modules/"
	jobPath     = "nested/job.json"
	programPath = "nested/program"
	workDir     = "work"
	imagesDir   = "images"
)

// job is what init is to do.
type job struct {
	Args []string // PROGRAM is args[0]
	Env  []string
	TTY  bool
	Disk bool

	Images []string // names in imagesDir of disks with the serial numbers image0, image1, ...

	Rows int
	Cols int
}

// run boots the machine, runs args in it and returns args' exit status.
func (r *run) run(ctx context.Context, args []string) (status int, err error) {
	m, err := openMachine(r.machine)
	if err != nil {
		return 0, err
	}
	tmp, err := os.MkdirTemp(r.tmp, "nested-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	initrd := filepath.Join(tmp, "initrd")
	if err := r.writeInitrd(initrd, m.Initrd, args); err != nil {
		return 0, err
	}
	log := filepath.Join(tmp, "log")
	qemu := append(r.qemu(m, initrd), "-d", "guest_errors,cpu_reset", "-D", log)
	if r.disk > 0 {
		path := filepath.Join(tmp, "disk")
		if err := sparse(path, int64(r.disk)<<20); err != nil {
			return 0, err
		}
		qemu = append(qemu, "-drive", "file="+path+",if=none,id=n0,format=raw,discard=unmap,cache=unsafe", "-device", "nvme,drive=n0,serial=scratch")
	}
	for i, path := range r.images {
		path, err := filepath.Abs(path)
		if err != nil {
			return 0, err
		}
		if strings.Contains(path, ",") {
			return 0, &machineError{exitUsage, fmt.Errorf("--image %s: a comma in the path", path)}
		}
		qemu = append(qemu, "-drive", fmt.Sprintf("file=%s,if=none,id=i%d,format=raw,snapshot=on,cache=unsafe", path, i),
			"-device", fmt.Sprintf("nvme,drive=i%d,serial=image%d", i, i))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.timeout, errTimeout)
	defer cancel()
	for again := 2; ; again-- {
		status, err = r.boot(ctx, m, qemu, log)
		if again == 0 || !errors.Is(err, errReset) {
			return status, err
		}
		fmt.Fprintf(r.stderr, "nested: %v\nnested: once more, from the start\n", err)
	}
}

var errTimeout = errors.New("timeout")

// errReset is a machine that its emulation ended. Either a CPU had a triple fault
// without a complaint of the kernel on it before: QEMU's emulation of nested virtual CPUs
// has one now and then. No program in the machine can cause it but through KVM, and there
// the same would be a panic or an Oops. Or the kernel came upon staleInt3.
var errReset = errors.New("a fault of the machine's emulated CPUs")

// staleInt3 is what a kernel dies of that changes its own code (text_poke_bp in
// arch/x86/kernel/alternative.c) while another CPU gets there. A store to code makes QEMU
// forget its translation first, and is done then; if its thread has no processor in
// between, the other CPU translates the old instruction once more, and has it for good.
const staleInt3 = "Oops: int3: "

// boot runs QEMU and waits for what init reports.
func (r *run) boot(ctx context.Context, m machine, qemu []string, log string) (int, error) {
	cmd := exec.CommandContext(ctx, qemu[0], qemu[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGKILL) }
	// A process group of its own: Ctrl-C is for this program to act on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: !r.tty}
	cmd.Env = append(os.Environ(), m.Env...)
	console := &tail{}
	if r.verbose {
		console.also = r.stderr
	}
	status := &tail{}
	ends := []io.Writer{console, status} // ttyS0 and ttyS2
	restore := func() {}
	if r.tty {
		cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout
		restore = terminalState(os.Stdin)
	} else {
		ends = append(ends, r.stdout) // ttyS1
	}
	cmd.Stderr = console
	var copies sync.WaitGroup
	var writing []*os.File
	for i, w := range ends {
		pr, pw, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		writing = append(writing, pw)
		cmd.ExtraFiles = append(cmd.ExtraFiles, pw)
		args := fmt.Sprintf("file,id=out%d,path=/dev/fd/%d", i, 3+i)
		cmd.Args = append(cmd.Args, "-chardev", args)
		copies.Go(func() {
			_, _ = io.Copy(w, pr)
			_ = pr.Close()
		})
	}
	program := "chardev:out2"
	if r.tty {
		cmd.Args = append(cmd.Args, "-chardev", "stdio,id=tty,signal=off")
		program = "chardev:tty"
	}
	pulse, beat, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	writing = append(writing, pulse)
	cmd.ExtraFiles = append(cmd.ExtraFiles, pulse)
	cmd.Args = append(cmd.Args, "-chardev", fmt.Sprintf("file,id=pulse,path=/dev/null,input-path=/dev/fd/%d", 2+len(cmd.ExtraFiles)),
		"-serial", "chardev:out0", "-serial", program, "-serial", "chardev:out1", "-serial", "chardev:pulse")
	copies.Go(func() { pulsate(beat) })
	err = cmd.Start()
	for _, w := range writing {
		_ = w.Close()
	}
	if err == nil {
		err = cmd.Wait()
		restore() // QEMU does that, if it is not killed
	}
	copies.Wait()
	if code, ok := parseStatus(status.String()); ok {
		return code, nil
	}
	fail := &machineError{code: exitMachine}
	switch {
	case errors.Is(context.Cause(ctx), errTimeout):
		fail.code = exitTimeout
		fail.err = fmt.Errorf("the machine (kernel %s) has not ended within %s; its console:\n%s", m.Series, r.timeout, console)
	case ctx.Err() != nil:
		fail.err = context.Cause(ctx)
	case err == nil && lastLines(log, 1) == "Triple fault\n" && !troubled(console.String()):
		fail.err = fmt.Errorf("%w: a triple fault (kernel %s); its console:\n%s", errReset, m.Series, console)
	case err == nil && firstTrouble(console.String(), staleInt3):
		fail.err = fmt.Errorf("%w: an instruction that is there no more (kernel %s); its console:\n%s", errReset, m.Series, console)
	default:
		fail.err = fmt.Errorf("the machine (kernel %s) ended without a result (%v); its console:\n%s\nQEMU's log:\n%s", m.Series, err, console, lastLines(log, 30))
	}
	return 0, fail
}

// pulsate gives the machine an interrupt now and then, by its last serial port, until
// nobody holds the pipe's other end. At each exit of a virtual machine QEMU takes a bit out
// of the word of a CPU's pending interrupts, and not atomically: what another thread puts
// in just then is lost. If that was the timer's interrupt, and the CPU waits for it, there
// is no next one; but any other makes QEMU look for what is pending.
func pulsate(beat *os.File) {
	defer beat.Close()
	for range time.Tick(100 * time.Millisecond) {
		if _, err := beat.Write([]byte{'.'}); err != nil {
			return
		}
	}
}

// terminalState remembers what f, which may be a terminal, is set to.
func terminalState(f *os.File) (restore func()) {
	saved, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return func() {} // no terminal
	}
	return func() { _ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, saved) }
}

// lastLines is the end of a file.
func lastLines(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := slices.Collect(strings.Lines(string(b)))
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// complaint is a kernel's on its console.
var complaint = regexp.MustCompile(`Kernel panic|BUG:|Oops|Call Trace`)

// troubled says whether a kernel has complained on its console.
func troubled(console string) bool { return complaint.MatchString(console) }

// firstTrouble says whether word is how a kernel's first complaint begins.
func firstTrouble(console, word string) bool {
	at := complaint.FindStringIndex(console)
	return at != nil && strings.HasPrefix(console[at[0]:], word)
}

// parseStatus reads what init reported.
func parseStatus(s string) (int, bool) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), "exit ")
	if !ok {
		return 0, false
	}
	code, err := strconv.Atoi(rest)
	return code, err == nil
}

// qemu is QEMU's command line, without disks and serial ports.
func (r *run) qemu(m machine, initrd string) []string {
	cmdline := "console=ttyS0 panic=-1 mitigations=off nvme.poll_queues=1 8250.nr_uarts=4 random.trust_cpu=on hugepages=24"
	if !r.verbose {
		cmdline += " quiet"
	}
	return append(append([]string{}, m.QEMU...),
		"-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt,+pku", "-smp", strconv.Itoa(r.cpus), "-m", strconv.Itoa(r.memory),
		"-nodefaults", "-no-user-config", "-vga", "none", "-display", "none", "-no-reboot",
		"-kernel", m.Kernel, "-initrd", initrd, "-append", cmdline)
}

// writeInitrd writes the base and behind it an archive of the job.
func (r *run) writeInitrd(path, base string, args []string) (err error) {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	in, err := os.Open(base)
	if err != nil {
		return err
	}
	defer in.Close()
	n, err := io.Copy(out, in)
	if err != nil {
		return err
	}
	if _, err := out.Write(make([]byte, -n&3)); err != nil { // archives begin at multiples of four
		return err
	}
	payload := images.NewTree()
	if err := r.fill(payload, args); err != nil {
		return err
	}
	return payload.WriteCPIO(out)
}

// fill adds the job and the files that it needs.
func (r *run) fill(payload *images.Tree, args []string) error {
	j := job{Args: append([]string{}, args...), TTY: r.tty, Disk: r.disk > 0}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return &machineError{exitUsage, err}
	}
	b, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	// The name is kept: programs look at it.
	j.Args[0] = "/" + programPath + "/" + filepath.Base(program)
	payload.File(j.Args[0], 0o755, b)
	for _, e := range os.Environ() {
		if strings.HasPrefix(e, "REQUIRE_") || strings.HasPrefix(e, "URINGPV_") {
			j.Env = append(j.Env, e)
		}
	}
	j.Env = append(j.Env, "URINGPV_NESTED=1")
	for _, path := range r.images {
		j.Images = append(j.Images, filepath.Base(path))
	}
	payload.Dir(workDir)
	if strings.HasSuffix(program, ".test") {
		if err := addPackage(payload); err != nil {
			return err
		}
	}
	for _, p := range r.put {
		host, guest, ok := strings.Cut(p, ":")
		if !ok {
			guest = host
		}
		if err := addTree(payload, host, guest); err != nil {
			return err
		}
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	payload.File(jobPath, 0o644, text)
	return nil
}

// addPackage adds what a test may read in its package's directory, which is where
// go test runs it: testdata, and files and directories that are not Go's.
func addPackage(payload *images.Tree) error {
	entries, err := os.ReadDir(".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		inner, err := filepath.Glob(filepath.Join(e.Name(), "*.go"))
		if err != nil {
			return err
		}
		// A directory with Go files is another package.
		if len(inner) > 0 && e.Name() != "testdata" || strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		if err := addTree(payload, e.Name(), filepath.Join(workDir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// addTree adds a file, or a directory with all that is in it; of links what they lead to.
func addTree(payload *images.Tree, host, guest string) error {
	host, err := filepath.EvalSymlinks(host)
	if err != nil {
		return err
	}
	return filepath.WalkDir(host, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(host, path)
		if err != nil {
			return err
		}
		name := filepath.Join(guest, rel)
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return err
		case info.IsDir() && !d.IsDir():
			return fmt.Errorf("%s is a link to a directory: put that directory itself", path)
		case info.IsDir():
			payload.Dir(name)
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			payload.File(name, info.Mode(), b)
		}
		return nil
	})
}

// sparse makes a file of zeros that takes no space.
func sparse(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// tail keeps the end of what is written to it.
type tail struct {
	also io.Writer

	mu sync.Mutex
	b  []byte
}

const tailSize = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.also != nil {
		_, _ = t.also.Write(p)
	}
	t.b = append(t.b, p...)
	if len(t.b) > 2*tailSize {
		t.b = bytes.Clone(t.b[len(t.b)-tailSize:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b[max(0, len(t.b)-tailSize):])
}
