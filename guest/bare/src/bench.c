/* SPDX-License-Identifier: Apache-2.0 */
/* The benchmark in the guest, on the disk of a uringpv device or of a virtio-blk
 * device; native/native.c runs the same on the host. Arguments besides those of
 * measure.c: device=N irq=on */
#include "lib.h"
#include "loop.h"
#include "upv.h"

static void wait(struct loop *l, u32 seen)
{
	wait_for_change(l->irqs, seen);
}

void bench_interrupts(struct loop *l, u8 vector)
{
	if (!arg_is("irq", "on"))
		return;
	l->irqs = &interrupt_count[vector];
	l->wait = wait;
}

void bench(void)
{
	static struct upv dev;
	static struct upv_ring rings[LOOP_MAX_QUEUES];
	static struct lane lanes[LOOP_MAX_QUEUES];
	static struct loop l;
	struct uringpv_file file;
	struct upv_ring_options o = { .idle_ms = 1000 };
	s32 error;

	measure_arguments(&l);
	l.lanes = lanes;
	if (!upv_init(&dev, (u32)arg_u64("device", 0)))
		die("there is no uringpv device");
	if (upv_command(&dev, URINGPV_CMD_FILE_INFO, 0, &file, sizeof(file)))
		die("there is no disk");
	if (l.depth > dev.id.max_sq_entries)
		die("argument depth=%u: must be 1 to %u, the entries of a ring", l.depth, dev.id.max_sq_entries);
	if (file.size < l.block || l.block % file.dio_offset_align)
		die("argument bs=%u: must be a multiple of %u and at most the disk's %lu bytes", l.block, file.dio_offset_align, file.size);
	l.blocks = file.size / l.block;
	bench_interrupts(&l, dev.vector);
	o.sq_entries = l.depth;
	if (l.wait)
		o.vector1 = 1;
	for (u32 i = 0; i < l.nr_lanes; i++) {
		u8 *buf = measure_buffer(&l);

		error = upv_ring_setup(&dev, &rings[i], i, &o);
		if (error)
			die("RING_SETUP of ring %u with %u entries: %d", i, l.depth, error);
		if (upv_buffer(buf + (u64)l.depth * l.block - 1) != upv_buffer(buf))
			die("depth=%u times bs=%u: more than one buffer holds", l.depth, l.block);
		lanes[i].queue = &rings[i].uring;
		lanes[i].addr = upv_addr(&dev, buf);
	}
	measure(&l, loop_run_uring);
	error = upv_reset(&dev);
	if (error)
		die("RESET: %d", error);
}
