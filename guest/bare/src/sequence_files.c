/* SPDX-License-Identifier: Apache-2.0 */
/* Conformance: data of files, and the order of requests. */
#include "conformance.h"

/* iovecs that cut p..p+sum into the lengths given. */
static struct iovec *iovecs(struct ring *r, u8 *p, const u32 *lens, u32 n)
{
	struct iovec *v = alloc(n * sizeof(*v));

	for (u32 i = 0; i < n; p += lens[i++])
		v[i] = (struct iovec){ address(r, p), lens[i] };
	return v;
}

CASE(seq_readv_writev)
{
	static const u32 out_lens[] = { 1, 4095, 5000, 3000, 288 }, in_lens[] = { 7000, 0, 3, 5381 }; /* 12384 each */
	enum { SUM = 12384 };
	struct ring r;
	u8 *out = alloc(SUM), *in = alloc(SUM);
	struct iovec *v;
	s32 file;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READV, IORING_OP_WRITEV), USES(FILE_A) }));
	file = r.slots[FILE_A];
	pattern(out, SUM, 31);
	v = iovecs(&r, out, out_lens, ARRAY_SIZE(out_lens));
	TRY(transfer(t, &r, IORING_OP_WRITEV, file, v, ARRAY_SIZE(out_lens), 777, SUM));
	v = iovecs(&r, in, in_lens, ARRAY_SIZE(in_lens));
	TRY(transfer(t, &r, IORING_OP_READV, file, v, ARRAY_SIZE(in_lens), 777, SUM));
	REQUIRE(t, !memcmp(in, out, SUM), "READV gives other bytes than WRITEV took");
	TRY(transfer(t, &r, IORING_OP_READV, file, v, ARRAY_SIZE(in_lens), FILE_SIZE - 8000, 8000));
	TRY(transfer(t, &r, IORING_OP_READV, file, v, ARRAY_SIZE(in_lens), FILE_SIZE, 0));
	TRY(transfer(t, &r, IORING_OP_READV, file, v, 0, 0, 0));
	TRY(transfer(t, &r, IORING_OP_READV, file, v, 1025, 0, -EINVAL));
	v[1].len = 1ull << 63;
	TRY(transfer(t, &r, IORING_OP_READV, file, v, ARRAY_SIZE(in_lens), 0, -EINVAL));
	return pass(t, "%u bytes by 5 iovecs out, 4 in; short at the file's end; 1025 iovecs are -EINVAL", (u32)SUM);
}

CASE(seq_read_write)
{
	struct ring r;
	u8 *out = alloc(65536), *in = alloc(65536);
	s32 file;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READ, IORING_OP_WRITE), USES(FILE_A, FILE_READONLY) }));
	file = r.slots[FILE_A];
	pattern(out, 65536, 32);
	TRY(transfer(t, &r, IORING_OP_WRITE, file, out, 65536, 4096, 65536));
	TRY(transfer(t, &r, IORING_OP_READ, file, in, 65536, 4096, 65536));
	REQUIRE(t, !memcmp(in, out, 65536), "READ gives other bytes than WRITE took");
	TRY(transfer(t, &r, IORING_OP_READ, r.slots[FILE_READONLY], in, 1001, 4099, 1001));
	REQUIRE(t, !memcmp(in, out + 3, 1001), "the read-only twin gives other bytes");
	TRY(transfer(t, &r, IORING_OP_WRITE, r.slots[FILE_READONLY], out, 512, 0, -EBADF));
	TRY(transfer(t, &r, IORING_OP_READ, file, in, 65536, FILE_SIZE - 100, 100));
	TRY(transfer(t, &r, IORING_OP_READ, file, in, 65536, FILE_SIZE, 0));
	TRY(transfer(t, &r, IORING_OP_WRITE, file, out, 65536, FILE_SIZE - 512, 512));
	TRY(transfer(t, &r, IORING_OP_WRITE, file, out, 512, FILE_SIZE, -EFBIG));
	return pass(t, "64 KiB out and in; short at the file's end, past it -EFBIG; read-only -EBADF");
}

CASE(seq_fsync)
{
	struct ring r;
	struct sqe *s;
	u8 *p = alloc(4096);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_FSYNC, IORING_OP_WRITE_FIXED), USES(FILE_A) }));
	TRY(transfer(t, &r, IORING_OP_WRITE_FIXED, r.slots[FILE_A], p, 4096, 0, 4096));
	push(&r, IORING_OP_FSYNC, r.slots[FILE_A], 1);
	TRY(finish_one(t, &r, "FSYNC", 0));
	push(&r, IORING_OP_FSYNC, r.slots[FILE_A], 2)->op_flags = IORING_FSYNC_DATASYNC;
	TRY(finish_one(t, &r, "FSYNC with DATASYNC", 0));
	s = push(&r, IORING_OP_FSYNC, r.slots[FILE_A], 3);
	s->op_flags = 0x80;
	TRY(finish_one(t, &r, "FSYNC with an unknown flag", -EINVAL));
	push(&r, IORING_OP_FSYNC, 250, 4);
	TRY(finish_one(t, &r, "FSYNC of no file", -EBADF));
	return pass(t, "FSYNC and DATASYNC 0, an unknown flag -EINVAL, no file -EBADF");
}

CASE(seq_fsync_range)
{
	static const struct {
		u64 off;
		u32 len, flags;
		s32 want;
	} calls[] = { { 4096, 8192, 0, 0 }, { 4096, 8192, IORING_FSYNC_DATASYNC, 0 }, { 1, 1, 0, 0 }, { 0, FILE_SIZE, 0, 0 }, { 65536,
		0, 0, 0 } };
	struct ring r;
	u8 *p = alloc(16384);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_FSYNC, IORING_OP_WRITE_FIXED), USES(FILE_A) }));
	TRY(transfer(t, &r, IORING_OP_WRITE_FIXED, r.slots[FILE_A], p, 16384, 0, 16384));
	for (u32 i = 0; i < ARRAY_SIZE(calls); i++) {
		struct sqe *s = push(&r, IORING_OP_FSYNC, r.slots[FILE_A], i + 1);

		s->off = calls[i].off;
		s->len = calls[i].len;
		s->op_flags = calls[i].flags;
		TRY(finish_one(t, &r, "FSYNC of a range", calls[i].want));
	}
	return pass(t, "%u ranges, with and without DATASYNC", (u32)ARRAY_SIZE(calls));
}

CASE(seq_sync_file_range)
{
	static const struct {
		u64 off;
		u32 len, flags;
		s32 want;
	} calls[] = { { 0, 0, 0, 0 }, { 0, 4096, 1, 0 }, { 0, 4096, 2, 0 }, { 4096, 8192, 7, 0 }, { 0, 4096, 8, -EINVAL }, { ~0ull,
		4096, 1, -EINVAL } };
	struct ring r;
	u8 *p = alloc(16384);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_SYNC_FILE_RANGE, IORING_OP_WRITE_FIXED), USES(FILE_A) }));
	TRY(transfer(t, &r, IORING_OP_WRITE_FIXED, r.slots[FILE_A], p, 16384, 0, 16384));
	for (u32 i = 0; i < ARRAY_SIZE(calls); i++) {
		struct sqe *s = push(&r, IORING_OP_SYNC_FILE_RANGE, r.slots[FILE_A], i + 1);

		s->off = calls[i].off;
		s->len = calls[i].len;
		s->op_flags = calls[i].flags;
		TRY(finish_one(t, &r, "SYNC_FILE_RANGE", calls[i].want));
	}
	return pass(t, "4 ranges with each of the flags; unknown flags and offsets are -EINVAL");
}

CASE(seq_fallocate)
{
	struct ring r;
	u8 *p = alloc(16384);
	struct sqe *s;
	s32 file;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_FALLOCATE, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED),
					     USES(FILE_A, FILE_READONLY) }));
	file = r.slots[FILE_A];
	memset(p, 0x77, 16384);
	TRY(transfer(t, &r, IORING_OP_WRITE_FIXED, file, p, 16384, 0, 16384));
	s = push(&r, IORING_OP_FALLOCATE, file, 1);
	s->off = s->addr = 4096;
	s->len = 3; /* PUNCH_HOLE | KEEP_SIZE */
	TRY(finish_one(t, &r, "punch a hole", 0));
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, file, p, 16384, 0, 16384));
	for (u32 i = 0; i < 16384; i++)
		REQUIRE(t, p[i] == (i / 4096 == 1 ? 0 : 0x77), "byte %u is %x after the hole was punched", i, p[i]);
	s = push(&r, IORING_OP_FALLOCATE, file, 2);
	s->addr = FILE_SIZE;
	TRY(finish_one(t, &r, "allocate", 0));
	s = push(&r, IORING_OP_FALLOCATE, file, 3);
	s->off = FILE_SIZE;
	s->addr = 4096;
	TRY(finish_one(t, &r, "allocate past the end", -EFBIG));
	s = push(&r, IORING_OP_FALLOCATE, r.slots[FILE_READONLY], 4);
	s->addr = 4096;
	TRY(finish_one(t, &r, "allocate in a read-only file", -EBADF));
	return pass(t, "a hole of 4096 bytes reads as zeros; past the end -EFBIG, read-only -EBADF");
}

/* ---- order ---- */

/* A request that waits for everything before it, and holds everything after it. */
CASE(seq_drain)
{
	struct ring r, w;
	u8 *p = alloc(65536);
	u64 *eight = alloc(4096);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_NOP, IORING_OP_READ_FIXED), USES(FILE_A),
						     .sqe_flags = IOSQE_IO_DRAIN }));
	for (u32 round = 0; round < 3; round++) {
		for (u32 i = 0; i < 4; i++)
			push_rw(&r, IORING_OP_READ_FIXED, r.slots[FILE_A], 10 + i, p + 8192 * i, 8192,
				8192 * i)->flags |= i & 1 ? IOSQE_ASYNC : 0;
		push(&r, IORING_OP_NOP, 0, 20)->flags |= IOSQE_IO_DRAIN;
		submit(&r);
		/* The four in any order, the fifth last. */
		TRY(take(t, &r, 4, ANY_ORDER));
		for (u32 i = 0; i < 4; i++)
			TRY(want_result(t, &r, "a read before the drain", 10 + i, 8192));
		TRY(take(t, &r, 1, IN_ORDER));
		TRY(want_result(t, &r, "NOP with IOSQE_IO_DRAIN", 20, 0));
	}
	REQUIRE(t, !ring_close(&r), "a ring does not end");

	/* Behind a request that takes as long as we want. */
	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_NOP, IORING_OP_POLL_ADD), USES(EVENTFD),
						     .sqe_flags = IOSQE_IO_DRAIN }));
	TRY(ring_open(t, &w, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READ, IORING_OP_WRITE) }));
	push(&r, IORING_OP_POLL_ADD, r.slots[EVENTFD], 1)->op_flags = POLLIN;
	push(&r, IORING_OP_NOP, 0, 2)->flags |= IOSQE_IO_DRAIN;
	push(&r, IORING_OP_NOP, 0, 3);
	submit(&r);
	TRY(quiet(t, &r, "drained behind a poll", 30));
	*eight = 1;
	TRY(transfer(t, &w, IORING_OP_WRITE, w.slots[EVENTFD], eight, 8, 0, 8));
	TRY(take(t, &r, 1, IN_ORDER));
	TRY(want_result(t, &r, "the poll", 1, POLLIN));
	/* Both were waiting, and are let go together: Linux before 6.2 in the other order. */
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "NOP with IOSQE_IO_DRAIN behind a poll", 2, 0));
	TRY(want_result(t, &r, "NOP behind a drain", 3, 0));
	TRY(transfer(t, &w, IORING_OP_READ, w.slots[EVENTFD], eight, 8, 0, 8));
	return pass(t, "3 times last after 4 reads; behind a poll nothing for 30 ms, then all");
}

CASE(seq_link_read_write)
{
	enum { PAIRS = 4, PIECE = 32768 };
	struct ring r;
	u8 *p = alloc(PAIRS * PIECE), *want = alloc(PAIRS * PIECE), *got = alloc(PAIRS * PIECE);
	s32 a, b;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED), USES(FILE_A, FILE_B),
					     .sqe_flags = IOSQE_IO_LINK }));
	a = r.slots[FILE_A];
	b = r.slots[FILE_B];
	pattern(want, PAIRS * PIECE, 41);
	TRY(transfer(t, &r, IORING_OP_WRITE_FIXED, a, want, PAIRS * PIECE, 0, PAIRS * PIECE));
	for (u32 i = 0; i < PAIRS; i++) {
		push_rw(&r, IORING_OP_READ_FIXED, a, 2 * i + 1, p + i * PIECE, PIECE, i * PIECE)->flags |= IOSQE_IO_LINK;
		push_rw(&r, IORING_OP_WRITE_FIXED, b, 2 * i + 2, p + i * PIECE, PIECE, (PAIRS - 1 - i) * PIECE);
	}
	submit(&r);
	TRY(take(t, &r, 2 * PAIRS, ANY_ORDER));
	for (u32 i = 0; i < 2 * PAIRS; i++)
		TRY(want_result(t, &r, i & 1 ? "a linked write" : "a read with a link", i + 1, PIECE));
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, b, got, PAIRS * PIECE, 0, PAIRS * PIECE));
	for (u32 i = 0; i < PAIRS; i++)
		REQUIRE(t, !memcmp(got + (PAIRS - 1 - i) * PIECE, want + i * PIECE, PIECE), "pair %u: file2 does not hold what file held", i);

	/* A longer chain, there and back through one buffer: each step needs the one
	 * before it, also when it goes to a worker. */
	for (u32 round = 0; round < 2; round++) {
		memset(p, 0, PIECE);
		push_rw(&r, IORING_OP_READ_FIXED, a, 1, p, PIECE, 0)->flags |= IOSQE_IO_LINK | (round ? IOSQE_ASYNC : 0);
		push_rw(&r, IORING_OP_WRITE_FIXED, b, 2, p, PIECE, 0)->flags |= IOSQE_IO_LINK | (round ? IOSQE_ASYNC : 0);
		push_rw(&r, IORING_OP_READ_FIXED, a, 3, p, PIECE, PIECE)->flags |= IOSQE_IO_LINK;
		push_rw(&r, IORING_OP_WRITE_FIXED, b, 4, p, PIECE, PIECE)->flags |= IOSQE_IO_LINK;
		push_rw(&r, IORING_OP_READ_FIXED, b, 5, p, 2 * PIECE, 0);
		submit(&r);
		TRY(take(t, &r, 5, IN_ORDER));
		for (u32 i = 0; i < 5; i++)
			REQUIRE(t, r.taken[i].user_data == i + 1 && r.taken[i].res == (i == 4 ? 2 * PIECE : PIECE),
				"step %u of the chain: completion of %lu with result %d", i + 1, r.taken[i].user_data, r.taken[i].res);
		REQUIRE(t, !memcmp(p, want, 2 * PIECE), "the chain copied something else");
	}
	return pass(t, "%u linked pairs from file to file2 by the same buffers, and chains of 5 in order", (u32)PAIRS);
}

/* Submit, and want these results of the chain, in its order. */
static enum verdict chain(struct test *t, struct ring *r, const char *what, const s32 *want, u32 n)
{
	submit(r);
	TRY(take(t, r, n, IN_ORDER));
	for (u32 i = 0; i < n; i++)
		REQUIRE(t, r->taken[i].user_data == i + 1 && r->taken[i].res == want[i],
			"%s: completion %u is of %lu, result %d; want %u, %d", what, i + 1,
			r->taken[i].user_data, r->taken[i].res, i + 1, want[i]);
	return PASS;
}

CASE(seq_link_cancels_rest)
{
	struct ring r;
	u8 *p = alloc(4096);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_NOP, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED),
						     USES(FILE_A, FILE_READONLY),
					     .sqe_flags = IOSQE_IO_LINK }));
	push_rw(&r, IORING_OP_READ_FIXED, 250, 1, p, 4096, 0)->flags |= IOSQE_IO_LINK;
	push(&r, IORING_OP_NOP, 0, 2)->flags |= IOSQE_IO_LINK;
	push(&r, IORING_OP_NOP, 0, 3);
	TRY(chain(t, &r, "a read of no file first", LIST(s32, -EBADF, -ECANCELED, -ECANCELED), 3));
	push_rw(&r, IORING_OP_READ_FIXED, r.slots[FILE_A], 1, p, 4096, 0)->flags |= IOSQE_IO_LINK;
	push_rw(&r, IORING_OP_WRITE_FIXED, r.slots[FILE_READONLY], 2, p, 4096, 0)->flags |= IOSQE_IO_LINK;
	push(&r, IORING_OP_NOP, 0, 3)->flags |= IOSQE_IO_LINK;
	push(&r, IORING_OP_NOP, 0, 4);
	TRY(chain(t, &r, "a write to a read-only file second", LIST(s32, 4096, -EBADF, -ECANCELED, -ECANCELED), 4));
	push(&r, IORING_OP_NOP, 0, 1)->flags |= IOSQE_IO_LINK;
	push(&r, IORING_OP_NOP, 0, 2);
	TRY(chain(t, &r, "the next chain", LIST(s32, 0, 0), 2));
	return pass(t, "what follows a failed member is -ECANCELED; the next chain is not touched");
}

CASE(seq_link_short_read_breaks)
{
	struct ring r;
	u8 *p = alloc(8192);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_NOP, IORING_OP_READ_FIXED), USES(FILE_A),
						     .sqe_flags = IOSQE_IO_LINK }));
	push_rw(&r, IORING_OP_READ_FIXED, r.slots[FILE_A], 1, p, 8192, FILE_SIZE - 100)->flags |= IOSQE_IO_LINK;
	push(&r, IORING_OP_NOP, 0, 2)->flags |= IOSQE_IO_LINK;
	push(&r, IORING_OP_NOP, 0, 3);
	TRY(chain(t, &r, "a short read first", LIST(s32, 100, -ECANCELED, -ECANCELED), 3));
	push_rw(&r, IORING_OP_READ_FIXED, r.slots[FILE_A], 1, p, 100, FILE_SIZE - 100)->flags |= IOSQE_IO_LINK;
	push(&r, IORING_OP_NOP, 0, 2);
	TRY(chain(t, &r, "a full read first", LIST(s32, 100, 0), 2));
	return pass(t, "100 of 8192 bytes break the chain, 100 of 100 do not");
}

/* A member that is refused before it begins takes the whole chain with it. */
CASE(seq_link_bad_member)
{
	struct ring r;
	u8 *p = alloc(4096), *out = alloc(4096);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_NOP, IORING_OP_FSYNC, IORING_OP_READ_FIXED,
						     IORING_OP_WRITE_FIXED), USES(FILE_A),
					     .sqe_flags = IOSQE_IO_LINK }));
	TRY(transfer(t, &r, IORING_OP_WRITE_FIXED, r.slots[FILE_A], p, 4096, 0, 4096));
	memset(out, 0x99, 4096);
	for (u32 bad = 0; bad < 3; bad++) {
		s32 want[4] = { -ECANCELED, -ECANCELED, -ECANCELED, -ECANCELED };

		for (u32 i = 0; i < 4; i++) {
			struct sqe *s;

			if (i == bad) {
				s = push(&r, IORING_OP_FSYNC, r.slots[FILE_A], i + 1);
				s->op_flags = 0x80; /* no such flag: refused before it begins */
				want[i] = -EINVAL;
			} else {
				s = push_rw(&r, IORING_OP_WRITE_FIXED, r.slots[FILE_A], i + 1, out, 4096, 0);
			}
			s->flags |= i < 3 ? IOSQE_IO_LINK : 0;
		}
		TRY(chain(t, &r, "a member that is refused", want, 4));
	}
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, r.slots[FILE_A], out, 4096, 0, 4096));
	REQUIRE(t, !memcmp(p, out, 4096), "a member of a chain with a refused one was executed");
	return pass(t, "refused at place 1, 2 and 3 of 4: -EINVAL there, the others -ECANCELED, nothing executed");
}

CASE(seq_hardlink)
{
	struct ring r;
	u8 *p = alloc(8192);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_NOP, IORING_OP_FSYNC, IORING_OP_READ_FIXED), USES(FILE_A),
					     .sqe_flags = IOSQE_IO_LINK | IOSQE_IO_HARDLINK }));
	push_rw(&r, IORING_OP_READ_FIXED, r.slots[FILE_A], 1, p, 8192, FILE_SIZE - 100)->flags |= IOSQE_IO_HARDLINK;
	push_rw(&r, IORING_OP_READ_FIXED, 250, 2, p, 8192, 0)->flags |= IOSQE_IO_HARDLINK;
	push(&r, IORING_OP_NOP, 0, 3)->flags |= IOSQE_IO_LINK;
	push_rw(&r, IORING_OP_READ_FIXED, 250, 4, p, 8192, 0)->flags |= IOSQE_IO_LINK;
	push(&r, IORING_OP_NOP, 0, 5);
	TRY(chain(t, &r, "hard links, then soft ones", LIST(s32, 100, -EBADF, 0, -EBADF, -ECANCELED), 5));
	push(&r, IORING_OP_NOP, 0, 1)->flags |= IOSQE_IO_HARDLINK;
	push(&r, IORING_OP_FSYNC, r.slots[FILE_A], 2)->op_flags = 0x80;
	r.uring->sqes[(r.uring->tail - 1) & (r.uring->sq_entries - 1)].flags |= IOSQE_IO_HARDLINK;
	push(&r, IORING_OP_NOP, 0, 3);
	TRY(chain(t, &r, "a refused member in a hard chain", LIST(s32, -ECANCELED, -EINVAL, -ECANCELED), 3));
	return pass(t, "a short read and an -EBADF do not break a hard chain, a refused member does");
}

CASE(seq_link_timeout)
{
	struct ring r;
	struct timespec *ts = alloc(4096);
	struct sqe *s;
	u64 start;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_NOP, IORING_OP_POLL_ADD, IORING_OP_LINK_TIMEOUT), USES(EVENTFD),
					     .sqe_flags = IOSQE_IO_LINK }));
	ts[0] = (struct timespec){ 0, 20000000 };
	ts[1] = (struct timespec){ 100, 0 };
	start = rdtsc();
	s = push(&r, IORING_OP_POLL_ADD, r.slots[EVENTFD], 1);
	s->op_flags = POLLIN;
	s->flags |= IOSQE_IO_LINK;
	push_rw(&r, IORING_OP_LINK_TIMEOUT, 0, 2, &ts[0], 1, 0);
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "a poll that runs out of time", 1, -ECANCELED));
	TRY(want_result(t, &r, "LINK_TIMEOUT that fires", 2, -ETIME));
	REQUIRE(t, rdtsc() - start >= tsc_of_ms(20), "it fired before its 20 ms were over");
	push(&r, IORING_OP_NOP, 0, 3)->flags |= IOSQE_IO_LINK;
	push_rw(&r, IORING_OP_LINK_TIMEOUT, 0, 4, &ts[1], 1, 0);
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "NOP with a timeout", 3, 0));
	TRY(want_result(t, &r, "LINK_TIMEOUT that is not needed", 4, -ECANCELED));
	push_rw(&r, IORING_OP_LINK_TIMEOUT, 0, 5, &ts[1], 1, 0);
	TRY(finish_one(t, &r, "LINK_TIMEOUT behind nothing", -EINVAL));
	return pass(t, "a poll is cancelled after 20 ms; a NOP in time cancels the timeout; alone -EINVAL");
}

CASE(seq_cqe_skip_success)
{
	struct ring r;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_NOP, IORING_OP_FSYNC), USES(FILE_A),
						     .sqe_flags = IOSQE_CQE_SKIP_SUCCESS }));
	for (u32 i = 0; i < 200; i++) { /* more than the rings have entries */
		push(&r, IORING_OP_NOP, 0, 1)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		submit(&r);
	}
	push(&r, IORING_OP_NOP, 0, 2);
	TRY(finish_one(t, &r, "NOP that is not skipped", 0));
	TRY(quiet(t, &r, "200 NOPs with CQE_SKIP_SUCCESS", 10));
	push(&r, IORING_OP_FSYNC, 250, 3)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	TRY(finish_one(t, &r, "one that fails has its CQE", -EBADF));
	push(&r, IORING_OP_NOP, 0, 4);
	TRY(finish_one(t, &r, "NOP afterwards", 0));
	return pass(t, "200 NOPs and no CQE; one that fails has one");
}
