/* SPDX-License-Identifier: Apache-2.0 */
#include "testing.h"

enum verdict verdict(struct test *t, enum verdict v, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	format(t->detail, sizeof(t->detail), fmt, args);
	va_end(args);
	return v;
}
