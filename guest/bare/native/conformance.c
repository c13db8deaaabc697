/* SPDX-License-Identifier: Apache-2.0 */
/* The conformance cases on the host's own io_uring: what the guest's results are
 * compared with. The exported things are made here: files in memory, sockets, a
 * pipe, an eventfd. No libc: system calls only.
 *
 *   listener=PATH  disk=PATH  case=NAME
 *
 * The listener's PATH does not exist yet; the program binds a socket to it, and leaves
 * it. The disk's is a file on a device that polls, which is overwritten. */
#include "conformance.h"

#include "host.h"

#define ARENA (1ul << 20)
#define DISK_SIZE (8ul << 20)
#define MAX_RINGS 8

#define AF_STREAM 1
#define AF_DGRAM 2
#define O_RDONLY 0
#define O_RDWR 2
#define O_DIRECT 040000
#define O_CLOEXEC 0x80000
#define O_NONBLOCK 0x800
#define SIGXFSZ 25
#define SIG_IGN 1
#define RLIMIT_FSIZE 1
#define IORING_REGISTER_FILES_SKIP (-2)

static struct bootinfo info;
const struct bootinfo *boot = &info;

static s32 fds[THINGS];
static u8 *arena;
static u64 arena_next;

static struct host_ring {
	struct uring uring; /* first: kick gets it */
	s32 fd, eventfd;
	u32 signalled;
	void *rings, *sqes;
	u64 rings_len, sqes_len;
} rings[MAX_RINGS];

/* ---- lib.h ---- */

void *alloc(u64 size)
{
	u64 at = arena_next;

	size = ROUND_UP(size, 4096);
	if (size > ARENA - 4096 - at)
		die("out of memory: %lu KiB wanted", size >> 10);
	arena_next += size;
	return memset(arena + at, 0, size);
}

u64 mem_mark(void)
{
	return arena_next;
}

void mem_release(u64 mark)
{
	arena_next = mark;
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

/* ---- conformance.h ---- */

static void kick(struct uring *u)
{
	struct host_ring *h = (struct host_ring *)u;

	call(SYS_IO_URING_ENTER, (u64)h->fd, u->polled ? 0 : u->sq_entries, 0, u->polled ? IORING_ENTER_SQ_WAKEUP : 0, 0, 0);
}

static s32 registers(struct ring *r, u32 opcode, const void *arg, u32 n)
{
	struct host_ring *h = r->world;

	return (s32)call(SYS_IO_URING_REGISTER, (u64)h->fd, opcode, (u64)arg, n, 0, 0);
}

static s32 fd_of(enum thing what)
{
	return what == NOTHING ? -1 : what == UNCHANGED ? IORING_REGISTER_FILES_SKIP : fds[what];
}

static enum verdict set_up(struct test *t, struct ring *r, struct host_ring *h, const struct want *w)
{
	struct uringpv_params *p = &r->params;
	u32 sq = w->sq_entries ? w->sq_entries : 64;
	s64 fd;
	u8 *m;

	p->flags = w->flags;
	if (!w->enter) {
		p->flags |= IORING_SETUP_SQPOLL;
		p->sq_thread_idle = w->idle_ms ? w->idle_ms : 100;
	}
	if (w->cq_entries) {
		p->flags |= IORING_SETUP_CQSIZE;
		p->cq_entries = w->cq_entries;
	}
	fd = call(SYS_IO_URING_SETUP, sq, (u64)p, 0, 0, 0, 0);
	REQUIRE(t, fd >= 0, "io_uring_setup: %ld", fd);
	*h = (struct host_ring){ .fd = (s32)fd, .eventfd = -1 };
	h->rings_len = MAX(p->sq_off.array + p->sq_entries * 4ul, p->cq_off.cqes + p->cq_entries * 16ul);
	h->sqes_len = p->sq_entries * 64ul;
	m = (u8 *)must("map the rings", call(SYS_MMAP, 0, h->rings_len, PROT_READ_WRITE, MAP_SHARED_POPULATE, (u64)fd, 0));
	h->rings = m;
	h->sqes = (void *)must("map the SQEs", call(SYS_MMAP, 0, h->sqes_len, PROT_READ_WRITE, MAP_SHARED_POPULATE, (u64)fd, IORING_OFF_SQES));
	h->uring = (struct uring){
		.sq_head = (u32 *)(m + p->sq_off.head),
		.sq_tail = (u32 *)(m + p->sq_off.tail),
		.sq_flags = (u32 *)(m + p->sq_off.flags),
		.sq_dropped = (u32 *)(m + p->sq_off.dropped),
		.sq_array = (u32 *)(m + p->sq_off.array),
		.cq_head = (u32 *)(m + p->cq_off.head),
		.cq_tail = (u32 *)(m + p->cq_off.tail),
		.cq_flags = (u32 *)(m + p->cq_off.flags),
		.cq_overflow = (u32 *)(m + p->cq_off.overflow),
		.cqes = (struct cqe *)(m + p->cq_off.cqes),
		.sqes = h->sqes,
		.sq_entries = p->sq_entries,
		.cq_entries = p->cq_entries,
		.polled = !w->enter,
		.kick = kick,
	};
	r->world = h;
	r->uring = &h->uring;
	return PASS;
}

enum verdict ring_open(struct test *t, struct ring *r, const struct want *w)
{
	struct area all = { arena, ARENA };
	s32 table[THINGS + 8], error;
	struct host_ring *h = rings;
	u32 n = 0;

	for (; h->fd; h++)
		REQUIRE(t, h < &rings[MAX_RINGS - 1], "more than %u rings", MAX_RINGS);
	memset(r, 0, sizeof(*r));
	r->on = w->on;
	TRY(set_up(t, r, h, w));

	for (u32 i = 0; i < THINGS; i++)
		r->slots[i] = -1;
	if (w->nr_files) {
		for (; n < w->nr_files; n++) {
			r->slots[w->files[n]] = (s32)n;
			table[n] = fds[w->files[n]];
		}
	} else {
		for (u32 i = w->on == DISKS ? DISK : FILE_A; i <= (w->on == DISKS ? DISK_READONLY : EVENTFD); i++) {
			r->slots[i] = (s32)n;
			table[n++] = fds[i];
		}
	}
	r->first_empty = n;
	REQUIRE(t, w->empty <= 8, "%u empty entries", w->empty);
	for (u32 i = 0; i < w->empty; i++)
		table[n++] = -1;
	error = registers(r, IORING_REGISTER_FILES, table, n);
	REQUIRE(t, !error, "REGISTER_FILES: %d", error);
	error = ring_buffers(r, false, 0, w->nr_buffers ? w->buffers : &all, w->nr_buffers ? w->nr_buffers : 1);
	REQUIRE(t, !error, "REGISTER_BUFFERS: %d; is the host's limit on locked memory, ulimit -l, below 8192 KiB?", error);
	if (w->interrupts) {
		h->eventfd = (s32)must("eventfd", call(SYS_EVENTFD2, 0, O_NONBLOCK | O_CLOEXEC, 0, 0, 0, 0));
		error = ring_eventfd(r);
		REQUIRE(t, !error, "REGISTER_EVENTFD: %d", error);
	}
	return PASS;
}

static void host_ring_close(struct host_ring *h)
{
	call(SYS_MUNMAP, (u64)h->rings, h->rings_len, 0, 0, 0, 0);
	call(SYS_MUNMAP, (u64)h->sqes, h->sqes_len, 0, 0, 0, 0);
	call(SYS_CLOSE, (u64)h->fd, 0, 0, 0, 0, 0);
	if (h->eventfd >= 0)
		call(SYS_CLOSE, (u64)h->eventfd, 0, 0, 0, 0, 0);
	h->fd = 0;
}

s32 ring_close(struct ring *r)
{
	host_ring_close(r->world);
	return 0;
}

/* Is the host's kernel at least this one? */
static bool kernel_from(u32 major, u32 minor)
{
	static char names[6][65]; /* struct utsname */
	u32 v[2] = { 0 };
	const char *p = names[2]; /* its release */

	must("uname", call(SYS_UNAME, (u64)names, 0, 0, 0, 0, 0));
	for (u32 i = 0; i < 2; i++, p++)
		for (; *p >= '0' && *p <= '9'; p++)
			v[i] = v[i] * 10 + (u32)(*p - '0');
	return v[0] > major || (v[0] == major && v[1] >= minor);
}

s32 ring_register(struct ring *r, u32 opcode)
{
	if (opcode == IORING_UNREGISTER_FILES && !kernel_from(6, 13)) {
		/* There it waits for what is in flight. From 6.13 on, and on the device, what
		 * is in flight keeps its file, as it does when entries are emptied. */
		enum thing none[THINGS + 8];
		s32 error;

		for (u32 i = 0; i < r->first_empty; i++)
			none[i] = NOTHING;
		error = ring_files(r, 0, none, r->first_empty);
		return error < 0 ? error : 0;
	}
	return registers(r, opcode, NULL, 0);
}

s32 ring_files(struct ring *r, u32 slot, const enum thing *list, u32 n)
{
	s32 table[THINGS + 8];
	struct {
		u32 offset, resv;
		u64 fds;
	} update = { slot, 0, (u64)table };

	for (u32 i = 0; i < n && i < ARRAY_SIZE(table); i++)
		table[i] = fd_of(list[i]);
	return registers(r, IORING_REGISTER_FILES_UPDATE, &update, n);
}

s32 ring_buffers(struct ring *r, bool update, u32 index, const struct area *list, u32 n)
{
	struct {
		u32 offset, resv;
		u64 data, tags;
		u32 nr, resv2;
	} u = { .offset = index, .data = (u64)list, .nr = n };
	s32 error;

	_Static_assert(sizeof(struct area) == sizeof(struct iovec), "an area is an iovec");
	if (!update)
		return registers(r, IORING_REGISTER_BUFFERS, list, n);
	error = registers(r, IORING_REGISTER_BUFFERS_UPDATE, &u, sizeof(u));
	return error < 0 ? error : 0;
}

s32 ring_eventfd(struct ring *r)
{
	struct host_ring *h = r->world;

	return registers(r, IORING_REGISTER_EVENTFD, &h->eventfd, 1);
}

s32 ring_enter(struct ring *r, u32 to_submit, u32 flags)
{
	struct host_ring *h = r->world;
	s64 error = call(SYS_IO_URING_ENTER, (u64)h->fd, to_submit, 0, flags, 0, 0);

	return error < 0 ? (s32)error : 0;
}

bool consumes_early(const struct ring *r)
{
	(void)r;
	return false;
}

u32 interrupts(struct ring *r)
{
	struct host_ring *h = r->world;
	u64 n = 0;

	if (call(SYS_READ, (u64)h->eventfd, (u64)&n, 8, 0, 0, 0) == 8)
		h->signalled += (u32)n;
	return h->signalled;
}

void sleep_for_interrupt(struct ring *r, u32 seen)
{
	struct {
		s32 fd;
		u16 events, revents;
	} p = { ((struct host_ring *)r->world)->eventfd, POLLIN, 0 };

	(void)seen; /* the eventfd is readable if there was one since */
	call(SYS_POLL, (u64)&p, 1, 20, 0, 0, 0);
}

u64 address(const struct ring *r, const void *p)
{
	(void)r;
	return (u64)p;
}

u16 buffer_of(const void *p)
{
	(void)p;
	return 0;
}

struct area whole_buffer(void)
{
	return (struct area){ arena, ARENA };
}

u32 bad_addresses(const struct ring *r, bool into, u64 *list)
{
	static const u64 bad[] = { 0, 4096, 0xffff888000000000, 0x8000000000000000, 0x400000 };

	(void)r;
	memcpy(list, bad, sizeof(bad));
	return ARRAY_SIZE(bad) - !into; /* the last is this program's first page, which is not written */
}

enum verdict disk_polls(struct test *t)
{
	if (!argument("disk"))
		return skip(t, "no argument disk=PATH: a file on a device that polls");
	return PASS;
}

enum verdict no_multishot(struct test *t, const struct ring *r)
{
	(void)r;
	return skip(t, "this kernel has no multishot ACCEPT, which Linux 6.0 has");
}

const char *listener_path(void)
{
	return argument("listener");
}

u8 usual_flags(u8 opcode)
{
	/* io_uring itself refuses the flag with these two. */
	return opcode == IORING_OP_CLOSE || opcode == IORING_OP_TIMEOUT_REMOVE ? 0 : IOSQE_FIXED_FILE;
}

/* ---- the program ---- */

static s32 memory_file(const char *name, u64 size)
{
	s32 fd = (s32)must("memfd_create", call(SYS_MEMFD_CREATE, (u64)name, 1, 0, 0, 0, 0));

	must("ftruncate", call(SYS_FTRUNCATE, (u64)fd, size, 0, 0, 0, 0));
	return fd;
}

static s32 reopened_readonly(s32 fd)
{
	char path[32] = "/proc/self/fd/";
	size_t n = strlen(path);

	if (fd >= 10)
		path[n++] = (char)('0' + fd / 10);
	path[n] = (char)('0' + fd % 10);
	return (s32)must("open a file again", call(SYS_OPEN, (u64)path, O_RDONLY | O_CLOEXEC, 0, 0, 0, 0));
}

static void make_things(void)
{
	struct sockaddr_un a = { .family = AF_UNIX };
	const char *path = argument("listener");
	struct {
		void *handler;
		u64 flags;
		void *restorer;
		u64 mask;
	} ignore = { .handler = (void *)SIG_IGN };
	u64 limit[2] = { FILE_SIZE, FILE_SIZE };

	if (!path || !*path || strlen(path) >= sizeof(a.path))
		die("usage: conformance listener=PATH [case=NAME]");
	if (argument("disk"))
		fds[DISK] = (s32)must("open the disk", call(SYS_OPEN, (u64)argument("disk"), O_RDWR | O_DIRECT | O_CLOEXEC, 0, 0, 0, 0));
	else
		fds[DISK] = memory_file("disk", DISK_SIZE);
	fds[DISK_READONLY] = reopened_readonly(fds[DISK]);
	fds[FILE_A] = memory_file("file", FILE_SIZE);
	fds[FILE_B] = memory_file("file2", FILE_SIZE);
	fds[FILE_READONLY] = reopened_readonly(fds[FILE_A]);
	must("socketpair", call(SYS_SOCKETPAIR, AF_UNIX, AF_STREAM | O_CLOEXEC, 0, (u64)&fds[STREAM_A], 0, 0));
	must("socketpair", call(SYS_SOCKETPAIR, AF_UNIX, AF_DGRAM | O_CLOEXEC, 0, (u64)&fds[DGRAM_A], 0, 0));
	fds[LISTENER] = (s32)must("socket", call(SYS_SOCKET, AF_UNIX, AF_STREAM | O_CLOEXEC, 0, 0, 0, 0));
	memcpy(a.path, path, strlen(path));
	must("bind", call(SYS_BIND, (u64)fds[LISTENER], (u64)&a, sizeof(a), 0, 0, 0));
	must("listen", call(SYS_LISTEN, (u64)fds[LISTENER], 8, 0, 0, 0, 0));
	for (u32 i = CONNECTOR; i <= CONNECTOR_C; i++)
		fds[i] = (s32)must("socket", call(SYS_SOCKET, AF_UNIX, AF_STREAM | O_CLOEXEC, 0, 0, 0, 0));
	must("pipe2", call(SYS_PIPE2, (u64)&fds[PIPE_READ], O_CLOEXEC, 0, 0, 0, 0));
	fds[EVENTFD] = (s32)must("eventfd", call(SYS_EVENTFD2, 0, O_CLOEXEC, 0, 0, 0, 0));

	/* A device's files do not grow: nor do these. */
	must("ignore SIGXFSZ", call(SYS_RT_SIGACTION, SIGXFSZ, (u64)&ignore, 0, 8, 0, 0));
	must("limit the size of files", call(SYS_SETRLIMIT, RLIMIT_FSIZE, (u64)limit, 0, 0, 0, 0));
}

void program(void)
{
	static const char *const words[] = { "pass", "fail", "skip" };
	static struct test t;
	const char *only = argument("case");
	u32 failed = 0;

	info.tsc_khz = measure_tsc_khz();
	make_things();
	arena = (u8 *)must("memory", call(SYS_MMAP, 0, ARENA, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS_POPULATE, ~0ull, 0));
	for (u32 i = 0; i < nr_sequences; i++) {
		enum verdict v;

		if (only && !same(only, sequences[i].name))
			continue;
		arena_next = 4096;
		t.rand.state = 1;
		t.detail[0] = t.trace[0] = 0;
		t.deadline = rdtsc() + tsc_of_ms((sequences[i].seconds ? sequences[i].seconds : 60) * 1000ull);
		v = sequences[i].run(&t);
		for (struct host_ring *h = rings; h < &rings[MAX_RINGS]; h++)
			if (h->fd)
				host_ring_close(h);
		failed += v == FAIL;
		say(1, "case %s %s %s\n", sequences[i].name, words[v], t.detail);
		if (v == PASS && t.trace[0])
			say(1, "value trace-%s %s\n", sequences[i].name, t.trace);
	}
	leave(failed ? 1 : 0);
}
