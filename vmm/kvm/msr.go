// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"fmt"
	"structs"
)

// MSR is a model-specific register and its value.
type MSR struct {
	Index uint32
	_     uint32
	Value uint64
}

// maxMSRs is how many SetMSRs takes at once.
const maxMSRs = 8

// msrs is struct kvm_msrs.
type msrs struct {
	_       structs.HostLayout
	nmsrs   uint32
	pad     uint32
	entries [maxMSRs]MSR
}

// SetMSRs sets model-specific registers.
func (c *VCPU) SetMSRs(list ...MSR) error {
	m := msrs{nmsrs: uint32(len(list))}
	if copy(m.entries[:], list) < len(list) {
		return fmt.Errorf("KVM_SET_MSRS: %d registers, at most %d", len(list), maxMSRs)
	}
	n, err := ioctlResult(c.fd, setMSRs, &m)
	if err == nil && n < len(list) {
		err = fmt.Errorf("KVM_SET_MSRS: the host refuses register %#x", list[n].Index)
	}
	return err
}
