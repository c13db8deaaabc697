/* SPDX-License-Identifier: Apache-2.0 */
#include "upv.h"

#include "lib.h"

#define READY_MS 1000

static u32 reg32(const struct upv *d, u32 off)
{
	return *(volatile u32 *)(d->control + off);
}

s32 upv_command(struct upv *d, u32 op, u32 index, void *payload, u32 len)
{
	s32 error;

	*d->cmd = (struct uringpv_cmd){ .op = op, .index = index, .addr = (u64)payload, .len = len, .result = 1 };
	/* The command is in memory before the write that executes it: both are stores. */
	__atomic_thread_fence(__ATOMIC_RELEASE);
	*(volatile u32 *)(d->control + URINGPV_REG_ADMIN_DOORBELL) = 1;
	error = (s32)reg32(d, URINGPV_REG_ADMIN_ERROR);
	if (error)
		return error;
	return (s32)load_acquire((u32 *)&d->cmd->result);
}

bool upv_init(struct upv *d, u32 index)
{
	static u8 next_vector = VECTOR_DEVICE; /* devices share none */
	int dev = pci_find(URINGPV_PCI_VENDOR, URINGPV_PCI_DEVICE, index);

	if (dev < 0)
		return false;
	memset(d, 0, sizeof(*d));
	d->control = pci_bar((u32)dev, URINGPV_BAR_CONTROL);
	d->doorbell = pci_bar((u32)dev, URINGPV_BAR_DOORBELL);
	if (reg32(d, URINGPV_REG_MAGIC) != URINGPV_MAGIC || reg32(d, URINGPV_REG_VERSION) >> 16 != URINGPV_VERSION_MAJOR)
		die("device %u: magic %x, version %x: not what this driver knows", index, reg32(d, URINGPV_REG_MAGIC),
		    reg32(d, URINGPV_REG_VERSION));
	for (u64 deadline = rdtsc() + tsc_of_ms(READY_MS); !(reg32(d, URINGPV_REG_STATUS) & URINGPV_STATUS_READY);) {
		if (rdtsc() > deadline)
			die("device %u is not ready: status %x", index, reg32(d, URINGPV_REG_STATUS));
		cpu_relax();
	}
	d->cmd = alloc(sizeof(*d->cmd));
	*(volatile u64 *)(d->control + URINGPV_REG_ADMIN_ADDR) = (u64)d->cmd;
	d->vector = next_vector;
	if (!msix_enable((u32)dev, d->vector, &d->msix))
		die("device %u has no MSI-X", index);
	if (d->msix.n > (u32)(VECTOR_TIMER - d->vector))
		die("device %u has %u vectors: %u are the most that this guest takes", index, d->msix.n, VECTOR_TIMER - d->vector);
	next_vector += (u8)d->msix.n;
	if (upv_reset(d) || upv_command(d, URINGPV_CMD_IDENTIFY, 0, &d->id, sizeof(d->id)))
		die("device %u does not answer RESET and IDENTIFY", index);
	return true;
}

s32 upv_reset(struct upv *d)
{
	return upv_command(d, URINGPV_CMD_RESET, 0, NULL, 0);
}

u64 upv_addr(const struct upv *d, const void *p)
{
	return d->id.addr_base + (u64)p;
}

u16 upv_buffer(const void *p)
{
	return (u16)((u64)p >> 30); /* entries are of 1 GiB, and all memory here lies below the hole */
}

static void ring_doorbell(struct uring *u)
{
	struct upv_ring *r = (struct upv_ring *)u;

	r->dev->doorbells++;
	*(volatile u32 *)(r->dev->doorbell + (u64)r->index * URINGPV_DOORBELL_STRIDE) = 1;
}

static u32 power_of_two(u32 n)
{
	u32 p = 1;

	while (p < n)
		p *= 2;
	return p;
}

s32 upv_ring_setup(struct upv *d, struct upv_ring *r, u32 index, const struct upv_ring_options *o)
{
	struct uringpv_ring_setup *s = &r->setup;
	u32 sq = power_of_two(o->sq_entries ? o->sq_entries : 64);
	u32 cq = power_of_two(o->cq_entries ? o->cq_entries : 2 * sq);
	u8 *rings;
	s32 error;

	memset(r, 0, sizeof(*r));
	r->dev = d;
	r->index = index;
	s->params.sq_entries = o->sq_entries ? o->sq_entries : sq;
	s->params.flags = o->flags;
	if (!o->doorbell && d->id.setup_flags & IORING_SETUP_SQPOLL)
		s->params.flags |= IORING_SETUP_SQPOLL;
	if (o->cq_entries) {
		s->params.flags |= IORING_SETUP_CQSIZE;
		s->params.cq_entries = o->cq_entries;
	}
	if (s->params.flags & IORING_SETUP_SQPOLL)
		s->params.sq_thread_idle = o->idle_ms;
	s->rings_len = URINGPV_RINGS_SIZE(sq, cq);
	s->sqes_len = ROUND_UP(64 * (u64)sq, 4096);
	rings = alloc(s->rings_len);
	s->rings_addr = (u64)rings;
	s->sqes_addr = (u64)alloc(s->sqes_len);
	s->files_addr = (u64)o->files;
	s->nr_files = o->nr_files;
	s->buffers_addr = (u64)o->buffers;
	s->nr_buffers = o->nr_buffers;
	s->vector = o->vector1 ? o->vector1 - 1 : URINGPV_NO_VECTOR;
	memcpy(s->opcodes, o->opcodes, sizeof(s->opcodes));
	s->nr_slots = o->nr_slots;
	error = upv_command(d, URINGPV_CMD_RING_SETUP, index, s, sizeof(*s));
	if (error)
		return error;
	r->uring = (struct uring){
		.sq_head = (u32 *)(rings + s->params.sq_off.head),
		.sq_tail = (u32 *)(rings + s->params.sq_off.tail),
		.sq_flags = (u32 *)(rings + s->params.sq_off.flags),
		.sq_dropped = (u32 *)(rings + s->params.sq_off.dropped),
		.sq_array = s->params.flags & IORING_SETUP_NO_SQARRAY ? NULL : (u32 *)(rings + s->params.sq_off.array),
		.cq_head = (u32 *)(rings + s->params.cq_off.head),
		.cq_tail = (u32 *)(rings + s->params.cq_off.tail),
		.cq_flags = (u32 *)(rings + s->params.cq_off.flags),
		.cq_overflow = (u32 *)(rings + s->params.cq_off.overflow),
		.cqes = (struct cqe *)(rings + s->params.cq_off.cqes),
		.sqes = (struct sqe *)s->sqes_addr,
		.sq_entries = s->params.sq_entries,
		.cq_entries = s->params.cq_entries,
		.polled = s->params.flags & IORING_SETUP_SQPOLL,
		.kick = ring_doorbell,
	};
	return 0;
}

s32 upv_ring_destroy(struct upv_ring *r)
{
	return upv_command(r->dev, URINGPV_CMD_RING_DESTROY, r->index, NULL, 0);
}
