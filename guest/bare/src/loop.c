/* SPDX-License-Identifier: Apache-2.0 */
#include "loop.h"

/* xorshift64*: Marsaglia, "Xorshift RNGs"; the high bits are the good ones. */
static u64 next(u64 *s)
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * 0x2545f4914f6cdd1dull;
}

/* One more request, into the slot's part of the buffer. */
static bool prepare(struct loop *l, u32 slot)
{
	struct sqe *s = uring_sqe(l->ring);

	if (__builtin_expect(!s, 0))
		s = uring_sqe_by(l->ring, rdtsc() + l->tsc_stall);
	if (!s)
		return false;
	s->opcode = l->opcode;
	s->flags = IOSQE_FIXED_FILE;
	s->user_data = slot;
	if (l->opcode == IORING_OP_NOP)
		return true;
	s->off = (u64)(((unsigned __int128)next(&l->seed) * l->blocks) >> 64) * l->block;
	s->addr = l->addr + (u64)slot * l->block;
	s->len = l->block;
	return true;
}

void loop_run(struct loop *l)
{
	struct uring *r = l->ring;
	s32 want = l->opcode == IORING_OP_NOP ? 0 : (s32)l->block;
	u64 begin = rdtsc(), idle_since = begin, started = 0, idle = 0;
	u32 turn = 0;
	bool stop = false;

	l->done = l->errors = 0;
	l->stalled = false;
	if (!l->seed)
		l->seed = 0x9e3779b97f4a7c15ull;
	for (; started < l->depth && !(l->ios && started >= l->ios); started++) {
		if (!prepare(l, (u32)started)) {
			l->stalled = true;
			return;
		}
	}
	uring_submit(r);

	while (l->done < started) {
		u32 n = uring_ready(r), again = 0;

		if (l->tsc_budget && (++turn & 63) == 0 && rdtsc() - begin > l->tsc_budget)
			stop = true;
		if (!n) {
			cpu_relax();
			/* Each store of the tail was followed by a look at
			 * NEED_WAKEUP: who sleeps has nothing to take. */
			if ((++idle & 4095) == 0) {
				if (idle == 4096)
					idle_since = rdtsc();
				l->stalled = rdtsc() - idle_since > l->tsc_stall;
				if (l->stalled)
					return;
			}
			continue;
		}
		idle = 0;
		for (u32 i = 0; i < n; i++) {
			const struct cqe *c = uring_cqe(r, i);

			if (c->res != want && !l->errors++)
				l->first_error = c->res;
			if (stop || (l->ios && started >= l->ios))
				continue;
			if (!prepare(l, (u32)c->user_data % l->depth)) {
				l->stalled = true;
				return;
			}
			started++;
			again++;
		}
		uring_advance(r, n);
		l->done += n;
		if (again)
			uring_submit(r);
	}
}
