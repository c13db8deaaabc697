/* SPDX-License-Identifier: Apache-2.0 */
/* The conformance cases' view of whoever runs them. src/sequence*.c are the same
 * in the guest, where src/conformance.c stands behind this, and on the host,
 * where native/conformance.c does: what one gets from the device the other gets
 * from io_uring itself, and both leave the same trace. */
#ifndef CONFORMANCE_H
#define CONFORMANCE_H

#include "testing.h"

/* The device of the disk, and that of everything else that is exported. */
enum place { DISKS, EXPORTS, PLACES };

/* What cases work on. Names are those of FILE_INFO, in sequence.c. */
enum thing {
	DISK, DISK_READONLY, /* of DISKS: file 0, and its twin */
	FILE_A, FILE_B, FILE_READONLY,
	STREAM_A, STREAM_B, DGRAM_A, DGRAM_B, LISTENER, CONNECTOR, CONNECTOR_B, CONNECTOR_C,
	PIPE_READ, PIPE_WRITE, EVENTFD,
	TCP_LISTENER, /* of the guest alone */
	THINGS,
	NOTHING = 0x100, /* in a list for ring_files: no file */
	UNCHANGED,       /* in a list for ring_files: the entry stays */
};

extern const char *const thing_names[THINGS];

#define FILE_SIZE (1u << 20) /* of FILE_A and its kin */

struct area {
	void *addr;
	u64 len;
};

/* A ring as a case wants it: zero is the default of each. */
struct want {
	enum place on;
	const u8 *opcodes; /* that it uses: where one is not to be had, the case is skipped */
	u32 nr_opcodes;
	const enum thing *uses; /* likewise */
	u32 nr_uses;
	u8 sqe_flags;             /* likewise */
	const enum thing *files;  /* its file table; none: all of the device's */
	u32 nr_files;
	u32 empty;                /* entries of the file table beyond those */
	const struct area *buffers; /* none: all memory */
	u32 nr_buffers;
	bool interrupts;          /* completions interrupt */
	bool enter;               /* without SQPOLL */
	u32 sq_entries, cq_entries, idle_ms, flags;
};

#define LIST(type, ...) ((const type[]){ __VA_ARGS__ })
#define OPCODES(...) .opcodes = LIST(u8, __VA_ARGS__), .nr_opcodes = sizeof(LIST(u8, __VA_ARGS__))
#define USES(...) .uses = LIST(enum thing, __VA_ARGS__), .nr_uses = ARRAY_SIZE(LIST(enum thing, __VA_ARGS__))
#define FILES(...) .files = LIST(enum thing, __VA_ARGS__), .nr_files = ARRAY_SIZE(LIST(enum thing, __VA_ARGS__))

#define MAX_TAKEN 16

struct ring {
	struct uring *uring;
	struct uringpv_params params; /* as returned */
	enum place on;
	bool extra;           /* it has opcodes that its device serves in another way */
	s32 slots[THINGS];    /* where things are in its file table; -1: nowhere */
	u32 first_empty;      /* entry of the file table */
	struct cqe taken[MAX_TAKEN];
	u32 nr_taken;
	void *world;          /* whose it is knows */
};

/* ---- the world: src/conformance.c, native/conformance.c ---- */

/* A ring as wanted; FAIL or SKIP with a reason if there is none. */
enum verdict ring_open(struct test *t, struct ring *r, const struct want *w);
s32 ring_close(struct ring *r);

/* io_uring_register(2) on the ring: 0 or a negative errno. UNREGISTER_* and the
 * like, which have no argument. */
s32 ring_register(struct ring *r, u32 opcode);
s32 ring_files(struct ring *r, u32 slot, const enum thing *list, u32 n);         /* FILES_UPDATE */
s32 ring_buffers(struct ring *r, bool update, u32 index, const struct area *list, u32 n); /* BUFFERS, BUFFERS_UPDATE; {NULL, 0}: none */
s32 ring_eventfd(struct ring *r);                                               /* EVENTFD */

/* io_uring_enter(2) with min_complete 0: 0 or a negative errno. */
s32 ring_enter(struct ring *r, u32 to_submit, u32 flags);

/* Are SQEs of a ring without SQPOLL consumed before it is entered? */
bool consumes_early(const struct ring *r);

/* Interrupts of this ring so far; and sleep until there is another one, or some
 * 20 ms have passed. */
u32 interrupts(struct ring *r);
void sleep_for_interrupt(struct ring *r, u32 seen);

/* The io_uring address of p, the buffer that holds it on a ring without chosen
 * ones, and the whole of that buffer. */
u64 address(const struct ring *r, const void *p);
u16 buffer_of(const void *p);
struct area whole_buffer(void);

/* Addresses with no memory of the ring's behind them; at most MAX_BAD. With into also
 * such as can be read, for a request that would write there. */
#define MAX_BAD 10
u32 bad_addresses(const struct ring *r, bool into, u64 *list);

/* Can a ring with IORING_SETUP_IOPOLL read and write DISK? SKIP with a reason if not. */
enum verdict disk_polls(struct test *t);

/* Whether -EINVAL for a multishot ACCEPT may say that it is not to be had here: then
 * SKIP with the reason. */
enum verdict no_multishot(struct test *t, const struct ring *r);

/* Where LISTENER listens: a path. */
const char *listener_path(void);

/* Flags of each SQE with this opcode. */
u8 usual_flags(u8 opcode);

/* ---- sequence.c: submitting, taking, noting ---- */

/* The next SQE, zeroed but for opcode, the usual flags and fd; its user data. */
struct sqe *push(struct ring *r, u8 opcode, s32 fd, u64 tag);
struct sqe *push_rw(struct ring *r, u8 opcode, s32 fd, u64 tag, void *p, u32 len, u64 off);
void submit(struct ring *r);

/* Does the order of the CQEs mean something? */
enum order { ANY_ORDER, IN_ORDER };

/* Wait for n CQEs, note them in the trace, and keep them in r->taken, until the
 * next call; in ANY_ORDER by their tags. */
enum verdict take(struct test *t, struct ring *r, u32 n, enum order order);

/* Submit, take the only CQE, and want this result. */
enum verdict finish_one(struct test *t, struct ring *r, const char *what, s32 want);

/* The result of the CQE with this tag among those taken. */
enum verdict want_result(struct test *t, struct ring *r, const char *what, u64 tag, s32 want);
const struct cqe *taken(const struct ring *r, u64 tag);

/* The SQEs of a polled ring are consumed, and no CQE comes for so long. */
enum verdict quiet(struct test *t, struct ring *r, const char *what, u64 ms);

/* Add to the trace something that the same sequence gives everywhere. */
void trace(struct test *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Its length now; and back to that: what came since need not be the same. */
size_t trace_mark(const struct test *t);
void trace_release(struct test *t, size_t mark);

/* One read or write with this result. */
enum verdict transfer(struct test *t, struct ring *r, u8 opcode, s32 fd, void *p, u32 len, u64 off, s32 want);

/* Bytes that are the same for the same seed. */
void pattern(void *p, u64 n, u64 seed);

/* Linux's, for x86-64. */
struct iovec {
	u64 base, len;
};
struct msghdr {
	u64 name;
	u32 namelen, pad0;
	u64 iov, iovlen, control, controllen;
	u32 flags, pad1;
};
struct timespec {
	s64 sec, nsec;
};
struct sockaddr_un {
	u16 family; /* AF_UNIX */
	char path[108];
};
#define AF_UNIX 1
#define POLLIN 0x1
#define POLLOUT 0x4
#define POLLHUP 0x10
#define SHUT_WR 1
#define SHUT_RDWR 2
#define MSG_PEEK 0x2
#define MSG_TRUNC 0x20
#define MSG_DONTWAIT 0x40
#define MSG_NOSIGNAL 0x4000
#define EAGAIN 11
#define ENOTSOCK 88

/* The cases that have a native twin, in the order in which they are run. */
extern const struct testcase sequences[];
extern const u32 nr_sequences;

#define CASE(name) enum verdict name(struct test *t)
CASE(seq_rings_setup);
CASE(seq_rings_enter);
CASE(seq_single_mmap);
CASE(seq_readv_writev);
CASE(seq_read_write);
CASE(seq_buffers_whole_ram);
CASE(seq_buffers_chosen);
CASE(seq_buffers_update);
CASE(seq_files_fixed);
CASE(seq_files_update);
CASE(seq_files_unregister_in_flight);
CASE(seq_sqpoll_sleep_wake);
CASE(seq_eventfd_interrupt);
CASE(seq_fsync);
CASE(seq_fsync_range);
CASE(seq_sync_file_range);
CASE(seq_fallocate);
CASE(seq_drain);
CASE(seq_link_read_write);
CASE(seq_link_cancels_rest);
CASE(seq_link_short_read_breaks);
CASE(seq_link_bad_member);
CASE(seq_hardlink);
CASE(seq_link_timeout);
CASE(seq_cqe_skip_success);
CASE(seq_poll_add_oneshot);
CASE(seq_poll_add_multishot);
CASE(seq_poll_remove);
CASE(seq_poll_update);
CASE(seq_timeout);
CASE(seq_timeout_count);
CASE(seq_timeout_remove);
CASE(seq_timeout_update);
CASE(seq_cancel);
CASE(seq_pipe);
CASE(seq_eventfd_read_write);
CASE(seq_sendmsg_recvmsg);
CASE(seq_send_recv);
CASE(seq_sendmsg_recvmsg_datagram);
CASE(seq_send_recv_datagram);
CASE(seq_accept_connect);
CASE(seq_accept_any_entry);
CASE(seq_accept_multishot);
CASE(seq_close_slot);
CASE(seq_refuse_pointer_outside_ram);
CASE(seq_iopoll);
CASE(seq_shutdown);

#endif
