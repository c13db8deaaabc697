/* SPDX-License-Identifier: Apache-2.0 */
/* What the conformance cases are made of. */
#include "conformance.h"

const char *const thing_names[THINGS] = {
	[DISK] = "the disk",
	[DISK_READONLY] = "the disk's read-only twin",
	[FILE_A] = "file",
	[FILE_B] = "file2",
	[FILE_READONLY] = "ro",
	[STREAM_A] = "stream-a",
	[STREAM_B] = "stream-b",
	[DGRAM_A] = "dgram-a",
	[DGRAM_B] = "dgram-b",
	[LISTENER] = "listener",
	[CONNECTOR] = "connector",
	[CONNECTOR_B] = "connector2",
	[CONNECTOR_C] = "connector3",
	[PIPE_READ] = "pipe.read",
	[PIPE_WRITE] = "pipe.write",
	[EVENTFD] = "eventfd",
	[TCP_LISTENER] = "tcp-listener",
};

/* Seconds until a case counts as hung; none works for one. */
#define LIMIT 20

const struct testcase sequences[] = {
	{ "rings-setup", seq_rings_setup, LIMIT },
	{ "rings-enter", seq_rings_enter, LIMIT },
	{ "single-mmap", seq_single_mmap, LIMIT },
	{ "readv-writev", seq_readv_writev, LIMIT },
	{ "read-write", seq_read_write, LIMIT },
	{ "buffers-whole-ram", seq_buffers_whole_ram, LIMIT },
	{ "buffers-chosen", seq_buffers_chosen, LIMIT },
	{ "buffers-update", seq_buffers_update, LIMIT },
	{ "files-fixed", seq_files_fixed, LIMIT },
	{ "files-update", seq_files_update, LIMIT },
	{ "files-unregister-in-flight", seq_files_unregister_in_flight, LIMIT },
	{ "sqpoll-sleep-wake", seq_sqpoll_sleep_wake, LIMIT },
	{ "fsync", seq_fsync, LIMIT },
	{ "fsync-range", seq_fsync_range, LIMIT },
	{ "sync-file-range", seq_sync_file_range, LIMIT },
	{ "poll-add-oneshot", seq_poll_add_oneshot, LIMIT },
	{ "poll-add-multishot", seq_poll_add_multishot, LIMIT },
	{ "poll-remove", seq_poll_remove, LIMIT },
	{ "poll-update", seq_poll_update, LIMIT },
	{ "drain", seq_drain, LIMIT },
	{ "link-read-write", seq_link_read_write, LIMIT },
	{ "link-cancels-rest", seq_link_cancels_rest, LIMIT },
	{ "link-short-read-breaks", seq_link_short_read_breaks, LIMIT },
	{ "link-bad-member", seq_link_bad_member, LIMIT },
	{ "hardlink", seq_hardlink, LIMIT },
	{ "link-timeout", seq_link_timeout, LIMIT },
	{ "eventfd-interrupt", seq_eventfd_interrupt, LIMIT },
	{ "sendmsg-recvmsg", seq_sendmsg_recvmsg, LIMIT },
	{ "sendmsg-recvmsg-datagram", seq_sendmsg_recvmsg_datagram, LIMIT },
	{ "send-recv", seq_send_recv, LIMIT },
	{ "send-recv-datagram", seq_send_recv_datagram, LIMIT },
	{ "accept-connect", seq_accept_connect, LIMIT },
	{ "accept-any-entry", seq_accept_any_entry, LIMIT },
	{ "accept-multishot", seq_accept_multishot, LIMIT },
	{ "timeout", seq_timeout, LIMIT },
	{ "timeout-count", seq_timeout_count, LIMIT },
	{ "timeout-remove", seq_timeout_remove, LIMIT },
	{ "timeout-update", seq_timeout_update, LIMIT },
	{ "cancel", seq_cancel, LIMIT },
	{ "fallocate", seq_fallocate, LIMIT },
	{ "cqe-skip-success", seq_cqe_skip_success, LIMIT },
	{ "pipe", seq_pipe, LIMIT },
	{ "eventfd-read-write", seq_eventfd_read_write, LIMIT },
	{ "close-slot", seq_close_slot, LIMIT },
	{ "refuse-pointer-outside-ram", seq_refuse_pointer_outside_ram, LIMIT },
	{ "iopoll", seq_iopoll, LIMIT },
	{ "shutdown", seq_shutdown, LIMIT }, /* ends the stream pair: last of those that use it */
};
const u32 nr_sequences = ARRAY_SIZE(sequences);

#define FULL_MS 30000 /* no SQ ring is full for so long */
#define KICK_MS 1     /* between two looks whether the other side fell asleep */

struct sqe *push(struct ring *r, u8 opcode, s32 fd, u64 tag)
{
	struct sqe *s = uring_sqe_by(r->uring, rdtsc() + tsc_of_ms(FULL_MS));

	if (!s)
		die("the SQ ring stays full: head %u, tail %u", load_relaxed(r->uring->sq_head), r->uring->tail);
	s->opcode = opcode;
	s->flags = usual_flags(opcode);
	s->fd = fd;
	s->user_data = tag;
	return s;
}

struct sqe *push_rw(struct ring *r, u8 opcode, s32 fd, u64 tag, void *p, u32 len, u64 off)
{
	struct sqe *s = push(r, opcode, fd, tag);

	s->addr = address(r, p);
	s->len = len;
	s->off = off;
	if (opcode == IORING_OP_READ_FIXED || opcode == IORING_OP_WRITE_FIXED)
		s->buf_index = buffer_of(p);
	return s;
}

void submit(struct ring *r)
{
	uring_submit(r->uring);
}

void trace(struct test *t, const char *fmt, ...)
{
	size_t n = strlen(t->trace);
	va_list args;

	if (n && n + 1 < sizeof(t->trace))
		t->trace[n++] = ' ';
	va_start(args, fmt);
	format(t->trace + n, sizeof(t->trace) - n, fmt, args);
	va_end(args);
}

size_t trace_mark(const struct test *t)
{
	return strlen(t->trace);
}

void trace_release(struct test *t, size_t mark)
{
	t->trace[mark] = 0;
}

static void note(struct test *t, const struct cqe *c)
{
	if (c->flags)
		trace(t, "%lu=%d/%x", c->user_data, c->res, c->flags);
	else
		trace(t, "%lu=%d", c->user_data, c->res);
}

/* Wake the other side, from time to time, if it sleeps while SQEs are there. */
static void nudge(struct uring *u, u64 *look)
{
	cpu_relax();
	if (rdtsc() < *look)
		return;
	*look = rdtsc() + tsc_of_ms(KICK_MS);
	if (u->polled && load_relaxed(u->sq_flags) & IORING_SQ_NEED_WAKEUP && load_relaxed(u->sq_head) != u->tail)
		u->kick(u);
}

enum verdict take(struct test *t, struct ring *r, u32 n, enum order order)
{
	struct uring *u = r->uring;
	u64 look = 0;

	REQUIRE(t, n <= MAX_TAKEN, "%u CQEs at once: the case is wrong", n);
	while (uring_ready(u) < n) {
		nudge(u, &look);
		if (expired(t)) {
			u32 ready = uring_ready(u);

			for (u32 i = 0; i < ready && i < MAX_TAKEN; i++)
				note(t, uring_cqe(u, i));
			return fail(t, "%u completions after the time limit, want %u; trace: %s", ready, n, t->trace);
		}
	}
	for (u32 i = 0; i < n; i++) {
		struct cqe c = *uring_cqe(u, i);
		u32 at = i;

		for (; order == ANY_ORDER && at && r->taken[at - 1].user_data > c.user_data; at--)
			r->taken[at] = r->taken[at - 1];
		r->taken[at] = c;
	}
	r->nr_taken = n;
	for (u32 i = 0; i < n; i++)
		note(t, &r->taken[i]);
	uring_advance(u, n);
	t->ios += n;
	return PASS;
}

const struct cqe *taken(const struct ring *r, u64 tag)
{
	for (u32 i = 0; i < r->nr_taken; i++)
		if (r->taken[i].user_data == tag)
			return &r->taken[i];
	return NULL;
}

enum verdict want_result(struct test *t, struct ring *r, const char *what, u64 tag, s32 want)
{
	const struct cqe *c = taken(r, tag);

	REQUIRE(t, c, "%s: no CQE with user data %lu; trace: %s", what, tag, t->trace);
	REQUIRE(t, c->res == want, "%s: result %d, want %d", what, c->res, want);
	return PASS;
}

enum verdict finish_one(struct test *t, struct ring *r, const char *what, s32 want)
{
	u64 tag = r->uring->sqes[(r->uring->tail - 1) & (r->uring->sq_entries - 1)].user_data;

	submit(r);
	TRY(take(t, r, 1, IN_ORDER));
	return want_result(t, r, what, tag, want);
}

enum verdict quiet(struct test *t, struct ring *r, const char *what, u64 ms)
{
	for (u64 look = 0; r->uring->polled && load_acquire(r->uring->sq_head) != r->uring->tail; nudge(r->uring, &look))
		REQUIRE(t, !expired(t), "%s: %u SQEs are not consumed", what, r->uring->tail - load_relaxed(r->uring->sq_head));
	for (u64 until = rdtsc() + tsc_of_ms(ms); rdtsc() < until; cpu_relax())
		REQUIRE(t, !uring_ready(r->uring), "%s: a completion of %lu with result %d, want none", what, uring_cqe(r->uring, 0)->user_data,
			uring_cqe(r->uring, 0)->res);
	return PASS;
}

enum verdict transfer(struct test *t, struct ring *r, u8 opcode, s32 fd, void *p, u32 len, u64 off, s32 want)
{
	static const char *const names[] = {
		[IORING_OP_READV] = "READV", [IORING_OP_WRITEV] = "WRITEV", [IORING_OP_READ_FIXED] = "READ_FIXED",
		[IORING_OP_WRITE_FIXED] = "WRITE_FIXED", [IORING_OP_READ] = "READ", [IORING_OP_WRITE] = "WRITE",
		[IORING_OP_SEND] = "SEND", [IORING_OP_RECV] = "RECV",
	};

	push_rw(r, opcode, fd, opcode, p, len, off);
	return finish_one(t, r, names[opcode], want);
}

void pattern(void *p, u64 n, u64 seed)
{
	struct rand rand = { seed };
	u8 *to = p;

	for (u64 i = 0; i < n; i++)
		to[i] = (u8)rand_next(&rand);
}
