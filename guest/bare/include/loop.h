/* SPDX-License-Identifier: Apache-2.0 */
/* The loop that benchmarks run: the same source in the guest and on the host, for
 * io_uring and for virtio-blk. It keeps a number of requests in flight on each of
 * its queues and knows nothing of who is behind them. */
#ifndef LOOP_H
#define LOOP_H

#include "cpu.h"
#include "hist.h"
#include "types.h"

#define LOOP_MAX_QUEUES 16
#define LOOP_MAX_DEPTH 1024

enum loop_op { LOOP_READ, LOOP_WRITE, LOOP_FSYNC, LOOP_NOP };

/* One request: its slot, 0 to depth-1, belongs to it until it has completed. */
struct request {
	u32 slot;
	enum loop_op op;
	u32 len;     /* bytes */
	u64 offset;  /* bytes from the disk's beginning */
	u64 addr;    /* of its part of the queue's buffer */
};

/* A queue, as the loop sees it. */
struct lane {
	void *queue; /* struct uring or struct virtq */
	u64 addr;    /* depth * block bytes, as the queue's requests name memory */
	u64 started, done;
	u64 begun[LOOP_MAX_DEPTH]; /* by slot: when the request was made */
};

struct loop {
	struct lane *lanes;
	u32 nr_lanes;
	u32 depth; /* requests in flight on each queue */
	enum loop_op op;
	bool random;    /* else one block after the other */
	u32 block;      /* bytes of each request */
	u64 blocks;     /* on the disk */
	u64 ios;        /* stop after so many, if not 0 */
	u64 tsc_budget; /* stop after so many cycles, if not 0 */
	u64 tsc_stall;  /* give up after so many cycles without a completion */
	u64 seed;

	/* With interrupts: sleep until one comes; it may return without. NULL: poll.
	 * irqs counts those taken, NULL where nobody does. */
	void (*wait)(struct loop *l, u32 irqs_seen);
	u32 *irqs;

	/* out, of the last run */
	u64 done, errors;
	s32 first_error; /* a result that was not the one to expect */
	bool stalled;
	u64 cycles;      /* from the first request to the last completion */
	u64 batches;     /* times that there was something to take */
	u64 waits, lost; /* with interrupts: sleeps; completions that raised none */
	struct hist latency;

	u64 next_block;
};

/* What a kind of queue does for the loop. */
struct loop_ops {
	/* One more request, not yet shown to the device. false: no room for now. */
	bool (*put)(struct lane *q, const struct request *r);
	/* Show the device what was put, and notify it if it wants that. */
	void (*submit)(struct lane *q);
	/* The number of completions to take; the i-th of them, its result and the
	 * one to expect; and that n have been taken. */
	u32 (*ready)(struct lane *q);
	u32 (*take)(struct lane *q, u32 i, s32 *result);
	void (*advance)(struct lane *q, u32 n);
	/* Ask for interrupts, or for none. A look at ready() is ordered behind it. */
	void (*listen)(struct lane *q, bool on);
	/* Interrupts up to the irqs-th are known; the device may raise another. */
	void (*acknowledge)(struct lane *q, u32 irqs);
};

/* Keep depth requests in flight on each queue until the budget is spent, and wait
 * for the last one. */
void loop_run_uring(struct loop *l);
void loop_run_virtio(struct loop *l);

/* measure.c: the benchmark's arguments into l, all but lanes and blocks; a queue's
 * buffer, filled if it is to be written; a run to warm up, the run that counts, and
 * its values as lines. */
void measure_arguments(struct loop *l);
u8 *measure_buffer(const struct loop *l);
void measure(struct loop *l, void (*run)(struct loop *l));

/* bench.c, in the guest: sleep between completions, if irq=on asks for it. vector
 * is the CPU's, of all queues. */
void bench_interrupts(struct loop *l, u8 vector);

#endif
