// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/uringpv/uringpv/vmm/kvm"
)

// hostCPUIDs are what kernels report, cut to the leaves that matter: an old one
// on Intel with the host's own topology, a new one without, and AMD.
var hostCPUIDs = map[string][]kvm.CPUIDEntry{
	"Intel, old kernel": {
		{Function: 0, Eax: 0x1f, Ebx: 0x756e6547},
		{Function: 1, Eax: 0xa0671, Ebx: 0x07100800, Ecx: 0x00202000, Edx: 0x1f8bfbff},
		{Function: 4, Index: 0, Flags: 1, Eax: 0x1c004121, Ebx: 7}, {Function: 4, Index: 3, Flags: 1, Eax: 0x1c03c163, Ebx: 9},
		{Function: 4, Index: 4, Flags: 1},
		{Function: 0xa, Eax: 0x08300805},
		{Function: 0xb, Index: 0, Flags: 1, Eax: 1, Ebx: 2, Ecx: 0x100, Edx: 7},
		{Function: 0xb, Index: 1, Flags: 1, Eax: 4, Ebx: 16, Ecx: 0x201, Edx: 7},
		{Function: 0x80000008, Eax: 0x3930},
	},
	"Intel, new kernel": {
		{Function: 0, Eax: 0x1f, Ebx: 0x756e6547},
		{Function: 1, Eax: 0xa0671, Ebx: 0x03040800, Ecx: 0x81202000, Edx: 0x0f8bfbff},
		{Function: 4, Index: 3, Flags: 1, Eax: 0x0c00c163},
		{Function: 0xb, Flags: 1, Edx: 3},
		{Function: 0x1f, Flags: 1, Edx: 3},
	},
	"AMD": {
		{Function: 0, Eax: 0xd, Ebx: 0x68747541},
		{Function: 1, Eax: 0x800f12, Ebx: 0x05080800, Edx: 0x078bfbff},
		{Function: 0x80000008, Eax: 0x3030, Ebx: 0x1000, Ecx: 0x700f},
		{Function: 0x8000001d, Index: 0, Flags: 1, Eax: 0x4121}, {Function: 0x8000001d, Index: 3, Flags: 1, Eax: 0x1c163},
		{Function: 0x8000001e, Eax: 5, Ebx: 0x102, Ecx: 0x301},
	},
}

// leaf finds an entry as the processor does.
func leaf(entries []kvm.CPUIDEntry, function, index uint32) *kvm.CPUIDEntry {
	for i := range entries {
		if e := &entries[i]; e.Function == function && (e.Flags&significantIndex == 0 || e.Index == index) {
			return e
		}
	}
	return nil
}

// A guest finds as many CPUs as there are, each with its own id, wherever it
// looks, and nothing of the host's own topology.
func TestEveryCPUKnowsItsPlace(t *testing.T) {
	for name, host := range hostCPUIDs {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				cpus := rapid.IntRange(1, MaxCPUs).Draw(t, "cpus")
				id := rapid.IntRange(0, cpus-1).Draw(t, "id")
				got := topology{cpus: cpus, tscDeadline: true}.cpuid(host, id)

				f := leaf(got, leafFeatures, 0)
				if f.Ebx>>24 != uint32(id) || f.Ebx>>16&0xff != uint32(cpus) || f.Ebx&0xffff != 0x0800 {
					t.Errorf("features: EBX %#x", f.Ebx)
				}
				if f.Ecx&ecxHypervisor == 0 || f.Ecx&ecxTSCDeadline == 0 || (f.Edx&edxHTT != 0) != (cpus > 1) {
					t.Errorf("features: ECX %#x, EDX %#x", f.Ecx, f.Edx)
				}
				for _, function := range []uint32{leafTopology, leafTopology2} {
					if leaf(host, function, 0) == nil {
						if leaf(got, function, 0) != nil {
							t.Errorf("leaf %#x is not the host's", function)
						}
						continue
					}
					threads, cores, end := leaf(got, function, 0), leaf(got, function, 1), leaf(got, function, 2)
					if threads == nil || cores == nil || end == nil {
						t.Fatalf("leaf %#x lacks a level", function)
					}
					if threads.Eax != 0 || threads.Ebx != 1 || threads.Ecx != 0x100 {
						t.Errorf("threads: %+v", threads)
					}
					if 1<<cores.Eax < cpus || cores.Eax > 0 && 1<<(cores.Eax-1) >= cpus || int(cores.Ebx) != cpus || cores.Ecx != 0x201 {
						t.Errorf("cores: %+v for %d CPUs", cores, cpus)
					}
					if end.Eax != 0 || end.Ebx != 0 || end.Ecx != 2 {
						t.Errorf("behind the last level: %+v", end)
					}
					for _, l := range []*kvm.CPUIDEntry{threads, cores, end} {
						if l.Edx != uint32(id) {
							t.Errorf("x2APIC id %d, want %d", l.Edx, id)
						}
					}
				}
				for _, function := range []uint32{leafCaches, leafAMDCaches} {
					if c := leaf(got, function, 3); c != nil && int(c.Eax>>14&0xfff)+1 < cpus {
						t.Errorf("%#x: the last cache serves %d of %d CPUs", function, c.Eax>>14&0xfff+1, cpus)
					}
					if c := leaf(got, function, 0); c != nil && c.Eax>>14&0xfff != 0 {
						t.Errorf("%#x: CPUs share their first cache", function)
					}
				}
				if p := leaf(got, leafPerfmon, 0); p != nil && p.Eax != 0 {
					t.Error("there are performance counters")
				}
				if name == "AMD" {
					if s := leaf(got, leafAMDSizes, 0); int(s.Ecx&0xff) != cpus-1 || 1<<(s.Ecx>>12&0xf) < cpus {
						t.Errorf("sizes: ECX %#x", s.Ecx)
					}
					if n := leaf(got, leafAMDTopology, 0); n.Eax != uint32(id) || n.Ebx != uint32(id) || n.Ecx != 0 {
						t.Errorf("topology: %+v", n)
					}
				}
			})
		})
	}
}

func TestTheHostsOwnListStaysAsItIs(t *testing.T) {
	host := hostCPUIDs["Intel, old kernel"]
	before := append([]kvm.CPUIDEntry(nil), host...)
	topology{cpus: 4}.cpuid(host, 2)
	for i := range host {
		if host[i] != before[i] {
			t.Errorf("entry %d: %+v, was %+v", i, host[i], before[i])
		}
	}
}
