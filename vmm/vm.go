// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/memmap"
	"github.com/uringpv/uringpv/vmm/boot"
	"github.com/uringpv/uringpv/vmm/bus"
	"github.com/uringpv/uringpv/vmm/kvm"
	"github.com/uringpv/uringpv/vmm/pci"
	"github.com/uringpv/uringpv/vmm/serial"
)

// What Intel hosts use in the guest's address space, inside the hole.
const (
	identityMapAddr = 0xfffbc000 // one page
	tssAddr         = 0xfffbd000 // three pages
)

// VM is a machine. New makes it, Run runs its guest once, Close takes it down.
type VM struct {
	log       *slog.Logger
	memory    *memmap.Memory
	system    *kvm.System
	kvm       *kvm.VM
	routes    *routes
	ports     bus.Bus
	mmio      bus.Bus
	pci       *pci.Host
	vcpus     []*vcpu
	com1      *serial.Port
	serialOut *outlet
	tail      consoleTail
	devices   []*device
	marks     atomic.Uint64 // requests for counters
	made      time.Time     // zero of the guest's host clock

	output  sync.Mutex // held during a write to console: several vCPUs may print
	console io.Writer

	once    sync.Once // sets result and closes stopped
	stopped chan struct{}
	result  result

	closed bool
}

// result is how a run ended.
type result struct {
	exit Exit
	err  error
}

// Exit is how a guest ended its run by itself.
type Exit struct {
	How  Ending
	Code uint32   // ByPort: what it wrote to the exit port
	Last []string // ByPanic: the last lines that it wrote to COM1
}

// Ending is a way in which a guest can end its run.
type Ending int

// Endings.
const (
	ByPort    Ending = iota // the exit port, of freestanding guests
	ByPower                 // it switched the machine off
	ByRestart               // it asked for a restart
	ByPanic                 // its kernel panicked
)

// New makes a machine and loads its guest.
func New(c Config) (_ *VM, err error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	layout, err := memmap.NewLayout(c.Memory)
	if err != nil {
		return nil, err
	}
	if c.BufferSize != 0 {
		if layout, err = layout.WithBuffers(c.BufferSize); err != nil {
			return nil, err
		}
	}
	vm := &VM{log: c.Logger, console: c.Console, made: time.Now(), stopped: make(chan struct{})}
	if vm.log == nil {
		vm.log = slog.New(slog.DiscardHandler)
	}
	if vm.console == nil {
		vm.console = io.Discard
	}
	var choices <-chan choice
	defer func() {
		if err != nil {
			err = errors.Join(err, drop(choices), vm.Close())
		}
	}()
	if vm.system, err = kvm.Open(); err != nil {
		return nil, err
	}
	if vm.memory, err = memmap.New(layout, memmap.Options{HugePages: c.HugePages}); err != nil {
		return nil, err
	}
	if c.Sized != nil {
		c.Sized()
	}
	if len(c.Devices) > 0 {
		// Backends pin it all, and this takes longer than the rest of what is made here.
		vm.memory.Populate()
		// Asking what the host's io_uring can do takes about as long as making the rest.
		choices = chooseBackends(c.Devices, vm.memory, vm.log)
	}
	if vm.kvm, err = vm.system.NewVM(); err != nil {
		return nil, err
	}
	if err := vm.wire(c.Serial); err != nil {
		return nil, err
	}
	linux := len(c.Guest.Kernel) > 0
	if linux {
		if err := vm.wirePC(); err != nil {
			return nil, err
		}
	}
	if err := vm.addCPUs(c.CPUs, linux); err != nil {
		return nil, err
	}
	for i := range c.Devices {
		d, err := newDevice(vm, &c.Devices[i], <-choices)
		if err != nil {
			return nil, err
		}
		vm.devices = append(vm.devices, d)
		vm.log.Info("backend", "device", d.chosen.Device, "backend", d.chosen.Backend, "why", d.chosen.Why)
	}
	var loader interface {
		Load(m *memmap.Memory) (boot.Entry, error)
	} = boot.Bare{ELF: c.Guest.ELF, Cmdline: c.Guest.Cmdline, CPUs: c.CPUs, TSCkHz: vm.vcpus[0].kvm.TSCkHz()}
	if linux {
		loader = linuxLoader(&c)
	}
	entry, err := loader.Load(vm.memory)
	if err != nil {
		return nil, err
	}
	return vm, vm.vcpus[0].start(entry)
}

// wire puts memory, interrupt controllers and the PC's own devices in place.
func (vm *VM) wire(serialOut io.Writer) error {
	for i, r := range vm.memory.Layout().Regions() {
		hva, err := vm.memory.HostAddr(r.Range)
		if err != nil {
			return err
		}
		if err := vm.kvm.SetMemory(uint32(i), uint64(r.Start), hva, r.Length); err != nil {
			return err
		}
	}
	if err := vm.kvm.CreateIRQChip(tssAddr, identityMapAddr); err != nil {
		return err
	}
	vm.routes = newRoutes(vm.kvm)
	vm.pci = pci.NewHost(&vm.mmio)
	if err := vm.ports.Claim(pci.ConfigPorts, pci.ConfigPortsLen, vm.pci); err != nil {
		return err
	}
	if serialOut == nil {
		serialOut = io.Discard
	}
	vm.serialOut = newOutlet(serialOut, vm.stopped)
	vm.com1 = serial.New(io.MultiWriter(&vm.tail, vm.serialOut), func(high bool) {
		if err := vm.kvm.IRQLine(serial.COM1IRQ, high); err != nil {
			vm.log.Error("serial port", "error", err)
		}
	})
	return vm.ports.Claim(serial.COM1, serial.Ports, vm.com1)
}

// SerialInput gives the guest input on COM1, and returns how many bytes of b were
// taken: a guest that does not read leaves the rest. It may be called from any
// goroutine until Close.
func (vm *VM) SerialInput(b []byte) int { return vm.com1.Feed(b) }

// addCPUs makes the vCPUs. All but the first wait for the guest to start them.
func (vm *VM) addCPUs(n int, linux bool) error {
	supported, err := vm.system.SupportedCPUID()
	if err != nil {
		return err
	}
	t := topology{cpus: n, tscDeadline: vm.system.Has(kvm.CapTSCDeadline) != 0}
	for id := range n {
		c, err := vm.kvm.NewVCPU(id)
		if err != nil {
			return err
		}
		vm.vcpus = append(vm.vcpus, &vcpu{vm: vm, id: id, kvm: c})
		if err := c.SetCPUID(t.cpuid(supported, id)); err != nil {
			return fmt.Errorf("vCPU %d: %w", id, err)
		}
		if linux {
			if err := c.SetMSRs(firmwareMSRs...); err != nil {
				return fmt.Errorf("vCPU %d: %w", id, err)
			}
		}
	}
	return nil
}

// Backends says which backend each device got, and why.
func (vm *VM) Backends() []Chosen {
	var out []Chosen
	for _, d := range vm.devices {
		out = append(out, d.chosen)
	}
	return out
}

// stop ends the run with r, if nothing has ended it before.
func (vm *VM) stop(r result) {
	vm.once.Do(func() {
		vm.result = r
		close(vm.stopped)
		// A command of the guest's may be waiting for its I/O.
		for _, d := range vm.devices {
			d.Interrupt()
		}
		for _, c := range vm.vcpus {
			c.kvm.Kick()
		}
	})
}

// Run runs the guest until it writes to the exit port, ctx ends, or something
// goes wrong, and until all vCPUs have stopped. The error is ctx's cause, a
// *GuestCrash, or the host's fault. It is called once.
func (vm *VM) Run(ctx context.Context) (Exit, error) {
	if vm.closed {
		return Exit{}, errors.New("the machine is closed")
	}
	done := context.AfterFunc(ctx, func() { vm.stop(result{err: context.Cause(ctx)}) })
	defer done()
	go vm.serialOut.run()
	var threads sync.WaitGroup
	for _, c := range vm.vcpus {
		threads.Go(c.loop)
	}
	threads.Wait()
	vm.serialOut.close(ctx)
	vm.stop(result{err: errors.New("all vCPUs stopped by themselves")})
	return vm.result.exit, vm.result.err
}

// Stats is what a machine has done.
type Stats struct {
	KVM         kvm.Counters // all vCPUs
	HaveKVM     bool         // whether the host counts
	SystemCalls uint64       // made by the monitor to run the guest and to serve its I/O
	Devices     []uringpv.Stats
}

// Stats may be called from any goroutine until Close.
func (vm *VM) Stats() Stats {
	s := Stats{HaveKVM: true, SystemCalls: vm.systemCalls()}
	for _, c := range vm.vcpus {
		n, ok := c.kvm.Counters()
		s.KVM, s.HaveKVM = s.KVM.Add(n), s.HaveKVM && ok
	}
	for _, d := range vm.devices {
		s.Devices = append(s.Devices, d.Stats())
	}
	return s
}

// systemCalls counts the system calls of vCPU threads and devices, but for those
// that the guest's own counting causes.
func (vm *VM) systemCalls() uint64 {
	n := uint64(0)
	for _, c := range vm.vcpus {
		n += c.kvm.Runs()
	}
	for _, d := range vm.devices {
		n += d.SystemCalls()
	}
	return n - min(n, vm.marks.Load())
}

// ErrMemoryInUse says that a ring may still read or write guest RAM, so that the
// machine's memory and the files of its devices have to stay.
var ErrMemoryInUse = errors.New("guest memory is still in use")

// Close takes the machine down. Run has returned, or was never called. If a ring
// does not end, because its I/O is stuck on the host (unix.ETIMEDOUT) or for
// another fault of the host's, the error wraps ErrMemoryInUse too, the memory
// stays, and Close may be called again. After any other result the machine is
// gone, and further calls return nil.
func (vm *VM) Close() error {
	if vm.closed {
		return nil
	}
	all := &multierror.Error{ErrorFormat: oneLine}
	var used []string
	for _, d := range vm.devices {
		inUse, err := d.close()
		if err != nil {
			all = multierror.Append(all, fmt.Errorf("device %s: %w", d.chosen.Device, err))
		}
		if inUse {
			used = append(used, d.chosen.Device)
		}
	}
	if len(used) > 0 {
		return multierror.Append(all, fmt.Errorf("%w by %s", ErrMemoryInUse, strings.Join(used, ", ")))
	}
	vm.closed = true
	for _, c := range vm.vcpus {
		all = appendError(all, c.kvm.Close())
	}
	if vm.kvm != nil {
		all = appendError(all, vm.kvm.Close())
	}
	if vm.system != nil {
		all = appendError(all, vm.system.Close())
	}
	if vm.memory != nil {
		all = appendError(all, vm.memory.Close())
	}
	return all.ErrorOrNil()
}

// oneLine is the text of several errors.
func oneLine(errs []error) string {
	lines := make([]string, len(errs))
	for i, err := range errs {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "; ")
}

// appendError adds err, if there is one.
func appendError(all *multierror.Error, err error) *multierror.Error {
	if err == nil {
		return all
	}
	return multierror.Append(all, err)
}
