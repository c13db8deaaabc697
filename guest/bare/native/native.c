/* SPDX-License-Identifier: Apache-2.0 */
/* The benchmark's loop as a process of the host: what the guest is compared
 * with. It sets up an io_uring by itself, with SQPOLL, a registered buffer and a
 * registered file, and runs src/loop.c. No libc: system calls only. */
#include "host.h"
#include "lib.h"
#include "loop.h"
#include "uringpv.h" /* struct uringpv_params is struct io_uring_params */

#define STALL_MS 30000u

static int ring_fd;

static void enter(struct uring *r)
{
	(void)r;
	call(SYS_IO_URING_ENTER, (u64)ring_fd, 0, 0, IORING_ENTER_SQ_WAKEUP, 0, 0);
}

static u64 number(const char *key, u64 fallback)
{
	const char *s = argument(key);
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

void program(void)
{
	struct uringpv_params p = { 0 };
	struct uring ring = { 0 };
	struct loop l = { 0 };
	const char *path, *rw;
	u64 depth, block, ms, ios, size, start, tsc, ns, iov[2];
	s32 fd;
	u8 *m;

	path = argument("file");
	rw = argument("rw");
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
	tsc = measure_tsc_khz();
	l.tsc_stall = tsc * (u64)STALL_MS;
	l.tsc_budget = tsc * MIN(ms / 4 + 10, 250);
	run(&l);
	l.ios = ios;
	l.tsc_budget = ios ? 0 : tsc * ms;
	start = clock_ns();
	run(&l);
	ns = MAX(clock_ns() - start, 1);
	say(1, "value ios %lu\nvalue ns %lu\nvalue iops %lu\n", l.done, ns, l.done * 1000000 / MAX(ns / 1000, 1));
	leave(0);
}
