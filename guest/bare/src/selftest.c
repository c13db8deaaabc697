/* SPDX-License-Identifier: Apache-2.0 */
/* The self-test: every promise of docs/protocol.md that a guest can see. It
 * overwrites file 0. */
#include "testing.h"

static struct upv device;

/* Set a ring up as told, or fail. */
static enum verdict setup(struct test *t, struct upv_ring *r, u32 index, struct upv_ring_options o)
{
	s32 error = upv_ring_setup(t->dev, r, index, &o);

	REQUIRE(t, !error, "RING_SETUP of ring %u: %d", index, error);
	return PASS;
}

/* Wait for n CQEs by polling, kicking a side that went to sleep. */
static enum verdict wait_cqes(struct test *t, struct upv_ring *r, u32 n)
{
	struct uring *u = &r->uring;

	while (uring_ready(u) < n) {
		cpu_relax();
		if (u->polled && load_relaxed(u->sq_flags) & IORING_SQ_NEED_WAKEUP && load_relaxed(u->sq_head) != u->tail)
			u->kick(u);
		REQUIRE(t, !expired(t), "%u completions after the time limit, want %u; SQ head %u, tail %u", uring_ready(u), n,
			load_relaxed(u->sq_head), u->tail);
	}
	return PASS;
}

/* Submit one SQE and wait for its result. */
static enum verdict one(struct test *t, struct upv_ring *r, struct sqe e, s32 *res)
{
	struct sqe *s = uring_sqe_soon(&r->uring);
	const struct cqe *c;

	e.user_data = rand_next(&t->rand);
	*s = e;
	uring_submit(&r->uring);
	TRY(wait_cqes(t, r, 1));
	c = uring_cqe(&r->uring, 0);
	REQUIRE(t, c->user_data == e.user_data, "a CQE with user data %lx, want %lx", c->user_data, e.user_data);
	*res = c->res;
	uring_advance(&r->uring, 1);
	t->ios++;
	return PASS;
}

static enum verdict expect(struct test *t, struct upv_ring *r, const char *what, struct sqe e, s32 want)
{
	s32 res = 0;

	TRY(one(t, r, e, &res));
	REQUIRE(t, res == want, "%s: result %d, want %d", what, res, want);
	return PASS;
}

static struct sqe nop(void)
{
	return (struct sqe){ .opcode = IORING_OP_NOP, .flags = IOSQE_FIXED_FILE };
}

static struct sqe rw(struct test *t, u8 opcode, void *buf, u32 len, u64 off)
{
	return (struct sqe){ .opcode = opcode, .flags = IOSQE_FIXED_FILE, .addr = upv_addr(t->dev, buf), .len = len, .off = off,
			     .buf_index = upv_buffer(buf) };
}

/* ---- what the device says of itself ---- */

static enum verdict test_identify(struct test *t)
{
	struct uringpv_identity id;
	u8 *small;

	REQUIRE(t, !upv_command(t->dev, URINGPV_CMD_IDENTIFY, 0, &id, sizeof(id)), "IDENTIFY fails");
	REQUIRE(t, id.version >> 16 == URINGPV_VERSION_MAJOR, "version %x", id.version);
	REQUIRE(t, id.backend >= URINGPV_BACKEND_RELAY && id.backend <= URINGPV_BACKEND_ISOLATED, "backend %u", id.backend);
	REQUIRE(t, id.addr_base && id.addr_base == *(volatile u64 *)(t->dev->control + URINGPV_REG_ADDR_BASE), "ADDR_BASE %lx", id.addr_base);
	REQUIRE(t, id.num_rings >= 1 && id.num_vectors == t->dev->msix.n, "%u rings, %u vectors, MSI-X has %u", id.num_rings, id.num_vectors,
		t->dev->msix.n);
	REQUIRE(t, id.num_files >= 1 && id.num_buffers >= 1, "%u files, %u buffers", id.num_files, id.num_buffers);
	REQUIRE(t, id.max_sq_entries && !(id.max_sq_entries & (id.max_sq_entries - 1)), "%u SQ entries", id.max_sq_entries);
	REQUIRE(t, id.sqe_flags_required == IOSQE_FIXED_FILE, "required SQE flags %x", id.sqe_flags_required);
	REQUIRE(t, upv_has_opcode(t->dev, IORING_OP_NOP) && upv_has_opcode(t->dev, IORING_OP_READ_FIXED) &&
			   upv_has_opcode(t->dev, IORING_OP_WRITE_FIXED) && upv_has_opcode(t->dev, IORING_OP_FSYNC),
		"an opcode that every backend has is missing");

	/* A short payload gets its beginning, and nothing behind it is touched. */
	small = alloc(4096);
	memset(small, 0xa5, 4096);
	memset(small, 0, 8);
	REQUIRE(t, !upv_command(t->dev, URINGPV_CMD_IDENTIFY, 0, small, 8), "IDENTIFY with 8 bytes fails");
	REQUIRE(t, !memcmp(small, &id, 8) && small[8] == 0xa5, "IDENTIFY with 8 bytes wrote something else");
	return pass(t, "%u rings, SQ up to %u", id.num_rings, id.max_sq_entries);
}

static enum verdict test_file_info(struct test *t)
{
	struct uringpv_file f;

	for (u32 i = 0; i < t->dev->id.num_files; i++) {
		REQUIRE(t, !upv_command(t->dev, URINGPV_CMD_FILE_INFO, i, &f, sizeof(f)), "file %u: FILE_INFO fails", i);
		REQUIRE(t, f.kind == URINGPV_FILE_DISK && f.size && f.name[0] && !f.name[sizeof(f.name) - 1], "file %u: kind %u, size %lu", i,
			f.kind, f.size);
		REQUIRE(t, f.block_size >= 512 && !(f.block_size & (f.block_size - 1)), "file %u: blocks of %u", i, f.block_size);
		REQUIRE(t, f.dio_mem_align && f.dio_offset_align, "file %u: no alignment", i);
	}
	REQUIRE(t, upv_command(t->dev, URINGPV_CMD_FILE_INFO, t->dev->id.num_files, &f, sizeof(f)) == -EBADF, "a file too many");
	return pass(t, "%u files, the first of %lu bytes", t->dev->id.num_files, t->file.size);
}

static enum verdict test_buffer_info(struct test *t)
{
	struct uringpv_range b;
	u64 total = 0, ram = 0;

	for (u32 i = 0; i < t->dev->id.num_buffers; i++) {
		REQUIRE(t, !upv_command(t->dev, URINGPV_CMD_BUFFER_INFO, i, &b, sizeof(b)), "buffer %u: BUFFER_INFO fails", i);
		REQUIRE(t, b.len && b.len <= 1u << 30 && !(b.addr % 4096), "buffer %u: %lx, %lu bytes", i, b.addr, b.len);
		total += b.len;
	}
	for (u32 i = 0; i < boot->nr_ram; i++)
		ram += boot->ram[i].len;
	REQUIRE(t, total == ram, "the table covers %lu bytes of %lu", total, ram);
	REQUIRE(t, upv_command(t->dev, URINGPV_CMD_BUFFER_INFO, t->dev->id.num_buffers, &b, sizeof(b)) == -EINVAL, "a buffer too many");
	return PASS;
}

/* ---- rings ---- */

/* Keep depth NOPs in flight until total are done; each completes once. */
static enum verdict nop_storm(struct test *t, struct upv_ring *r, u32 depth, u32 total)
{
	u32 sent = 0, done = 0, slots = depth;
	u32 *busy = alloc(depth * sizeof(*busy)); /* number of the NOP in each slot, from 1; 0: none */

	while (done < total) {
		u32 n, before = sent;

		for (u32 i = 0; slots && sent < total && i < depth; i++) {
			struct sqe *s;

			if (busy[i])
				continue;
			s = uring_sqe(&r->uring);
			if (!s)
				break;
			*s = nop();
			busy[i] = ++sent;
			s->user_data = (u64)sent << 32 | i;
			slots--;
		}
		if (sent != before)
			uring_submit(&r->uring);
		else if (slots < depth)
			TRY(wait_cqes(t, r, 1));
		/* else all are done and the SQ head is about to say so */
		n = uring_ready(&r->uring);
		for (u32 i = 0; i < n; i++) {
			const struct cqe *c = uring_cqe(&r->uring, i);
			u32 slot = (u32)c->user_data;

			REQUIRE(t, slot < depth && busy[slot] && busy[slot] == c->user_data >> 32,
				"a completion of %lx, which is not in flight: %u of %u done, SQ %u to %u, CQ %u to %u", c->user_data, done,
				total, load_relaxed(r->uring.sq_head), r->uring.tail, *r->uring.cq_head, load_relaxed(r->uring.cq_tail));
			REQUIRE(t, !c->res, "result %d", c->res);
			busy[slot] = 0;
			slots++;
		}
		uring_advance(&r->uring, n);
		done += n;
		REQUIRE(t, !expired(t), "%u of %u done after the time limit: SQ %u to %u of %u, flags %x, CQ %u to %u", done, total,
			load_relaxed(r->uring.sq_head), r->uring.tail, r->uring.sq_entries, load_relaxed(r->uring.sq_flags),
			*r->uring.cq_head, load_relaxed(r->uring.cq_tail));
	}
	t->ios += done;
	REQUIRE(t, !uring_ready(&r->uring), "a completion too many");
	return PASS;
}

static enum verdict test_nop_storm(struct test *t)
{
	struct upv_ring r;

	TRY(setup(t, &r, 0, (struct upv_ring_options){ .sq_entries = 128 }));
	TRY(nop_storm(t, &r, 128, 100000));
	return pass(t, "100000 NOPs, SQPOLL %s", r.uring.polled ? "on" : "off");
}

static enum verdict test_nop_no_array(struct test *t)
{
	struct upv_ring r;

	if (!(t->dev->id.setup_flags & IORING_SETUP_NO_SQARRAY))
		return skip(t, "the host does not allow NO_SQARRAY");
	TRY(setup(t, &r, 0, (struct upv_ring_options){ .flags = IORING_SETUP_NO_SQARRAY }));
	REQUIRE(t, !r.uring.sq_array && r.setup.params.flags & IORING_SETUP_NO_SQARRAY, "flags %x returned", r.setup.params.flags);
	return nop_storm(t, &r, 64, 20000);
}

static enum verdict test_nop_doorbell(struct test *t)
{
	struct upv_ring r;
	u64 before = t->dev->doorbells;

	TRY(setup(t, &r, 0, (struct upv_ring_options){ .doorbell = true }));
	REQUIRE(t, !r.uring.polled, "a polled ring, unasked");
	TRY(nop_storm(t, &r, 64, 2000));
	return pass(t, "2000 NOPs with %lu doorbells", t->dev->doorbells - before);
}

static enum verdict test_setup_destroy(struct test *t)
{
	for (u32 i = 0; i < 100; i++) {
		struct upv_ring r;
		u64 mark = mem_mark();
		s32 error;

		TRY(setup(t, &r, i % t->dev->id.num_rings, (struct upv_ring_options){ .sq_entries = 1u << i % 8 }));
		TRY(nop_storm(t, &r, MIN(r.uring.sq_entries, 8), 8));
		REQUIRE(t, upv_command(t->dev, URINGPV_CMD_RING_SETUP, r.index, &r.setup, sizeof(r.setup)) != 0, "a ring set up twice");
		error = upv_ring_destroy(&r);
		REQUIRE(t, !error, "round %u: RING_DESTROY: %d", i, error);
		REQUIRE(t, upv_ring_destroy(&r) == -ENXIO, "round %u: destroyed twice", i);
		mem_release(mark);
	}
	return PASS;
}

static enum verdict test_ring_stats(struct test *t)
{
	struct uringpv_ring_stats s = { 0 };
	struct upv_ring r;
	u8 *buf = alloc(4096);

	TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
	TRY(nop_storm(t, &r, 16, 1000));
	TRY(expect(t, &r, "read", rw(t, IORING_OP_READ_FIXED, buf, 4096, 0), 4096));
	TRY(expect(t, &r, "unknown file", (struct sqe){ .opcode = IORING_OP_FSYNC, .flags = IOSQE_FIXED_FILE, .fd = 200 }, -EBADF));
	REQUIRE(t, !upv_command(t->dev, URINGPV_CMD_RING_STATS, 0, &s, sizeof(s)), "RING_STATS fails");
	REQUIRE(t, !(s.valid & URINGPV_STAT_SQES) || s.sqes == 1002, "%lu SQEs, want 1002", s.sqes);
	REQUIRE(t, !(s.valid & URINGPV_STAT_CQES) || s.cqes == 1002, "%lu CQEs, want 1002", s.cqes);
	REQUIRE(t, !(s.valid & URINGPV_STAT_ERRORS) || s.errors == 1, "%lu errors, want 1", s.errors);
	REQUIRE(t, !(s.valid & URINGPV_STAT_BYTES) || s.bytes_read == 4096, "%lu bytes read", s.bytes_read);
	REQUIRE(t, s.valid & URINGPV_STAT_SQES, "the device does not count SQEs");
	return pass(t, "counters %lx are known", s.valid);
}

/* ---- data ---- */

#define BLOCK 512u
#define POOL (16u << 20)
#define MIN_DISK (1u << 20)

/* What a block holds after its generation-th write. */
static u64 stamp(u64 block, u32 generation)
{
	u64 z = (block << 32 | generation) * 0x9e3779b97f4a7c15ull;

	return z ^ z >> 29;
}

static void fill(u64 *to, u64 block, u32 generation)
{
	u64 v = stamp(block, generation);

	to[0] = block;
	to[1] = generation;
	for (u32 i = 2; i < BLOCK / 8; i++)
		to[i] = v + i;
}

static bool holds(const u64 *p, u64 block, u32 generation)
{
	u64 v = stamp(block, generation), bad = (p[0] ^ block) | (p[1] ^ generation);

	for (u32 i = 2; i < BLOCK / 8; i++)
		bad |= p[i] ^ (v + i);
	return !bad;
}

struct io {
	bool busy, write;
	u64 block; /* first of the disk */
	u32 n, done; /* blocks wanted, bytes done */
	u8 *buf;
};

/* The disk's model: each block's generation, 0 if it was never written; and who
 * is at it. */
struct model {
	u64 blocks;
	u32 *generation;
	u8 *users; /* 255: a writer; else readers */
	u32 align; /* blocks: of offsets and lengths */
};

static bool claim(struct model *m, u64 block, u32 n, bool write)
{
	for (u32 i = 0; i < n; i++)
		if (write ? m->users[block + i] : m->users[block + i] >= 254)
			return false;
	for (u32 i = 0; i < n; i++)
		m->users[block + i] = write ? 255 : m->users[block + i] + 1;
	return true;
}

static void unclaim(struct model *m, u64 block, u32 n, bool write)
{
	for (u32 i = 0; i < n; i++)
		m->users[block + i] = write ? 0 : m->users[block + i] - 1;
}

static void send(struct test *t, struct upv_ring *r, struct io *io, u32 slot)
{
	struct sqe *s = uring_sqe_soon(&r->uring);

	*s = rw(t, io->write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED, io->buf + io->done, io->n * BLOCK - io->done,
		io->block * BLOCK + io->done);
	s->user_data = slot;
}

/* Reads and writes at random, depth in flight, each block checked. */
static enum verdict verify_phase(struct test *t, struct model *m, struct upv_ring *r, u8 *pool, u32 depth, u64 ios)
{
	u32 largest = (u32)MIN(MIN(POOL / depth, 1u << 20) / BLOCK, m->blocks);
	struct io *slots = alloc(depth * sizeof(*slots));
	u64 sent = 0, done = 0;

	for (u32 i = 0; i < depth; i++)
		slots[i].buf = pool + (u64)i * largest * BLOCK;
	while (done < ios) {
		u32 n, before = (u32)sent;

		for (u32 i = 0; i < depth && sent < ios; i++) {
			struct io *io = &slots[i];
			u32 tries;

			if (io->busy)
				continue;
			for (tries = 0; tries < 8; tries++) {
				/* Mostly small, now and then up to the largest. */
				u32 bits = (u32)rand_below(&t->rand, rand_below(&t->rand, 8) ? 4 : 12);
				u64 want = MAX(1 + rand_below(&t->rand, 1u << bits), m->align);

				io->n = (u32)MIN(want, largest);
				io->n -= io->n % m->align;
				io->block = rand_below(&t->rand, m->blocks - io->n + 1);
				io->block -= io->block % m->align;
				io->write = rand_below(&t->rand, 2);
				if (claim(m, io->block, io->n, io->write))
					break;
			}
			if (tries == 8)
				continue;
			io->busy = true;
			io->done = 0;
			for (u32 b = 0; io->write && b < io->n; b++)
				fill((u64 *)(io->buf + b * BLOCK), io->block + b, ++m->generation[io->block + b]);
			send(t, r, io, i);
			sent++;
		}
		if ((u32)sent != before)
			uring_submit(&r->uring);
		else
			TRY(wait_cqes(t, r, 1));
		n = uring_ready(&r->uring);
		for (u32 i = 0; i < n; i++) {
			const struct cqe *c = uring_cqe(&r->uring, i);
			struct io *io = &slots[c->user_data % depth];

			REQUIRE(t, c->user_data < depth && io->busy, "a completion of %lx, which is not in flight", c->user_data);
			REQUIRE(t, c->res > 0 && (u32)c->res <= io->n * BLOCK - io->done, "%s of %u blocks at %lu: result %d",
				io->write ? "write" : "read", io->n, io->block, c->res);
			io->done += (u32)c->res;
			if (io->done < io->n * BLOCK) { /* short: go on with the rest */
				REQUIRE(t, !(io->done % BLOCK), "a short result of %d bytes", c->res);
				send(t, r, io, (u32)c->user_data);
				sent++;
				ios++;
				done++;
				uring_submit(&r->uring);
				continue;
			}
			for (u32 b = 0; !io->write && b < io->n; b++) {
				u64 *p = (u64 *)(io->buf + b * BLOCK);
				u32 want = m->generation[io->block + b];

				REQUIRE(t, !want || holds(p, io->block + b, want), "block %lu holds block %lu, generation %lu; want generation %u",
					io->block + b, p[0], p[1], want);
			}
			unclaim(m, io->block, io->n, io->write);
			io->busy = false;
			done++;
		}
		uring_advance(&r->uring, n);
		REQUIRE(t, !expired(t), "%lu of %lu requests done after the time limit, depth %u", done, ios, depth);
	}
	t->ios += done;
	return PASS;
}

static enum verdict test_verify(struct test *t)
{
	static const struct {
		u32 depth, percent;
	} phases[] = { { 1, 4 }, { 2, 6 }, { 8, 15 }, { 32, 35 }, { 0, 40 } }; /* 0: a full ring */
	u64 ios = arg_u64("ios", 100000), total = 0, written = 0, checked = 0;
	struct model m = { .blocks = t->file.size / BLOCK, .align = 1 };
	u8 *pool = alloc(POOL);

	if (t->file.flags & URINGPV_FILE_READONLY)
		return skip(t, "file 0 is read-only");
	if (t->file.flags & URINGPV_FILE_DIRECT)
		m.align = MAX(t->file.dio_offset_align, BLOCK) / BLOCK;
	m.blocks = MIN(m.blocks, 1u << 20); /* 512 MiB of a large disk will do */
	m.blocks -= m.blocks % m.align;
	m.generation = alloc(m.blocks * sizeof(u32));
	m.users = alloc(m.blocks);
	for (u32 i = 0; i < ARRAY_SIZE(phases); i++) {
		u32 depth = phases[i].depth ? phases[i].depth : MIN(t->dev->id.max_sq_entries, 256);
		u64 mark = mem_mark(), n = ios * phases[i].percent / 100 + 1;
		struct upv_ring r;

		TRY(setup(t, &r, 0, (struct upv_ring_options){ .sq_entries = depth }));
		TRY(verify_phase(t, &m, &r, pool, depth, n));
		total += n;
		REQUIRE(t, !upv_ring_destroy(&r), "RING_DESTROY fails");
		mem_release(mark);
	}
	/* All that was written, once more. */
	{
		struct upv_ring r;
		u32 chunk = POOL / BLOCK;

		TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
		for (u64 b = 0; b < m.blocks; b += chunk) {
			u32 n = (u32)MIN(chunk, m.blocks - b);

			for (u32 at = 0; at < n * BLOCK;) {
				s32 res = 0;

				TRY(one(t, &r, rw(t, IORING_OP_READ_FIXED, pool + at, MIN(n * BLOCK - at, 1u << 20), b * BLOCK + at), &res));
				REQUIRE(t, res > 0, "read at %lu: result %d", b * BLOCK + at, res);
				at += (u32)res;
				total++;
			}
			for (u32 i = 0; i < n; i++) {
				u64 *p = (u64 *)(pool + i * BLOCK);
				u32 want = m.generation[b + i];

				REQUIRE(t, !want || holds(p, b + i, want), "at the end block %lu holds block %lu, generation %lu; want generation %u",
					b + i, p[0], p[1], want);
				written += want != 0;
				checked++;
			}
		}
	}
	return pass(t, "%lu requests, %lu of %lu blocks written", total, written, checked);
}

static enum verdict test_fsync(struct test *t)
{
	struct sqe e = { .opcode = IORING_OP_FSYNC, .flags = IOSQE_FIXED_FILE };
	struct upv_ring r;
	u64 *buf = alloc(4096);

	TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
	if (!(t->file.flags & URINGPV_FILE_READONLY)) {
		for (u32 b = 0; b < 4096 / BLOCK; b++)
			fill(buf + b * BLOCK / 8, b, 7);
		TRY(expect(t, &r, "write", rw(t, IORING_OP_WRITE_FIXED, buf, 4096, 0), 4096));
	}
	TRY(expect(t, &r, "fsync", e, 0));
	e.op_flags = IORING_FSYNC_DATASYNC;
	TRY(expect(t, &r, "fdatasync", e, 0));
	e.op_flags = 0;
	e.off = 4096;
	e.len = 8192;
	TRY(expect(t, &r, "fsync of a range", e, 0));
	e.op_flags = IORING_FSYNC_DATASYNC;
	TRY(expect(t, &r, "fdatasync of a range", e, 0));
	e.op_flags = 0x80;
	TRY(expect(t, &r, "fsync with an unknown flag", e, -EINVAL));
	return PASS;
}

static enum verdict test_read_write(struct test *t)
{
	struct upv_ring r;
	u64 *out = alloc(4096), *in = alloc(4096);
	struct sqe e;

	TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
	if (!upv_has_opcode(t->dev, IORING_OP_READ) || !upv_has_opcode(t->dev, IORING_OP_WRITE)) {
		TRY(expect(t, &r, "READ, which is not offered", rw(t, IORING_OP_READ, in, 4096, 0), -EACCES));
		TRY(expect(t, &r, "WRITE, which is not offered", rw(t, IORING_OP_WRITE, out, 4096, 0), -EACCES));
		return pass(t, "refused, as IDENTIFY says: the address would be the monitor's");
	}
	for (u32 b = 0; b < 4096 / BLOCK; b++)
		fill(out + b * BLOCK / 8, b, 9);
	e = rw(t, IORING_OP_WRITE, out, 4096, 8192);
	TRY(expect(t, &r, "WRITE", e, 4096));
	e = rw(t, IORING_OP_READ, in, 4096, 8192);
	TRY(expect(t, &r, "READ", e, 4096));
	REQUIRE(t, !memcmp(in, out, 4096), "READ gives other bytes than WRITE took");
	e.addr = t->dev->id.addr_base + boot->ram[0].len;
	TRY(expect(t, &r, "READ outside RAM", e, -EFAULT));
	return PASS;
}

static enum verdict test_fallocate(struct test *t)
{
	struct upv_ring r;
	u8 *buf = alloc(8192);
	struct sqe e = { .opcode = IORING_OP_FALLOCATE, .flags = IOSQE_FIXED_FILE, .off = 4096, .addr = 4096 };

	TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
	if (!upv_has_opcode(t->dev, IORING_OP_FALLOCATE)) {
		TRY(expect(t, &r, "FALLOCATE, which is not offered", e, -EACCES));
		return pass(t, "refused, as IDENTIFY says: its mode cannot be restricted");
	}
	memset(buf, 0x77, 8192);
	TRY(expect(t, &r, "write", rw(t, IORING_OP_WRITE_FIXED, buf, 8192, 0), 8192));
	e.len = 3; /* PUNCH_HOLE | KEEP_SIZE */
	TRY(expect(t, &r, "punch hole", e, 0));
	TRY(expect(t, &r, "read", rw(t, IORING_OP_READ_FIXED, buf, 8192, 0), 8192));
	for (u32 i = 0; i < 8192; i++)
		REQUIRE(t, buf[i] == (i < 4096 ? 0x77 : 0), "byte %u is %x after the hole was punched", i, buf[i]);
	e.off = t->file.size;
	TRY(expect(t, &r, "past the end", e, -EFBIG));
	return PASS;
}

/* ---- interrupts ---- */

/* Sleep until the ring has a CQE. */
static enum verdict sleep_for_cqe(struct test *t, struct upv_ring *r, u32 vector)
{
	u32 *count = &interrupt_count[VECTOR_DEVICE + vector];

	for (;;) {
		u32 seen = load_relaxed(count);

		if (uring_ready(&r->uring))
			return PASS;
		wait_for_change(count, seen);
		REQUIRE(t, !expired(t), "asleep on vector %u: no interrupt, %u CQEs", vector, uring_ready(&r->uring));
	}
}

static enum verdict test_interrupts(struct test *t)
{
	u32 rings = MIN(t->dev->id.num_rings, 4), rounds = 50;
	struct upv_ring *r = alloc(rings * sizeof(*r));
	u32 first[4], last[4];
	u8 *buf = alloc(4096);

	for (u32 i = 0; i < rings; i++)
		TRY(setup(t, &r[i], i, (struct upv_ring_options){ .sq_entries = 8, .vector1 = i + 1 }));
	for (u32 i = 0; i < rings; i++)
		first[i] = interrupt_count[VECTOR_DEVICE + i];
	for (u32 round = 0; round < rounds; round++) {
		for (u32 i = 0; i < rings; i++) {
			u32 others[4];
			struct sqe *s = uring_sqe_soon(&r[i].uring);

			for (u32 j = 0; j < rings; j++)
				others[j] = interrupt_count[VECTOR_DEVICE + j];
			*s = round & 1 ? nop() : rw(t, IORING_OP_READ_FIXED, buf, 4096, 0);
			uring_submit(&r[i].uring);
			TRY(sleep_for_cqe(t, &r[i], i));
			uring_advance(&r[i].uring, 1);
			/* The CQE may be seen before its interrupt comes. */
			while (load_relaxed(&interrupt_count[VECTOR_DEVICE + i]) == others[i]) {
				wait_for_change(&interrupt_count[VECTOR_DEVICE + i], others[i]);
				REQUIRE(t, !expired(t), "ring %u: a CQE and no interrupt", i);
			}
			for (u32 j = 0; j < rings; j++)
				REQUIRE(t, j == i || interrupt_count[VECTOR_DEVICE + j] == others[j], "ring %u raised vector %u", i, j);
			t->ios++;
		}
	}
	for (u32 i = 0; i < rings; i++) {
		last[i] = interrupt_count[VECTOR_DEVICE + i] - first[i];
		REQUIRE(t, last[i] >= rounds, "vector %u: %u interrupts for %u completions", i, last[i], rounds);
	}
	return pass(t, "%u rings with a vector each, %u interrupts on the first", rings, last[0]);
}

static enum verdict test_irq_suppression(struct test *t)
{
	struct upv_ring r;
	u32 *count = &interrupt_count[VECTOR_DEVICE], seen;
	u64 until;

	TRY(setup(t, &r, 0, (struct upv_ring_options){ .vector1 = 1 }));
	store_release(r.uring.cq_flags, IORING_CQ_EVENTFD_DISABLED);
	full_barrier();
	seen = load_relaxed(count);
	TRY(nop_storm(t, &r, 16, 1000));
	for (until = rdtsc() + tsc_of_ms(30); rdtsc() < until;)
		cpu_relax();
	REQUIRE(t, load_relaxed(count) == seen, "%u interrupts though they are suppressed", load_relaxed(count) - seen);

	/* Unmask after submitting: the completion comes before or after, and must
	 * wake us either way. */
	for (u32 i = 0; i < 500; i++) {
		struct sqe *s;

		store_release(r.uring.cq_flags, IORING_CQ_EVENTFD_DISABLED);
		full_barrier();
		s = uring_sqe_soon(&r.uring);
		*s = nop();
		uring_submit(&r.uring);
		for (u64 d = rand_below(&t->rand, 300); d; d--)
			cpu_relax();
		store_release(r.uring.cq_flags, 0);
		full_barrier();
		TRY(sleep_for_cqe(t, &r, 0));
		uring_advance(&r.uring, 1);
		t->ios++;
	}
	return PASS;
}

static enum verdict test_msix_mask(struct test *t)
{
	struct upv_ring r;
	u32 *count = &interrupt_count[VECTOR_DEVICE], seen;
	u64 until;

	TRY(setup(t, &r, 0, (struct upv_ring_options){ .vector1 = 1 }));
	for (u32 i = 0; i < 5; i++) {
		msix_mask(&t->dev->msix, 0, true);
		seen = load_relaxed(count);
		TRY(nop_storm(t, &r, 1, 1));
		/* The signal follows the CQE. */
		for (until = rdtsc() + tsc_of_ms(2000); !(*t->dev->msix.pending & 1);)
			REQUIRE(t, rdtsc() < until, "masked: the pending bit is not set");
		REQUIRE(t, load_relaxed(count) == seen, "an interrupt though the vector is masked");
		msix_mask(&t->dev->msix, 0, false);
		while (load_relaxed(count) == seen) {
			wait_for_change(count, seen);
			REQUIRE(t, !expired(t), "unmasked: the pending interrupt does not come");
		}
		REQUIRE(t, !(*t->dev->msix.pending & 1), "the pending bit stays set");
	}
	return PASS;
}

static enum verdict test_sq_sleep(struct test *t)
{
	struct upv_ring r;
	u64 before = t->dev->doorbells;

	TRY(setup(t, &r, 0, (struct upv_ring_options){ .idle_ms = 1, .vector1 = 1 }));
	if (!r.uring.polled)
		return skip(t, "the host does not allow SQPOLL");
	for (u32 i = 0; i < 20; i++) {
		s32 res;

		while (!(load_relaxed(r.uring.sq_flags) & IORING_SQ_NEED_WAKEUP)) {
			cpu_relax();
			REQUIRE(t, !expired(t), "the host polls on and on");
		}
		TRY(one(t, &r, nop(), &res));
		REQUIRE(t, !res, "result %d", res);
	}
	REQUIRE(t, t->dev->doorbells - before >= 20, "%lu doorbells for 20 wake-ups", t->dev->doorbells - before);
	return PASS;
}

static enum verdict test_cq_overflow(struct test *t)
{
	enum { TOTAL = 400 };
	struct upv_ring r;
	u8 seen[TOTAL] = { 0 };
	u32 sent = 0, got = 0;
	bool overflowed = false;
	u64 until;

	TRY(setup(t, &r, 0, (struct upv_ring_options){ .sq_entries = 32, .cq_entries = 32 }));
	/* Send without taking anything, until all is sent or the host takes no more. */
	for (until = rdtsc() + tsc_of_ms(300); sent < TOTAL && rdtsc() < until;) {
		struct sqe *s = uring_sqe(&r.uring);

		if (s) {
			*s = nop();
			s->user_data = sent++;
			uring_submit(&r.uring);
		}
	}
	for (until = rdtsc() + tsc_of_ms(2000); !overflowed && rdtsc() < until; cpu_relax())
		overflowed = load_relaxed(r.uring.sq_flags) & IORING_SQ_CQ_OVERFLOW;
	REQUIRE(t, overflowed, "%u SQEs consumed, a CQ ring of 32, and no overflow flag", load_relaxed(r.uring.sq_head));
	while (got < TOTAL) {
		u32 n = uring_ready(&r.uring);

		for (u32 i = 0; i < n; i++) {
			const struct cqe *c = uring_cqe(&r.uring, i);

			REQUIRE(t, c->user_data < TOTAL && !seen[c->user_data], "completion of %lu, twice or of nothing", c->user_data);
			seen[c->user_data] = 1;
		}
		uring_advance(&r.uring, n);
		got += n;
		for (struct sqe *s; sent < TOTAL && (s = uring_sqe(&r.uring)); sent++) {
			*s = nop();
			s->user_data = sent;
		}
		uring_submit(&r.uring);
		full_barrier();
		if (!uring_ready(&r.uring) && load_relaxed(r.uring.sq_flags) & IORING_SQ_CQ_OVERFLOW) {
			if (got & 1) { /* both ways to flush */
				struct uringpv_enter e = { .flags = IORING_ENTER_GETEVENTS };

				REQUIRE(t, !upv_command(t->dev, URINGPV_CMD_RING_ENTER, 0, &e, sizeof(e)), "RING_ENTER fails");
			} else {
				r.uring.kick(&r.uring);
			}
		}
		REQUIRE(t, !expired(t), "%u of %u completions after the time limit", got, (u32)TOTAL);
	}
	t->ios += got;
	REQUIRE(t, !load_relaxed(r.uring.cq_overflow), "%u completions lost", load_relaxed(r.uring.cq_overflow));
	return nop_storm(t, &r, 16, 1000);
}

/* ---- cost ---- */

#define SETTLE_MS 60

/* Read by polling on a fresh ring, 32 in flight, and tell what it cost. */
static enum verdict stretch(struct test *t, u32 reads, u8 *pool, u64 *exits, u64 *calls)
{
	struct upv_ring r;
	struct counters a, b;
	u32 sent = 0, done = 0, n;

	TRY(setup(t, &r, 0, (struct upv_ring_options){ .sq_entries = 32, .idle_ms = 1000 }));
	if (!r.uring.polled)
		return skip(t, "the host does not allow SQPOLL");
	TRY(nop_storm(t, &r, 32, 1000));
	a = counters();
	/* The monitor's threads go back to sleep. strace's reader counts from here. */
	spin_ms(SETTLE_MS);
	while (done < reads) {
		u32 before = sent;

		while (sent < reads && sent - done < 32) {
			struct sqe *s = uring_sqe(&r.uring);

			if (!s)
				break;
			*s = rw(t, IORING_OP_READ_FIXED, pool + sent % 32 * 4096, 4096, rand_below(&t->rand, t->file.size / 4096) * 4096);
			sent++;
		}
		if (sent != before)
			uring_submit(&r.uring);
		n = uring_ready(&r.uring);
		for (u32 i = 0; i < n; i++)
			REQUIRE(t, uring_cqe(&r.uring, i)->res == 4096, "result %d", uring_cqe(&r.uring, i)->res);
		uring_advance(&r.uring, n);
		done += n;
		if (!n)
			cpu_relax();
		REQUIRE(t, !expired(t), "%u of %u reads after the time limit", done, reads);
	}
	b = counters();
	t->ios += done;
	REQUIRE(t, a.kvm_exits, "the host does not count VM exits");
	*exits = (b.kvm_exits - b.irq_exits) - (a.kvm_exits - a.irq_exits);
	*calls = b.vmm_syscalls - a.vmm_syscalls;
	REQUIRE(t, !upv_ring_destroy(&r), "RING_DESTROY fails");
	return PASS;
}

/* What I/O costs the monitor: nothing. Twice a second it looks after a ring in
 * use, so a stretch that such a look falls into is read again, and a shorter one
 * where the host is slow, until enough reads have cost nothing. */
static enum verdict test_polled_stretch(struct test *t)
{
	enum { READS = 100000, LEAST = 5000, TRIES = 100 };
	bool direct = t->dev->id.backend != URINGPV_BACKEND_RELAY;
	u8 *pool = alloc(32 * 4096);
	u64 exits = 0, calls = 0;
	u32 reads = READS, done = 0;

	for (u32 try = 0; done < READS; try++) {
		u64 mark = mem_mark(), e = 0, c = 0;

		TRY(stretch(t, reads, pool, &e, &c));
		mem_release(mark);
		if (direct && c) {
			REQUIRE(t, try < TRIES, "%lu system calls of the monitor for %u reads, want none", c, reads);
			reads = reads / 2 > LEAST ? reads / 2 : LEAST;
			continue;
		}
		done += reads;
		exits += e;
		calls += c;
	}
	REQUIRE(t, !direct || exits < 20 * (READS / reads), "%lu VM exits for %u reads, want fewer than %u", exits, done, 20 * (READS / reads));
	return pass(t, "%lu VM exits, %lu system calls for %u reads", exits, calls, (u32)READS);
}

/* ---- refusals ---- */

static enum verdict test_unknown_file(struct test *t)
{
	static const s32 bad[] = { 2, 3, 100, 254, 256, 1 << 20, -1, INT32_MIN };
	struct upv_ring r;
	u8 *buf = alloc(4096);

	TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		struct sqe e = rw(t, IORING_OP_READ_FIXED, buf, 512, 0);

		if (bad[i] >= 0 && (u32)bad[i] < t->dev->id.num_files)
			continue;
		e.fd = bad[i];
		TRY(expect(t, &r, "unknown file", e, -EBADF));
		e.opcode = IORING_OP_FSYNC;
		e.addr = e.len = 0;
		TRY(expect(t, &r, "fsync of an unknown file", e, -EBADF));
	}
	return PASS;
}

static enum verdict test_chosen_files(struct test *t)
{
	struct upv_ring r;
	u32 *files = alloc(4096);
	u8 *buf = alloc(4096);
	struct sqe e = rw(t, IORING_OP_READ_FIXED, buf, 512, 0);

	files[0] = t->dev->id.num_files - 1;
	TRY(setup(t, &r, 0, (struct upv_ring_options){ .files = files, .nr_files = 1 }));
	TRY(expect(t, &r, "the chosen file", e, 512));
	e.fd = 1;
	TRY(expect(t, &r, "a file that was not chosen", e, -EBADF));
	return PASS;
}

static enum verdict test_outside_buffers(struct test *t)
{
	struct upv_ring r;
	u64 base = t->dev->id.addr_base, end = base + boot->ram[0].len;
	u8 *buf = alloc(4096);
	const struct {
		const char *what;
		u64 addr;
		u32 len, index;
	} bad[] = {
		{ "null", 0, 512, 0 },
		{ "a GPA without ADDR_BASE", (u64)buf, 512, 0 },
		{ "below ADDR_BASE", base - 4096, 512, 0 },
		{ "across the start", base - 256, 512, 0 },
		{ "at the end of RAM", end, 512, 0 },
		{ "across the end of RAM", end - 256, 512, 0 },
		{ "kernel space", 0xffff888000000000ull, 512, 0 },
		{ "the end of the address space", ~0ull - 255, 512, 0 },
		{ "too long", upv_addr(t->dev, buf), 0x7fffffff, 0 },
		{ "longer still", upv_addr(t->dev, buf), 0xffffffff, 0 },
		{ "another process's usual heap", 0xc000000000ull, 512, 0 },
		{ "unknown buffer", upv_addr(t->dev, buf), 512, 1000 },
		{ "unknown buffer, the last", upv_addr(t->dev, buf), 512, 65535 },
	};

	TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		for (u32 w = 0; w < 2; w++) {
			struct sqe e = rw(t, w ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED, buf, bad[i].len, 0);

			e.addr = bad[i].addr;
			e.buf_index = (u16)bad[i].index;
			TRY(expect(t, &r, bad[i].what, e, -EFAULT));
		}
	}
	return PASS;
}

static enum verdict test_straddle(struct test *t)
{
	struct upv_ring r;
	struct uringpv_range *b = alloc(4096);
	u8 *buf = alloc(4 * 65536);
	struct sqe e = rw(t, IORING_OP_READ_FIXED, buf, 65536, 0);

	b[0] = (struct uringpv_range){ (u64)buf, 65536 };
	b[1] = (struct uringpv_range){ (u64)buf + 65536, 65536 };
	TRY(setup(t, &r, 0, (struct upv_ring_options){ .buffers = b, .nr_buffers = 2 }));
	e.buf_index = 0;
	TRY(expect(t, &r, "the whole of buffer 0", e, 65536));
	e.buf_index = 1;
	TRY(expect(t, &r, "buffer 0 by index 1", e, -EFAULT));
	e.addr += 65536;
	TRY(expect(t, &r, "the whole of buffer 1", e, 65536));
	e.addr -= 512;
	e.len = 1024;
	for (u32 i = 0; i < 2; i++) {
		e.buf_index = (u16)i;
		TRY(expect(t, &r, "across two buffers", e, -EFAULT));
	}
	e = rw(t, IORING_OP_READ_FIXED, buf + 3 * 65536, 512, 0);
	e.buf_index = 0;
	TRY(expect(t, &r, "RAM that is no buffer of the ring", e, -EFAULT));
	return PASS;
}

static enum verdict test_forbidden_opcode(struct test *t)
{
	struct upv_ring r;
	u32 refused = 0;

	TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
	for (u32 op = 0; op < 256; op++) {
		struct sqe e = { .opcode = (u8)op, .flags = IOSQE_FIXED_FILE };
		s32 res = 0;

		if (upv_has_opcode(t->dev, (u8)op))
			continue;
		TRY(one(t, &r, e, &res));
		REQUIRE(t, res == -EACCES || (op >= 40 && res == -EINVAL), "opcode %u: result %d, want %d", op, res, -EACCES);
		refused++;
	}
	REQUIRE(t, !upv_ring_destroy(&r), "RING_DESTROY fails");
	/* A ring that asked for less. */
	TRY(setup(t, &r, 0, (struct upv_ring_options){ .opcodes = { 1 << IORING_OP_NOP } }));
	TRY(expect(t, &r, "NOP", nop(), 0));
	TRY(expect(t, &r, "FSYNC on a ring of NOPs", (struct sqe){ .opcode = IORING_OP_FSYNC, .flags = IOSQE_FIXED_FILE }, -EACCES));
	return pass(t, "%u opcodes refused", refused);
}

static enum verdict test_forbidden_flag(struct test *t)
{
	struct upv_ring r;

	TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
	for (u32 bit = 0; bit < 7; bit++) {
		struct sqe e = nop();
		u8 flag = (u8)(1u << bit);
		s32 res = 0;

		if (t->dev->id.sqe_flags & flag)
			continue;
		e.flags |= flag;
		TRY(one(t, &r, e, &res));
		REQUIRE(t, res == -EACCES || (flag == IOSQE_BUFFER_SELECT && res == -EOPNOTSUPP), "flag %x: result %d, want %d", flag, res,
			-EACCES);
	}
	TRY(expect(t, &r, "without IOSQE_FIXED_FILE", (struct sqe){ .opcode = IORING_OP_NOP }, -EACCES));
	return PASS;
}

static enum verdict test_readonly_file(struct test *t)
{
	struct uringpv_file f = { 0 };
	struct upv_ring r;
	u8 *before = alloc(4096), *after = alloc(4096), *other = alloc(4096);
	struct sqe e;
	u32 i;

	for (i = 0; i < t->dev->id.num_files; i++) {
		upv_command(t->dev, URINGPV_CMD_FILE_INFO, i, &f, sizeof(f));
		if (f.flags & URINGPV_FILE_READONLY)
			break;
	}
	if (i == t->dev->id.num_files)
		return skip(t, "no file is read-only");
	TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
	e = rw(t, IORING_OP_READ_FIXED, before, 4096, 0);
	e.fd = (s32)i;
	TRY(expect(t, &r, "read", e, 4096));
	memset(other, 0xee, 4096);
	e = rw(t, IORING_OP_WRITE_FIXED, other, 4096, 0);
	e.fd = (s32)i;
	TRY(expect(t, &r, "write", e, -EBADF));
	e = rw(t, IORING_OP_READ_FIXED, after, 4096, 0);
	e.fd = (s32)i;
	TRY(expect(t, &r, "read", e, 4096));
	REQUIRE(t, !memcmp(before, after, 4096), "the write went through");
	return PASS;
}

static enum verdict test_past_the_end(struct test *t)
{
	struct uringpv_file f = { 0 };
	s32 full = t->file.flags & URINGPV_FILE_BLOCKDEV ? -ENOSPC : -EFBIG;
	u32 align = MAX(t->file.dio_offset_align, BLOCK);
	u64 size = t->file.size;
	struct upv_ring r;
	u8 *buf = alloc(4 * 4096);
	s32 res = 0;

	if (t->file.flags & URINGPV_FILE_READONLY)
		return skip(t, "file 0 is read-only");
	if (size % align)
		return skip(t, "the disk's end is not aligned");
	TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
	TRY(expect(t, &r, "write at the end", rw(t, IORING_OP_WRITE_FIXED, buf, align, size), full));
	TRY(expect(t, &r, "write at 1 TiB", rw(t, IORING_OP_WRITE_FIXED, buf, align, (1ull << 40) + size), full));
	TRY(one(t, &r, rw(t, IORING_OP_WRITE_FIXED, buf, 2 * align, size - align), &res));
	REQUIRE(t, res == (s32)align, "write across the end: result %d, want %u", res, align);
	TRY(expect(t, &r, "read at the end", rw(t, IORING_OP_READ_FIXED, buf, align, size), 0));
	TRY(expect(t, &r, "read across the end", rw(t, IORING_OP_READ_FIXED, buf, 2 * align, size - align), (s32)align));
	TRY(one(t, &r, rw(t, IORING_OP_WRITE_FIXED, buf, align, 1ull << 63), &res));
	REQUIRE(t, res < 0, "write at 2^63: result %d", res);
	TRY(one(t, &r, rw(t, IORING_OP_WRITE_FIXED, buf, align, INT64_MAX - 511), &res));
	REQUIRE(t, res < 0, "write at the largest offset: result %d", res);
	/* RWF_APPEND: at the end, whatever the offset says. */
	{
		struct sqe e = rw(t, IORING_OP_WRITE_FIXED, buf, align, 0);

		e.op_flags = 0x10;
		TRY(one(t, &r, e, &res));
		REQUIRE(t, res < 0, "appending write: result %d", res);
	}
	REQUIRE(t, !upv_command(t->dev, URINGPV_CMD_FILE_INFO, 0, &f, sizeof(f)) && f.size == size, "the disk has %lu bytes now, had %lu",
		f.size, size);
	return PASS;
}

static enum verdict test_bad_commands(struct test *t)
{
	struct uringpv_enter e = { .min_complete = 1 };
	struct uringpv_register reg = { .opcode = IORING_REGISTER_PERSONALITY };
	u8 *big = alloc(8192);
	struct upv *d = t->dev;
	struct upv_ring r;
	u64 ram = boot->ram[0].len;

	REQUIRE(t, upv_command(d, 0, 0, NULL, 0) == -EINVAL, "command 0");
	REQUIRE(t, upv_command(d, 99, 0, NULL, 0) == -EINVAL, "command 99");
	REQUIRE(t, upv_command(d, URINGPV_CMD_IDENTIFY, 0, NULL, 0) == -EINVAL, "IDENTIFY without a payload");
	REQUIRE(t, upv_command(d, URINGPV_CMD_IDENTIFY, 0, big, 4097) == -E2BIG, "a payload of 4097 bytes");
	REQUIRE(t, upv_command(d, URINGPV_CMD_IDENTIFY, 0, big + 4, 64) == -EINVAL, "an unaligned payload");
	REQUIRE(t, upv_command(d, URINGPV_CMD_IDENTIFY, 0, (void *)ram, 64) == -EFAULT, "a payload outside RAM");
	REQUIRE(t, upv_command(d, URINGPV_CMD_IDENTIFY, 0, (void *)(ram - 32), 64) == -EFAULT, "a payload across the end of RAM");
	REQUIRE(t, upv_command(d, URINGPV_CMD_IDENTIFY, 0, (void *)~7ull, 64) == -EFAULT, "a payload that wraps");
	REQUIRE(t, upv_command(d, URINGPV_CMD_RING_ENTER, 0, &e, sizeof(e)) == -ENXIO, "RING_ENTER without a ring");
	REQUIRE(t, upv_command(d, URINGPV_CMD_RING_DESTROY, 5000, NULL, 0) < 0, "RING_DESTROY of ring 5000");
	TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
	REQUIRE(t, upv_command(d, URINGPV_CMD_RING_ENTER, 0, &e, sizeof(e)) == -EINVAL, "RING_ENTER that waits");
	REQUIRE(t, upv_command(d, URINGPV_CMD_RING_REGISTER, 0, &reg, sizeof(reg)) == -EINVAL, "RING_REGISTER of a personality");
	big[4095] = 1;
	REQUIRE(t, upv_command(d, URINGPV_CMD_RING_ENTER, 0, big, 4096) == -E2BIG, "a payload with something unknown behind it");

	/* The command itself out of reach. */
	{
		static const u64 bad[] = { 8, 1ull << 40, ~63ull, 0xe0000000 };
		volatile u64 *where = (volatile u64 *)(d->control + URINGPV_REG_ADMIN_ADDR);

		for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
			s32 error;

			*where = bad[i];
			*(volatile u32 *)(d->control + URINGPV_REG_ADMIN_DOORBELL) = 1;
			error = *(volatile s32 *)(d->control + URINGPV_REG_ADMIN_ERROR);
			*where = (u64)d->cmd;
			REQUIRE(t, error == (bad[i] % 64 ? -EINVAL : -EFAULT), "a command at %lx: ADMIN_ERROR %d", bad[i], error);
		}
	}
	REQUIRE(t, upv_command(d, URINGPV_CMD_IDENTIFY, 0, big, 128) == 0, "IDENTIFY after all that");
	return PASS;
}

static enum verdict test_probe(struct test *t)
{
	struct {
		u8 last_op, ops_len;
		u16 resv;
		u32 resv2[3];
		struct {
			u8 op, resv;
			u16 flags;
			u32 resv2;
		} ops[256];
	} *p = alloc(4096);
	struct uringpv_register reg = { .opcode = IORING_REGISTER_PROBE, .nr_args = 256, .addr = (u64)p };
	struct upv_ring r;

	TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
	REQUIRE(t, !upv_command(t->dev, URINGPV_CMD_RING_REGISTER, 0, &reg, sizeof(reg)), "RING_REGISTER(PROBE) fails");
	for (u32 op = 0; op < p->ops_len; op++)
		REQUIRE(t, (p->ops[op].flags & 1) == upv_has_opcode(t->dev, p->ops[op].op), "opcode %u: PROBE and IDENTIFY differ", p->ops[op].op);
	REQUIRE(t, p->ops_len > IORING_OP_WRITE_FIXED, "PROBE knows %u opcodes", p->ops_len);
	return PASS;
}

static enum verdict test_bad_rings(struct test *t)
{
	struct uringpv_ring_setup good = { 0 };
	u64 ram = boot->ram[0].len;
	u8 *area = alloc(65536);
	u32 *files = alloc(4096);
	struct upv_ring r;
	const struct {
		const char *what;
		u32 field; /* offset in the structure */
		u64 value;
		u32 size;
		s32 want;
	} bad[] = {
#define BAD(what, field, value, want) { what, __builtin_offsetof(struct uringpv_ring_setup, field), value, sizeof(good.field), want }
		BAD("rings outside RAM", rings_addr, ram, -EFAULT),
		BAD("rings across the end of RAM", rings_addr, ram - 4096, -EFAULT),
		BAD("rings at 2^63", rings_addr, 1ull << 63, -EFAULT),
		BAD("rings that wrap", rings_addr, ~4095ull, -EFAULT),
		BAD("rings in the hole", rings_addr, 0xe0000000, -EFAULT),
		BAD("unaligned rings", rings_addr, (u64)area + 64, -EINVAL),
		BAD("short rings", rings_len, 4096, -EINVAL),
		BAD("endless rings", rings_len, ~4095ull, -EFAULT),
		BAD("SQEs outside RAM", sqes_addr, ram, -EFAULT),
		BAD("unaligned SQEs", sqes_addr, (u64)area + 32768 + 8, -EINVAL),
		BAD("SQEs over the rings", sqes_addr, (u64)area, -EINVAL),
		BAD("short SQEs", sqes_len, 4096, -EINVAL),
		BAD("no entries", params.sq_entries, 0, -EINVAL),
		BAD("too many entries", params.sq_entries, 1u << 31, -EINVAL),
		BAD("unknown set-up flags", params.flags, 1u << 30, -EINVAL),
		BAD("IOPOLL", params.flags, 1, -EINVAL),
		BAD("somebody's SQ thread", params.wq_fd, 3, -EINVAL),
		BAD("an address of the ring's", params.cq_off.user_addr, 4096, -EINVAL),
		BAD("unknown vector", vector, 5000, -EINVAL),
		BAD("flags", flags, 1, -EINVAL),
		BAD("an unknown file", nr_files, 1, -EBADF),
		BAD("too many files", nr_files, 100000, -EINVAL),
		BAD("too many buffers", nr_buffers, 1u << 30, -EINVAL),
		BAD("a reserved field", resv[3], 1, -EINVAL),
		BAD("a file table of too many entries", nr_slots, 100000, -EINVAL),
#undef BAD
	};

	files[0] = t->dev->id.num_files + 7;
	good.params.sq_entries = 128;
	good.rings_addr = (u64)area;
	good.rings_len = URINGPV_RINGS_SIZE(128, 256);
	good.sqes_addr = (u64)area + 32768;
	good.sqes_len = 8192;
	good.files_addr = (u64)files;
	good.buffers_addr = (u64)files;
	good.vector = URINGPV_NO_VECTOR;
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		struct uringpv_ring_setup s = good;
		s32 error;

		memcpy((u8 *)&s + bad[i].field, &bad[i].value, bad[i].size);
		error = upv_command(t->dev, URINGPV_CMD_RING_SETUP, 0, &s, sizeof(s));
		REQUIRE(t, error == bad[i].want, "%s: %d, want %d", bad[i].what, error, bad[i].want);
	}
	{
		struct uringpv_ring_setup s = good;

		memset(s.opcodes, 0xff, sizeof(s.opcodes));
		REQUIRE(t, upv_command(t->dev, URINGPV_CMD_RING_SETUP, 0, &s, sizeof(s)) == -EACCES, "every opcode");
		s = good;
		REQUIRE(t, upv_command(t->dev, URINGPV_CMD_RING_SETUP, t->dev->id.num_rings, &s, sizeof(s)) < 0, "a ring too many");
	}
	TRY(setup(t, &r, 0, (struct upv_ring_options){ 0 }));
	return nop_storm(t, &r, 8, 100);
}

/* ---- a guest gone wild ---- */

static enum verdict test_scribbled_ring(struct test *t)
{
	struct upv_ring good, bad;
	u8 *rings;

	if (t->dev->id.num_rings < 2)
		return skip(t, "the device has one ring");
	TRY(setup(t, &good, 0, (struct upv_ring_options){ 0 }));
	for (u32 round = 0; round < 4; round++) {
		s32 error;

		/* Only NOPs: whatever its SQEs say, the disk is safe. */
		TRY(setup(t, &bad, 1, (struct upv_ring_options){ .opcodes = { 1 << IORING_OP_NOP }, .vector1 = 1, .idle_ms = 5 }));
		rings = (u8 *)bad.setup.rings_addr;
		for (u32 i = 0; i < 300; i++) {
			for (u32 w = 0; w < 64; w++) {
				u64 v = rand_next(&t->rand);
				u8 *area = w & 1 ? (u8 *)bad.setup.sqes_addr : rings;
				u64 len = w & 1 ? bad.setup.sqes_len : bad.setup.rings_len;

				((volatile u32 *)area)[rand_below(&t->rand, w & 2 ? 96 : len / 4)] = (u32)v;
			}
			bad.uring.kick(&bad.uring);
			if (i % 50 == 0)
				TRY(nop_storm(t, &good, 16, 200));
		}
		error = upv_ring_destroy(&bad);
		REQUIRE(t, !error, "RING_DESTROY of the scribbled ring: %d", error);
	}
	return nop_storm(t, &good, 64, 10000);
}

static enum verdict test_reset_in_flight(struct test *t)
{
	u32 rings = MIN(t->dev->id.num_rings, 4);
	struct upv_ring r[4];
	u8 *pool = alloc(64 * 65536);

	for (u32 round = 0; round < 3; round++) {
		u64 mark = mem_mark();
		s32 error;
		u64 before;

		for (u32 i = 0; i < rings; i++) {
			struct sqe *s;

			TRY(setup(t, &r[i], i, (struct upv_ring_options){ .sq_entries = 64 }));
			for (u32 n = 0; n < 64 && (s = uring_sqe(&r[i].uring)); n++)
				*s = rw(t, IORING_OP_READ_FIXED, pool + n * 65536, 65536, rand_below(&t->rand, t->file.size / 65536) * 65536);
			uring_submit(&r[i].uring);
		}
		error = upv_reset(t->dev);
		REQUIRE(t, !error, "RESET with reads in flight: %d", error);
		/* Nothing may write to memory any more. */
		memset(pool, 0x5a, 64 * 65536);
		for (before = rdtsc() + tsc_of_ms(20); rdtsc() < before;)
			cpu_relax();
		for (u32 n = 0; n < 64 * 65536 / 8; n++)
			REQUIRE(t, ((u64 *)pool)[n] == 0x5a5a5a5a5a5a5a5aull, "memory was written after RESET");
		REQUIRE(t, upv_ring_destroy(&r[0]) == -ENXIO, "a ring outlived RESET");
		mem_release(mark);
	}
	return PASS;
}

static const struct testcase cases[] = {
	{ "identify", test_identify, 0 },
	{ "file-info", test_file_info, 0 },
	{ "buffer-info", test_buffer_info, 0 },
	{ "nop-storm", test_nop_storm, 0 },
	{ "nop-no-sqarray", test_nop_no_array, 0 },
	{ "nop-doorbell", test_nop_doorbell, 0 },
	{ "verify", test_verify, 300 },
	{ "fsync", test_fsync, 0 },
	{ "read-write", test_read_write, 0 },
	{ "fallocate", test_fallocate, 0 },
	{ "interrupts", test_interrupts, 60 },
	{ "irq-suppression", test_irq_suppression, 60 },
	{ "msix-mask", test_msix_mask, 0 },
	{ "sq-sleep", test_sq_sleep, 0 },
	{ "cq-overflow", test_cq_overflow, 0 },
	{ "setup-destroy", test_setup_destroy, 60 },
	{ "ring-stats", test_ring_stats, 0 },
	{ "polled-stretch", test_polled_stretch, 120 },
	{ "probe", test_probe, 0 },
	{ "chosen-files", test_chosen_files, 0 },
	{ "refuse-unknown-file", test_unknown_file, 0 },
	{ "refuse-outside-buffers", test_outside_buffers, 0 },
	{ "refuse-straddle", test_straddle, 0 },
	{ "refuse-opcode", test_forbidden_opcode, 0 },
	{ "refuse-flag", test_forbidden_flag, 0 },
	{ "refuse-readonly-write", test_readonly_file, 0 },
	{ "refuse-past-the-end", test_past_the_end, 0 },
	{ "refuse-bad-commands", test_bad_commands, 0 },
	{ "refuse-bad-rings", test_bad_rings, 0 },
	{ "scribbled-ring", test_scribbled_ring, 60 },
	{ "reset-in-flight", test_reset_in_flight, 60 },
};

void selftest(void)
{
	static struct test t = { .dev = &device };

	t.rand.state = arg_u64("seed", 1);
	if (!upv_init(&device, (u32)arg_u64("device", 0)))
		die("there is no uringpv device");
	if (upv_command(&device, URINGPV_CMD_FILE_INFO, 0, &t.file, sizeof(t.file)))
		die("there is no disk");
	if (t.file.size < MIN_DISK)
		die("the disk has %lu bytes: the self-test needs %u", t.file.size, MIN_DISK);
	run_cases(&t, cases, ARRAY_SIZE(cases));
}
