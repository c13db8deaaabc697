/* SPDX-License-Identifier: Apache-2.0 */
/* What every guest program uses. */
#ifndef LIB_H
#define LIB_H

#include "bootinfo.h"
#include "cpu.h"
#include "print.h"
#include "trap.h"
#include "types.h"

extern const struct bootinfo *boot;

/* string.c */
void *memset(void *to, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
bool same(const char *a, const char *b);

/* mem.c: zeroed, page aligned, never freed one by one: what was allocated since a
 * mark goes back at once. A null pointer never comes back: a guest without memory
 * ends. uringpv's RAM is all zeros at first; mem_dirty, set before mem_init, says that
 * this is another monitor's. */
extern bool mem_dirty;
void mem_init(void);
void *alloc(u64 size);
u64 mem_mark(void);
void mem_release(u64 mark);

/* Cycles of the time-stamp counter. */
static inline u64 tsc_of_ms(u64 ms)
{
	return ms * boot->tsc_khz;
}

/* Spin for so many milliseconds. */
static inline void spin_ms(u64 ms)
{
	for (u64 until = rdtsc() + tsc_of_ms(ms); rdtsc() < until;)
		cpu_relax();
}

/* rand.c: random numbers from a seed. */
struct rand {
	u64 state;
};
u64 rand_next(struct rand *r);
u64 rand_below(struct rand *r, u64 n); /* 0 to n-1; 0 if n is 0 */

/* args.c: key=value words. false, or the fallback, where there is none. */
bool arg(const char *key, char *value, size_t size);
bool arg_is(const char *key, const char *value);
u64 arg_u64(const char *key, u64 fallback);

/* report.c: lines as guest/bare's line.go reads them, and the end. */
void report_case(const char *name, const char *result, const char *detail);
void report_value(const char *key, u64 v);
struct counters counters(void); /* the monitor's, as of now */
void __attribute__((noreturn)) finish(u32 status);
void __attribute__((noreturn, format(printf, 1, 2))) die(const char *fmt, ...);

/* Programs: main.c has the table. */
void selftest(void);
void checksum(void);
void bench(void);
void bench_virtio(void);
void idle(void);
void conformance(void);

#endif
