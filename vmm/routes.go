// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/vmm/kvm"
)

// routes is a machine's MSI routes. The kernel takes the whole table at each
// change.
type routes struct {
	vm *kvm.VM

	mu   sync.Mutex // guards what follows, and orders the tables
	msis map[uint32]kvm.MSI
	next uint32 // GSI
}

// newRoutes is the table of a machine without MSIs.
func newRoutes(vm *kvm.VM) *routes {
	return &routes{vm: vm, msis: map[uint32]kvm.MSI{}, next: kvm.FirstMSI}
}

// set puts gsi's route into the table.
func (r *routes) set(gsi uint32, m kvm.MSI) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.msis[gsi]; ok && old == m {
		return nil
	}
	r.msis[gsi] = m
	return r.vm.SetRoutes(r.msis)
}

// vector makes the pci.Vector whose events are the signals of the eventfd fd.
func (r *routes) vector(fd int) (*vector, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next >= kvm.FirstMSI+kvm.MaxMSI {
		return nil, errors.New("the machine has no interrupt routes left: use fewer rings or fewer devices")
	}
	v := &vector{routes: r, fd: fd, gsi: r.next}
	r.next++
	return v, nil
}

// vector is an eventfd that an irqfd turns into MSIs while it is routed. While
// it is not, signals stay in the eventfd: the pending bit. The PCI function
// calls it one at a time.
type vector struct {
	routes   *routes
	fd       int
	gsi      uint32
	assigned bool
}

// Route is pci.Vector's.
func (v *vector) Route(addr uint64, data uint32) error {
	if err := v.routes.set(v.gsi, kvm.MSI{Addr: addr, Data: data}); err != nil {
		return err
	}
	if v.assigned {
		return nil
	}
	if err := v.routes.vm.AssignIRQFD(v.fd, v.gsi); err != nil {
		return err
	}
	v.assigned = true
	return nil
}

// Unroute is pci.Vector's.
func (v *vector) Unroute() error {
	if !v.assigned {
		return nil
	}
	if err := v.routes.vm.DeassignIRQFD(v.fd, v.gsi); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	v.assigned = false
	return nil
}

// Pending is pci.Vector's.
func (v *vector) Pending() bool { return pending(v.fd) }
