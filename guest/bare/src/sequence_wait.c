/* SPDX-License-Identifier: Apache-2.0 */
/* Conformance: polls, timeouts, cancellation. */
#include "conformance.h"

/* A second ring of the same device, to make things happen to the first. */
static enum verdict other(struct test *t, struct ring *w)
{
	return ring_open(t, w, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READ, IORING_OP_WRITE), USES(EVENTFD, PIPE_READ, PIPE_WRITE) });
}

/* Add to the eventfd, and take what is in it. */
static enum verdict signal(struct test *t, struct ring *w, u64 *eight, u64 n)
{
	*eight = n;
	return transfer(t, w, IORING_OP_WRITE, w->slots[EVENTFD], eight, 8, 0, 8);
}

static enum verdict drained(struct test *t, struct ring *w, u64 *eight, u64 want)
{
	TRY(transfer(t, w, IORING_OP_READ, w->slots[EVENTFD], eight, 8, 0, 8));
	REQUIRE(t, *eight == want, "the eventfd held %lu, want %lu", *eight, want);
	return PASS;
}

static void poll_add(struct ring *r, enum thing what, u64 tag, u32 events, u32 flags)
{
	struct sqe *s = push(r, IORING_OP_POLL_ADD, r->slots[what], tag);

	s->op_flags = events;
	s->len = flags;
}

static struct sqe *poll_remove(struct ring *r, u64 tag, u64 target, u32 flags)
{
	struct sqe *s = push(r, IORING_OP_POLL_REMOVE, 0, tag);

	s->addr = target;
	s->len = flags;
	return s;
}

CASE(seq_poll_add_oneshot)
{
	struct ring r, w;
	u64 *eight = alloc(4096);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_POLL_ADD), USES(EVENTFD, PIPE_READ, PIPE_WRITE) }));
	TRY(other(t, &w));
	poll_add(&r, EVENTFD, 1, POLLIN, 0);
	submit(&r);
	TRY(quiet(t, &r, "a poll of an empty eventfd", 20));
	TRY(signal(t, &w, eight, 1));
	TRY(take(t, &r, 1, IN_ORDER));
	TRY(want_result(t, &r, "POLL_ADD of the eventfd", 1, POLLIN));
	TRY(signal(t, &w, eight, 1));
	TRY(quiet(t, &r, "one shot is one completion", 20));
	poll_add(&r, EVENTFD, 2, POLLIN | POLLOUT, 0);
	TRY(finish_one(t, &r, "POLL_ADD of what is ready", POLLIN | POLLOUT));
	TRY(drained(t, &w, eight, 2));

	poll_add(&r, PIPE_WRITE, 3, POLLOUT, 0);
	TRY(finish_one(t, &r, "POLL_ADD of a pipe with room", POLLOUT));
	poll_add(&r, PIPE_READ, 4, POLLIN, 0);
	submit(&r);
	TRY(quiet(t, &r, "a poll of an empty pipe", 20));
	TRY(transfer(t, &w, IORING_OP_WRITE, w.slots[PIPE_WRITE], eight, 8, 0, 8));
	TRY(take(t, &r, 1, IN_ORDER));
	TRY(want_result(t, &r, "POLL_ADD of the pipe", 4, POLLIN));
	TRY(transfer(t, &w, IORING_OP_READ, w.slots[PIPE_READ], eight, 64, 0, 8));
	return pass(t, "eventfd and pipe: nothing before there is data, POLLIN then, once");
}

CASE(seq_poll_add_multishot)
{
	struct ring r, w;
	u64 *eight = alloc(4096);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE), USES(EVENTFD) }));
	TRY(other(t, &w));
	poll_add(&r, EVENTFD, 1, POLLIN, IORING_POLL_ADD_MULTI);
	submit(&r);
	TRY(quiet(t, &r, "a poll of an empty eventfd", 10));
	for (u32 i = 0; i < 3; i++) {
		TRY(signal(t, &w, eight, 1));
		TRY(take(t, &r, 1, IN_ORDER));
		TRY(want_result(t, &r, "a multishot POLL_ADD", 1, POLLIN));
		REQUIRE(t, r.taken[0].flags & IORING_CQE_F_MORE, "shot %u: CQE flags %x, no IORING_CQE_F_MORE", i + 1, r.taken[0].flags);
		TRY(drained(t, &w, eight, 1));
		TRY(quiet(t, &r, "between two shots", 5));
	}
	poll_remove(&r, 2, 1, 0);
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "the multishot POLL_ADD when removed", 1, -ECANCELED));
	TRY(want_result(t, &r, "POLL_REMOVE", 2, 0));
	REQUIRE(t, !(taken(&r, 1)->flags & IORING_CQE_F_MORE), "the last CQE promises more");
	TRY(signal(t, &w, eight, 1));
	TRY(quiet(t, &r, "after POLL_REMOVE", 10));
	TRY(drained(t, &w, eight, 1));
	return pass(t, "3 shots with IORING_CQE_F_MORE, then -ECANCELED without");
}

CASE(seq_poll_remove)
{
	struct ring r;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE, IORING_OP_NOP),
						     USES(EVENTFD, PIPE_READ) }));
	poll_add(&r, EVENTFD, 1, POLLIN, 0);
	poll_add(&r, PIPE_READ, 2, POLLIN, 0);
	submit(&r);
	TRY(quiet(t, &r, "two polls", 10));
	poll_remove(&r, 3, 2, 0);
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "the poll that is removed", 2, -ECANCELED));
	TRY(want_result(t, &r, "POLL_REMOVE", 3, 0));
	poll_remove(&r, 4, 2, 0);
	TRY(finish_one(t, &r, "POLL_REMOVE of what is gone", -ENOENT));
	poll_remove(&r, 5, 77, 0);
	TRY(finish_one(t, &r, "POLL_REMOVE of what never was", -ENOENT));
	push(&r, IORING_OP_NOP, 0, 6);
	TRY(finish_one(t, &r, "POLL_REMOVE of what is no poll, before", 0));
	poll_remove(&r, 7, 6, 0);
	TRY(finish_one(t, &r, "POLL_REMOVE of what is no poll", -ENOENT));
	poll_remove(&r, 8, 1, 0);
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "the other poll", 1, -ECANCELED));
	TRY(want_result(t, &r, "POLL_REMOVE", 8, 0));
	return pass(t, "the one named is -ECANCELED, the other stays; a second time -ENOENT");
}

CASE(seq_poll_update)
{
	struct ring r, w;
	struct sqe *s;
	u64 *eight = alloc(4096);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE), USES(EVENTFD, PIPE_READ) }));
	TRY(other(t, &w));
	/* Other events: POLLPRI (2) never comes, POLLIN does. */
	poll_add(&r, EVENTFD, 1, 2, 0);
	submit(&r);
	TRY(signal(t, &w, eight, 1));
	TRY(quiet(t, &r, "a poll for POLLPRI", 10));
	poll_remove(&r, 2, 1, IORING_POLL_UPDATE_EVENTS)->op_flags = POLLIN;
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "the poll whose events were updated", 1, POLLIN));
	TRY(want_result(t, &r, "POLL_REMOVE that updates the events", 2, 0));
	TRY(drained(t, &w, eight, 1));

	/* Other user data. */
	poll_add(&r, EVENTFD, 3, POLLIN, 0);
	submit(&r);
	TRY(quiet(t, &r, "a poll of an empty eventfd", 5));
	s = poll_remove(&r, 4, 3, IORING_POLL_UPDATE_USER_DATA);
	s->off = 33;
	TRY(finish_one(t, &r, "POLL_REMOVE that updates user data", 0));
	poll_remove(&r, 5, 3, 0);
	TRY(finish_one(t, &r, "the old user data", -ENOENT));
	TRY(signal(t, &w, eight, 1));
	TRY(take(t, &r, 1, IN_ORDER));
	TRY(want_result(t, &r, "the poll whose user data was updated", 33, POLLIN));
	TRY(drained(t, &w, eight, 1));
	poll_remove(&r, 6, 3, IORING_POLL_UPDATE_EVENTS)->op_flags = POLLIN;
	TRY(finish_one(t, &r, "an update of what is gone", -ENOENT));
	return pass(t, "events and user data of a waiting poll were changed");
}

/* ---- timeouts ---- */

static struct sqe *timeout(struct ring *r, u64 tag, struct timespec *ts, u64 count, u32 flags)
{
	struct sqe *s = push_rw(r, IORING_OP_TIMEOUT, 0, tag, ts, 1, count);

	s->op_flags = flags;
	return s;
}

CASE(seq_timeout)
{
	struct ring r;
	struct timespec *ts = alloc(4096);
	u64 start, ms;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_TIMEOUT) }));
	ts[0] = (struct timespec){ 0, 150000000 };
	ts[1] = (struct timespec){ 0, 10000000 };
	ts[2] = (struct timespec){ 0, 1 };
	ts[3] = (struct timespec){ -1, 0 };
	start = rdtsc();
	timeout(&r, 1, &ts[0], 0, 0);
	timeout(&r, 2, &ts[1], 0, 0);
	submit(&r);
	TRY(take(t, &r, 2, IN_ORDER));
	ms = (rdtsc() - start) / boot->tsc_khz;
	REQUIRE(t, r.taken[0].user_data == 2 && r.taken[1].user_data == 1, "10 ms after 150 ms");
	TRY(want_result(t, &r, "TIMEOUT of 10 ms", 2, -ETIME));
	TRY(want_result(t, &r, "TIMEOUT of 150 ms", 1, -ETIME));
	REQUIRE(t, ms >= 150, "150 ms were over after %lu ms", ms);
	timeout(&r, 3, &ts[2], 0, IORING_TIMEOUT_ABS);
	TRY(finish_one(t, &r, "an absolute time that is past", -ETIME));
	timeout(&r, 4, &ts[3], 0, 0);
	TRY(finish_one(t, &r, "a negative time", -EINVAL));
	timeout(&r, 5, &ts[0], 0, 0x8000);
	TRY(finish_one(t, &r, "an unknown flag", -EINVAL));
	timeout(&r, 6, &ts[0], 0, 0)->len = 2;
	TRY(finish_one(t, &r, "two timespecs", -EINVAL));
	return pass(t, "10 ms before 150 ms, both over after %lu ms; an absolute time that is past fires", ms);
}

CASE(seq_timeout_count)
{
	struct ring r;
	struct timespec *ts = alloc(4096);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_TIMEOUT, IORING_OP_NOP) }));
	ts[0] = (struct timespec){ 100, 0 };
	timeout(&r, 1, &ts[0], 3, 0);
	submit(&r);
	for (u32 i = 0; i < 2; i++) {
		push(&r, IORING_OP_NOP, 0, 10 + i);
		TRY(finish_one(t, &r, "NOP", 0));
	}
	TRY(quiet(t, &r, "after 2 of 3 completions", 10));
	push(&r, IORING_OP_NOP, 0, 12);
	submit(&r);
	TRY(take(t, &r, 2, IN_ORDER));
	TRY(want_result(t, &r, "the third NOP", 12, 0));
	TRY(want_result(t, &r, "TIMEOUT that waits for 3 completions", 1, 0));
	REQUIRE(t, r.taken[1].user_data == 1, "the timeout completed before what it waited for");
	return pass(t, "a timeout of 100 s ends with 0 right after the third completion");
}

CASE(seq_timeout_remove)
{
	struct ring r;
	struct timespec *ts = alloc(4096);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_TIMEOUT, IORING_OP_TIMEOUT_REMOVE) }));
	ts[0] = (struct timespec){ 100, 0 };
	timeout(&r, 1, &ts[0], 0, 0);
	timeout(&r, 2, &ts[0], 0, 0);
	submit(&r);
	TRY(quiet(t, &r, "two timeouts of 100 s", 10));
	push(&r, IORING_OP_TIMEOUT_REMOVE, 0, 3)->addr = 2;
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "the timeout that is removed", 2, -ECANCELED));
	TRY(want_result(t, &r, "TIMEOUT_REMOVE", 3, 0));
	push(&r, IORING_OP_TIMEOUT_REMOVE, 0, 4)->addr = 2;
	TRY(finish_one(t, &r, "TIMEOUT_REMOVE of what is gone", -ENOENT));
	push(&r, IORING_OP_TIMEOUT_REMOVE, 0, 5)->addr = 1;
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "the other timeout", 1, -ECANCELED));
	TRY(want_result(t, &r, "TIMEOUT_REMOVE", 5, 0));
	return pass(t, "the one named is -ECANCELED, the other stays; a second time -ENOENT");
}

CASE(seq_timeout_update)
{
	struct ring r;
	struct timespec *ts = alloc(4096);
	struct sqe *s;
	u64 start;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_TIMEOUT, IORING_OP_TIMEOUT_REMOVE) }));
	ts[0] = (struct timespec){ 100, 0 };
	ts[1] = (struct timespec){ 0, 20000000 };
	timeout(&r, 1, &ts[0], 0, 0);
	submit(&r);
	TRY(quiet(t, &r, "a timeout of 100 s", 10));
	start = rdtsc();
	s = push(&r, IORING_OP_TIMEOUT_REMOVE, 0, 2);
	s->addr = 1;
	s->off = address(&r, &ts[1]);
	s->op_flags = IORING_TIMEOUT_UPDATE;
	submit(&r);
	TRY(take(t, &r, 2, IN_ORDER));
	TRY(want_result(t, &r, "TIMEOUT_REMOVE that updates", 2, 0));
	TRY(want_result(t, &r, "the timeout, of 20 ms now", 1, -ETIME));
	REQUIRE(t, rdtsc() - start >= tsc_of_ms(20), "it fired before its 20 ms were over");
	s = push(&r, IORING_OP_TIMEOUT_REMOVE, 0, 3);
	s->addr = 1;
	s->off = address(&r, &ts[1]);
	s->op_flags = IORING_TIMEOUT_UPDATE;
	TRY(finish_one(t, &r, "an update of what is gone", -ENOENT));
	return pass(t, "100 s became 20 ms, and fired");
}

/* ---- cancellation ---- */

static struct sqe *cancel(struct ring *r, u64 tag, u64 target, u32 flags)
{
	struct sqe *s = push(r, IORING_OP_ASYNC_CANCEL, 0, tag);

	s->addr = target;
	s->op_flags = flags;
	return s;
}

CASE(seq_cancel)
{
	struct ring r;
	struct timespec *ts = alloc(4096);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_ASYNC_CANCEL, IORING_OP_POLL_ADD, IORING_OP_TIMEOUT),
						     USES(EVENTFD, PIPE_READ) }));
	ts[0] = (struct timespec){ 100, 0 };

	/* By user data: one of them. */
	poll_add(&r, EVENTFD, 1, POLLIN, 0);
	timeout(&r, 2, &ts[0], 0, 0);
	submit(&r);
	TRY(quiet(t, &r, "a poll and a timeout", 10));
	cancel(&r, 10, 2, 0);
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "the timeout by its user data", 2, -ECANCELED));
	TRY(want_result(t, &r, "ASYNC_CANCEL of a timeout", 10, 0));
	cancel(&r, 11, 1, 0);
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "the poll by its user data", 1, -ECANCELED));
	TRY(want_result(t, &r, "ASYNC_CANCEL of a poll", 11, 0));
	cancel(&r, 12, 1, 0);
	TRY(finish_one(t, &r, "ASYNC_CANCEL of what is gone", -ENOENT));

	/* By user data, all of them: the result says how many. */
	for (u32 i = 0; i < 3; i++)
		poll_add(&r, EVENTFD, 5, POLLIN, 0);
	poll_add(&r, PIPE_READ, 6, POLLIN, 0);
	submit(&r);
	TRY(quiet(t, &r, "four polls", 10));
	cancel(&r, 13, 5, IORING_ASYNC_CANCEL_ALL);
	submit(&r);
	TRY(take(t, &r, 4, ANY_ORDER));
	for (u32 i = 0; i < 3; i++)
		REQUIRE(t, r.taken[i].user_data == 5 && r.taken[i].res == -ECANCELED, "ALL: a completion of %lu with %d", r.taken[i].user_data,
			r.taken[i].res);
	TRY(want_result(t, &r, "ASYNC_CANCEL with ALL", 13, 3));

	/* By file. */
	poll_add(&r, EVENTFD, 7, POLLIN, 0);
	submit(&r);
	TRY(quiet(t, &r, "polls of two files", 10));
	cancel(&r, 14, 0, IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_FD_FIXED)->fd = r.slots[PIPE_READ];
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "the poll of the pipe", 6, -ECANCELED));
	TRY(want_result(t, &r, "ASYNC_CANCEL by file", 14, 0));
	cancel(&r, 15, 0, IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_FD_FIXED | IORING_ASYNC_CANCEL_ALL)->fd = r.slots[PIPE_READ];
	TRY(finish_one(t, &r, "ALL by a file without requests", 0));

	/* Whatever there is. */
	poll_add(&r, PIPE_READ, 8, POLLIN, 0);
	submit(&r);
	TRY(quiet(t, &r, "polls of two files", 10));
	cancel(&r, 16, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
	submit(&r);
	TRY(take(t, &r, 3, ANY_ORDER));
	TRY(want_result(t, &r, "one of any", 7, -ECANCELED));
	TRY(want_result(t, &r, "another of any", 8, -ECANCELED));
	TRY(want_result(t, &r, "ASYNC_CANCEL of any, all", 16, 2));
	cancel(&r, 17, 0, 0x8000);
	TRY(finish_one(t, &r, "an unknown flag", -EINVAL));
	return pass(t, "by user data 1, all 3 of it, by file 1, any 2; the rest stays; gone -ENOENT");
}
