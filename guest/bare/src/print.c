/* SPDX-License-Identifier: Apache-2.0 */
#include "print.h"

#include "bootinfo.h"
#include "cpu.h"

void print(const char *fmt, ...)
{
	char line[512];
	va_list args;
	int n;

	va_start(args, fmt);
	n = format(line, sizeof(line), fmt, args);
	va_end(args);
	if (n == sizeof(line) - 1)
		line[n - 1] = '\n'; /* a line that was cut is a line */
	out_string(PORT_CONSOLE, line, (u64)n);
}
