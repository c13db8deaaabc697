/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments as words and numbers, wherever they come from. */
#include "lib.h"

bool arg_is(const char *key, const char *value)
{
	char v[64];

	return arg(key, v, sizeof(v)) && same(v, value);
}

u64 arg_u64(const char *key, u64 fallback)
{
	char v[24];
	u64 n = 0;

	if (!arg(key, v, sizeof(v)))
		return fallback;
	if (!v[0])
		die("argument %s: empty, must be a number", key);
	for (const char *p = v; *p; p++) {
		if (*p < '0' || *p > '9' || __builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (u64)(*p - '0'), &n))
			die("argument %s=%s: must be a number below 2^64", key, v);
	}
	return n;
}
