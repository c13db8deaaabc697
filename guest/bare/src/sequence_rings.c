/* SPDX-License-Identifier: Apache-2.0 */
/* Conformance: rings, buffers, files, the polling thread, interrupts. */
#include "conformance.h"

/* n NOPs, one after the other. */
static enum verdict nops(struct test *t, struct ring *r, u32 n)
{
	for (u32 i = 0; i < n; i++) {
		push(r, IORING_OP_NOP, 0, i + 1);
		TRY(finish_one(t, r, "NOP", 0));
	}
	return PASS;
}

CASE(seq_rings_setup)
{
	static const struct {
		u32 sq, cq, want_sq, want_cq;
	} sizes[] = { { 1, 0, 1, 2 }, { 3, 0, 4, 8 }, { 64, 0, 64, 128 }, { 8, 8, 8, 8 }, { 8, 9, 8, 16 } };
	struct ring r;

	for (u32 i = 0; i < ARRAY_SIZE(sizes); i++) {
		const struct uringpv_params *p = &r.params;
		u64 mark = mem_mark();

		TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, .sq_entries = sizes[i].sq, .cq_entries = sizes[i].cq }));
		REQUIRE(t, p->sq_entries == sizes[i].want_sq && p->cq_entries == sizes[i].want_cq,
			"%u and %u entries asked for: %u and %u", sizes[i].sq,
			sizes[i].cq, p->sq_entries, p->cq_entries);
		trace(t, "%u/%u", p->sq_entries, p->cq_entries);
		TRY(nops(t, &r, 3));
		REQUIRE(t, !ring_close(&r), "a ring does not end");
		mem_release(mark);
	}
	return pass(t, "%u rings of 1 to 64 entries, entry counts rounded as io_uring rounds them", (u32)ARRAY_SIZE(sizes));
}

/* What io_uring_enter(2) does: consume so many SQEs and no more, flush what
 * overflowed. */
CASE(seq_rings_enter)
{
	struct want w = { .on = EXPORTS, .sq_entries = 8, .cq_entries = 8, .enter = true };
	struct ring r;
	bool early;

	TRY(ring_open(t, &r, &w));
	early = consumes_early(&r);
	for (u32 i = 1; i <= 4; i++)
		push(&r, IORING_OP_NOP, 0, i);
	store_release(r.uring->sq_tail, r.uring->tail);
	if (!early)
		TRY(quiet(t, &r, "before RING_ENTER", 5));
	REQUIRE(t, !ring_enter(&r, 3, 0), "RING_ENTER of 3 SQEs fails");
	TRY(take(t, &r, 3, ANY_ORDER));
	if (!early)
		TRY(quiet(t, &r, "RING_ENTER of 3 of 4 SQEs", 5));
	REQUIRE(t, !ring_enter(&r, 5, 0), "RING_ENTER of the rest fails");
	TRY(take(t, &r, 1, ANY_ORDER));
	TRY(want_result(t, &r, "the fourth NOP", 4, 0));
	REQUIRE(t, !ring_close(&r), "a ring does not end");

	/* A polled ring: 16 CQEs for 8 places. */
	w.enter = false;
	TRY(ring_open(t, &r, &w));
	for (u32 i = 1; i <= 16; i++) {
		push(&r, IORING_OP_NOP, 0, i);
		submit(&r);
	}
	while (!(load_relaxed(r.uring->sq_flags) & IORING_SQ_CQ_OVERFLOW)) {
		cpu_relax();
		REQUIRE(t, !expired(t), "16 NOPs for a CQ ring of 8, and no overflow flag");
	}
	TRY(take(t, &r, 8, ANY_ORDER));
	for (u32 got = 8; got < 16;) {
		u32 n;

		REQUIRE(t, !ring_enter(&r, 0, IORING_ENTER_GETEVENTS | (r.uring->polled ? IORING_ENTER_SQ_WAKEUP : 0)),
			"RING_ENTER with GETEVENTS fails");
		while (!(n = uring_ready(r.uring))) {
			cpu_relax();
			REQUIRE(t, !expired(t), "%u of 16 completions after RING_ENTER with GETEVENTS", got);
			if (load_relaxed(r.uring->sq_flags) & IORING_SQ_CQ_OVERFLOW)
				break;
		}
		TRY(take(t, &r, MIN(n, 8), ANY_ORDER));
		got += MIN(n, 8);
	}
	TRY(quiet(t, &r, "after the last", 2));
	return pass(t, "%s; GETEVENTS flushes 8 CQEs that overflowed",
		early ? "every ring is polled, to_submit may be exceeded" : "to_submit is exact");
}

CASE(seq_single_mmap)
{
	const struct uringpv_params *p;
	u64 sq_end, cq_end;
	struct ring r;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS }));
	p = &r.params;
	REQUIRE(t, p->features & IORING_FEAT_SINGLE_MMAP, "features %x", p->features);
	sq_end = r.uring->sq_array ? p->sq_off.array + 4ul * p->sq_entries : p->sq_off.dropped + 4ul;
	cq_end = p->cq_off.cqes + 16ul * p->cq_entries;
	REQUIRE(t, MAX(sq_end, cq_end) <= URINGPV_RINGS_SIZE(p->sq_entries, p->cq_entries),
		"the rings end at %lu: one region of %lu bytes was to hold them",
		MAX(sq_end, cq_end), URINGPV_RINGS_SIZE(p->sq_entries, p->cq_entries));
	/* Two pointers from one base: what the offsets name is what the other side uses. */
	REQUIRE(t, *(u32 *)((u8 *)r.uring->sq_head + (s64)p->sq_off.ring_entries - p->sq_off.head) == p->sq_entries &&
			   *(u32 *)((u8 *)r.uring->sq_head + (s64)p->cq_off.ring_entries - p->sq_off.head) == p->cq_entries,
		"the entry counts are not at the offsets returned");
	TRY(nops(t, &r, 8));
	REQUIRE(t, load_acquire((u32 *)((u8 *)r.uring->sq_head + (s64)p->cq_off.tail - p->sq_off.head)) == 8,
		"the CQ tail is not at its offset");
	return pass(t, "SQ and CQ ring in one region of %lu bytes", MAX(sq_end, cq_end));
}

/* ---- buffers ---- */

CASE(seq_buffers_whole_ram)
{
	struct ring r;
	struct area all = whole_buffer();
	u8 *last = (u8 *)all.addr + all.len - 4096, *in = alloc(4096), *first = all.addr;
	s32 file;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED), USES(FILE_A) }));
	file = r.slots[FILE_A];
	pattern(last, 4096, 12);
	TRY(transfer(t, &r, IORING_OP_WRITE_FIXED, file, last, 4096, 0, 4096));
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, file, in, 4096, 0, 4096));
	REQUIRE(t, !memcmp(in, last, 4096), "the last page of the buffer was not what was written");
	/* A guest's own first page is where null points: no look at it from here. */
	TRY(transfer(t, &r, IORING_OP_WRITE_FIXED, file, first, 4096, 4096, 4096));
	for (u32 i = 0; i < 2; i++) {
		push_rw(&r, IORING_OP_WRITE_FIXED, file, 7 + i, last + 4095 + i, 2, 0)->buf_index = 0;
		TRY(finish_one(t, &r, "beyond the buffer's end", -EFAULT));
	}
	push_rw(&r, IORING_OP_READ_FIXED, file, 9, in, 512, 0)->buf_index = 60000;
	TRY(finish_one(t, &r, "a buffer that is not in the table", -EFAULT));
	return pass(t, "first and last page of a buffer of %lu MiB; past its end -EFAULT", all.len >> 20);
}

CASE(seq_buffers_chosen)
{
	struct ring r;
	u8 *p = alloc(3 * 65536);
	struct area chosen[] = { { p, 65536 }, { p + 65536, 65536 } };
	struct sqe *s;
	s32 file;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED), USES(FILE_A),
						     .buffers = chosen, .nr_buffers = 2 }));
	file = r.slots[FILE_A];
	pattern(p, 65536, 11);
	for (u32 i = 0; i < 2; i++) { /* out by one, in by the other */
		s = push_rw(&r, i ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED, file, 1 + i, chosen[i].addr, 65536, 0);
		s->buf_index = (u16)i;
		TRY(finish_one(t, &r, "the whole of a chosen buffer", 65536));
	}
	REQUIRE(t, !memcmp(p, p + 65536, 65536), "the two buffers differ");
	for (u32 i = 0; i < 2; i++) {
		push_rw(&r, IORING_OP_READ_FIXED, file, 3 + i, p + 65536 - 512, 1024, 0)->buf_index = (u16)i;
		TRY(finish_one(t, &r, "across two buffers", -EFAULT));
	}
	push_rw(&r, IORING_OP_READ_FIXED, file, 5, p, 512, 0)->buf_index = 1;
	TRY(finish_one(t, &r, "buffer 0 by index 1", -EFAULT));
	push_rw(&r, IORING_OP_READ_FIXED, file, 6, p + 2 * 65536, 512, 0)->buf_index = 0;
	TRY(finish_one(t, &r, "memory that is no buffer", -EFAULT));
	push_rw(&r, IORING_OP_READ_FIXED, file, 7, p, 512, 0)->buf_index = 2;
	TRY(finish_one(t, &r, "a third buffer", -EFAULT));
	return pass(t, "2 buffers of 64 KiB; 5 accesses outside them are -EFAULT");
}

CASE(seq_buffers_update)
{
	struct ring r;
	u8 *p = alloc(4 * 65536);
	struct area chosen[] = { { p, 65536 }, { p + 65536, 65536 } };
	struct area other = { p + 2 * 65536, 65536 }, none = { 0 };
	s32 file, error;

#define READ_AT(what, index, where, tag, want) \
	do { \
		push_rw(&r, IORING_OP_READ_FIXED, file, tag, where, 4096, 0)->buf_index = index; \
		TRY(finish_one(t, &r, what, want)); \
	} while (0)

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READ_FIXED), USES(FILE_A), .buffers = chosen, .nr_buffers = 2 }));
	file = r.slots[FILE_A];
	READ_AT("a range before it is a buffer", 1, other.addr, 1, -EFAULT);
	READ_AT("the buffer before the update", 1, chosen[1].addr, 2, 4096);
	error = ring_buffers(&r, true, 1, &other, 1);
	REQUIRE(t, !error, "BUFFERS_UPDATE: %d", error);
	READ_AT("the range that is a buffer now", 1, other.addr, 3, 4096);
	READ_AT("the buffer that is none any more", 1, chosen[1].addr, 4, -EFAULT);
	READ_AT("the other buffer", 0, chosen[0].addr, 5, 4096);
	error = ring_buffers(&r, true, 1, &none, 1);
	REQUIRE(t, !error, "BUFFERS_UPDATE with no buffer: %d", error);
	READ_AT("an entry that was emptied", 1, other.addr, 6, -EFAULT);
	REQUIRE(t, ring_buffers(&r, true, 2, &other, 1) == -EINVAL, "BUFFERS_UPDATE past the table's end");
	REQUIRE(t, ring_buffers(&r, false, 0, &other, 1) == -EBUSY, "REGISTER_BUFFERS of a ring that has buffers");
	error = ring_register(&r, IORING_UNREGISTER_BUFFERS);
	REQUIRE(t, !error, "UNREGISTER_BUFFERS: %d", error);
	READ_AT("a buffer that was unregistered", 0, chosen[0].addr, 7, -EFAULT);
	REQUIRE(t, ring_register(&r, IORING_UNREGISTER_BUFFERS) == -ENXIO, "UNREGISTER_BUFFERS twice");
	error = ring_buffers(&r, false, 0, &other, 1);
	REQUIRE(t, !error, "REGISTER_BUFFERS: %d", error);
	READ_AT("a buffer that was registered again", 0, other.addr, 8, 4096);
	READ_AT("an old buffer", 0, chosen[0].addr, 9, -EFAULT);
#undef READ_AT
	return pass(t, "update, empty, unregister, register: -EFAULT before, 4096 bytes after");
}

/* ---- files ---- */

CASE(seq_files_fixed)
{
	struct ring r;
	u8 *out = alloc(4096), *in = alloc(4096);

	pattern(out, 4096, 21);
	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED), USES(FILE_A, FILE_B),
					     FILES(FILE_B, FILE_A) }));
	TRY(transfer(t, &r, IORING_OP_WRITE_FIXED, 1, out, 4096, 8192, 4096));
	TRY(transfer(t, &r, IORING_OP_WRITE_FIXED, 0, in, 4096, 8192, 4096));
	TRY(transfer(t, &r, IORING_OP_WRITE_FIXED, 2, out, 4096, 8192, -EBADF));
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, -1, in, 4096, 8192, -EBADF));
	REQUIRE(t, !ring_close(&r), "a ring does not end");
	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED), USES(FILE_A) }));
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, r.slots[FILE_A], in, 4096, 8192, 4096));
	REQUIRE(t, !memcmp(in, out, 4096), "entry 1 of a ring with the files (file2, file) is not file");
	return pass(t, "a ring of 2 chosen files; entries past them are -EBADF");
}

CASE(seq_files_update)
{
	struct ring r;
	u8 *out = alloc(4096), *in = alloc(4096);
	s32 slot, error;

	pattern(out, 4096, 22);
	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED), USES(FILE_A, FILE_B),
					     FILES(FILE_A), .empty = 3 }));
	slot = (s32)r.first_empty;
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, slot, in, 4096, 0, -EBADF));
	error = ring_files(&r, (u32)slot, LIST(enum thing, FILE_B, FILE_A), 2);
	REQUIRE(t, error >= 0, "FILES_UPDATE: %d", error);
	TRY(transfer(t, &r, IORING_OP_WRITE_FIXED, slot + 1, out, 4096, 0, 4096));
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, 0, in, 4096, 0, 4096));
	REQUIRE(t, !memcmp(in, out, 4096), "the entry that was filled in is not the file that was named");
	error = ring_files(&r, (u32)slot, LIST(enum thing, NOTHING, UNCHANGED), 2);
	REQUIRE(t, error >= 0, "FILES_UPDATE that empties and keeps: %d", error);
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, slot, in, 4096, 0, -EBADF));
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, slot + 1, in, 4096, 0, 4096));
	REQUIRE(t, ring_files(&r, (u32)slot + 2, LIST(enum thing, FILE_A, FILE_A), 2) == -EINVAL, "FILES_UPDATE past the table's end");
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, slot + 2, in, 4096, 0, -EBADF));
	return pass(t, "an empty entry was -EBADF, filled, used, emptied, -EBADF again");
}

/* A request keeps its file when the table lets go of it. */
CASE(seq_files_unregister_in_flight)
{
	struct ring r, w;
	u8 *p = alloc(4096);
	s32 error;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_POLL_ADD, IORING_OP_RECV), USES(PIPE_READ, PIPE_WRITE,
						     STREAM_A, STREAM_B) }));
	TRY(ring_open(t, &w, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READ, IORING_OP_WRITE, IORING_OP_SEND) }));
	push(&r, IORING_OP_POLL_ADD, r.slots[PIPE_READ], 1)->op_flags = POLLIN;
	push_rw(&r, IORING_OP_RECV, r.slots[STREAM_A], 2, p, 100, 0);
	submit(&r);
	TRY(quiet(t, &r, "with nothing to read", 20));
	error = ring_register(&r, IORING_UNREGISTER_FILES);
	REQUIRE(t, !error, "UNREGISTER_FILES with requests in flight: %d", error);
	push(&r, IORING_OP_POLL_ADD, r.slots[PIPE_READ], 3)->op_flags = POLLIN;
	TRY(finish_one(t, &r, "a file that was unregistered", -EBADF));
	TRY(transfer(t, &w, IORING_OP_WRITE, w.slots[PIPE_WRITE], p + 1000, 10, 0, 10));
	TRY(take(t, &r, 1, IN_ORDER));
	TRY(want_result(t, &r, "POLL_ADD on a file that was unregistered meanwhile", 1, POLLIN));
	TRY(transfer(t, &w, IORING_OP_SEND, w.slots[STREAM_B], p + 1000, 20, 0, 20));
	TRY(take(t, &r, 1, IN_ORDER));
	TRY(want_result(t, &r, "RECV on a file that was unregistered meanwhile", 2, 20));
	TRY(transfer(t, &w, IORING_OP_READ, w.slots[PIPE_READ], p, 100, 0, 10));
	return pass(t, "POLL_ADD and RECV in flight complete after UNREGISTER_FILES; a new request is -EBADF");
}

/* ---- the polling thread ---- */

CASE(seq_sqpoll_sleep_wake)
{
	struct ring r;
	u32 rounds = 10, slept = 0;

	TRY(ring_open(t, &r, &(struct want){ .on = DISKS, .idle_ms = 1 }));
	REQUIRE(t, r.uring->polled, "the device refuses IORING_SETUP_SQPOLL");
	for (u32 i = 0; i < rounds; i++) {
		while (!(load_relaxed(r.uring->sq_flags) & IORING_SQ_NEED_WAKEUP)) {
			cpu_relax();
			REQUIRE(t, !expired(t), "idle time 1 ms, and the host polls on and on");
		}
		/* It looks once more before it sleeps; and now and then a device looks
		 * after its rings. */
		spin_ms(3);
		push(&r, IORING_OP_NOP, 0, i + 1);
		store_release(r.uring->sq_tail, r.uring->tail);
		full_barrier();
		spin_ms(3);
		slept += !uring_ready(r.uring); /* nobody told it */
		r.uring->kick(r.uring);
		TRY(take(t, &r, 1, IN_ORDER));
		TRY(want_result(t, &r, "NOP after the doorbell", i + 1, 0));
	}
	REQUIRE(t, slept > rounds / 2, "of %u requests without a doorbell %u waited for one, though IORING_SQ_NEED_WAKEUP was set",
		rounds, slept);
	return pass(t, "asleep after 1 ms, woken by the doorbell, %u times", rounds);
}

/* It looks for completions on the file's device, too. */
CASE(seq_iopoll)
{
	enum { N = 16, BLOCK = 4096 };
	struct ring r;
	u8 *out = alloc(N * BLOCK), *in = alloc(N * BLOCK);

	TRY(disk_polls(t));
	TRY(ring_open(t, &r, &(struct want){ .on = DISKS, .flags = IORING_SETUP_IOPOLL }));
	pattern(out, N * BLOCK, 5);
	for (u32 i = 0; i < N; i++)
		TRY(transfer(t, &r, IORING_OP_WRITE_FIXED, r.slots[DISK], out + i * BLOCK, BLOCK, i * BLOCK, BLOCK));
	for (u32 i = 0; i < N; i++)
		push_rw(&r, IORING_OP_READ_FIXED, r.slots[DISK], i + 1, in + i * BLOCK, BLOCK, i * BLOCK);
	submit(&r);
	TRY(take(t, &r, N, ANY_ORDER));
	for (u32 i = 0; i < N; i++)
		TRY(want_result(t, &r, "READ_FIXED", i + 1, BLOCK));
	REQUIRE(t, !memcmp(in, out, N * BLOCK), "other bytes were read than were written");
	push(&r, IORING_OP_FSYNC, r.slots[DISK], 20);
	TRY(finish_one(t, &r, "FSYNC on a polled ring", -EINVAL));
	push(&r, IORING_OP_NOP, 0, 21);
	TRY(finish_one(t, &r, "NOP on a polled ring", 0));
	return pass(t, "%u writes and as many reads at once, polled for; FSYNC is -EINVAL", (u32)N);
}

/* ---- interrupts ---- */

static enum verdict interrupt_for(struct test *t, struct ring *r, u64 tag)
{
	u32 seen = interrupts(r);

	push(r, IORING_OP_NOP, 0, tag);
	submit(r);
	while (interrupts(r) == seen) {
		REQUIRE(t, !expired(t), "%u completions and no interrupt", uring_ready(r->uring));
		sleep_for_interrupt(r, seen);
	}
	TRY(take(t, r, 1, IN_ORDER));
	return want_result(t, r, "NOP", tag, 0);
}

static enum verdict no_interrupt_for(struct test *t, struct ring *r, const char *why, u64 tag)
{
	u32 seen = interrupts(r);

	push(r, IORING_OP_NOP, 0, tag);
	TRY(finish_one(t, r, "NOP", 0));
	spin_ms(20);
	REQUIRE(t, interrupts(r) == seen, "an interrupt %s", why);
	return PASS;
}

CASE(seq_eventfd_interrupt)
{
	struct ring r;
	s32 error;
	u32 n = 0;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, .interrupts = true }));
	for (; n < 10; n++)
		TRY(interrupt_for(t, &r, n + 1));
	store_release(r.uring->cq_flags, IORING_CQ_EVENTFD_DISABLED);
	full_barrier();
	TRY(no_interrupt_for(t, &r, "though IORING_CQ_EVENTFD_DISABLED is set", 20));
	store_release(r.uring->cq_flags, 0);
	full_barrier();
	TRY(interrupt_for(t, &r, 21));
	REQUIRE(t, ring_eventfd(&r) == -EBUSY, "REGISTER_EVENTFD of a ring that has one");
	error = ring_register(&r, IORING_UNREGISTER_EVENTFD);
	REQUIRE(t, !error, "UNREGISTER_EVENTFD: %d", error);
	TRY(no_interrupt_for(t, &r, "after UNREGISTER_EVENTFD", 22));
	REQUIRE(t, ring_register(&r, IORING_UNREGISTER_EVENTFD) == -ENXIO, "UNREGISTER_EVENTFD twice");
	error = ring_eventfd(&r);
	REQUIRE(t, !error, "REGISTER_EVENTFD: %d", error);
	TRY(interrupt_for(t, &r, 23));
	return pass(t, "%u completions interrupted, masked and unregistered ones did not", n + 2);
}
