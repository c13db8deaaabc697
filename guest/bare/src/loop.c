/* SPDX-License-Identifier: Apache-2.0 */
/* The benchmark's loop on io_uring: in the guest, and on the host. */
#include "loop_body.h"
#include "uring.h"

static always_inline bool put(struct lane *q, const struct request *r)
{
	static const u8 opcodes[] = {
		[LOOP_READ] = IORING_OP_READ_FIXED,
		[LOOP_WRITE] = IORING_OP_WRITE_FIXED,
		[LOOP_FSYNC] = IORING_OP_FSYNC,
		[LOOP_NOP] = IORING_OP_NOP,
	};
	struct sqe *s = uring_sqe(q->queue);

	if (!s)
		return false;
	s->opcode = opcodes[r->op];
	s->flags = IOSQE_FIXED_FILE;
	s->user_data = r->slot;
	s->off = r->offset;
	s->addr = r->addr;
	s->len = r->len;
	return true;
}

static always_inline void submit(struct lane *q)
{
	uring_submit(q->queue);
}

static always_inline u32 ready(struct lane *q)
{
	return uring_ready(q->queue);
}

static always_inline u32 take(struct lane *q, u32 i, s32 *result)
{
	const struct cqe *c = uring_cqe(q->queue, i);

	*result = c->res;
	return (u32)c->user_data;
}

static always_inline void advance(struct lane *q, u32 n)
{
	uring_advance(q->queue, n);
}

static always_inline void listen(struct lane *q, bool on)
{
	struct uring *r = q->queue;

	store_release(r->cq_flags, on ? 0 : IORING_CQ_EVENTFD_DISABLED);
	full_barrier();
}

static always_inline void acknowledge(struct lane *q, u32 irqs)
{
	(void)q; /* message-signalled: there is nothing that the device holds */
	(void)irqs;
}

void loop_run_uring(struct loop *l)
{
	static const struct loop_ops ops = { put, submit, ready, take, advance, listen, acknowledge };

	loop_body(l, &ops);
}
