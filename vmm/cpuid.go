// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"slices"

	"github.com/uringpv/uringpv/vmm/kvm"
)

// CPUID leaves and bits (Intel SDM volume 2A, CPUID).
const (
	leafFeatures  = 0x1
	leafTopology  = 0xb
	leafTopology2 = 0x1f

	ecxHypervisor = 1 << 31
)

// cpuid is what CPUID answers on vCPU id of cpus: what the host supports, with
// the vCPU's own APIC id and number of neighbours, all in one package of
// single-threaded cores.
func cpuid(supported []kvm.CPUIDEntry, id, cpus int) []kvm.CPUIDEntry {
	width := uint32(0) // bits of an APIC id that number cores
	for 1<<width < cpus {
		width++
	}
	out := slices.Clone(supported)
	for i := range out {
		e := &out[i]
		switch e.Function {
		case leafFeatures:
			e.Ebx = e.Ebx&0x0000ffff | uint32(cpus)<<16 | uint32(id)<<24
			e.Ecx |= ecxHypervisor
		case leafTopology, leafTopology2:
			e.Edx = uint32(id)
			switch e.Index {
			case 0: // threads of a core
				e.Eax, e.Ebx, e.Ecx = 0, 1, 1<<8
			case 1: // cores of the package
				e.Eax, e.Ebx, e.Ecx = width, uint32(cpus), 1|2<<8
			default:
				e.Eax, e.Ebx, e.Ecx = 0, 0, e.Index
			}
		}
	}
	return out
}
