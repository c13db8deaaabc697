/* SPDX-License-Identifier: Apache-2.0 */
/* The loop that benchmarks run: the same source in the guest and on the host. It
 * knows a ring's words and nothing of who is behind them. */
#ifndef LOOP_H
#define LOOP_H

#include "uring.h"

struct loop {
	struct uring *ring;
	u8 opcode;      /* IORING_OP_READ_FIXED or IORING_OP_NOP */
	u32 block;      /* bytes of each read */
	u64 blocks;     /* in the file */
	u32 depth;      /* requests in flight, at most the SQ ring's entries */
	u64 addr;       /* io_uring address of depth * block bytes inside buffer 0 */
	u64 ios;        /* stop after so many, if not 0 */
	u64 tsc_budget; /* stop after so many cycles, if not 0 */
	u64 tsc_stall;  /* give up after so many cycles without a completion */
	u64 seed;

	u64 done, errors; /* out */
	s32 first_error;  /* out: a result that was not the one to expect */
	bool stalled;     /* out */
};

/* Keep depth requests in flight, random blocks of file 0, by polling. The counts
 * of out are those of this call. */
void loop_run(struct loop *l);

#endif
