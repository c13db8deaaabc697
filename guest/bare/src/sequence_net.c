/* SPDX-License-Identifier: Apache-2.0 */
/* Conformance: sockets, pipes, eventfds; and pointers that lead nowhere. */
#include "conformance.h"

struct message {
	struct msghdr hdr;
	struct iovec iov[8];
};

/* SENDMSG or RECVMSG of p cut into the lengths given. */
static struct sqe *message(struct ring *r, u8 opcode, s32 fd, u64 tag, struct message *m, u8 *p, const u32 *lens, u32 n)
{
	*m = (struct message){ .hdr = { .iov = address(r, m->iov), .iovlen = n } };
	for (u32 i = 0; i < n; p += lens[i++])
		m->iov[i] = (struct iovec){ address(r, p), lens[i] };
	return push_rw(r, opcode, fd, tag, &m->hdr, 1, 0);
}

/* By several iovecs, both ways, through the pair x, y. */
static enum verdict messages(struct test *t, enum thing x, enum thing y, bool datagrams)
{
	static const u32 out_lens[] = { 100, 1, 899, 2000 }, in_lens[] = { 7, 1493, 1500 }; /* 3000 each */
	struct ring r;
	struct message *m = alloc(4096);
	u8 *out = alloc(4096), *in = alloc(4096);
	u32 both = datagrams ? 101 : 1000; /* of the two messages below */
	s32 a, b;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_SENDMSG, IORING_OP_RECVMSG), USES(x, y) }));
	a = r.slots[x];
	b = r.slots[y];
	pattern(out, 3000, 51);
	/* First the receiver, who waits. */
	message(&r, IORING_OP_RECVMSG, b, 1, &m[0], in, in_lens, 3);
	submit(&r);
	TRY(quiet(t, &r, "RECVMSG with nothing to receive", 20));
	message(&r, IORING_OP_SENDMSG, a, 2, &m[1], out, out_lens, 4);
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "SENDMSG", 2, 3000));
	TRY(want_result(t, &r, "RECVMSG", 1, 3000));
	REQUIRE(t, !memcmp(in, out, 3000), "%s: other bytes came than were sent", thing_names[x]);

	/* And back; two sends are two messages only where there are messages. */
	message(&r, IORING_OP_SENDMSG, b, 3, &m[0], out, out_lens, 2);
	TRY(finish_one(t, &r, "SENDMSG", 101));
	message(&r, IORING_OP_SENDMSG, b, 4, &m[0], out + 101, out_lens + 2, 1);
	TRY(finish_one(t, &r, "SENDMSG", 899));
	memset(in, 0, 4096);
	message(&r, IORING_OP_RECVMSG, a, 5, &m[0], in, in_lens, 2);
	TRY(finish_one(t, &r, "RECVMSG of two messages' bytes", (s32)both));
	REQUIRE(t, !memcmp(in, out, both), "%s: other bytes came than were sent", thing_names[y]);
	if (datagrams) { /* one message is left: take less of it than there is */
		message(&r, IORING_OP_RECVMSG, a, 6, &m[0], in, in_lens, 1);
		TRY(finish_one(t, &r, "RECVMSG of a part", 7));
		REQUIRE(t, m[0].hdr.flags & MSG_TRUNC, "a datagram was cut, msg_flags %x", m[0].hdr.flags);
		trace(t, "flags=%x", m[0].hdr.flags);
	}
	message(&r, IORING_OP_RECVMSG, a, 7, &m[0], in, in_lens, 1)->op_flags = MSG_DONTWAIT;
	return finish_one(t, &r, "RECVMSG that does not wait", -EAGAIN);
}

CASE(seq_sendmsg_recvmsg)
{
	TRY(messages(t, STREAM_A, STREAM_B, false));
	return pass(t, "3000 bytes by 4 iovecs out and 3 in, RECVMSG before and after SENDMSG, both ways");
}

CASE(seq_sendmsg_recvmsg_datagram)
{
	TRY(messages(t, DGRAM_A, DGRAM_B, true));
	return pass(t, "3000 bytes by 4 iovecs out and 3 in; a datagram keeps its end, a cut one says MSG_TRUNC");
}

static enum verdict sends(struct test *t, enum thing x, enum thing y)
{
	struct ring r;
	u8 *out = alloc(4096), *in = alloc(4096);
	s32 a, b;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_SEND, IORING_OP_RECV), USES(x, y, FILE_A) }));
	a = r.slots[x];
	b = r.slots[y];
	pattern(out, 2000, 61);
	push_rw(&r, IORING_OP_RECV, a, 1, in, 4096, 0);
	submit(&r);
	TRY(quiet(t, &r, "RECV with nothing to receive", 20));
	push_rw(&r, IORING_OP_SEND, b, 2, out, 2000, 0)->op_flags = MSG_NOSIGNAL;
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "SEND", 2, 2000));
	TRY(want_result(t, &r, "RECV", 1, 2000));
	REQUIRE(t, !memcmp(in, out, 2000), "%s: other bytes came than were sent", thing_names[y]);
	TRY(transfer(t, &r, IORING_OP_SEND, a, out, 1000, 0, 1000));
	memset(in, 0, 4096);
	push_rw(&r, IORING_OP_RECV, b, 3, in, 10, 0)->op_flags = MSG_PEEK;
	TRY(finish_one(t, &r, "RECV that peeks", 10));
	TRY(transfer(t, &r, IORING_OP_RECV, b, in, 4096, 0, 1000));
	REQUIRE(t, !memcmp(in, out, 1000), "%s: other bytes came than were sent", thing_names[x]);
	push_rw(&r, IORING_OP_RECV, b, 4, in, 4096, 0)->op_flags = MSG_DONTWAIT;
	TRY(finish_one(t, &r, "RECV that does not wait", -EAGAIN));
	TRY(transfer(t, &r, IORING_OP_SEND, r.slots[FILE_A], out, 10, 0, -ENOTSOCK));
	return transfer(t, &r, IORING_OP_RECV, 250, in, 10, 0, -EBADF);
}

CASE(seq_send_recv)
{
	TRY(sends(t, STREAM_A, STREAM_B));
	return pass(t, "2000 and 1000 bytes, both ways, RECV before and after SEND; MSG_PEEK, MSG_DONTWAIT");
}

CASE(seq_send_recv_datagram)
{
	TRY(sends(t, DGRAM_A, DGRAM_B));
	return pass(t, "2000 and 1000 bytes, both ways, RECV before and after SEND; MSG_PEEK, MSG_DONTWAIT");
}

/* The address of LISTENER, and its length. */
static struct sockaddr_un *listener_address(u32 *len)
{
	struct sockaddr_un *a = alloc(4096);
	const char *path = listener_path();

	a->family = AF_UNIX;
	memcpy(a->path, path, MIN(strlen(path), sizeof(a->path) - 1));
	*len = (u32)(2 + strlen(a->path) + 1);
	return a;
}

CASE(seq_accept_connect)
{
	struct ring r, w;
	u8 *out = alloc(4096), *in = alloc(4096);
	struct sockaddr_un *to;
	s32 slot, c;
	u32 len;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_ACCEPT, IORING_OP_SEND, IORING_OP_RECV), USES(LISTENER),
						     .empty = 2 }));
	/* Who connects is on a ring of its own: the opcode may be an extra one. */
	TRY(ring_open(t, &w, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_CONNECT, IORING_OP_SEND, IORING_OP_RECV), USES(CONNECTOR) }));
	if (!listener_path()[0])
		return skip(t, "no argument listener=PATH: nobody said where the listener listens");
	to = listener_address(&len);
	slot = (s32)r.first_empty;
	c = w.slots[CONNECTOR];
	pattern(out, 1000, 71);
	TRY(transfer(t, &r, IORING_OP_RECV, slot, in, 10, 0, -EBADF));
	push(&r, IORING_OP_ACCEPT, r.slots[LISTENER], 1)->splice_fd_in = slot + 1;
	submit(&r);
	TRY(quiet(t, &r, "ACCEPT with nobody there", 20));
	push_rw(&w, IORING_OP_CONNECT, c, 2, to, 0, len);
	TRY(finish_one(t, &w, "CONNECT", 0));
	TRY(take(t, &r, 1, IN_ORDER));
	TRY(want_result(t, &r, "ACCEPT into an entry of the file table", 1, 0));
	TRY(transfer(t, &w, IORING_OP_SEND, c, out, 1000, 0, 1000));
	TRY(transfer(t, &r, IORING_OP_RECV, slot, in, 4096, 0, 1000));
	REQUIRE(t, !memcmp(in, out, 1000), "from the connector: other bytes came than were sent");
	TRY(transfer(t, &r, IORING_OP_SEND, slot, out + 500, 500, 0, 500));
	TRY(transfer(t, &w, IORING_OP_RECV, c, in, 4096, 0, 500));
	REQUIRE(t, !memcmp(in, out + 500, 500), "to the connector: other bytes came than were sent");
	TRY(transfer(t, &r, IORING_OP_RECV, slot + 1, in, 10, 0, -EBADF));
	return pass(t, "ACCEPT into entry %u, CONNECT, 1000 bytes one way, 500 the other", (u32)slot);
}

/* Is there a CQE with -EINVAL within 20 ms? It is left there. */
static bool refused_at_once(struct ring *r)
{
	for (u64 until = rdtsc() + tsc_of_ms(20); rdtsc() < until; cpu_relax())
		if (uring_ready(r->uring))
			return uring_cqe(r->uring, 0)->res == -EINVAL;
	return false;
}

/* ACCEPT into whatever entry is free, and CONNECT by what; once, or as often as
 * somebody connects. */
static enum verdict accept_any(struct test *t, enum thing what, bool multishot, s32 *slot)
{
	struct ring r, w;
	u8 *out = alloc(4096), *in = alloc(4096);
	struct sockaddr_un *to;
	struct sqe *s;
	u32 len;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_ACCEPT, IORING_OP_ASYNC_CANCEL, IORING_OP_RECV), USES(LISTENER),
					     FILES(LISTENER), .empty = 2 }));
	TRY(ring_open(t, &w, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_CONNECT, IORING_OP_SEND), USES(what) }));
	if (!listener_path()[0])
		return skip(t, "no argument listener=PATH: nobody said where the listener listens");
	to = listener_address(&len);
	pattern(out, 1000, 72);
	s = push(&r, IORING_OP_ACCEPT, 0, 1);
	s->ioprio = multishot ? IORING_ACCEPT_MULTISHOT : 0;
	s->splice_fd_in = IORING_FILE_INDEX_ALLOC;
	submit(&r);
	if (multishot && refused_at_once(&r))
		TRY(no_multishot(t, &r));
	TRY(quiet(t, &r, "ACCEPT with nobody there", 20));
	push_rw(&w, IORING_OP_CONNECT, w.slots[what], 2, to, 0, len);
	TRY(finish_one(t, &w, "CONNECT", 0));
	TRY(take(t, &r, 1, IN_ORDER));
	*slot = r.taken[0].res;
	REQUIRE(t, *slot == 1 || *slot == 2, "ACCEPT into any free entry: result %d, want 1 or 2", *slot);
	REQUIRE(t, !(r.taken[0].flags & IORING_CQE_F_MORE) == !multishot, "CQE flags %x", r.taken[0].flags);
	TRY(transfer(t, &w, IORING_OP_SEND, w.slots[what], out, 1000, 0, 1000));
	TRY(transfer(t, &r, IORING_OP_RECV, *slot, in, 4096, 0, 1000));
	REQUIRE(t, !memcmp(in, out, 1000), "other bytes came than were sent");
	push(&r, IORING_OP_ASYNC_CANCEL, 0, 3)->addr = 1;
	if (!multishot)
		return finish_one(t, &r, "ASYNC_CANCEL of an ACCEPT that is done", -ENOENT);
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "the multishot ACCEPT when cancelled", 1, -ECANCELED));
	TRY(want_result(t, &r, "ASYNC_CANCEL", 3, 0));
	REQUIRE(t, !(taken(&r, 1)->flags & IORING_CQE_F_MORE), "the last CQE promises more");
	return PASS;
}

CASE(seq_accept_any_entry)
{
	s32 slot = 0;

	TRY(accept_any(t, CONNECTOR_B, false, &slot));
	return pass(t, "a connection went into entry %d, which was free, and 1000 bytes came by it", slot);
}

CASE(seq_accept_multishot)
{
	s32 slot = 0;

	TRY(accept_any(t, CONNECTOR_C, true, &slot));
	return pass(t, "a connection went into entry %d, with IORING_CQE_F_MORE; cancelled: -ECANCELED without", slot);
}

CASE(seq_shutdown)
{
	struct ring r;
	u8 *p = alloc(4096);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_SHUTDOWN, IORING_OP_SEND, IORING_OP_RECV), USES(STREAM_A,
						     STREAM_B, FILE_A) }));
	TRY(transfer(t, &r, IORING_OP_SEND, r.slots[STREAM_A], p, 100, 0, 100));
	push_rw(&r, IORING_OP_RECV, r.slots[STREAM_B], 1, p, 100, 0);
	TRY(finish_one(t, &r, "RECV", 100));
	push_rw(&r, IORING_OP_RECV, r.slots[STREAM_B], 2, p, 100, 0);
	submit(&r);
	TRY(quiet(t, &r, "RECV with nothing to receive", 10));
	push(&r, IORING_OP_SHUTDOWN, r.slots[STREAM_A], 3)->len = SHUT_WR;
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "RECV when the other side shut down", 2, 0));
	TRY(want_result(t, &r, "SHUTDOWN", 3, 0));
	push_rw(&r, IORING_OP_SEND, r.slots[STREAM_A], 4, p, 100, 0)->op_flags = MSG_NOSIGNAL;
	TRY(finish_one(t, &r, "SEND after SHUTDOWN", -EPIPE));
	/* The other direction is still open. */
	TRY(transfer(t, &r, IORING_OP_SEND, r.slots[STREAM_B], p, 50, 0, 50));
	TRY(transfer(t, &r, IORING_OP_RECV, r.slots[STREAM_A], p, 100, 0, 50));
	push(&r, IORING_OP_SHUTDOWN, r.slots[FILE_A], 5)->len = SHUT_WR;
	TRY(finish_one(t, &r, "SHUTDOWN of what is no socket", -ENOTSOCK));
	push(&r, IORING_OP_SHUTDOWN, r.slots[STREAM_B], 6)->len = 7;
	TRY(finish_one(t, &r, "SHUTDOWN of nothing", -EINVAL));
	return pass(t, "a waiting RECV ends with 0, SEND with -EPIPE, the other direction lives");
}

CASE(seq_pipe)
{
	struct ring r;
	u8 *out = alloc(8192), *in = alloc(8192);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READ, IORING_OP_WRITE), USES(PIPE_READ, PIPE_WRITE) }));
	pattern(out, 8192, 81);
	push_rw(&r, IORING_OP_READ, r.slots[PIPE_READ], 1, in, 8192, 0);
	submit(&r);
	TRY(quiet(t, &r, "READ of an empty pipe", 20));
	push_rw(&r, IORING_OP_WRITE, r.slots[PIPE_WRITE], 2, out, 3000, 0);
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "WRITE", 2, 3000));
	TRY(want_result(t, &r, "READ that waited", 1, 3000));
	REQUIRE(t, !memcmp(in, out, 3000), "other bytes came than were written");
	TRY(transfer(t, &r, IORING_OP_WRITE, r.slots[PIPE_WRITE], out, 8000, 0, 8000));
	TRY(transfer(t, &r, IORING_OP_READ, r.slots[PIPE_READ], in, 100, 0, 100));
	TRY(transfer(t, &r, IORING_OP_READ, r.slots[PIPE_READ], in + 100, 8000, 0, 7900));
	REQUIRE(t, !memcmp(in, out, 8000), "other bytes came than were written");
	TRY(transfer(t, &r, IORING_OP_WRITE, r.slots[PIPE_READ], out, 10, 0, -EBADF));
	TRY(transfer(t, &r, IORING_OP_READ, r.slots[PIPE_WRITE], in, 10, 0, -EBADF));
	return pass(t, "a READ waits for a WRITE of 3000 bytes; the wrong end is -EBADF");
}

CASE(seq_eventfd_read_write)
{
	struct ring r;
	u64 *p = alloc(4096);

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_READ, IORING_OP_WRITE), USES(EVENTFD) }));
	push_rw(&r, IORING_OP_READ, r.slots[EVENTFD], 1, p, 8, 0);
	submit(&r);
	TRY(quiet(t, &r, "READ of an eventfd at 0", 20));
	p[8] = 5;
	push_rw(&r, IORING_OP_WRITE, r.slots[EVENTFD], 2, &p[8], 8, 0);
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "WRITE", 2, 8));
	TRY(want_result(t, &r, "READ that waited", 1, 8));
	REQUIRE(t, p[0] == 5, "5 was written, %lu read", p[0]);
	for (u32 i = 0; i < 3; i++)
		TRY(transfer(t, &r, IORING_OP_WRITE, r.slots[EVENTFD], &p[8], 8, 0, 8));
	TRY(transfer(t, &r, IORING_OP_READ, r.slots[EVENTFD], p, 8, 0, 8));
	REQUIRE(t, p[0] == 15, "3 times 5 were written, %lu read", p[0]);
	TRY(transfer(t, &r, IORING_OP_WRITE, r.slots[EVENTFD], &p[8], 7, 0, -EINVAL));
	TRY(transfer(t, &r, IORING_OP_READ, r.slots[EVENTFD], p, 7, 0, -EINVAL));
	return pass(t, "a READ waits for a WRITE of 5; 3 times 5 are 15; 7 bytes are -EINVAL");
}

CASE(seq_close_slot)
{
	struct ring r;
	u8 *p = alloc(4096);
	s32 error;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_CLOSE, IORING_OP_READ_FIXED), USES(FILE_A, FILE_B),
						     FILES(FILE_A, FILE_B) }));
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, 1, p, 512, 0, 512));
	push(&r, IORING_OP_CLOSE, 0, 1)->splice_fd_in = 1 + 1;
	TRY(finish_one(t, &r, "CLOSE of an entry", 0));
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, 1, p, 512, 0, -EBADF));
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, 0, p, 512, 0, 512));
	push(&r, IORING_OP_CLOSE, 0, 2)->splice_fd_in = 1 + 1;
	TRY(finish_one(t, &r, "CLOSE of an empty entry", -EBADF));
	push(&r, IORING_OP_CLOSE, 0, 3)->splice_fd_in = 250;
	TRY(finish_one(t, &r, "CLOSE past the file table's end", -EINVAL));
	error = ring_files(&r, 1, LIST(enum thing, FILE_A), 1);
	REQUIRE(t, error >= 0, "FILES_UPDATE of the entry that was closed: %d", error);
	TRY(transfer(t, &r, IORING_OP_READ_FIXED, 1, p, 512, 0, 512));
	return pass(t, "closed: -EBADF; closed again: -EBADF; filled again: read");
}

/* ---- pointers that lead nowhere ---- */

static enum verdict alive(struct test *t, struct ring *r)
{
	push(r, IORING_OP_NOP, 0, 99);
	return finish_one(t, r, "NOP after a bad pointer", 0);
}

/* Would a request with this opcode write to memory by the pointer at this place? */
static bool writes(u8 opcode, u32 place)
{
	switch (opcode) {
	case IORING_OP_READ_FIXED:
	case IORING_OP_WRITE_FIXED: /* of a buffer that is registered: by neither */
	case IORING_OP_READ:
	case IORING_OP_RECV:
		return true;
	case IORING_OP_READV:
		return place > 0;
	case IORING_OP_RECVMSG:
		return place == 2;
	}
	return false;
}

/* The bad address in place of each pointer that opcode has: -EFAULT, and the ring
 * lives on. An opcode that this device does not offer is left out. */
static enum verdict bad_pointer(struct test *t, u8 opcode, u32 *tried)
{
	struct want w = { .on = EXPORTS, .opcodes = LIST(u8, IORING_OP_NOP, opcode), .nr_opcodes = 2, USES(FILE_A, STREAM_A, STREAM_B) };
	struct message *m = alloc(4096);
	struct ring r;
	u64 bad[MAX_BAD], mark = mem_mark();
	size_t noted = trace_mark(t);
	u8 *p = alloc(4096);
	u32 n, places = 1;
	enum verdict v = ring_open(t, &r, &w);
	s32 a, file;

	if (v != PASS)
		return v;
	a = r.slots[opcode == IORING_OP_CONNECT && r.slots[CONNECTOR] >= 0 ? CONNECTOR : STREAM_A];
	file = r.slots[FILE_A];
	if (opcode == IORING_OP_READV || opcode == IORING_OP_WRITEV)
		places = 3;
	if (opcode == IORING_OP_SENDMSG || opcode == IORING_OP_RECVMSG)
		places = 3;
	if (opcode == IORING_OP_RECVMSG || opcode == IORING_OP_RECV) { /* something to receive, or it would wait */
		struct ring s;

		TRY(ring_open(t, &s, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_SEND), USES(STREAM_B) }));
		TRY(transfer(t, &s, IORING_OP_SEND, s.slots[STREAM_B], p, 64, 0, 64));
		REQUIRE(t, !ring_close(&s), "a ring does not end");
	}
	for (u32 place = 0; place < places; place++) {
		s32 res = 0;

		n = bad_addresses(&r, writes(opcode, place), bad);
		for (u32 i = 0; i < n; i++) {
			struct sqe *s;
			u64 to = bad[i];

			*m = (struct message){ .hdr = { .iov = address(&r, m->iov), .iovlen = 2 } };
			m->iov[0] = (struct iovec){ address(&r, p), 8 };
			m->iov[1] = (struct iovec){ address(&r, p + 64), 8 };
			switch (opcode) {
			case IORING_OP_READ:
			case IORING_OP_WRITE:
			case IORING_OP_READ_FIXED:
			case IORING_OP_WRITE_FIXED:
				s = push_rw(&r, opcode, file, opcode, p, 16, 0);
				s->addr = to;
				break;
			case IORING_OP_READV:
			case IORING_OP_WRITEV:
				s = push_rw(&r, opcode, file, opcode, m->iov, 1, 0);
				if (place == 0)
					s->addr = to; /* the iovecs themselves */
				else
					m->iov[0].base = to;
				if (place == 2) { /* behind a good one of no length */
					m->iov[1].base = to;
					m->iov[0] = (struct iovec){ address(&r, p), 0 };
					s->len = 2;
				}
				break;
			case IORING_OP_SENDMSG:
			case IORING_OP_RECVMSG:
				s = push_rw(&r, opcode, a, opcode, &m->hdr, 1, 0);
				s->op_flags = MSG_DONTWAIT;
				if (place == 0)
					s->addr = to; /* the message header */
				else if (place == 1)
					m->hdr.iov = to;
				else
					m->iov[0].base = to;
				break;
			case IORING_OP_SEND:
			case IORING_OP_RECV:
				s = push_rw(&r, opcode, a, opcode, p, 16, 0);
				s->op_flags = MSG_DONTWAIT;
				s->addr = to;
				break;
			default: /* one struct: TIMEOUT's, CONNECT's */
				s = push_rw(&r, opcode, a, opcode, p, opcode == IORING_OP_TIMEOUT, opcode == IORING_OP_CONNECT ? 16 : 0);
				s->addr = to;
			}
			submit(&r);
			TRY(take(t, &r, 1, IN_ORDER));
			res = r.taken[0].res;
			REQUIRE(t, res == -EFAULT, "opcode %u, pointer %u at %lx: result %d, want %d", opcode, place, to, res, -EFAULT);
			TRY(alive(t, &r));
			trace_release(t, noted); /* how many addresses there are is the world's */
			++*tried;
		}
		trace(t, "%u.%u=%d", opcode, place, res);
		noted = trace_mark(t);
	}
	if (opcode == IORING_OP_RECVMSG || opcode == IORING_OP_RECV) { /* what was not received is still there, or gone; then it is gone */
		struct ring s;

		TRY(ring_open(t, &s, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_RECV), USES(STREAM_A) }));
		push_rw(&s, IORING_OP_RECV, s.slots[STREAM_A], 1, p, 4096, 0)->op_flags = MSG_DONTWAIT;
		submit(&s);
		TRY(take(t, &s, 1, IN_ORDER));
		REQUIRE(t, !ring_close(&s), "a ring does not end");
		trace_release(t, noted);
	}
	REQUIRE(t, !ring_close(&r), "a ring does not end");
	mem_release(mark);
	return PASS;
}

CASE(seq_refuse_pointer_outside_ram)
{
	static const u8 opcodes[] = { IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV,
		IORING_OP_WRITEV,
				      IORING_OP_SENDMSG, IORING_OP_SEND, IORING_OP_RECVMSG, IORING_OP_RECV, IORING_OP_TIMEOUT,
					IORING_OP_CONNECT };
	u32 tried = 0, n = 0;

	for (u32 i = 0; i < ARRAY_SIZE(opcodes); i++) {
		enum verdict v = bad_pointer(t, opcodes[i], &tried);

		if (v == FAIL || (v == SKIP && !n))
			return v;
		n += v == PASS;
	}
	return pass(t, "%u bad pointers in SQEs, iovecs and message headers of %u opcodes: -EFAULT each, the ring lives", tried, n);
}
