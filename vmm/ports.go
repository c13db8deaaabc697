// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"encoding/binary"
	"time"

	"github.com/uringpv/uringpv/vmm/boot"
	"github.com/uringpv/uringpv/vmm/kvm"
)

// Ports of the monitor's own, for freestanding guests.
const (
	portConsole  = 0xe9 // bytes written are output; reads give the port's number
	portExit     = 0xf4 // a u32 written ends the run
	portCounters = 0xf8 // a u32 written fills boot.Counters in guest memory
)

// portIO serves an access to a port; a string instruction is several at once.
func (c *vcpu) portIO(e *kvm.Exit) {
	switch {
	case e.Addr == portConsole && e.Size == 1:
		if e.Write {
			c.vm.print(e.Data)
			return
		}
		for i := range e.Data {
			e.Data[i] = portConsole
		}
	case e.Addr == portExit && e.Write && e.Size == 4 && len(e.Data) >= 4:
		c.vm.stop(result{exit: Exit{Code: binary.LittleEndian.Uint32(e.Data)}})
	case e.Addr == portCounters && e.Write && e.Size == 4:
		c.counters()
	default:
		for d := e.Data; len(d) >= e.Size && e.Size > 0; d = d[e.Size:] {
			if e.Write {
				c.vm.ports.Write(e.Addr, d[:e.Size])
			} else {
				c.vm.ports.Read(e.Addr, d[:e.Size])
			}
		}
	}
}

// print is what a vCPU writes to the debug port. A reader that went away is not
// the guest's fault.
func (vm *VM) print(b []byte) {
	vm.output.Lock()
	defer vm.output.Unlock()
	_, _ = vm.console.Write(b)
}

// counters gives the guest the machine's counters. The system calls are without
// the KVM_RUN that this request itself costs. The clock is read without one.
func (c *vcpu) counters() {
	c.vm.marks.Add(1)
	n := boot.Counters{VMMSyscalls: c.vm.systemCalls(), HostNs: uint64(time.Since(c.vm.made))}
	for _, v := range c.vm.vcpus {
		k, _ := v.kvm.Counters()
		n.KVMExits += k.Exits
		n.IRQExits += k.IRQExits
		n.IRQInjections += k.IRQInjections
	}
	if err := c.vm.memory.WriteAt(n.Bytes(), boot.CountersAddr); err != nil {
		c.vm.log.Error("counters", "error", err)
	}
}
