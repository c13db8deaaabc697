// SPDX-License-Identifier: Apache-2.0

package kvm

import "structs"

// pitConfig is struct kvm_pit_config.
type pitConfig struct {
	_     structs.HostLayout
	flags uint32
	pad   [15]uint32
}

// pitSpeaker is KVM_PIT_SPEAKER_DUMMY: port 0x61 is the kernel's too.
const pitSpeaker = 1

// CreatePIT makes the in-kernel 8254 timer. It comes after CreateIRQChip.
func (v *VM) CreatePIT() error { return ioctl(v.fd, createPIT2, &pitConfig{flags: pitSpeaker}) }
