/* SPDX-License-Identifier: Apache-2.0 */
/* The benchmark's loop in the guest; native/native.c runs the same on the host.
 *
 *   rw=randread|nop  bs=BYTES  depth=N  ms=N or ios=N  seed=N  device=N
 */
#include "lib.h"
#include "loop.h"
#include "upv.h"

#define STALL_MS 30000

static void run(struct loop *l)
{
	loop_run(l);
	if (l->stalled)
		die("no completion for %u s after %lu requests", STALL_MS / 1000, l->done);
	if (l->errors)
		die("%lu of %lu requests failed, the first with %d", l->errors, l->done, l->first_error);
}

void bench(void)
{
	static struct upv dev;
	static struct upv_ring ring;
	struct uringpv_file file;
	struct loop l = { 0 };
	u32 depth = (u32)MIN(arg_u64("depth", 32), UINT32_MAX), block = (u32)MIN(arg_u64("bs", 4096), UINT32_MAX);
	u64 ms = arg_u64("ms", 1000), ios = arg_u64("ios", 0);
	struct upv_ring_options o = { .sq_entries = depth, .idle_ms = 1000 };
	struct counters before, after;
	char rw[16] = "randread";
	u8 *buf;
	s32 error;

	arg("rw", rw, sizeof(rw));
	if (!same(rw, "randread") && !same(rw, "nop"))
		die("argument rw=%s: must be randread or nop", rw);
	if (!upv_init(&dev, (u32)arg_u64("device", 0)))
		die("there is no uringpv device");
	if (upv_command(&dev, URINGPV_CMD_FILE_INFO, 0, &file, sizeof(file)))
		die("there is no disk");
	if (!depth || depth > dev.id.max_sq_entries)
		die("argument depth=%u: must be 1 to %u, the entries of a ring", depth, dev.id.max_sq_entries);
	if (!block || file.size < block || block % file.dio_offset_align)
		die("argument bs=%u: must be a multiple of %u and at most the disk's %lu bytes", block, file.dio_offset_align, file.size);
	if (!ms && !ios)
		die("argument ms=0: must be at least 1, or ios=N instead");
	error = upv_ring_setup(&dev, &ring, 0, &o);
	if (error)
		die("RING_SETUP with %u entries: %d", depth, error);
	buf = alloc((u64)depth * block);
	if (upv_buffer(buf + (u64)depth * block - 1) != upv_buffer(buf))
		die("depth=%u times bs=%u: more than one buffer holds", depth, block);

	l.ring = &ring.uring;
	l.opcode = same(rw, "nop") ? IORING_OP_NOP : IORING_OP_READ_FIXED;
	l.block = block;
	l.blocks = file.size / block;
	l.depth = depth;
	l.addr = upv_addr(&dev, buf);
	l.tsc_stall = tsc_of_ms(STALL_MS);
	l.seed = arg_u64("seed", 1);

	l.tsc_budget = tsc_of_ms(MIN(ms / 4 + 10, 250)); /* warm up */
	run(&l);
	l.ios = ios;
	l.tsc_budget = ios ? 0 : tsc_of_ms(ms);
	before = counters();
	run(&l);
	after = counters();

	report_value("ios", l.done);
	report_value("ns", after.host_ns - before.host_ns);
	report_value("iops", l.done * 1000000 / MAX((after.host_ns - before.host_ns) / 1000, 1));
	report_value("kvm_exits", (after.kvm_exits - after.irq_exits) - (before.kvm_exits - before.irq_exits));
	report_value("irq_exits", after.irq_exits - before.irq_exits);
	report_value("vmm_syscalls", after.vmm_syscalls - before.vmm_syscalls);
	error = upv_reset(&dev);
	if (error)
		die("RESET: %d", error);
}
