/* SPDX-License-Identifier: Apache-2.0 */
/* Conformance: a case for each of io_uring's features that the device carries,
 * by the feature's name. This file is the guest's side of conformance.h, and the
 * cases that have no twin on the host.
 *
 *   device=N  exports=N  listener=PATH  case=NAME  seed=N
 *
 * Device `device` has a disk and its read-only twin, which are written to; device
 * `exports` has what sequence.c names. */
#include "conformance.h"

#include "upv.h"

static struct upv devices[PLACES];
static s32 things[THINGS];    /* their index on their device; -1: there is none */
static u32 next_ring[PLACES]; /* in this case */

static struct upv *device_of(const struct ring *r)
{
	return &devices[r->on];
}

static enum place place_of(enum thing what)
{
	return what <= DISK_READONLY ? DISKS : EXPORTS;
}

static const char *opcode_name(u8 opcode)
{
	static const char *const names[] = {
		[IORING_OP_NOP] = "NOP", [IORING_OP_READV] = "READV", [IORING_OP_WRITEV] = "WRITEV", [IORING_OP_FSYNC] = "FSYNC",
		[IORING_OP_READ_FIXED] = "READ_FIXED", [IORING_OP_WRITE_FIXED] = "WRITE_FIXED", [IORING_OP_POLL_ADD] = "POLL_ADD",
		[IORING_OP_POLL_REMOVE] = "POLL_REMOVE", [IORING_OP_SYNC_FILE_RANGE] = "SYNC_FILE_RANGE", [IORING_OP_SENDMSG] = "SENDMSG",
		[IORING_OP_RECVMSG] = "RECVMSG", [IORING_OP_TIMEOUT] = "TIMEOUT", [IORING_OP_TIMEOUT_REMOVE] = "TIMEOUT_REMOVE",
		[IORING_OP_ACCEPT] = "ACCEPT", [IORING_OP_ASYNC_CANCEL] = "ASYNC_CANCEL", [IORING_OP_LINK_TIMEOUT] = "LINK_TIMEOUT",
		[IORING_OP_CONNECT] = "CONNECT", [IORING_OP_FALLOCATE] = "FALLOCATE", [IORING_OP_CLOSE] = "CLOSE", [IORING_OP_READ] = "READ",
		[IORING_OP_WRITE] = "WRITE", [IORING_OP_SEND] = "SEND", [IORING_OP_RECV] = "RECV", [IORING_OP_SHUTDOWN] = "SHUTDOWN",
	};

	return opcode < ARRAY_SIZE(names) && names[opcode] ? names[opcode] : "an opcode";
}

/* Why a device of this backend does not offer an opcode. The reasons are those of
 * docs/rationale.md; the table in docs/protocol.md quotes them. */
static const char *why_no_opcode(const struct upv *d, u8 opcode)
{
	switch (d->id.backend) {
	case URINGPV_BACKEND_PASSTHROUGH:
		return "a ring of the monitor's own process takes only what registered buffers confine, and this device has no relay behind it";
	case URINGPV_BACKEND_ISOLATED:
		if (opcode == IORING_OP_CONNECT)
			return "a ring's restrictions cannot look at the address, and this device has no relay behind it";
		if (opcode == IORING_OP_FALLOCATE)
			return "a ring's restrictions cannot look at the mode, and this device has no relay behind it";
		if (opcode == IORING_OP_SHUTDOWN)
			return "a listener that was shut down can be connected anew, and restrictions look at no address";
		if (opcode == IORING_OP_CLOSE || opcode == IORING_OP_TIMEOUT_REMOVE)
			return "io_uring refuses it with IOSQE_FIXED_FILE, which every SQE carries, and this device has no relay behind it";
		return "not among the opcodes that its restrictions allow";
	default:
		return "the relay does not translate it";
	}
}

static const char *const flag_names[] = { "IOSQE_FIXED_FILE", "IOSQE_IO_DRAIN", "IOSQE_IO_LINK", "IOSQE_IO_HARDLINK", "IOSQE_ASYNC",
	"IOSQE_BUFFER_SELECT",
					  "IOSQE_CQE_SKIP_SUCCESS" };

static const char *why_no_flag(const struct upv *d, u8 flag)
{
	if (d->id.backend == URINGPV_BACKEND_PASSTHROUGH && flag == IOSQE_CQE_SKIP_SUCCESS)
		return "the monitor bounds what a guest leaves to the kernel by counting SQEs that have no CQE yet";
	return "the device does not allow it";
}

static const char *backend_name(const struct upv *d)
{
	static const char *const names[] = { "?", "relay", "passthrough", "isolated" };

	return names[MIN(d->id.backend, URINGPV_BACKEND_ISOLATED)];
}

/* Can this device do what the case wants? */
static enum verdict possible(struct test *t, const struct want *w)
{
	const struct upv *d = &devices[w->on];

	for (u32 i = 0; i < w->nr_uses; i++)
		if (things[w->uses[i]] < 0)
			return skip(t, "nothing named %s is exported", thing_names[w->uses[i]]);
	for (u32 i = 0; i < w->nr_opcodes; i++)
		if (!upv_has_opcode(d, w->opcodes[i]) && !upv_has_extra(d, w->opcodes[i]))
			return skip(t, "%s cannot carry %s: %s", backend_name(d), opcode_name(w->opcodes[i]), why_no_opcode(d, w->opcodes[i]));
	for (u32 bit = 0; bit < ARRAY_SIZE(flag_names); bit++)
		if (w->sqe_flags & ~d->id.sqe_flags & 1u << bit)
			return skip(t, "%s cannot carry %s: %s", backend_name(d), flag_names[bit], why_no_flag(d, (u8)(1u << bit)));
	return PASS;
}

static bool extra_used, usual_used; /* rings with extra opcodes and without, by this case, so far */

enum verdict ring_open(struct test *t, struct ring *r, const struct want *w)
{
	struct upv *d = &devices[w->on];
	struct upv_ring *u = alloc(sizeof(*u));
	struct upv_ring_options o = { .sq_entries = w->sq_entries, .cq_entries = w->cq_entries, .flags = w->flags, .idle_ms = w->idle_ms };
	u32 *files = alloc(4096);
	struct uringpv_range *buffers = alloc(4096);
	u32 index = next_ring[w->on]++;
	s32 error;

	TRY(possible(t, w));
	memset(r, 0, sizeof(*r));
	r->on = w->on;
	r->world = u;
	o.doorbell = w->enter;
	if (w->interrupts)
		o.vector1 = index + 1;
	for (u32 i = 0; i < THINGS; i++)
		r->slots[i] = !w->nr_files && place_of((enum thing)i) == w->on ? things[i] : -1;
	for (u32 i = 0; i < w->nr_files; i++) {
		files[i] = (u32)things[w->files[i]];
		r->slots[w->files[i]] = (s32)i;
	}
	r->first_empty = w->nr_files ? w->nr_files : d->id.num_files;
	if (w->nr_files) {
		o.files = files;
		o.nr_files = w->nr_files;
	}
	if (w->empty)
		o.nr_slots = r->first_empty + w->empty;
	for (u32 i = 0; i < w->nr_buffers; i++)
		buffers[i] = (struct uringpv_range){ (u64)w->buffers[i].addr, w->buffers[i].len };
	o.buffers = buffers;
	o.nr_buffers = w->nr_buffers;
	for (u32 i = 0; i < w->nr_opcodes; i++)
		r->extra |= !upv_has_opcode(d, w->opcodes[i]);
	/* A ring with extra opcodes names all that it wants. */
	for (u32 i = 0; r->extra && i < w->nr_opcodes; i++)
		o.opcodes[w->opcodes[i] / 8] |= (u8)(1u << w->opcodes[i] % 8);
	if (r->extra)
		o.opcodes[0] |= 1 << IORING_OP_NOP;
	extra_used |= r->extra;
	usual_used |= !r->extra;
	REQUIRE(t, index < d->id.num_rings, "the case wants %u rings, the device has %u", index + 1, d->id.num_rings);
	error = upv_ring_setup(d, u, index, &o);
	REQUIRE(t, !error, "RING_SETUP of ring %u: %d", index, error);
	r->uring = &u->uring;
	r->params = u->setup.params;
	return PASS;
}

s32 ring_close(struct ring *r)
{
	s32 error = upv_ring_destroy(r->world);

	/* Rings end in any order; only the last one's index is free at once. */
	if (!error && ((struct upv_ring *)r->world)->index + 1 == next_ring[r->on])
		next_ring[r->on]--;
	return error;
}

static s32 registers(struct ring *r, u32 opcode, u64 addr, u32 nr, u32 offset)
{
	struct uringpv_register reg = { .opcode = opcode, .nr_args = nr, .addr = addr, .offset = offset };

	return upv_command(device_of(r), URINGPV_CMD_RING_REGISTER, ((struct upv_ring *)r->world)->index, &reg, sizeof(reg));
}

s32 ring_register(struct ring *r, u32 opcode)
{
	return registers(r, opcode, 0, 0, 0);
}

s32 ring_files(struct ring *r, u32 slot, const enum thing *list, u32 n)
{
	u32 files[16];

	for (u32 i = 0; i < n && i < ARRAY_SIZE(files); i++) {
		if (list[i] == NOTHING)
			files[i] = URINGPV_SLOT_EMPTY;
		else if (list[i] == UNCHANGED)
			files[i] = URINGPV_SLOT_KEEP;
		else
			files[i] = (u32)things[list[i]];
	}
	return registers(r, IORING_REGISTER_FILES_UPDATE, (u64)files, n, slot);
}

s32 ring_buffers(struct ring *r, bool update, u32 index, const struct area *list, u32 n)
{
	struct uringpv_range ranges[16];

	for (u32 i = 0; i < n && i < ARRAY_SIZE(ranges); i++)
		ranges[i] = (struct uringpv_range){ (u64)list[i].addr, list[i].len };
	return registers(r, update ? IORING_REGISTER_BUFFERS_UPDATE : IORING_REGISTER_BUFFERS, (u64)ranges, n, index);
}

s32 ring_eventfd(struct ring *r)
{
	return registers(r, IORING_REGISTER_EVENTFD, ((struct upv_ring *)r->world)->index, 1, 0);
}

s32 ring_enter(struct ring *r, u32 to_submit, u32 flags)
{
	struct uringpv_enter e = { .to_submit = to_submit, .flags = flags };

	return upv_command(device_of(r), URINGPV_CMD_RING_ENTER, ((struct upv_ring *)r->world)->index, &e, sizeof(e));
}

bool consumes_early(const struct ring *r)
{
	/* Every ring of an owner's is polled: nobody may enter it for the guest. */
	return device_of(r)->id.backend == URINGPV_BACKEND_ISOLATED && !r->extra;
}

static u32 *interrupt_word(struct ring *r)
{
	return &interrupt_count[device_of(r)->vector + ((struct upv_ring *)r->world)->index];
}

u32 interrupts(struct ring *r)
{
	return load_relaxed(interrupt_word(r));
}

void sleep_for_interrupt(struct ring *r, u32 seen)
{
	wait_for_change(interrupt_word(r), seen);
}

u64 address(const struct ring *r, const void *p)
{
	return upv_addr(device_of(r), p);
}

u16 buffer_of(const void *p)
{
	return upv_buffer(p);
}

struct area whole_buffer(void)
{
	struct uringpv_range b = { 0 };

	if (upv_command(&devices[EXPORTS], URINGPV_CMD_BUFFER_INFO, 0, &b, sizeof(b)))
		die("there is no buffer 0");
	return (struct area){ (void *)b.addr, b.len };
}

/* Where a ring's owner keeps a page of code (device/uringpv/isolated/owner/owner.ld). */
#define OWNER_PAGE 0x600000

u32 bad_addresses(const struct ring *r, bool into, u64 *list)
{
	u64 base = device_of(r)->id.addr_base, bad[] = {
		0,
		0x200000,                 /* a GPA without ADDR_BASE */
		base - 4096,              /* before RAM */
		base + boot->ram[0].len,  /* behind it */
		0xc000000000,             /* a Go program's usual heap */
		0x7fffffffe000,           /* the end of user space */
		0xffff888000000000,       /* the host's kernel */
		0x8000000000000000,
		OWNER_PAGE + 4096,        /* behind what an owner keeps */
		OWNER_PAGE,
	};
	u32 n = ARRAY_SIZE(bad);

	/* Not every host can keep that page from being read. */
	if (!into)
		n--;
	memcpy(list, bad, n * sizeof(*bad));
	return n;
}

enum verdict disk_polls(struct test *t)
{
	const struct upv *d = &devices[DISKS];

	if (!(d->id.setup_flags & IORING_SETUP_IOPOLL))
		return skip(t, "%s has no IORING_SETUP_IOPOLL on this host's kernel", backend_name(d));
	if (!(t->file.flags & URINGPV_FILE_POLL))
		return skip(t, "file 0 is not on a device that polls (O_DIRECT on NVMe with poll queues)");
	REQUIRE(t, MAX(t->file.dio_offset_align, 512) <= 4096, "alignment %u", t->file.dio_offset_align);
	return PASS;
}

enum verdict no_multishot(struct test *t, const struct ring *r)
{
	if (device_of(r)->id.backend == URINGPV_BACKEND_ISOLATED && !r->extra)
		return PASS;
	return skip(t, "the relay cannot carry multishot ACCEPT: this host's kernel may choose entries of the file table that are not its to choose");
}

const char *listener_path(void)
{
	static char path[108];

	if (!path[0])
		arg("listener", path, sizeof(path));
	return path;
}

u8 usual_flags(u8 opcode)
{
	(void)opcode;
	return IOSQE_FIXED_FILE;
}

/* ---- cases without a twin ---- */

/* An SQE that every ring with its opcode takes, and what else it needs. */
static void sample(struct ring *r, u8 opcode, u8 *p)
{
	struct timespec *ts = (struct timespec *)p;
	struct sqe *s;

	*ts = (struct timespec){ 0, 1000 };
	memset(p + 64, 0, sizeof(struct msghdr));
	switch (opcode) {
	case IORING_OP_LINK_TIMEOUT:
		push(r, IORING_OP_NOP, 0, 1)->flags |= IOSQE_IO_LINK;
		push_rw(r, opcode, 0, 2, ts, 1, 0);
		return;
	case IORING_OP_TIMEOUT:
		push_rw(r, opcode, 0, 2, ts, 1, 0);
		return;
	case IORING_OP_READV:
	case IORING_OP_WRITEV:
	case IORING_OP_READ:
	case IORING_OP_WRITE:
		push_rw(r, opcode, r->slots[FILE_A], 2, p + 64, 0, 0);
		return;
	case IORING_OP_READ_FIXED:
	case IORING_OP_WRITE_FIXED:
		push_rw(r, opcode, r->slots[FILE_A], 2, p + 1024, 512, 0);
		return;
	case IORING_OP_POLL_ADD:
		push(r, opcode, r->slots[FILE_A], 2)->op_flags = POLLIN;
		return;
	case IORING_OP_SENDMSG:
	case IORING_OP_RECVMSG:
		push_rw(r, opcode, r->slots[FILE_A], 2, p + 64, 1, 0);
		return;
	case IORING_OP_SEND:
	case IORING_OP_RECV:
		push_rw(r, opcode, r->slots[FILE_A], 2, p + 64, 8, 0);
		return;
	case IORING_OP_ACCEPT:
		push(r, opcode, r->slots[FILE_A], 2)->splice_fd_in = (s32)r->first_empty + 1;
		return;
	case IORING_OP_CONNECT: /* of a file that is none: whatever the policy, no connection */
		*(u16 *)(p + 128) = AF_UNIX;
		push_rw(r, opcode, 250, 2, p + 128, 0, 16);
		return;
	case IORING_OP_FALLOCATE:
		push(r, opcode, r->slots[FILE_A], 2)->addr = 4096;
		return;
	case IORING_OP_CLOSE:
		s = push(r, opcode, 0, 2);
		s->splice_fd_in = (s32)r->first_empty + 1;
		return;
	default:
		push(r, opcode, r->slots[FILE_A], 2);
	}
}

/* What PROBE says is what there is: for the ring of all usual opcodes, and for
 * one that has the extra ones too. */
static enum verdict probe_ring(struct test *t, const u8 *list, u32 n, u32 *allowed, u32 *denied)
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
	} *probe = alloc(4096);
	struct upv *d = &devices[EXPORTS];
	u8 *p = alloc(4096);
	struct ring r;
	s32 error;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, .opcodes = list, .nr_opcodes = n, USES(FILE_A), .empty = 1 }));
	error = registers(&r, IORING_REGISTER_PROBE, (u64)probe, 256, 0);
	REQUIRE(t, !error, "RING_REGISTER with PROBE: %d", error);
	for (u32 op = 0; op < 256; op++) {
		bool says = op < probe->ops_len && probe->ops[op].op == op && probe->ops[op].flags & 1, want = false;
		s32 res;

		if (r.extra)
			for (u32 i = 0; i < n; i++)
				want |= list[i] == op;
		else
			want = upv_has_opcode(d, (u8)op);
		REQUIRE(t, says == want, "opcode %u: PROBE says %u, the ring was set up with %u", op, says, want);
		if (says) {
			u32 more = op == IORING_OP_LINK_TIMEOUT;

			if (more && !(d->id.sqe_flags & IOSQE_IO_LINK))
				continue; /* nothing to link it to */
			sample(&r, (u8)op, p);
			submit(&r);
			TRY(take(t, &r, 1 + more, ANY_ORDER));
			res = r.taken[more].res;
			REQUIRE(t, res != -EACCES && res != -EINVAL, "opcode %u: PROBE allows it, result %d", op, res);
			++*allowed;
		} else {
			push(&r, (u8)op, 0, 1);
			submit(&r);
			TRY(take(t, &r, 1, ANY_ORDER));
			res = r.taken[0].res;
			REQUIRE(t, res == -EACCES || res == -EINVAL, "opcode %u: PROBE denies it, result %d", op, res);
			++*denied;
		}
		t->trace[0] = 0;
	}
	REQUIRE(t, !ring_close(&r), "a ring does not end");
	return PASS;
}

static CASE(test_probe)
{
	struct upv *d = &devices[EXPORTS];
	u32 allowed = 0, denied = 0, n = 0, more = 0, usual;
	u8 all[256];

	for (u32 op = 0; op < 256; op++) {
		if (upv_has_opcode(d, (u8)op) || upv_has_extra(d, (u8)op))
			all[n++] = (u8)op;
		more += upv_has_extra(d, (u8)op);
	}
	TRY(probe_ring(t, NULL, 0, &allowed, &denied));
	usual = allowed;
	if (more)
		TRY(probe_ring(t, all, n, &allowed, &denied));
	return pass(t, "%u opcodes, %u extra ones: what PROBE allows is taken, what it denies refused", usual, more);
}

static enum verdict refused(struct test *t, struct ring *r, const char *what)
{
	submit(r);
	TRY(take(t, r, 1, IN_ORDER));
	REQUIRE(t, r->taken[0].res < 0 && r->taken[0].res != -EAGAIN, "%s: result %d, want an error", what, r->taken[0].res);
	t->trace[0] = 0;
	push(r, IORING_OP_NOP, 0, 1);
	return finish_one(t, r, "NOP after it", 0);
}

/* Control messages could carry descriptors of whoever makes the call. */
static CASE(test_refuse_control_message)
{
	struct {
		u64 len;
		u32 level, type;
		s32 fds[4];
	} *control = alloc(4096);
	struct msghdr *m = alloc(4096);
	struct iovec *v = alloc(4096);
	struct ring r;
	s32 fds = 0, last = 0;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_SENDMSG, IORING_OP_RECV), USES(STREAM_A, STREAM_B) }));
	*v = (struct iovec){ address(&r, v + 8), 1 };
	for (; fds < 64; fds++) {
		*m = (struct msghdr){ .iov = address(&r, v), .iovlen = 1, .control = address(&r, control), .controllen = 20 };
		control->len = 20;
		control->level = 1; /* SOL_SOCKET */
		control->type = 1;  /* SCM_RIGHTS */
		control->fds[0] = fds;
		push_rw(&r, IORING_OP_SENDMSG, r.slots[STREAM_A], 2, m, 1, 0)->op_flags = MSG_DONTWAIT;
		submit(&r);
		TRY(take(t, &r, 1, IN_ORDER));
		last = r.taken[0].res;
		REQUIRE(t, last == -EINVAL || last == -EBADF, "SCM_RIGHTS of descriptor %d: result %d, want %d or %d", fds, last,
			-EINVAL, -EBADF);
		t->trace[0] = 0;
	}
	push_rw(&r, IORING_OP_RECV, r.slots[STREAM_B], 3, v + 8, 8, 0)->op_flags = MSG_DONTWAIT;
	TRY(finish_one(t, &r, "RECV: nothing may have come", -EAGAIN));
	t->trace[0] = 0;
	return pass(t, "SCM_RIGHTS of descriptors 0 to %d: %d each, nothing came", fds - 1, last);
}

/* A guest reaches what was exported, and no other address. */
static CASE(test_refuse_other_address)
{
	static const char *const paths[] = { "/dev/log", "/run/systemd/journal/socket", "" };
	static const struct {
		u8 opcode;
		enum thing by;
	} ways[] = { { IORING_OP_CONNECT, CONNECTOR }, { IORING_OP_SENDMSG, DGRAM_A }, { IORING_OP_SEND, DGRAM_A },
		{ IORING_OP_SENDMSG, STREAM_A },
		     { IORING_OP_SEND, STREAM_A } };
	struct sockaddr_un *to = alloc(4096);
	struct msghdr *m = alloc(4096);
	struct iovec *v = alloc(4096);
	struct ring r;
	u32 n = 0;

	for (u32 by = ARRAY_SIZE(ways); by--;) {
		u8 opcode = ways[by].opcode;
		s32 fd;
		enum verdict e = ring_open(t, &r, &(struct want){ .on = EXPORTS, .opcodes = &opcode, .nr_opcodes = 1,
							     .uses = &ways[by].by, .nr_uses = 1 });

		if (e == FAIL)
			return e;
		if (e == SKIP)
			continue; /* the last one says why none could be tried */
		fd = r.slots[ways[by].by];
		for (u32 i = 0; i < ARRAY_SIZE(paths); i++) {
			u32 len = (u32)(3 + strlen(paths[i]));

			memset(to, 0, sizeof(*to));
			to->family = AF_UNIX;
			memcpy(to->path, paths[i], strlen(paths[i]));
			if (!paths[i][0]) { /* an abstract name */
				to->path[1] = 'x';
				len = 4;
			}
			*v = (struct iovec){ address(&r, v + 8), 1 };
			*m = (struct msghdr){ .iov = address(&r, v), .iovlen = 1, .name = address(&r, to), .namelen = len };
			if (opcode == IORING_OP_CONNECT)
				push_rw(&r, opcode, fd, 2, to, 0, len);
			else if (opcode == IORING_OP_SENDMSG)
				push_rw(&r, opcode, fd, 2, m, 1, 0);
			else
				push_rw(&r, opcode, fd, 2, v + 8, 1, address(&r, to))->splice_fd_in = (s32)len; /* addr_len */
			TRY(refused(t, &r, opcode_name(opcode)));
			n++;
		}
		REQUIRE(t, !ring_close(&r), "a ring does not end");
	}
	t->trace[0] = 0;
	if (!n)
		return SKIP;
	return pass(t, "%u CONNECTs, SENDMSGs and SENDs to other addresses refused", n);
}

/* A TCP socket that listened and was shut down is one that a message connects to any
 * address (MSG_FASTOPEN): it goes on listening where a ring of its device sends messages
 * that nobody looks at. */
static CASE(test_shutdown_listener)
{
	bool stays = devices[EXPORTS].id.backend == URINGPV_BACKEND_ISOLATED;
	struct ring r;
	s32 listener;

	TRY(ring_open(t, &r, &(struct want){ .on = EXPORTS, OPCODES(IORING_OP_SHUTDOWN, IORING_OP_ACCEPT, IORING_OP_ASYNC_CANCEL),
					     USES(TCP_LISTENER), .empty = 1 }));
	listener = r.slots[TCP_LISTENER];
	push(&r, IORING_OP_SHUTDOWN, listener, 1)->len = SHUT_RDWR;
	TRY(finish_one(t, &r, "SHUTDOWN of a TCP socket that listens", stays ? -EACCES : 0));
	t->trace[0] = 0;
	push(&r, IORING_OP_ACCEPT, listener, 2)->splice_fd_in = (s32)r.first_empty + 1;
	if (!stays) {
		TRY(finish_one(t, &r, "ACCEPT of one that was shut down", -EINVAL));
		t->trace[0] = 0;
		return pass(t, "every message is looked at here: 0, and it listens no more");
	}
	submit(&r);
	TRY(quiet(t, &r, "ACCEPT of one that listens", 20));
	push(&r, IORING_OP_ASYNC_CANCEL, 0, 3)->addr = 2;
	submit(&r);
	TRY(take(t, &r, 2, ANY_ORDER));
	TRY(want_result(t, &r, "the ACCEPT when cancelled", 2, -ECANCELED));
	t->trace[0] = 0;
	return pass(t, "-EACCES, and it listens on");
}

/* ---- the program ---- */

static const struct testcase own_cases[] = {
	{ "probe", test_probe, 0 },
	{ "refuse-control-message", test_refuse_control_message, 0 },
	{ "refuse-other-address", test_refuse_other_address, 0 },
	{ "shutdown-listener", test_shutdown_listener, 0 },
};

static struct testcase cases[64];

static void find_things(void)
{
	struct uringpv_file f;

	for (u32 i = 0; i < THINGS; i++)
		things[i] = -1;
	for (u32 i = 0; i < devices[DISKS].id.num_files && i < 2; i++)
		things[DISK + i] = (s32)i;
	for (u32 i = 0; i < devices[EXPORTS].id.num_files; i++) {
		if (upv_command(&devices[EXPORTS], URINGPV_CMD_FILE_INFO, i, &f, sizeof(f)))
			die("FILE_INFO of file %u fails", i);
		f.name[sizeof(f.name) - 1] = 0;
		for (u32 k = FILE_A; k < THINGS; k++) {
			if (!same(f.name, thing_names[k]))
				continue;
			if (k <= FILE_READONLY && f.size != FILE_SIZE)
				die("%s has %lu bytes: the cases want %u", f.name, f.size, FILE_SIZE);
			things[k] = (s32)i;
		}
	}
}

/* Before each case. */
static void begin(struct test *t)
{
	(void)t;
	memset(next_ring, 0, sizeof(next_ring));
	extra_used = usual_used = false;
}

/* After it: say so if the device served it in its slower way. */
static void end(struct test *t)
{
	const char *note = usual_used ? " (in part extra opcodes, by the relay)" : " (extra opcodes, by the relay)";

	if (extra_used && strlen(t->detail) + strlen(note) < sizeof(t->detail))
		memcpy(t->detail + strlen(t->detail), note, strlen(note) + 1);
}

void conformance(void)
{
	static struct test t = { .dev = &devices[DISKS], .second = &devices[EXPORTS], .begin = begin, .end = end };
	u32 n = 0;

	t.rand.state = arg_u64("seed", 1);
	if (!upv_init(&devices[DISKS], (u32)arg_u64("device", 0)))
		die("there is no uringpv device");
	if (!upv_init(&devices[EXPORTS], (u32)arg_u64("exports", 1)))
		die("there is no second uringpv device");
	if (upv_command(&devices[DISKS], URINGPV_CMD_FILE_INFO, 0, &t.file, sizeof(t.file)))
		die("there is no disk");
	find_things();
	if (nr_sequences + ARRAY_SIZE(own_cases) > ARRAY_SIZE(cases))
		die("more cases than the guest has room for");
	/* The last of the sequences ends the sockets that the others use. */
	for (u32 i = 0; i < nr_sequences - 1; i++)
		cases[n++] = sequences[i];
	for (u32 i = 0; i < ARRAY_SIZE(own_cases); i++)
		cases[n++] = own_cases[i];
	cases[n++] = sequences[nr_sequences - 1];
	run_cases(&t, cases, n);
}
