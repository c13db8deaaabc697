/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest tells the monitor, and what it asks it. */
#include "lib.h"

struct counters counters(void)
{
	out32(PORT_COUNTERS, 0);
	return *(const volatile struct counters *)boot->counters;
}

void report_case(const char *name, const char *result, const char *detail)
{
	print("case %s %s %s\n", name, result, detail);
}

void report_value(const char *key, u64 v)
{
	print("value %s %lu\n", key, v);
}

void finish(u32 status)
{
	for (;;)
		out32(PORT_EXIT, status);
}

void die(const char *fmt, ...)
{
	char line[400];
	va_list args;

	va_start(args, fmt);
	format(line, sizeof(line), fmt, args);
	va_end(args);
	print("error %s\n", line);
	finish(1);
}
