/* SPDX-License-Identifier: Apache-2.0 */
/* The benchmark's loop as a process of the host: what the guest is compared
 * with. It sets up an io_uring by itself, with SQPOLL, a registered buffer and a
 * registered file, and runs src/loop.c. No libc: system calls only. */
#include "loop.h"
#include "print.h"
#include "uringpv.h" /* struct uringpv_params is struct io_uring_params */

#define SYS_WRITE 1
#define SYS_OPEN 2
#define SYS_LSEEK 8
#define SYS_MMAP 9
#define SYS_CLOCK_GETTIME 228
#define SYS_EXIT_GROUP 231
#define SYS_IO_URING_SETUP 425
#define SYS_IO_URING_ENTER 426
#define SYS_IO_URING_REGISTER 427

#define PROT_READ_WRITE 3
#define MAP_PRIVATE_ANONYMOUS_POPULATE 0x8022
#define MAP_SHARED_POPULATE 0x8001
#define SEEK_END 2
#define CLOCK_MONOTONIC 1
#define IORING_OFF_SQES 0x10000000
#define IORING_REGISTER_BUFFERS 0
#define IORING_REGISTER_FILES 2
#define IORING_FEAT_SINGLE_MMAP 1

#define STALL_MS 30000ul

static s64 call(s64 n, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	register u64 r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	s64 r;

	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return r;
}

void *memset(void *to, int c, size_t n);
void *memset(void *to, int c, size_t n)
{
	void *p = to;

	__asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(c) : "memory");
	return to;
}

static void say(u64 fd, const char *fmt, ...)
{
	char line[256];
	va_list args;
	int n;

	va_start(args, fmt);
	n = format(line, sizeof(line), fmt, args);
	va_end(args);
	call(SYS_WRITE, fd, (u64)line, (u64)n, 0, 0, 0);
}

static void __attribute__((noreturn)) leave(int status)
{
	for (;;)
		call(SYS_EXIT_GROUP, (u64)status, 0, 0, 0, 0, 0);
}

/* A system call that must work. */
static u64 must(const char *what, s64 r)
{
	if (r < 0 && r > -4096) {
		say(2, "%s: errno %ld\n", what, -r);
		leave(1);
	}
	return (u64)r;
}

static u64 clock_ns(void)
{
	s64 t[2] = { 0 };

	call(SYS_CLOCK_GETTIME, CLOCK_MONOTONIC, (u64)t, 0, 0, 0, 0);
	return (u64)t[0] * 1000000000 + (u64)t[1];
}

static int ring_fd;

static void enter(struct uring *r)
{
	(void)r;
	call(SYS_IO_URING_ENTER, (u64)ring_fd, 0, 0, IORING_ENTER_SQ_WAKEUP, 0, 0);
}

static char **arguments;

/* The value of key=value among the arguments, NULL without. */
static const char *arg(const char *key)
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

static bool same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static u64 number(const char *key, u64 fallback)
{
	const char *s = arg(key);
	u64 n = 0;

	if (!s)
		return fallback;
	for (; *s; s++) {
		if (*s < '0' || *s > '9' || __builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (u64)(*s - '0'), &n)) {
			say(2, "%s: must be a number below 2^64\n", key);
			leave(2);
		}
	}
	return n;
}

static void run(struct loop *l)
{
	loop_run(l);
	if (l->stalled) {
		say(2, "no completion for %u s after %lu requests\n", STALL_MS / 1000, l->done);
		leave(1);
	}
	if (l->errors) {
		say(2, "%lu of %lu requests failed, the first with %d\n", l->errors, l->done, l->first_error);
		leave(1);
	}
}

static void __attribute__((noreturn, used)) native_main(u64 *stack)
{
	struct uringpv_params p = { 0 };
	struct uring ring = { 0 };
	struct loop l = { 0 };
	const char *path, *rw;
	u64 depth, block, ms, ios, size, start, tsc, ns, iov[2];
	s32 fd;
	u8 *m;

	arguments = (char **)(stack + 2); /* argc, argv[0], ... */
	path = arg("file");
	rw = arg("rw");
	depth = number("depth", 32);
	block = number("bs", 4096);
	ms = number("ms", 1000);
	ios = number("ios", 0);
	if (!path || !depth || depth > 32768 || !block || block > 1 << 30 || !(ms | ios) || (rw && !same(rw, "randread") && !same(rw, "nop"))) {
		say(2, "usage: native file=PATH [depth=N] [bs=BYTES] [ms=N] [ios=N] [seed=N] [rw=randread|nop]\n");
		leave(2);
	}
	fd = (s32)must("open the file", call(SYS_OPEN, (u64)path, 0, 0, 0, 0, 0));
	size = must("size of the file", call(SYS_LSEEK, (u64)fd, 0, SEEK_END, 0, 0, 0));
	if (size < block) {
		say(2, "the file has %lu bytes: less than a block of %lu\n", size, block);
		leave(1);
	}

	p.flags = IORING_SETUP_SQPOLL;
	p.sq_thread_idle = 1000;
	ring_fd = (int)must("io_uring_setup", call(SYS_IO_URING_SETUP, depth, (u64)&p, 0, 0, 0, 0));
	if (!(p.features & IORING_FEAT_SINGLE_MMAP)) {
		say(2, "io_uring without IORING_FEAT_SINGLE_MMAP: Linux 5.4 has it\n");
		leave(1);
	}
	m = (u8 *)must("map the rings",
		       call(SYS_MMAP, 0, MAX(p.sq_off.array + p.sq_entries * 4ul, p.cq_off.cqes + p.cq_entries * 16ul), PROT_READ_WRITE,
			    MAP_SHARED_POPULATE, (u64)ring_fd, 0));
	ring = (struct uring){
		.sq_head = (u32 *)(m + p.sq_off.head),
		.sq_tail = (u32 *)(m + p.sq_off.tail),
		.sq_flags = (u32 *)(m + p.sq_off.flags),
		.sq_array = (u32 *)(m + p.sq_off.array),
		.cq_head = (u32 *)(m + p.cq_off.head),
		.cq_tail = (u32 *)(m + p.cq_off.tail),
		.cqes = (struct cqe *)(m + p.cq_off.cqes),
		.sqes = (struct sqe *)must("map the SQEs", call(SYS_MMAP, 0, p.sq_entries * 64ul, PROT_READ_WRITE, MAP_SHARED_POPULATE,
								 (u64)ring_fd, IORING_OFF_SQES)),
		.sq_entries = p.sq_entries,
		.cq_entries = p.cq_entries,
		.polled = true,
		.kick = enter,
	};
	iov[1] = depth * block;
	iov[0] = must("memory for buffers", call(SYS_MMAP, 0, iov[1], PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS_POPULATE, ~0ull, 0));
	must("register the buffer", call(SYS_IO_URING_REGISTER, (u64)ring_fd, IORING_REGISTER_BUFFERS, (u64)iov, 1, 0, 0));
	must("register the file", call(SYS_IO_URING_REGISTER, (u64)ring_fd, IORING_REGISTER_FILES, (u64)&fd, 1, 0, 0));

	l.ring = &ring;
	l.opcode = rw && same(rw, "nop") ? IORING_OP_NOP : IORING_OP_READ_FIXED;
	l.block = (u32)block;
	l.blocks = size / block;
	l.depth = (u32)depth;
	l.addr = iov[0];
	l.seed = number("seed", 1);

	/* Warm up, and learn how fast the time-stamp counter is. */
	start = clock_ns();
	tsc = rdtsc();
	while (clock_ns() - start < 10000000)
		;
	tsc = (rdtsc() - tsc) / ((clock_ns() - start) / 1000); /* a microsecond's */
	l.tsc_stall = tsc * 1000 * STALL_MS;
	l.tsc_budget = tsc * 1000 * MIN(ms / 4 + 10, 250);
	run(&l);
	l.ios = ios;
	l.tsc_budget = ios ? 0 : tsc * 1000 * ms;
	start = clock_ns();
	run(&l);
	ns = MAX(clock_ns() - start, 1);
	say(1, "value ios %lu\nvalue ns %lu\nvalue iops %lu\n", l.done, ns, l.done * 1000000 / MAX(ns / 1000, 1));
	leave(0);
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall native_main\n");
