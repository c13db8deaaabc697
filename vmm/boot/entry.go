// SPDX-License-Identifier: Apache-2.0

package boot

// Entry is the state in which a guest's first vCPU begins: 64-bit long mode at
// CPL 0, interrupts off, with flat segments.
type Entry struct {
	RIP      uint64
	RSP      uint64 // top of a small stack, 16-byte aligned, until the guest has its own
	RDI      uint64 // of a freestanding guest: GPA of struct bootinfo
	RSI      uint64 // of Linux: GPA of struct boot_params
	CR3      uint64 // GPA of the page tables
	GDT      uint64 // GPA
	GDTLimit uint16
	Code     uint16 // selector of the code segment
	Data     uint16 // selector of the data segments
}

// Selectors of a freestanding guest's GDT, and descriptors (Intel SDM volume 3,
// 3.4.5).
const (
	CodeSelector = 0x08
	DataSelector = 0x10

	gdtCode = 0x00af9b000000ffff
	gdtData = 0x00cf93000000ffff
)

// Control register bits (Intel SDM volume 3, 2.5).
const (
	CR0   = 1<<0 | 1<<1 | 1<<4 | 1<<5 | 1<<16 | 1<<31 // PE, MP, ET, NE, WP, PG
	CR4   = 1<<5 | 1<<9 | 1<<10                       // PAE, OSFXSR, OSXMMEXCPT
	EFER  = 1<<8 | 1<<10                              // LME, LMA
	Flags = 1 << 1                                    // the bit of RFLAGS that is always set
)
