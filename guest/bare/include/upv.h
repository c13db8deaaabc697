/* SPDX-License-Identifier: Apache-2.0 */
/* The driver, written from docs/protocol.md. */
#ifndef UPV_H
#define UPV_H

#include "pci.h"
#include "uring.h"
#include "uringpv.h"

struct upv {
	u64 control, doorbell; /* where the BARs are */
	struct uringpv_cmd *cmd;
	struct uringpv_identity id;
	struct msix msix;
	u8 vector;     /* the CPU's, of MSI-X vector 0 */
	u64 doorbells; /* rung so far */
};

struct upv_ring {
	struct uring uring; /* first: kick gets it */
	struct upv *dev;
	u32 index;
	struct uringpv_ring_setup setup; /* as returned */
};

/* What a ring shall be: zero is the default of each. */
struct upv_ring_options {
	u32 sq_entries, cq_entries; /* 0: 64, and twice the SQ */
	u32 flags;                  /* IORING_SETUP_* besides SQPOLL */
	bool doorbell;              /* without SQPOLL */
	u32 idle_ms;
	u32 vector1; /* vector + 1 */
	const u32 *files;
	u32 nr_files;
	const struct uringpv_range *buffers;
	u32 nr_buffers;
	u8 opcodes[URINGPV_OPCODE_BYTES];
	u32 nr_slots; /* of the file table */
};

/* Find the index-th device, reset and identify it. */
bool upv_init(struct upv *d, u32 index);

/* Execute a command: 0 or a negative errno. */
s32 upv_command(struct upv *d, u32 op, u32 index, void *payload, u32 len);

s32 upv_ring_setup(struct upv *d, struct upv_ring *r, u32 index, const struct upv_ring_options *o);
s32 upv_ring_destroy(struct upv_ring *r);
s32 upv_reset(struct upv *d);

/* The io_uring address of p, and the buffer of the table that holds it. */
u64 upv_addr(const struct upv *d, const void *p);
u16 upv_buffer(const void *p);

static inline bool upv_has_opcode(const struct upv *d, u8 op)
{
	return d->id.opcodes[op / 8] >> op % 8 & 1;
}

static inline bool upv_has_extra(const struct upv *d, u8 op)
{
	return d->id.opcodes_extra[op / 8] >> op % 8 & 1;
}

#endif
