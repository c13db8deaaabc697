/* SPDX-License-Identifier: Apache-2.0 */
/* The benchmark on a virtio-blk device behind virtio-mmio, for the comparison with
 * another monitor's device model: the loop, the memory and the CPU's state are those
 * of bench.c, only the device differs. Written from "Virtual I/O Device (VIRTIO)
 * Version 1.2": split virtqueues (2.7), virtio-mmio (4.2), block device (5.2).
 *
 * It is a driver that does as little as one can: a request's three descriptors are
 * written once, and each side tells the other when it needs no notification. */
#include "lib.h"
#include "loop_body.h"

/* Registers, 4.2.2. */
#define MMIO_MAGIC 0x000
#define MMIO_VERSION 0x004
#define MMIO_DEVICE 0x008
#define MMIO_DEVICE_FEATURES 0x010
#define MMIO_DEVICE_FEATURES_SEL 0x014
#define MMIO_DRIVER_FEATURES 0x020
#define MMIO_DRIVER_FEATURES_SEL 0x024
#define MMIO_QUEUE_SEL 0x030
#define MMIO_QUEUE_NUM_MAX 0x034
#define MMIO_QUEUE_NUM 0x038
#define MMIO_QUEUE_READY 0x044
#define MMIO_QUEUE_NOTIFY 0x050
#define MMIO_INTERRUPT_ACK 0x064
#define MMIO_STATUS 0x070
#define MMIO_QUEUE_DESC 0x080
#define MMIO_QUEUE_DRIVER 0x090
#define MMIO_QUEUE_DEVICE 0x0a0
#define MMIO_CONFIG 0x100
#define MAGIC 0x74726976u /* "virt" */
#define DEVICE_BLOCK 2
#define STATUS_ACKNOWLEDGE 1u
#define STATUS_DRIVER 2u
#define STATUS_DRIVER_OK 4u
#define STATUS_FEATURES_OK 8u

/* Features. */
#define BLK_F_FLUSH (1u << 9)
#define BLK_F_MQ (1u << 12)
#define F_VERSION_1 (1u << 0) /* of the second word */

/* The block device's configuration and requests, 5.2.4 and 5.2.6. */
#define CONFIG_CAPACITY 0
#define CONFIG_NUM_QUEUES 34
#define BLK_IN 0
#define BLK_OUT 1
#define BLK_FLUSH 4
#define SECTOR 512

#define DESC_NEXT 1
#define DESC_WRITE 2 /* by the device */
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY 1

/* Where the I/O APIC is, and its registers. */
#define IOAPIC 0xfec00000ull
#define IOAPIC_SELECT 0x00
#define IOAPIC_WINDOW 0x10
#define IOAPIC_ENTRY(pin) (0x10 + 2 * (pin))

#define EIO 5

struct desc {
	u64 addr;
	u32 len;
	u16 flags, next;
};

struct avail {
	u16 flags, index, ring[];
};

struct used {
	u16 flags, index;
	struct {
		u32 id, len;
	} ring[];
};

struct header {
	u32 type, resv;
	u64 sector;
};

struct virtq {
	u64 mmio;
	u32 index, size; /* size: a power of two */
	struct desc *desc;
	struct avail *avail;
	struct used *used;
	struct header *headers; /* by slot */
	u8 *status;             /* by slot */
	u16 next_avail, next_used;
	u32 known_irqs;
	s32 good; /* the result of a request that succeeds */
	bool interrupts;
};

static u32 reg(u64 mmio, u32 off)
{
	return *(volatile u32 *)(mmio + off);
}

static void set_reg(u64 mmio, u32 off, u32 v)
{
	*(volatile u32 *)(mmio + off) = v;
}

static void set_reg64(u64 mmio, u32 off, u64 v)
{
	set_reg(mmio, off, (u32)v);
	set_reg(mmio, off + 4, (u32)(v >> 32));
}

static always_inline bool put(struct lane *lane, const struct request *r)
{
	struct virtq *q = lane->queue;

	q->headers[r->slot].sector = r->offset / SECTOR;
	q->avail->ring[q->next_avail++ & (q->size - 1)] = (u16)(3 * r->slot);
	return true;
}

static always_inline void submit(struct lane *lane)
{
	struct virtq *q = lane->queue;

	__atomic_store_n(&q->avail->index, q->next_avail, __ATOMIC_RELEASE);
	full_barrier();
	if (!(__atomic_load_n(&q->used->flags, __ATOMIC_RELAXED) & USED_NO_NOTIFY))
		set_reg(q->mmio, MMIO_QUEUE_NOTIFY, q->index);
}

static always_inline u32 ready(struct lane *lane)
{
	struct virtq *q = lane->queue;

	return (u16)(__atomic_load_n(&q->used->index, __ATOMIC_ACQUIRE) - q->next_used);
}

static always_inline u32 take(struct lane *lane, u32 i, s32 *result)
{
	struct virtq *q = lane->queue;
	u32 slot = q->used->ring[(q->next_used + i) & (q->size - 1)].id / 3;

	*result = q->status[slot & (LOOP_MAX_DEPTH - 1)] ? -EIO : q->good;
	return slot;
}

static always_inline void advance(struct lane *lane, u32 n)
{
	struct virtq *q = lane->queue;

	q->next_used += (u16)n;
}

static always_inline void listen(struct lane *lane, bool on)
{
	struct virtq *q = lane->queue;

	__atomic_store_n(&q->avail->flags, on ? 0 : AVAIL_NO_INTERRUPT, __ATOMIC_RELEASE);
	full_barrier();
}

/* The line stays up until the driver acknowledges, and the I/O APIC takes only its
 * rise for an interrupt. One that comes after irqs was read ends the sleep that
 * follows, and is acknowledged before the next. */
static always_inline void acknowledge(struct lane *lane, u32 irqs)
{
	struct virtq *q = lane->queue;

	if (q->known_irqs != irqs) {
		q->known_irqs = irqs;
		set_reg(q->mmio, MMIO_INTERRUPT_ACK, 3);
	}
}

void loop_run_virtio(struct loop *l)
{
	static const struct loop_ops ops = { put, submit, ready, take, advance, listen, acknowledge };

	loop_body(l, &ops);
}

/* virtio_mmio.device=SIZE@ADDRESS:IRQ, as Linux takes it; QEMU writes it so. */
static u64 find_device(u32 *irq)
{
	char v[64];
	u64 n = 0;
	const char *p = v;

	if (!arg("virtio_mmio.device", v, sizeof(v)))
		die("no argument virtio_mmio.device=SIZE@ADDRESS:IRQ");
	while (*p && *p != '@')
		p++;
	if (p[0] != '@' || p[1] != '0' || p[2] != 'x')
		die("argument virtio_mmio.device=%s: must be SIZE@0xADDRESS:IRQ", v);
	for (p += 3; *p && *p != ':'; p++)
		n = n << 4 | (u64)(*p <= '9' ? *p - '0' : (*p | 32) - 'a' + 10);
	*irq = 0;
	for (p += *p == ':'; *p >= '0' && *p <= '9'; p++)
		*irq = *irq * 10 + (u32)(*p - '0');
	return n;
}

static void queue_setup(struct virtq *q, const struct loop *l, struct lane *lane)
{
	static const u32 types[] = { [LOOP_READ] = BLK_IN, [LOOP_WRITE] = BLK_OUT, [LOOP_FSYNC] = BLK_FLUSH };
	bool data = l->op != LOOP_FSYNC;
	u8 *buf = measure_buffer(l);
	u32 max;

	set_reg(q->mmio, MMIO_QUEUE_SEL, q->index);
	max = reg(q->mmio, MMIO_QUEUE_NUM_MAX);
	for (q->size = 4; q->size < 3 * l->depth; q->size *= 2)
		;
	if (q->size > max)
		die("depth=%u: queue %u of the virtio-blk device has %u descriptors, a request takes three", l->depth, q->index, max);
	q->desc = alloc(q->size * sizeof(struct desc));
	q->avail = alloc(sizeof(struct avail) + q->size * sizeof(u16) + 2);
	q->used = alloc(sizeof(struct used) + q->size * 8 + 2);
	q->headers = alloc(l->depth * sizeof(struct header));
	q->status = alloc(LOOP_MAX_DEPTH);
	q->good = data ? (s32)l->block : 0;
	for (u32 slot = 0; slot < l->depth; slot++) {
		struct desc *d = &q->desc[3 * slot];
		u16 last = (u16)(3 * slot + 2);

		q->headers[slot].type = types[l->op];
		d[0] = (struct desc){ (u64)&q->headers[slot], sizeof(struct header), DESC_NEXT, data ? last - 1 : last };
		d[1] = (struct desc){ (u64)buf + (u64)slot * l->block, l->block, (l->op == LOOP_READ ? DESC_WRITE : 0) | DESC_NEXT, last };
		d[2] = (struct desc){ (u64)&q->status[slot], 1, DESC_WRITE, 0 };
	}
	set_reg(q->mmio, MMIO_QUEUE_NUM, q->size);
	set_reg64(q->mmio, MMIO_QUEUE_DESC, (u64)q->desc);
	set_reg64(q->mmio, MMIO_QUEUE_DRIVER, (u64)q->avail);
	set_reg64(q->mmio, MMIO_QUEUE_DEVICE, (u64)q->used);
	set_reg(q->mmio, MMIO_QUEUE_READY, 1);
	lane->queue = q;
	lane->addr = (u64)buf;
}

/* An interrupt at pin becomes vector of local APIC 0, by its rising edge. */
static void route(u32 pin, u8 vector)
{
	set_reg(IOAPIC, IOAPIC_SELECT, IOAPIC_ENTRY(pin) + 1);
	set_reg(IOAPIC, IOAPIC_WINDOW, 0);
	set_reg(IOAPIC, IOAPIC_SELECT, IOAPIC_ENTRY(pin));
	set_reg(IOAPIC, IOAPIC_WINDOW, vector);
}

void bench_virtio(void)
{
	static struct virtq queues[LOOP_MAX_QUEUES];
	static struct lane lanes[LOOP_MAX_QUEUES];
	static struct loop l;
	u32 irq, offers, wants, status = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
	u64 mmio = find_device(&irq), capacity;

	measure_arguments(&l);
	l.lanes = lanes;
	if (l.op == LOOP_NOP)
		die("argument rw=nop: virtio-blk has no request that does nothing");
	if (l.block % SECTOR)
		die("argument bs=%u: must be a multiple of %u", l.block, SECTOR);
	if (reg(mmio, MMIO_MAGIC) != MAGIC || reg(mmio, MMIO_VERSION) != 2 || reg(mmio, MMIO_DEVICE) != DEVICE_BLOCK)
		die("at %lx there is no virtio-blk device: magic %x, version %u, device %u", mmio, reg(mmio, MMIO_MAGIC),
		    reg(mmio, MMIO_VERSION), reg(mmio, MMIO_DEVICE));
	set_reg(mmio, MMIO_STATUS, 0);
	set_reg(mmio, MMIO_STATUS, status);
	set_reg(mmio, MMIO_DEVICE_FEATURES_SEL, 0);
	offers = reg(mmio, MMIO_DEVICE_FEATURES);
	wants = BLK_F_FLUSH | (l.nr_lanes > 1 ? BLK_F_MQ : 0);
	if (wants & ~offers)
		die("the virtio-blk device offers %x, without %x", offers, wants & ~offers);
	set_reg(mmio, MMIO_DRIVER_FEATURES_SEL, 0);
	set_reg(mmio, MMIO_DRIVER_FEATURES, wants);
	set_reg(mmio, MMIO_DRIVER_FEATURES_SEL, 1);
	set_reg(mmio, MMIO_DRIVER_FEATURES, F_VERSION_1);
	status |= STATUS_FEATURES_OK;
	set_reg(mmio, MMIO_STATUS, status);
	if (!(reg(mmio, MMIO_STATUS) & STATUS_FEATURES_OK))
		die("the virtio-blk device refuses the features %x and VERSION_1", wants);
	capacity = reg(mmio, MMIO_CONFIG + CONFIG_CAPACITY) | (u64)reg(mmio, MMIO_CONFIG + CONFIG_CAPACITY + 4) << 32;
	if (capacity > UINT64_MAX / SECTOR || capacity * SECTOR < l.block)
		die("argument bs=%u: must be at most the disk's %lu sectors", l.block, capacity);
	l.blocks = capacity * SECTOR / l.block;
	if (l.nr_lanes > 1 && l.nr_lanes > *(volatile u16 *)(mmio + MMIO_CONFIG + CONFIG_NUM_QUEUES))
		die("argument rings=%u: the virtio-blk device has fewer queues", l.nr_lanes);
	bench_interrupts(&l, VECTOR_DEVICE);
	if (l.wait)
		route(irq, VECTOR_DEVICE);
	for (u32 i = 0; i < l.nr_lanes; i++) {
		queues[i].mmio = mmio;
		queues[i].index = i;
		queue_setup(&queues[i], &l, &lanes[i]);
	}
	set_reg(mmio, MMIO_STATUS, status | STATUS_DRIVER_OK);
	measure(&l, loop_run_virtio);
	set_reg(mmio, MMIO_STATUS, 0);
	/* Whoever asks the monitor for its counts ends it when they are there. */
	report_value("done", 1);
	for (;;)
		cpu_relax();
}
