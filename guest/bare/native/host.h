/* SPDX-License-Identifier: Apache-2.0 */
/* What the host's programs share: system calls, arguments, output. No libc. */
#ifndef HOST_H
#define HOST_H

#include "types.h"

#define SYS_READ 0
#define SYS_WRITE 1
#define SYS_OPEN 2
#define SYS_CLOSE 3
#define SYS_POLL 7
#define SYS_LSEEK 8
#define SYS_MMAP 9
#define SYS_MUNMAP 11
#define SYS_RT_SIGACTION 13
#define SYS_SOCKET 41
#define SYS_BIND 49
#define SYS_LISTEN 50
#define SYS_SOCKETPAIR 53
#define SYS_UNAME 63
#define SYS_FTRUNCATE 77
#define SYS_SETRLIMIT 160
#define SYS_CLOCK_GETTIME 228
#define SYS_EXIT_GROUP 231
#define SYS_EVENTFD2 290
#define SYS_PIPE2 293
#define SYS_MEMFD_CREATE 319
#define SYS_IO_URING_SETUP 425
#define SYS_IO_URING_ENTER 426
#define SYS_IO_URING_REGISTER 427

#define PROT_READ_WRITE 3
#define MAP_PRIVATE_ANONYMOUS_POPULATE 0x8022
#define MAP_SHARED_POPULATE 0x8001
#define SEEK_END 2
#define CLOCK_MONOTONIC 1
#define IORING_OFF_SQES 0x10000000

static inline s64 call(s64 n, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	register u64 r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	s64 r;

	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return r;
}

/* A system call that must work. */
u64 must(const char *what, s64 r);

void say(u64 fd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void leave(int status) __attribute__((noreturn));
u64 clock_ns(void);

/* Of the time-stamp counter, in a millisecond. */
u64 measure_tsc_khz(void);

/* The value of key=value among the arguments, NULL without. */
const char *argument(const char *key);

/* The program; host.c calls it. */
void program(void) __attribute__((noreturn));

#endif
