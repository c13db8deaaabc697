/* SPDX-License-Identifier: Apache-2.0 */
/* A histogram of times: 32 buckets for each doubling, so a value is known to
 * within 1.6 %. Counting takes a handful of instructions and touches one word. */
#ifndef HIST_H
#define HIST_H

#include "types.h"

#define HIST_BITS 5
#define HIST_BUCKETS ((64 - HIST_BITS + 1) << HIST_BITS)

struct hist {
	u64 count;
	u32 bucket[HIST_BUCKETS];
};

/* Values below 64 have a bucket each. */
static inline u32 hist_index(u64 v)
{
	u32 shift = v >> (HIST_BITS + 1) ? 63 - HIST_BITS - (u32)__builtin_clzll(v) : 0;

	return (shift << HIST_BITS) + (u32)(v >> shift);
}

static inline void hist_add(struct hist *h, u64 v)
{
	h->count++;
	h->bucket[hist_index(v)]++;
}

/* The middle of bucket i. */
static inline u64 hist_value(u32 i)
{
	u32 shift = i >> (HIST_BITS + 1) ? (i >> HIST_BITS) - 1 : 0;

	return ((u64)(i - (shift << HIST_BITS)) << shift) + ((1ull << shift) >> 1);
}

/* The value that per100000 of 100,000 do not exceed, 0 without any. */
static inline u64 hist_percentile(const struct hist *h, u32 per100000)
{
	u64 want = (h->count * per100000 + 99999) / 100000, seen = 0;

	for (u32 i = 0; i < HIST_BUCKETS && want; i++) {
		seen += h->bucket[i];
		if (seen >= want)
			return hist_value(i);
	}
	return 0;
}

#endif
