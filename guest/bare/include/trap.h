/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TRAP_H
#define TRAP_H

#include "types.h"

/* Interrupts taken so far, by vector. */
extern u32 interrupt_count[256];

/* Vectors: devices from VECTOR_DEVICE on. */
#define VECTOR_DEVICE 0x40
#define VECTOR_TIMER 0xe0

/* wait_for_change returns after so long at the latest. */
#define WAIT_SLICE_NS 20000000u

/* From CPL 3: halt while *word is value, until any interrupt comes or a slice of
 * time is over. The caller looks again. */
void wait_for_change(u32 *word, u32 value);

/* From CPL 3: halt until any interrupt comes, without a timer. */
void rest(void);

#endif
