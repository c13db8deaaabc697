// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"math/bits"

	"github.com/uringpv/uringpv/vmm/kvm"
)

// CPUID leaves (Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E).
const (
	leafVendor      = 0x0
	leafFeatures    = 0x1
	leafCaches      = 0x4
	leafPerfmon     = 0xa
	leafTopology    = 0xb
	leafTopology2   = 0x1f
	leafAMDSizes    = 0x80000008
	leafAMDCaches   = 0x8000001d
	leafAMDTopology = 0x8000001e
)

// Bits of leafFeatures, and what is in the others.
const (
	ecxTSCDeadline = 1 << 24
	ecxHypervisor  = 1 << 31
	edxHTT         = 1 << 28 // EBX has the number of logical processors

	levelThread = 1 // kinds of level in leafTopology
	levelCore   = 2

	significantIndex = 1 // KVM_CPUID_FLAG_SIGNIFCANT_INDEX

	vendorAMD   = 0x68747541 // "Auth" of AuthenticAMD
	vendorHygon = 0x6f677948 // "Hygo" of HygonGenuine
)

// topology is a machine's: cpus cores of one thread in one package, the last
// cache shared by all.
type topology struct {
	cpus        int
	tscDeadline bool // the local APICs have the TSC deadline timer
}

// cpuid is what CPUID answers on vCPU id: what the host supports, with the
// machine's own topology in place of the host's, and without performance
// counters.
//
// Kernels differ in what they report of topology: newer ones leave it zero and
// list one level only, so its leaves are made anew.
func (t topology) cpuid(supported []kvm.CPUIDEntry, id int) []kvm.CPUIDEntry {
	width := uint32(bits.Len(uint(t.cpus - 1))) // of an APIC id
	shared := uint32(1)<<width - 1              // CPUs that an APIC id can name, less one
	amd := false
	out := make([]kvm.CPUIDEntry, 0, len(supported)+4)
	for _, e := range supported {
		switch e.Function {
		case leafVendor:
			amd = e.Ebx == vendorAMD || e.Ebx == vendorHygon
		case leafFeatures:
			e.Ebx = e.Ebx&0x0000ffff | uint32(t.cpus)<<16 | uint32(id)<<24
			e.Ecx |= ecxHypervisor
			if t.tscDeadline {
				e.Ecx |= ecxTSCDeadline
			}
			e.Edx &^= edxHTT
			if t.cpus > 1 {
				e.Edx |= edxHTT
			}
		case leafCaches, leafAMDCaches:
			if e.Eax&0x1f == 0 { // no more caches
				break
			}
			// Bits 25 to 14: CPUs that share it, 31 to 26 (Intel): cores, each less one.
			e.Eax &= 0x3fff
			if level := e.Eax >> 5 & 7; level >= 3 {
				e.Eax |= shared << 14
			}
			if e.Function == leafCaches {
				e.Eax |= shared << 26
			}
		case leafPerfmon:
			e.Eax, e.Ebx, e.Ecx, e.Edx = 0, 0, 0, 0
		case leafTopology, leafTopology2:
			if e.Index == 0 {
				out = append(out,
					level(e.Function, 0, levelThread, 0, 1, id),
					level(e.Function, 1, levelCore, width, t.cpus, id),
					level(e.Function, 2, 0, 0, 0, id))
			}
			continue
		case leafAMDSizes:
			if amd {
				e.Ecx = e.Ecx&^0xf0ff | width<<12 | uint32(t.cpus-1)
			}
		case leafAMDTopology:
			e.Eax, e.Ebx, e.Ecx = uint32(id), uint32(id), 0
		}
		out = append(out, e)
	}
	return out
}

// level is one level of leafTopology: of n CPUs, width bits of the APIC id below
// the next one.
func level(leaf, index, kind, width uint32, n, id int) kvm.CPUIDEntry {
	return kvm.CPUIDEntry{
		Function: leaf, Index: index, Flags: significantIndex,
		Eax: width, Ebx: uint32(n), Ecx: index | kind<<8, Edx: uint32(id),
	}
}
