// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"github.com/uringpv/uringpv/vmm/boot"
	"github.com/uringpv/uringpv/vmm/kvm"
	"github.com/uringpv/uringpv/vmm/pci"
	"github.com/uringpv/uringpv/vmm/power"
	"github.com/uringpv/uringpv/vmm/serial"
)

// wirePC adds what a Linux kernel expects of a PC and freestanding guests do
// without.
func (vm *VM) wirePC() error {
	if err := vm.kvm.CreatePIT(); err != nil {
		return err
	}
	// From now on, not only from the first MSI on: the MADT says where the timer
	// is.
	if err := vm.kvm.SetRoutes(nil); err != nil {
		return err
	}
	if err := vm.ports.Claim(power.Ports, boot.PMLen, power.New(vm.powerEvent)); err != nil {
		return err
	}
	return vm.ports.Claim(power.PanicPort, 1, power.NewPvPanic(vm.powerEvent))
}

// powerEvent ends the run, as the guest has asked.
func (vm *VM) powerEvent(e power.Event) {
	exit := Exit{How: map[power.Event]Ending{power.Off: ByPower, power.Restart: ByRestart, power.Panic: ByPanic}[e]}
	// A kernel without a driver for pvpanic restarts the machine when it panics,
	// and what it says last tells why.
	if e == power.Restart && vm.tail.panicked() {
		exit.How = ByPanic
	}
	if exit.How == ByPanic {
		exit.Last = vm.tail.lines()
	}
	vm.stop(result{exit: exit})
}

// linuxLoader is the loader of c's kernel.
func linuxLoader(c *Config) boot.Linux {
	return boot.Linux{
		Kernel: c.Guest.Kernel, Initrd: c.Guest.Initrd, InitrdSize: c.Guest.InitrdSize, Cmdline: c.Guest.Cmdline,
		ACPI: boot.ACPI{
			CPUs: c.CPUs, PCIWindowStart: pci.WindowStart, PCIWindowEnd: pci.WindowEnd,
			PMPorts: power.Ports, SCI: power.SCI, SerialPorts: serial.COM1, SerialIRQ: serial.COM1IRQ, PanicPort: power.PanicPort,
		},
	}
}

// Model-specific registers that firmware sets on a PC (Intel SDM volume 4).
const (
	msrMiscEnable  = 0x1a0
	miscFastString = 1 << 0

	msrMTRRDefType = 0x2ff
	mtrrEnabled    = 1 << 11
	mtrrWriteBack  = 6
)

// firmwareMSRs is what firmware leaves behind on every CPU: memory is cacheable,
// string instructions are fast.
var firmwareMSRs = []kvm.MSR{
	{Index: msrMiscEnable, Value: miscFastString},
	{Index: msrMTRRDefType, Value: mtrrEnabled | mtrrWriteBack},
}
