/* SPDX-License-Identifier: Apache-2.0 */
/* The benchmark as a process of the host: what the guest is compared with. It sets
 * up io_uring rings by itself, with SQPOLL, a registered buffer and a registered
 * file, and runs src/measure.c with src/loop.c. No libc: system calls only.
 * Arguments besides those of measure.c: file=PATH direct=on irq=on */
#include "host.h"
#include "lib.h"
#include "loop.h"
#include "uring.h"
#include "uringpv.h" /* struct uringpv_params is struct io_uring_params */

#define O_RDWR 2
#define O_DIRECT 040000
#define O_NOATIME 01000000
#define IDLE_MS 1000

struct ring {
	struct uring uring; /* first: kick gets it */
	u64 fd;
};

/* What measure.c uses of lib.h. */
static struct bootinfo info;
const struct bootinfo *boot = &info;

bool arg(const char *key, char *value, size_t size)
{
	const char *s = argument(key);

	if (!s)
		return false;
	if (strlen(s) >= size)
		die("argument %s: longer than %lu bytes", key, size - 1);
	memcpy(value, s, strlen(s) + 1);
	return true;
}

void die(const char *fmt, ...)
{
	char line[400];
	va_list args;

	va_start(args, fmt);
	format(line, sizeof(line), fmt, args);
	va_end(args);
	say(2, "%s\n", line);
	leave(1);
}

void print(const char *fmt, ...)
{
	char line[400];
	va_list args;

	va_start(args, fmt);
	format(line, sizeof(line), fmt, args);
	va_end(args);
	say(1, "%s", line);
}

void report_value(const char *key, u64 v)
{
	say(1, "value %s %lu\n", key, v);
}

struct counters counters(void)
{
	return (struct counters){ .host_ns = clock_ns() }; /* a process has no exits */
}

void *alloc(u64 size)
{
	return (void *)must("memory for buffers", call(SYS_MMAP, 0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS_POPULATE, ~0ull, 0));
}

static void enter(struct uring *r)
{
	call(SYS_IO_URING_ENTER, ((struct ring *)r)->fd, 0, 0, IORING_ENTER_SQ_WAKEUP, 0, 0);
}

static s32 event;

/* Every ring signals the one eventfd, as a guest's rings one interrupt. */
static void wait(struct loop *l, u32 seen)
{
	u64 n;

	(void)l;
	(void)seen;
	call(SYS_READ, (u64)event, (u64)&n, sizeof(n), 0, 0, 0);
}

static void ring_setup(struct ring *r, u32 entries)
{
	struct uringpv_params p = { .flags = IORING_SETUP_SQPOLL, .sq_thread_idle = IDLE_MS };
	u8 *m;

	r->fd = must("io_uring_setup", call(SYS_IO_URING_SETUP, entries, (u64)&p, 0, 0, 0, 0));
	if (!(p.features & IORING_FEAT_SINGLE_MMAP))
		die("io_uring without IORING_FEAT_SINGLE_MMAP: Linux 5.4 has it");
	m = (u8 *)must("map the rings",
		       call(SYS_MMAP, 0, MAX(p.sq_off.array + p.sq_entries * 4ul, p.cq_off.cqes + p.cq_entries * 16ul), PROT_READ_WRITE,
			    MAP_SHARED_POPULATE, r->fd, 0));
	r->uring = (struct uring){
		.sq_head = (u32 *)(m + p.sq_off.head),
		.sq_tail = (u32 *)(m + p.sq_off.tail),
		.sq_flags = (u32 *)(m + p.sq_off.flags),
		.sq_array = (u32 *)(m + p.sq_off.array),
		.cq_head = (u32 *)(m + p.cq_off.head),
		.cq_tail = (u32 *)(m + p.cq_off.tail),
		.cq_flags = (u32 *)(m + p.cq_off.flags),
		.cqes = (struct cqe *)(m + p.cq_off.cqes),
		.sqes = (struct sqe *)must("map the SQEs", call(SYS_MMAP, 0, p.sq_entries * 64ul, PROT_READ_WRITE, MAP_SHARED_POPULATE,
								 r->fd, IORING_OFF_SQES)),
		.sq_entries = p.sq_entries,
		.cq_entries = p.cq_entries,
		.polled = true,
		.kick = enter,
	};
}

void program(void)
{
	static struct ring rings[LOOP_MAX_QUEUES];
	static struct lane lanes[LOOP_MAX_QUEUES];
	static struct loop l;
	const char *path = argument("file");
	u64 size, flags;
	s32 fd;

	info.tsc_khz = measure_tsc_khz();
	measure_arguments(&l);
	l.lanes = lanes;
	if (!path)
		die("argument file=PATH is missing");
	flags = (l.op == LOOP_WRITE ? O_RDWR : 0) | (arg_is("direct", "on") ? O_DIRECT : 0);
	/* As the monitor opens its disks: a read leaves the file's times alone, where
	 * the kernel permits that. */
	fd = (s32)call(SYS_OPEN, (u64)path, flags | (l.op == LOOP_WRITE ? 0 : O_NOATIME), 0, 0, 0, 0);
	if (fd < 0)
		fd = (s32)must("open the file", call(SYS_OPEN, (u64)path, flags, 0, 0, 0, 0));
	size = must("size of the file", call(SYS_LSEEK, (u64)fd, 0, SEEK_END, 0, 0, 0));
	if (size < l.block)
		die("the file has %lu bytes: less than a block of %u", size, l.block);
	l.blocks = size / l.block;
	if (arg_is("irq", "on")) {
		event = (s32)must("eventfd", call(SYS_EVENTFD2, 0, 0, 0, 0, 0, 0));
		l.wait = wait;
	}
	for (u32 i = 0; i < l.nr_lanes; i++) {
		struct ring *r = &rings[i];
		u64 iov[2];

		ring_setup(r, l.depth);
		iov[0] = (u64)measure_buffer(&l);
		iov[1] = (u64)l.depth * l.block;
		must("register the buffer", call(SYS_IO_URING_REGISTER, r->fd, IORING_REGISTER_BUFFERS, (u64)iov, 1, 0, 0));
		must("register the file", call(SYS_IO_URING_REGISTER, r->fd, IORING_REGISTER_FILES, (u64)&fd, 1, 0, 0));
		if (l.wait)
			must("register the eventfd", call(SYS_IO_URING_REGISTER, r->fd, IORING_REGISTER_EVENTFD, (u64)&event, 1, 0, 0));
		lanes[i].queue = &r->uring;
		lanes[i].addr = iov[0];
	}
	measure(&l, loop_run_uring);
	leave(0);
}
