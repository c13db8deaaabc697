/* SPDX-License-Identifier: Apache-2.0 */
/* io_uring's ABI, as far as the guest uses it, and a ring as its application
 * sees it. Numbers are those of linux/io_uring.h. */
#ifndef URING_H
#define URING_H

#include "cpu.h"
#include "types.h"

enum {
	IORING_OP_NOP = 0,
	IORING_OP_READV = 1,
	IORING_OP_WRITEV = 2,
	IORING_OP_FSYNC = 3,
	IORING_OP_READ_FIXED = 4,
	IORING_OP_WRITE_FIXED = 5,
	IORING_OP_POLL_ADD = 6,
	IORING_OP_POLL_REMOVE = 7,
	IORING_OP_SYNC_FILE_RANGE = 8,
	IORING_OP_SENDMSG = 9,
	IORING_OP_RECVMSG = 10,
	IORING_OP_TIMEOUT = 11,
	IORING_OP_TIMEOUT_REMOVE = 12,
	IORING_OP_ACCEPT = 13,
	IORING_OP_ASYNC_CANCEL = 14,
	IORING_OP_LINK_TIMEOUT = 15,
	IORING_OP_CONNECT = 16,
	IORING_OP_FALLOCATE = 17,
	IORING_OP_OPENAT = 18,
	IORING_OP_CLOSE = 19,
	IORING_OP_READ = 22,
	IORING_OP_WRITE = 23,
	IORING_OP_SEND = 26,
	IORING_OP_RECV = 27,
	IORING_OP_SHUTDOWN = 34,
};

#define IOSQE_FIXED_FILE 0x01
#define IOSQE_IO_DRAIN 0x02
#define IOSQE_IO_LINK 0x04
#define IOSQE_IO_HARDLINK 0x08
#define IOSQE_ASYNC 0x10
#define IOSQE_BUFFER_SELECT 0x20
#define IOSQE_CQE_SKIP_SUCCESS 0x40

#define IORING_CQE_F_MORE 0x2

#define IORING_SETUP_IOPOLL 0x1
#define IORING_SETUP_SQPOLL 0x2
#define IORING_SETUP_CQSIZE 0x8
#define IORING_SETUP_CLAMP 0x10
#define IORING_SETUP_NO_SQARRAY 0x10000

#define IORING_FEAT_SINGLE_MMAP 0x1

#define IORING_SQ_NEED_WAKEUP 0x1
#define IORING_SQ_CQ_OVERFLOW 0x2
#define IORING_CQ_EVENTFD_DISABLED 0x1

#define IORING_ENTER_GETEVENTS 0x1
#define IORING_ENTER_SQ_WAKEUP 0x2

#define IORING_FSYNC_DATASYNC 0x1

#define IORING_POLL_ADD_MULTI 0x1
#define IORING_POLL_UPDATE_EVENTS 0x2
#define IORING_POLL_UPDATE_USER_DATA 0x4

#define IORING_TIMEOUT_ABS 0x1
#define IORING_TIMEOUT_UPDATE 0x2

#define IORING_ACCEPT_MULTISHOT 0x1 /* in ioprio */
#define IORING_FILE_INDEX_ALLOC (-1)

#define IORING_ASYNC_CANCEL_ALL 0x1
#define IORING_ASYNC_CANCEL_FD 0x2
#define IORING_ASYNC_CANCEL_ANY 0x4
#define IORING_ASYNC_CANCEL_FD_FIXED 0x8

#define IORING_REGISTER_BUFFERS 0
#define IORING_UNREGISTER_BUFFERS 1
#define IORING_REGISTER_FILES 2
#define IORING_UNREGISTER_FILES 3
#define IORING_REGISTER_EVENTFD 4
#define IORING_UNREGISTER_EVENTFD 5
#define IORING_REGISTER_FILES_UPDATE 6
#define IORING_REGISTER_PROBE 8
#define IORING_REGISTER_PERSONALITY 9
#define IORING_REGISTER_BUFFERS_UPDATE 16

#define EPERM 1
#define ENOENT 2
#define ENXIO 6
#define E2BIG 7
#define EBADF 9
#define EACCES 13
#define EFAULT 14
#define EBUSY 16
#define EINVAL 22
#define EFBIG 27
#define ENOSPC 28
#define ESPIPE 29
#define EPIPE 32
#define ETIME 62
#define EOPNOTSUPP 95
#define ECANCELED 125

struct sqe {
	u8 opcode, flags;
	u16 ioprio;
	s32 fd;
	u64 off, addr;
	u32 len, op_flags;
	u64 user_data;
	u16 buf_index, personality;
	s32 splice_fd_in;
	u64 addr3, pad;
};

struct cqe {
	u64 user_data;
	s32 res;
	u32 flags;
};

_Static_assert(sizeof(struct sqe) == 64, "sizeof sqe");
_Static_assert(sizeof(struct cqe) == 16, "sizeof cqe");

/* A ring in shared memory. The pointers come from the offsets that set-up
 * returned. */
struct uring {
	u32 *sq_head, *sq_tail, *sq_flags, *sq_dropped, *sq_array; /* sq_array: NULL without one */
	u32 *cq_head, *cq_tail, *cq_flags, *cq_overflow;
	struct sqe *sqes;
	struct cqe *cqes;
	u32 sq_entries, cq_entries;
	u32 tail;    /* of SQEs handed out, ours */
	bool polled; /* IORING_SETUP_SQPOLL */
	void (*kick)(struct uring *); /* make the other side look */
};

/* The next free SQE, zeroed; NULL if the SQ ring is full.
 *
 * It may look full for a moment although fewer requests are in flight than it has
 * entries: the other side consumes SQEs in batches, and may post the CQEs of a
 * batch before it stores the SQ ring's head. */
static inline struct sqe *uring_sqe(struct uring *r)
{
	u32 i = r->tail & (r->sq_entries - 1);
	struct sqe *s = &r->sqes[i];

	if (r->tail - load_acquire(r->sq_head) >= r->sq_entries)
		return NULL;
	if (r->sq_array)
		r->sq_array[i] = i;
	r->tail++;
	*s = (struct sqe){ 0 };
	return s;
}

/* The next free SQE, zeroed, for a caller with fewer requests in flight than the
 * ring has entries; NULL if the TSC passes deadline before there is one. */
static inline struct sqe *uring_sqe_by(struct uring *r, u64 deadline)
{
	struct sqe *s = uring_sqe(r);

	while (__builtin_expect(!s, 0) && rdtsc() < deadline) {
		cpu_relax();
		s = uring_sqe(r);
	}
	return s;
}

/* The next free SQE for a caller with fewer requests outstanding than the ring
 * has entries. There is one, but perhaps not yet: a CQE can be seen a moment
 * before the SQ head passes its SQE. */
static inline struct sqe *uring_sqe_soon(struct uring *r)
{
	struct sqe *s;

	while (!(s = uring_sqe(r)))
		cpu_relax();
	return s;
}

/* Publish the SQEs handed out; wake the other side if it does not look by itself. */
static inline void uring_submit(struct uring *r)
{
	store_release(r->sq_tail, r->tail);
	full_barrier();
	if (!r->polled || load_relaxed(r->sq_flags) & IORING_SQ_NEED_WAKEUP)
		r->kick(r);
}

/* The number of CQEs to take. */
static inline u32 uring_ready(const struct uring *r)
{
	return load_acquire(r->cq_tail) - *r->cq_head;
}

/* The i-th CQE to take, i < uring_ready(). */
static inline const struct cqe *uring_cqe(const struct uring *r, u32 i)
{
	return &r->cqes[(*r->cq_head + i) & (r->cq_entries - 1)];
}

/* Give n CQEs back. */
static inline void uring_advance(struct uring *r, u32 n)
{
	store_release(r->cq_head, *r->cq_head + n);
}

#endif
