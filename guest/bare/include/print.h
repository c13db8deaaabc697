/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PRINT_H
#define PRINT_H

#include "types.h"

/* %s %c %d %u %x %lu %ld %lx %%; what exceeds a line's buffer is cut. */
int format(char *to, size_t size, const char *fmt, va_list args);
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
