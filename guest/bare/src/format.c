/* SPDX-License-Identifier: Apache-2.0 */
#include "print.h"

struct sink {
	char *to;
	size_t size, n;
};

static void put(struct sink *s, char c)
{
	if (s->n + 1 < s->size)
		s->to[s->n++] = c;
}

static void put_number(struct sink *s, u64 v, u32 base)
{
	char digits[24];
	int n = 0;

	do {
		digits[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	while (n)
		put(s, digits[--n]);
}

int format(char *to, size_t size, const char *fmt, va_list args)
{
	struct sink s = { to, size, 0 };

	for (; *fmt; fmt++) {
		bool wide = false;

		if (*fmt != '%') {
			put(&s, *fmt);
			continue;
		}
		if (*++fmt == 'l') {
			wide = true;
			fmt++;
		}
		switch (*fmt) {
		case 's':
			for (const char *p = va_arg(args, const char *); *p; p++)
				put(&s, *p);
			break;
		case 'c':
			put(&s, (char)va_arg(args, int));
			break;
		case 'd': {
			s64 v = wide ? va_arg(args, s64) : va_arg(args, s32);

			if (v < 0)
				put(&s, '-');
			put_number(&s, v < 0 ? -(u64)v : (u64)v, 10);
			break;
		}
		case 'u':
			put_number(&s, wide ? va_arg(args, u64) : va_arg(args, u32), 10);
			break;
		case 'x':
			put_number(&s, wide ? va_arg(args, u64) : va_arg(args, u32), 16);
			break;
		default:
			put(&s, *fmt);
		}
	}
	if (size)
		to[s.n] = 0;
	return (int)s.n;
}
