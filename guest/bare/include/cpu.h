/* SPDX-License-Identifier: Apache-2.0 */
/* Instructions, and the barriers that rings need. */
#ifndef CPU_H
#define CPU_H

#include "types.h"

/* Orders every earlier store before every later load: between the store of a
 * ring's tail, or of the interrupt mask, and the load of the other side's word. */
static inline void full_barrier(void)
{
	__asm__ volatile("lock; addl $0, -4(%%rsp)" ::: "memory", "cc");
}

/* Loads after it are not older than this one: for the other side's head or tail,
 * before the entries that it covers. */
static inline u32 load_acquire(const u32 *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* Stores before it are visible before this one: for our own head or tail, after
 * the entries that it covers. */
static inline void store_release(u32 *p, u32 v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

/* A word that the other side writes, with no order needed. */
static inline u32 load_relaxed(const u32 *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void cpu_relax(void)
{
	__builtin_ia32_pause();
}

static inline u64 rdtsc(void)
{
	u32 lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

static inline void out32(u16 port, u32 v)
{
	__asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port) : "memory");
}

static inline u32 in32(u16 port)
{
	u32 v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

/* One exit for many bytes. */
static inline void out_string(u16 port, const char *s, u64 n)
{
	__asm__ volatile("rep outsb" : "+S"(s), "+c"(n) : "d"(port) : "memory");
}

#endif
