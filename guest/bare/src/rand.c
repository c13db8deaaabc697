/* SPDX-License-Identifier: Apache-2.0 */
#include "lib.h"

/* splitmix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators". */
u64 rand_next(struct rand *r)
{
	u64 z = r->state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

u64 rand_below(struct rand *r, u64 n)
{
	return (u64)(((unsigned __int128)rand_next(r) * n) >> 64);
}
