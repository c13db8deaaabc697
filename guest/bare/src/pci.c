/* SPDX-License-Identifier: Apache-2.0 */
#include "pci.h"

#include "cpu.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA 0xcfc

#define COMMAND 0x04
#define COMMAND_MEMORY 0x2
#define COMMAND_MASTER 0x4
#define STATUS_CAPABILITIES (0x10u << 16)
#define BAR0 0x10
#define CAPABILITIES 0x34
#define CAP_MSIX 0x11
#define MSIX_ENABLE (0x8000u << 16)
#define MSIX_MASK_ALL (0x4000u << 16)

u32 pci_read(u32 dev, u32 reg)
{
	out32(CONFIG_ADDRESS, 1u << 31 | dev << 11 | (reg & 0xfc));
	return in32(CONFIG_DATA);
}

void pci_write(u32 dev, u32 reg, u32 v)
{
	out32(CONFIG_ADDRESS, 1u << 31 | dev << 11 | (reg & 0xfc));
	out32(CONFIG_DATA, v);
}

int pci_find(u16 vendor, u16 device, u32 index)
{
	for (u32 dev = 0; dev < 32; dev++) {
		if (pci_read(dev, 0) != ((u32)device << 16 | vendor))
			continue;
		if (index--)
			continue;
		pci_write(dev, COMMAND, (pci_read(dev, COMMAND) & 0xffff) | COMMAND_MEMORY | COMMAND_MASTER);
		return (int)dev;
	}
	return -1;
}

u64 pci_bar(u32 dev, u32 bar)
{
	u32 low = pci_read(dev, BAR0 + 4 * bar);
	u64 a = low & ~0xfull;

	if ((low & 6) == 4) /* 64 bits */
		a |= (u64)pci_read(dev, BAR0 + 4 * bar + 4) << 32;
	return a;
}

bool msix_enable(u32 dev, u8 vector, struct msix *m)
{
	u32 cap;

	if (!(pci_read(dev, COMMAND) & STATUS_CAPABILITIES))
		return false;
	for (cap = pci_read(dev, CAPABILITIES) & 0xfc; cap; cap = pci_read(dev, cap) >> 8 & 0xfc) {
		u32 control = pci_read(dev, cap), table, pending;

		if ((control & 0xff) != CAP_MSIX)
			continue;
		table = pci_read(dev, cap + 4);
		pending = pci_read(dev, cap + 8);
		m->dev = dev;
		m->cap = cap;
		m->n = (control >> 16 & 0x7ff) + 1;
		m->table = (volatile u32 *)(pci_bar(dev, table & 7) + (table & ~7u));
		m->pending = (volatile u64 *)(pci_bar(dev, pending & 7) + (pending & ~7u));
		for (u32 i = 0; i < m->n; i++) {
			m->table[4 * i] = 0xfee00000; /* local APIC 0, physical, fixed */
			m->table[4 * i + 1] = 0;
			m->table[4 * i + 2] = vector + i;
			m->table[4 * i + 3] = 0;
		}
		pci_write(dev, cap, (control & ~MSIX_MASK_ALL) | MSIX_ENABLE);
		return true;
	}
	return false;
}

void msix_mask(struct msix *m, u32 vector, bool masked)
{
	m->table[4 * vector + 3] = masked;
	(void)m->table[4 * vector + 3]; /* the write has arrived when the read returns */
}

void msix_mask_all(struct msix *m, bool masked)
{
	u32 control = pci_read(m->dev, m->cap);

	pci_write(m->dev, m->cap, masked ? control | MSIX_MASK_ALL : control & ~MSIX_MASK_ALL);
}
