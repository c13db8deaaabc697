// SPDX-License-Identifier: Apache-2.0

package memmap

import (
	"errors"
	"sync"
)

// Guest RAM lies at constant host addresses, so that a guest learns nothing of
// a process from them. One process can hold several guests: each takes a slot.
// The range is free in every Linux x86-64 process: Go puts its heap anywhere below
// 64 TiB (at random since Go 1.26), the race detector its shadow memory there too,
// and the kernel programs and mmap regions above 85 TiB.
const (
	AddrBase uintptr = 1 << 46 // ADDR_BASE of slot 0
	SlotSize         = 1 << 38 // bytes of address space for each guest
	Slots            = 64
)

// ErrNoSlot says that the process already holds as many guests as it can.
var ErrNoSlot = errors.New("all 64 address slots of this process are in use")

// slots hands out slots; the lowest free one first, so that the only guest of
// a process always has the same addresses.
var slots struct {
	mu   sync.Mutex // guards used
	used [Slots]bool
}

// takeSlot takes the lowest free slot and returns its number.
func takeSlot() (int, error) {
	slots.mu.Lock()
	defer slots.mu.Unlock()
	for i, used := range slots.used {
		if !used {
			slots.used[i] = true
			return i, nil
		}
	}
	return 0, ErrNoSlot
}

// giveSlot makes slot i free again. Nothing of it is mapped any more.
func giveSlot(i int) {
	slots.mu.Lock()
	defer slots.mu.Unlock()
	slots.used[i] = false
}

// slotBase is the host address of slot i's GPA 0.
func slotBase(i int) uintptr { return AddrBase + uintptr(i)*SlotSize }
