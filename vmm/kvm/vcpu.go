// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"errors"
	"fmt"
	"structs"
	"sync"
	"sync/atomic"

	"github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/shm"
)

// Registers of a vCPU, as KVM has them.
type (
	Regs       = kvm.Regs
	Sregs      = kvm.Sregs
	Segment    = kvm.Segment
	Descriptor = kvm.Descriptor
	CPUIDEntry = kvm.CPUIDEntry2
)

// VCPU is a virtual CPU. All calls but Kick and Stats come from one OS thread,
// to which the caller has locked its goroutine before NewVCPU or the first Run.
type VCPU struct {
	fd    int
	run   []byte         // kvm_run
	flags *atomic.Uint32 // its first word, which holds immediate_exit
	stats *Stats
	runs  atomic.Uint64

	mu  sync.Mutex // guards tid, so that a signal never goes to a thread that left
	tid int        // of the thread that runs the vCPU, 0 if none
}

// NewVCPU makes the VM's vCPU number id.
func (v *VM) NewVCPU(id int) (_ *VCPU, err error) {
	fd, err := call(v.fd, createVCPU, uintptr(id))
	if err != nil {
		return nil, fmt.Errorf("vCPU %d: %w", id, err)
	}
	unix.CloseOnExec(fd)
	c := &VCPU{fd: fd}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	if c.run, err = unix.Mmap(c.fd, 0, v.mmapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map kvm_run of vCPU %d: %w", id, err)
	}
	view, err := shm.Of(c.run)
	if err != nil {
		return nil, err
	}
	var ok bool
	if c.flags, ok = view.Uint32(0); !ok {
		return nil, fmt.Errorf("kvm_run of vCPU %d is empty", id)
	}
	c.stats, err = openStats(c.fd)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		// Linux before 5.14: the vCPU works, its counters are unknown.
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("vCPU %d: %w", id, err)
	}
	return c, nil
}

// Close closes the vCPU. Nobody runs it any more.
func (c *VCPU) Close() error {
	var errs []error
	if c.run != nil {
		errs = append(errs, unix.Munmap(c.run))
		c.run = nil
	}
	if c.stats != nil {
		errs = append(errs, c.stats.close())
	}
	errs = append(errs, unix.Close(c.fd))
	return errors.Join(errs...)
}

// SetCPUID says what the guest's CPUID instruction answers.
func (c *VCPU) SetCPUID(entries []CPUIDEntry) error {
	var t cpuid
	if len(entries) > len(t.entries) {
		return fmt.Errorf("KVM_SET_CPUID2: %d entries, at most %d", len(entries), len(t.entries))
	}
	t.nent = uint32(copy(t.entries[:], entries))
	return ioctl(c.fd, setCPUID, &t)
}

// Regs returns the general registers.
func (c *VCPU) Regs() (Regs, error) {
	var r Regs
	err := ioctl(c.fd, getRegs, &r)
	return r, err
}

// SetRegs sets the general registers.
func (c *VCPU) SetRegs(r Regs) error {
	return ioctl(c.fd, setRegs, &r)
}

// Sregs returns the segment and control registers.
func (c *VCPU) Sregs() (Sregs, error) {
	var r Sregs
	err := ioctl(c.fd, getSregs, &r)
	return r, err
}

// SetSregs sets the segment and control registers.
func (c *VCPU) SetSregs(r Sregs) error {
	return ioctl(c.fd, setSregs, &r)
}

// fpu is struct kvm_fpu.
type fpu struct {
	_          structs.HostLayout
	fpr        [8][16]uint8
	fcw        uint16
	fsw        uint16
	ftwx       uint8
	pad1       uint8
	lastOpcode uint16
	lastIP     uint64
	lastDP     uint64
	xmm        [16][16]uint8
	mxcsr      uint32
	pad2       uint32
}

// ResetFPU puts x87 and SSE into the state that the System V ABI gives a
// program: all exceptions masked, round to nearest, extended precision.
func (c *VCPU) ResetFPU() error { return ioctl(c.fd, setFPU, &fpu{fcw: 0x37f, mxcsr: 0x1f80}) }

// MPState is what a vCPU of a multiprocessor does, KVM_MP_STATE_*.
type MPState uint32

// States.
const (
	MPRunnable      MPState = 0
	MPUninitialized MPState = 1 // an application processor that waits for INIT and SIPI
	MPInitReceived  MPState = 2
	MPHalted        MPState = 3
	MPSIPIReceived  MPState = 4
)

// MPState returns the vCPU's state.
func (c *VCPU) MPState() (MPState, error) {
	var s MPState
	err := ioctl(c.fd, getMPState, &s)
	return s, err
}

// SetMPState sets the vCPU's state.
func (c *VCPU) SetMPState(s MPState) error { return ioctl(c.fd, setMPState, &s) }

// Delivers says whether KVM has begun to deliver an exception, an interrupt or an
// NMI to the guest and will go on at the next Run (KVM_GET_VCPU_EVENTS). It does
// not know of what the instructions int, int3 and into raise: KVM does not tell.
func (c *VCPU) Delivers() (bool, error) {
	var e kvm.VCPUEvents
	err := ioctl(c.fd, getEvents, &e)
	return e.E.Inject != 0 || e.I.Inject != 0 || e.N.Inject != 0, err
}

// TSCkHz is the frequency of the guest's time-stamp counter in kHz, 0 if the
// host does not know it.
func (c *VCPU) TSCkHz() uint64 {
	khz, err := kvm.GetTSCKHz(uintptr(c.fd))
	if err != nil {
		return 0
	}
	return khz
}

// Translate turns a guest-virtual address into a guest-physical one. It says
// false if it is not mapped.
func (c *VCPU) Translate(virtual uint64) (physical uint64, ok bool) {
	t := kvm.Translation{LinearAddress: virtual}
	if err := ioctl(c.fd, translate, &t); err != nil || t.Valid == 0 {
		return 0, false
	}
	return t.PhysicalAddress, true
}

// immediateExit is kvm_run.immediate_exit, the second byte of the first word.
const immediateExit = 1 << 8

// Enter says that this thread is about to call Run; Leave that it will no more.
func (c *VCPU) Enter() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tid = unix.Gettid()
}

// Leave is Enter's counterpart.
func (c *VCPU) Leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tid = 0
}

// Kick makes the current Run, or the next one, end with ExitInterrupted, and
// every later one too. It may be called from any goroutine.
func (c *VCPU) Kick() {
	c.flags.Or(immediateExit) // first, so that a Run that begins now sees it
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tid != 0 {
		// SIGURG is the runtime's own: its handler does nothing here.
		_ = unix.Tgkill(unix.Getpid(), c.tid, unix.SIGURG)
	}
}

// Run runs the guest until it exits, and decodes the exit.
func (c *VCPU) Run() (Exit, error) {
	c.runs.Add(1)
	// Not kvm.Run: that hides EINTR, and the exit reason is then a stale one.
	_, err := kvm.Ioctl(uintptr(c.fd), kvmRun, 0)
	switch {
	case err == nil:
		return c.exit(), nil
	case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		return Exit{Reason: ExitInterrupted}, nil
	}
	return Exit{}, fmt.Errorf("KVM_RUN: %w", err)
}

// Runs is the number of KVM_RUN calls made so far.
func (c *VCPU) Runs() uint64 { return c.runs.Load() }
