/* SPDX-License-Identifier: Apache-2.0 */
/* The SHA-256 of a whole disk, which is only read: many requests in flight,
 * hashed in order as they come in.
 *
 *   depth=N  device=N
 */
#include "lib.h"
#include "sha256.h"
#include "upv.h"

#define MAX_DEPTH 256
#define CHUNK (128u << 10)
#define PROGRESS (1ull << 30)
#define PATIENCE_MS 60000 /* without any progress */

enum state { FREE, READING, READY };

struct slot {
	enum state state;
	u64 off;  /* on the disk */
	u32 want; /* bytes of the disk */
	u32 have; /* bytes read so far, from off on */
	u32 from; /* where in the chunk the read in flight begins: have, or less by alignment */
	u8 *buf;
};

static struct upv dev;
static struct upv_ring ring;
static struct slot slots[MAX_DEPTH];
static struct uringpv_file file;
static u32 depth, align;
static u64 ios;

/* Read what a slot still wants. */
static void submit(u32 i)
{
	struct slot *s = &slots[i];
	struct sqe *e = uring_sqe_by(&ring.uring, rdtsc() + tsc_of_ms(PATIENCE_MS));

	if (!e)
		die("the SQ ring stays full with %u requests in flight", depth);
	s->from = s->have - s->have % align;
	e->opcode = IORING_OP_READ_FIXED;
	e->flags = IOSQE_FIXED_FILE;
	e->off = s->off + s->from;
	e->addr = upv_addr(&dev, s->buf + s->from);
	e->buf_index = upv_buffer(s->buf);
	/* Direct I/O asks for aligned lengths at the disk's end as well; the device
	 * reads as far as there is something. */
	e->len = (u32)ROUND_UP(s->want, align) - s->from;
	e->user_data = i;
	s->state = READING;
	ios++;
}

static void complete(const struct cqe *c)
{
	struct slot *s = &slots[c->user_data % depth];
	u32 have;

	if (c->user_data >= depth || s->state != READING)
		die("a completion of %lx, which is not in flight", c->user_data);
	if (c->res < 0)
		die("read of %u bytes at %lu: result %d", s->want - s->from, s->off + s->from, c->res);
	have = MIN(s->from + (u32)c->res, s->want);
	if (have <= s->have)
		die("read of %u bytes at %lu: result %d; is the disk shrinking?", s->want - s->from, s->off + s->from, c->res);
	s->have = have;
	if (s->have == s->want)
		s->state = READY;
	else
		submit((u32)c->user_data); /* short: go on with the rest */
}

static void print_hex(const char *key, const u8 *p, u32 n)
{
	char hex[129];

	for (u32 i = 0; i < n; i++) {
		hex[2 * i] = "0123456789abcdef"[p[i] >> 4];
		hex[2 * i + 1] = "0123456789abcdef"[p[i] & 15];
	}
	hex[2 * n] = 0;
	print("value %s %s\n", key, hex);
}

void checksum(void)
{
	struct upv_ring_options o = { 0 };
	struct sha256 sha;
	u64 next = 0, hashed = 0, last;
	u32 in_use = 0, oldest = 0, newest = 0; /* slots are used in turn: the oldest is the next to hash */
	u8 digest[32];
	s32 error;

	if (!upv_init(&dev, (u32)arg_u64("device", 0)))
		die("there is no uringpv device");
	if (upv_command(&dev, URINGPV_CMD_FILE_INFO, 0, &file, sizeof(file)))
		die("there is no disk");
	/* A place in memory that suits the offset must suit the address too. */
	align = MAX(file.dio_offset_align, file.dio_mem_align);
	if (!align || align > 4096)
		die("the disk wants an alignment of %u bytes: 4096 is the most that this guest keeps", align);
	depth = (u32)MIN(arg_u64("depth", 32), MIN(dev.id.max_sq_entries, MAX_DEPTH));
	if (!depth)
		die("argument depth=0: must be at least 1");
	for (u32 i = 0; i < depth; i++)
		slots[i].buf = alloc(CHUNK);
	o.sq_entries = depth;
	error = upv_ring_setup(&dev, &ring, 0, &o);
	if (error)
		die("RING_SETUP with %u entries: %d", depth, error);
	sha256_init(&sha);
	last = rdtsc();
	while (hashed < file.size) {
		u64 sent = ios;
		u32 n;

		for (; in_use < depth && next < file.size; in_use++, newest = (newest + 1) % depth) {
			struct slot *s = &slots[newest];

			s->off = next;
			s->want = (u32)MIN(CHUNK, file.size - next);
			s->have = 0;
			submit(newest);
			next += s->want;
		}
		n = uring_ready(&ring.uring);
		for (u32 i = 0; i < n; i++)
			complete(uring_cqe(&ring.uring, i));
		uring_advance(&ring.uring, n);
		if (ios != sent)
			uring_submit(&ring.uring);
		if (n)
			last = rdtsc();
		if (slots[oldest].state == READY) {
			u64 before = hashed / PROGRESS;

			sha256_update(&sha, slots[oldest].buf, slots[oldest].want);
			hashed += slots[oldest].want;
			slots[oldest].state = FREE;
			oldest = (oldest + 1) % depth;
			in_use--;
			last = rdtsc();
			if (hashed / PROGRESS != before)
				print("progress %lu of %lu bytes\n", hashed, file.size);
		} else if (!n) {
			cpu_relax();
			if (rdtsc() - last > tsc_of_ms(PATIENCE_MS))
				die("no completion for %u s, %lu of %lu bytes done", PATIENCE_MS / 1000, hashed, file.size);
		}
	}
	sha256_final(&sha, digest);
	error = upv_reset(&dev);
	if (error)
		die("RESET: %d", error);
	report_case("checksum", "pass", "");
	print_hex("sha256", digest, sizeof(digest));
	report_value("bytes", file.size);
	report_value("ios", ios);
	report_value("doorbells", dev.doorbells);
}
