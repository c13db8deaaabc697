/* SPDX-License-Identifier: Apache-2.0 */
/* The loop's text. Each kind of queue includes it and calls loop_body with its own
 * operations, which the compiler then inlines. */
#ifndef LOOP_BODY_H
#define LOOP_BODY_H

#include "loop.h"

#define always_inline inline __attribute__((always_inline))

/* How long after a completion its interrupt may come, in turns of a spin. */
#define LATE_TURNS 1000000u

/* xorshift64*: Marsaglia, "Xorshift RNGs"; the high bits are the good ones. */
static always_inline u64 loop_random(u64 *s)
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * 0x2545f4914f6cdd1dull;
}

/* One more request. false: the device takes none. */
static always_inline bool loop_put(struct loop *l, struct lane *q, const struct loop_ops *ops, u32 slot, u64 now)
{
	struct request r = { .slot = slot, .op = l->op };

	if (l->op == LOOP_READ || l->op == LOOP_WRITE) {
		u64 block;

		if (l->random) {
			block = (u64)(((unsigned __int128)loop_random(&l->seed) * l->blocks) >> 64);
		} else {
			block = l->next_block;
			l->next_block = block + 1 == l->blocks ? 0 : block + 1;
		}
		r.offset = block * l->block;
		r.addr = q->addr + (u64)slot * l->block;
		r.len = l->block;
	}
	q->begun[slot] = now;
	q->started++;
	if (__builtin_expect(ops->put(q, &r), 1))
		return true;
	for (u64 until = now + l->tsc_stall; rdtsc() < until;) {
		cpu_relax();
		if (ops->put(q, &r))
			return true;
	}
	return false;
}

/* Sleep until an interrupt comes, unless there is something to take. */
static always_inline void loop_sleep(struct loop *l, const struct loop_ops *ops)
{
	u32 seen = l->irqs ? load_acquire(l->irqs) : 0;
	bool ready = false;

	for (u32 i = 0; i < l->nr_lanes; i++) {
		ops->acknowledge(&l->lanes[i], seen);
		ops->listen(&l->lanes[i], true);
	}
	for (u32 i = 0; i < l->nr_lanes; i++)
		ready = ready || ops->ready(&l->lanes[i]);
	if (!ready) {
		l->wait(l, seen);
		l->waits++;
		for (u32 i = 0; i < l->nr_lanes; i++)
			ready = ready || ops->ready(&l->lanes[i]);
		/* wait() also ends when a slice of time is over. What completed while
		 * interrupts were wanted has to raise one. */
		if (ready && l->irqs && load_acquire(l->irqs) == seen) {
			u32 turns = 0;

			while (load_acquire(l->irqs) == seen && ++turns < LATE_TURNS)
				cpu_relax();
			l->lost += turns == LATE_TURNS;
		}
	}
	for (u32 i = 0; i < l->nr_lanes; i++)
		ops->listen(&l->lanes[i], false);
}

static always_inline void loop_body(struct loop *l, const struct loop_ops *ops)
{
	u64 begin = rdtsc(), now = begin, idle_since = begin, started = 0;
	u32 turn = 0, idle = 0;
	s32 want = l->op == LOOP_READ || l->op == LOOP_WRITE ? (s32)l->block : 0;
	bool stop = false;

	l->done = l->errors = l->batches = l->waits = l->lost = l->cycles = 0;
	l->first_error = 0;
	l->stalled = false;
	l->latency = (struct hist){ 0 };
	if (!l->seed)
		l->seed = 0x9e3779b97f4a7c15ull;
	for (u32 i = 0; i < l->nr_lanes; i++) {
		struct lane *q = &l->lanes[i];

		q->started = q->done = 0;
		ops->listen(q, false);
		for (u32 slot = 0; slot < l->depth && !(l->ios && started >= l->ios); slot++, started++) {
			if (!loop_put(l, q, ops, slot, rdtsc())) {
				l->stalled = true;
				return;
			}
		}
		ops->submit(q);
	}

	while (l->done < started) {
		u32 taken = 0;

		if (l->tsc_budget && (++turn & 63) == 0 && rdtsc() - begin > l->tsc_budget)
			stop = true;
		for (u32 lane = 0; lane < l->nr_lanes; lane++) {
			struct lane *q = &l->lanes[lane];
			u32 n = ops->ready(q), again = 0;

			if (!n)
				continue;
			now = rdtsc();
			for (u32 i = 0; i < n; i++) {
				s32 result;
				u32 slot = ops->take(q, i, &result) & (LOOP_MAX_DEPTH - 1);

				if (result != want && !l->errors++)
					l->first_error = result;
				hist_add(&l->latency, now - q->begun[slot]);
				if (stop || (l->ios && started >= l->ios))
					continue;
				if (!loop_put(l, q, ops, slot, now)) {
					l->stalled = true;
					return;
				}
				started++;
				again++;
			}
			ops->advance(q, n);
			q->done += n;
			l->done += n;
			l->batches++;
			taken += n;
			if (again)
				ops->submit(q);
		}
		if (taken) {
			idle = 0;
			idle_since = now;
			continue;
		}
		if (l->wait) {
			loop_sleep(l, ops);
			l->stalled = rdtsc() - idle_since > l->tsc_stall;
		} else {
			cpu_relax();
			/* Each store of the tail was followed by a look at whether the
			 * device sleeps: who sleeps has nothing to take. */
			if ((++idle & 4095) == 0)
				l->stalled = rdtsc() - idle_since > l->tsc_stall;
		}
		if (l->stalled)
			return;
	}
	l->cycles = rdtsc() - begin;
}

#endif
