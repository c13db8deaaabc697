/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PCI_H
#define PCI_H

#include "types.h"

u32 pci_read(u32 dev, u32 reg);
void pci_write(u32 dev, u32 reg, u32 v);

/* The index-th function with these ids, its memory and bus mastering on; -1 if
 * there is none. */
int pci_find(u16 vendor, u16 device, u32 index);

/* Where BAR bar of dev answers. */
u64 pci_bar(u32 dev, u32 bar);

/* The MSI-X table of dev, the vectors 0 to n-1 of which get CPU vectors from
 * vector on, unmasked, and its pending bits. */
struct msix {
	u32 dev, cap; /* where its capability is */
	volatile u32 *table; /* four words a vector: address, its high half, data, control */
	volatile u64 *pending;
	u32 n;
};
bool msix_enable(u32 dev, u8 vector, struct msix *m);
void msix_mask(struct msix *m, u32 vector, bool masked);
void msix_mask_all(struct msix *m, bool masked);

#endif
