// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/vmm/kvm"
	"github.com/uringpv/uringpv/vmm/pci"
)

// device is a uringpv device as a PCI function.
type device struct {
	*uringpv.Device
	function *pci.Function
	chosen   Chosen
}

// newDevice makes a device and puts it on the machine's PCI bus. The chosen backend is
// its own from now on.
func newDevice(vm *VM, c *DeviceConfig, chosen choice) (_ *device, err error) {
	if chosen.err != nil {
		return nil, chosen.err
	}
	log, backend := vm.log.With("device", c.Name), chosen.backend
	dev, err := uringpv.New(uringpv.Config{
		Name: c.Name, Rings: c.Rings, MaxEntries: c.MaxEntries, Files: c.Files, Memory: vm.memory, Backend: backend,
		SQPoll: c.SQPoll, SQThreadIdle: c.SQThreadIdle, SQThreadCPU: c.SQThreadCPU, SQThreadShared: c.SQThreadShared,
		Deny: c.Deny, DenyFlags: c.DenyFlags, Logger: vm.log,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("device %s: %w", c.Name, err), backend.Close())
	}
	d := &device{Device: dev, chosen: chosen.why}
	defer func() {
		if err != nil {
			_, cerr := d.close() // it has no ring yet
			err = errors.Join(err, cerr)
		}
	}()
	d.function = pci.NewFunction(pci.Identity{Vendor: abi.PCIVendor, Device: abi.PCIDevice, Class: abi.PCIClass, Revision: abi.VersionMajor})
	vectors := make([]pci.Vector, dev.Rings())
	for i := range vectors {
		if vectors[i], err = vm.routes.vector(dev.VectorFD(i)); err != nil {
			return nil, err
		}
	}
	bells := &doorbells{vm: vm.kvm, dev: dev, log: log}
	size := uint64(1) << bits.Len64(uint64(dev.Rings()*abi.DoorbellStride-1))
	for _, err := range []error{
		d.function.SetBAR(abi.BARControl, pci.BAR{Size: 4096, Handler: registers{dev}}),
		d.function.SetBAR(abi.BARDoorbell, pci.BAR{Size: size, Handler: bells, Moved: bells.moved}),
		d.function.SetMSIX(abi.BARMSIX, vectors, func(err error) { log.Error("the host refused an interrupt route", "error", err) }),
	} {
		if err != nil {
			return nil, err
		}
	}
	if _, err := vm.pci.Add(d.function); err != nil {
		return nil, err
	}
	return d, nil
}

// close takes the function off its buses and ends the device. It says whether
// guest RAM is still in use; then it may be called again.
func (d *device) close() (inUse bool, err error) {
	if d.function != nil {
		err = d.function.Close()
	}
	first := d.Device.Close()
	if first == nil || errors.Is(first, unix.ETIMEDOUT) {
		return first != nil, errors.Join(err, first)
	}
	// Either a ring did not end, or all did and something small failed behind
	// them. Only in the second case another Close has nothing to complain of.
	again := d.Device.Close()
	return again != nil, errors.Join(err, first)
}

// registers is BAR 0.
type registers struct{ dev *uringpv.Device }

func (r registers) Read(off uint64, p []byte)  { r.dev.ReadRegister(off, p) }
func (r registers) Write(off uint64, p []byte) { r.dev.WriteRegister(off, p) }

// doorbells is BAR 2: an ioeventfd for each ring, at the BAR's present place. A
// write that exits all the same is one that KVM has no ioeventfd for. The PCI
// function calls moved one at a time.
type doorbells struct {
	vm    *kvm.VM
	dev   *uringpv.Device
	log   *slog.Logger
	wired []wire
}

// wire is an ioeventfd in place.
type wire struct {
	addr uint64
	fd   int
}

func (*doorbells) Read(_ uint64, p []byte) { clear(p) }

func (b *doorbells) Write(off uint64, p []byte) {
	if len(p) == 4 && off%abi.DoorbellStride == 0 {
		b.dev.Doorbell(int(off / abi.DoorbellStride))
	}
}

// moved puts the ioeventfds where the BAR is now.
func (b *doorbells) moved(addr uint64, mapped bool) {
	for _, w := range b.wired {
		if err := b.vm.DeassignIOEventFD(w.addr, w.fd); err != nil {
			b.log.Error("the host keeps a doorbell", "error", err)
		}
	}
	b.wired = b.wired[:0]
	if !mapped {
		return
	}
	for i := range b.dev.Rings() {
		w := wire{addr + uint64(i)*abi.DoorbellStride, b.dev.DoorbellFD(i)}
		if err := b.vm.AssignIOEventFD(w.addr, w.fd); err != nil {
			b.log.Warn("a doorbell costs an exit to the monitor: the host refused an ioeventfd", "ring", i, "error", err)
			continue
		}
		b.wired = append(b.wired, w)
	}
}

// pending says whether the eventfd fd holds a signal.
func pending(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&unix.POLLIN != 0
}
