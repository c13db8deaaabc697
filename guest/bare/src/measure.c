/* SPDX-License-Identifier: Apache-2.0 */
/* A benchmark's arguments, its stretch and its values, in the guest and on the
 * host:
 *
 *   rw=randread|randwrite|read|write|nop|fsync  bs=BYTES  depth=N  rings=N
 *   ms=N or ios=N  seed=N
 */
#include "lib.h"
#include "loop.h"

#define STALL_MS 30000u

/* For whoever counts from outside: so long nothing happens after the line that
 * announces the stretch, and after the line that ends it. */
#define SETTLE_MS 15

void measure_arguments(struct loop *l)
{
	static const struct {
		const char *name;
		enum loop_op op;
		bool random;
	} kinds[] = {
		{ "randread", LOOP_READ, true }, { "randwrite", LOOP_WRITE, true }, { "read", LOOP_READ, false },
		{ "write", LOOP_WRITE, false },	 { "nop", LOOP_NOP, false },	    { "fsync", LOOP_FSYNC, false },
	};
	char rw[16] = "randread";
	u32 kind = 0;

	arg("rw", rw, sizeof(rw));
	while (kind < ARRAY_SIZE(kinds) && !same(rw, kinds[kind].name))
		kind++;
	if (kind == ARRAY_SIZE(kinds))
		die("argument rw=%s: must be randread, randwrite, read, write, nop or fsync", rw);
	l->op = kinds[kind].op;
	l->random = kinds[kind].random;
	l->depth = (u32)MIN(arg_u64("depth", 32), UINT32_MAX);
	l->nr_lanes = (u32)MIN(arg_u64("rings", 1), UINT32_MAX);
	l->block = (u32)MIN(arg_u64("bs", 4096), UINT32_MAX);
	if (!l->depth || l->depth > LOOP_MAX_DEPTH)
		die("argument depth=%u: must be 1 to %u", l->depth, LOOP_MAX_DEPTH);
	if (!l->nr_lanes || l->nr_lanes > LOOP_MAX_QUEUES)
		die("argument rings=%u: must be 1 to %u", l->nr_lanes, LOOP_MAX_QUEUES);
	if (!l->block || l->block > 1u << 30)
		die("argument bs=%u: must be 1 to 2^30", l->block);
	if (!arg_u64("ms", 1000) && !arg_u64("ios", 0))
		die("argument ms=0: must be at least 1, or ios=N instead");
	l->seed = arg_u64("seed", 1);
	l->tsc_stall = tsc_of_ms(STALL_MS);
}

u8 *measure_buffer(const struct loop *l)
{
	u64 size = (u64)l->depth * l->block;
	struct rand r = { l->seed };
	u8 *buf = alloc(size);

	if (l->op == LOOP_WRITE)
		for (u64 i = 0; i + 8 <= size; i += 8)
			*(u64 *)(buf + i) = rand_next(&r);
	return buf;
}

static void run_once(struct loop *l, void (*run)(struct loop *l))
{
	run(l);
	if (l->stalled)
		die("no completion for %u s after %lu requests", STALL_MS / 1000, l->done);
}

static u64 ns(u64 cycles)
{
	return cycles / boot->tsc_khz * 1000000 + cycles % boot->tsc_khz * 1000000 / boot->tsc_khz;
}

void measure(struct loop *l, void (*run)(struct loop *l))
{
	u64 ms = arg_u64("ms", 1000), ios = arg_u64("ios", 0);
	struct counters before, after;

	l->tsc_budget = tsc_of_ms(MIN(ms / 4 + 10, 250)); /* warm up */
	run_once(l, run);
	l->ios = ios;
	l->tsc_budget = ios ? 0 : tsc_of_ms(ms);
	report_value("begin", 1);
	spin_ms(SETTLE_MS);
	before = counters();
	run_once(l, run);
	after = counters();
	report_value("end", 1);
	spin_ms(SETTLE_MS);

	report_value("ios", l->done);
	report_value("ns", ns(l->cycles));
	report_value("errors", l->errors);
	if (l->errors)
		print("the first error is %d\n", l->first_error);
	report_value("batches", l->batches);
	if (l->wait) {
		report_value("waits", l->waits);
		report_value("lost", l->lost);
	}
	report_value("lat_p50", ns(hist_percentile(&l->latency, 50000)));
	report_value("lat_p99", ns(hist_percentile(&l->latency, 99000)));
	report_value("lat_p999", ns(hist_percentile(&l->latency, 99900)));
	report_value("kvm_exits", (after.kvm_exits - after.irq_exits) - (before.kvm_exits - before.irq_exits));
	report_value("irq_exits", after.irq_exits - before.irq_exits);
	report_value("irqs", after.irq_injections - before.irq_injections);
	report_value("vmm_syscalls", after.vmm_syscalls - before.vmm_syscalls);
}
