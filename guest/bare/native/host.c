/* SPDX-License-Identifier: Apache-2.0 */
#include "host.h"

#include "cpu.h"
#include "print.h"

void say(u64 fd, const char *fmt, ...)
{
	char line[512];
	va_list args;
	int n;

	va_start(args, fmt);
	n = format(line, sizeof(line), fmt, args);
	va_end(args);
	call(SYS_WRITE, fd, (u64)line, (u64)n, 0, 0, 0);
}

void leave(int status)
{
	for (;;)
		call(SYS_EXIT_GROUP, (u64)status, 0, 0, 0, 0, 0);
}

u64 must(const char *what, s64 r)
{
	if (r < 0 && r > -4096) {
		say(2, "%s: errno %ld\n", what, -r);
		leave(1);
	}
	return (u64)r;
}

u64 clock_ns(void)
{
	s64 t[2] = { 0 };

	call(SYS_CLOCK_GETTIME, CLOCK_MONOTONIC, (u64)t, 0, 0, 0, 0);
	return (u64)t[0] * 1000000000 + (u64)t[1];
}

u64 measure_tsc_khz(void)
{
	u64 start = clock_ns(), tsc = rdtsc();

	while (clock_ns() - start < 10000000)
		;
	return (rdtsc() - tsc) * 1000 / ((clock_ns() - start) / 1000);
}

static char **arguments;

const char *argument(const char *key)
{
	for (char **a = arguments; *a; a++) {
		size_t i = 0;

		while (key[i] && (*a)[i] == key[i])
			i++;
		if (!key[i] && (*a)[i] == '=')
			return *a + i + 1;
	}
	return NULL;
}

static void __attribute__((noreturn, used)) host_main(u64 *stack)
{
	arguments = (char **)(stack + 2); /* argc, argv[0], ... */
	program();
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall host_main\n");
