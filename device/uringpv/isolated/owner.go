// SPDX-License-Identifier: Apache-2.0

package isolated

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
)

// patience is how long an owner may take for a step. It has nothing to wait for.
const patience = 10 * time.Second

// ErrOwner says that a ring's owner has ended while the ring was in use: the host's
// fault, or its operator's.
var ErrOwner = errors.New("the process that a ring belongs to has ended")

// startError is an owner that did not get to where its ring could be taken.
type startError struct {
	step step
	err  error
}

func (e *startError) Error() string {
	return fmt.Sprintf("a ring's owner could not %s: %v", e.step, e.err)
}

// Unwrap is the reason.
func (e *startError) Unwrap() error { return e.err }

// owner is the process of one ring. One goroutine at a time may use it, but for
// limit.
type owner struct {
	pid    int
	pidfd  int // -1 when the process is reaped
	socket int // -1 when it has said all
	apart  apart
	status unix.WaitStatus // when it is reaped

	reaping sync.Mutex // held while pid may become another process's
	reaped  bool       // guarded by reaping
}

// programFile puts the owner's program into a memfd. Hosts with vm.memfd_noexec=1 want
// to hear that it shall be executed; kernels before 6.3 do not know that.
func programFile() (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("uringpv-ring", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("uringpv-ring", flags)
	}
	if err != nil {
		return -1, fmt.Errorf("memfd_create for the program of rings' owners: %w: vm.memfd_noexec must be below 2", err)
	}
	n, err := unix.Write(fd, program)
	if err == nil && n != len(program) {
		err = unix.EIO
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("write the program of rings' owners: %w", err)
	}
	return fd, nil
}

// start starts an owner and lets it make the ring that c describes. The owner
// waits until the ring is taken. An owner that fails is gone when it returns.
func (b *Backend) start(m *start, c hostring.Config) (_ *owner, _ *hostring.Ring, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair for a ring's owner: %w", err)
	}
	o := &owner{pidfd: -1, socket: pair[0]}
	none := ^uintptr(0)
	attr := syscall.ProcAttr{
		Env:   []string{},
		Files: []uintptr{none, none, none, fdMonitor: uintptr(pair[1]), fdMemory: uintptr(b.memory.FD()), fdProgram: uintptr(b.program)},
		// A process group of its own, for a terminal's signals. No session: the
		// scheduler may give each one an equal share, and a guest as many as rings.
		Sys: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true, PidFD: &o.pidfd, AmbientCaps: b.ambient},
	}
	b.parent.do(func() {
		o.pid, _, err = syscall.StartProcess(fmt.Sprintf("/proc/self/fd/%d", fdProgram), []string{"uringpv-ring"}, &attr)
	})
	_ = unix.Close(pair[1])
	if err != nil {
		_ = unix.Close(pair[0])
		return nil, nil, fmt.Errorf("execute a ring's owner from a memfd: %w", err)
	}
	if o.pidfd < 0 {
		// Without a pidfd there is no ring to take; the socket's end ends the owner.
		_ = unix.Close(pair[0])
		_, _ = unix.Wait4(o.pid, nil, 0, nil)
		return nil, nil, fmt.Errorf("a pidfd of a ring's owner: %w", unix.ENOSYS)
	}
	ring, err := o.begin(m, c)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return nil, nil, errors.Join(err, o.end(ctx))
	}
	return o, ring, nil
}

// begin talks to a new owner and takes its ring.
func (o *owner) begin(m *start, c hostring.Config) (*hostring.Ring, error) {
	p, err := c.Params()
	if err != nil {
		return nil, err
	}
	m.Entries, m.Params, m.Parent = c.Entries, p, uint32(os.Getpid())
	timeout := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(o.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return nil, fmt.Errorf("setsockopt(SO_RCVTIMEO): %w", err)
	}
	if err := o.send(encode(m)); err != nil {
		return nil, err
	}
	buf := make([]byte, answerSize)
	n, err := o.receive(buf)
	var a answer
	switch {
	case err != nil:
		return nil, &startError{ready, err}
	case n == 0:
		return nil, &startError{ready, errors.New("it ended")}
	case !decode(buf[:n], &a):
		return nil, &startError{ready, fmt.Errorf("it says %d bytes, want %d", n, answerSize)}
	case a.Step != ready || a.Result < 0:
		return nil, &startError{a.Step, unix.Errno(-a.Result)}
	}
	o.apart = a.Apart
	fd, err := unix.PidfdGetfd(o.pidfd, int(a.Result), 0)
	if err != nil {
		return nil, fmt.Errorf("take a ring from its owner (pidfd_getfd): %w", err)
	}
	ring, err := hostring.Adopt(fd, a.Params, c)
	if err != nil {
		return nil, err
	}
	if err := o.send([]byte{1}); err != nil {
		return nil, errors.Join(err, ring.Close())
	}
	return ring, nil
}

// send says something to the owner.
func (o *owner) send(b []byte) error {
	for {
		n, err := unix.SendmsgN(o.socket, b, nil, nil, unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("speak to a ring's owner: %w", err)
		case n != len(b):
			return fmt.Errorf("speak to a ring's owner: %d of %d bytes: %w", n, len(b), unix.EIO)
		default:
			return nil
		}
	}
}

// receive hears what the owner says; 0 bytes: it has said all.
func (o *owner) receive(b []byte) (int, error) {
	for {
		n, err := unix.Read(o.socket, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0, fmt.Errorf("not within %v: %w", patience, unix.ETIMEDOUT)
		case errors.Is(err, unix.ECONNRESET): // it ended with something unread
			return 0, nil
		default:
			return n, err
		}
	}
}

// alone returns nil when the owner has nothing left but guest RAM and its page.
func (o *owner) alone() error {
	n, err := o.receive(make([]byte, 1))
	if err == nil && n != 0 {
		err = fmt.Errorf("it says %d bytes more: %w", n, unix.EPROTO)
	}
	if err != nil {
		return &startError{ready, err}
	}
	_ = unix.Close(o.socket)
	o.socket = -1
	// A process that ends closes its descriptors, too.
	ended, err := o.wait(0)
	if err == nil && ended {
		err = &startError{ready, o.fate()}
	}
	return err
}

// wait waits until the owner has ended, and reaps it. It says false if that is not
// within the time.
func (o *owner) wait(within time.Duration) (bool, error) {
	for deadline := time.Now().Add(within); o.pidfd >= 0; {
		fds := []unix.PollFd{{Fd: int32(o.pidfd), Events: unix.POLLIN}}
		left := max(0, time.Until(deadline)+time.Millisecond-1) // to poll(2), less than 0 is for ever
		n, err := unix.Poll(fds, int(left/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false, fmt.Errorf("poll for the end of a ring's owner: %w", err)
		case n > 0:
			if err := o.reap(); err != nil {
				return false, err
			}
		case !time.Now().Before(deadline):
			return false, nil
		}
	}
	return true, nil
}

// reap takes the status of an owner that has ended.
func (o *owner) reap() error {
	o.reaping.Lock()
	defer o.reaping.Unlock()
	for {
		_, err := unix.Wait4(o.pid, &o.status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil && !errors.Is(err, unix.ECHILD): // ECHILD: SIGCHLD is ignored, and so are children's ends
			return fmt.Errorf("wait for the end of a ring's owner: %w", err)
		}
		_ = unix.Close(o.pidfd)
		o.pidfd, o.reaped = -1, true
		return nil
	}
}

// limit sets the owner's bound for regular files, in bytes.
func (o *owner) limit(n uint64) error {
	o.reaping.Lock()
	defer o.reaping.Unlock()
	if o.reaped {
		return fmt.Errorf("%w: %w", ErrOwner, unix.ENXIO)
	}
	var was unix.Rlimit
	err := unix.Prlimit(o.pid, unix.RLIMIT_FSIZE, nil, &was)
	if err == nil {
		err = unix.Prlimit(o.pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: was.Max}, nil)
	}
	if err != nil {
		return fmt.Errorf("RLIMIT_FSIZE of %d bytes for a ring's owner: %w", n, err)
	}
	return nil
}

// fate is why an owner that is reaped has ended.
func (o *owner) fate() error {
	switch s := o.status; {
	case s.Signaled():
		return fmt.Errorf("%w: process %d, by signal %d (%v)", ErrOwner, o.pid, int(s.Signal()), s.Signal())
	case s.ExitStatus() == exitUnmap:
		return fmt.Errorf("%w: the host's kernel did not let process %d give up all of its memory", ErrOwner, o.pid)
	default:
		return fmt.Errorf("%w: process %d, with status %d", ErrOwner, o.pid, s.ExitStatus())
	}
}

// end kills the owner and reaps it. When it returns nil, every request that the
// ring had is done: the kernel waits for them before it lets a process end. An
// error that wraps unix.ETIMEDOUT says that there are some yet.
func (o *owner) end(ctx context.Context) error {
	if o.socket >= 0 {
		_ = unix.Close(o.socket)
		o.socket = -1
	}
	if o.pidfd < 0 {
		return nil
	}
	if err := unix.PidfdSendSignal(o.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill a ring's owner: %w", err)
	}
	// Short waits, as a poll does not end with ctx.
	for {
		ended, err := o.wait(20 * time.Millisecond)
		switch {
		case err != nil || ended:
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("the ring's owner still has requests in flight on the host (%w): %w", ctx.Err(), unix.ETIMEDOUT)
		}
	}
}
