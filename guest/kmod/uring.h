/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Rings for programs: what the files below share.
 *
 * uring.c      the nodes in /dev, a ring's birth and death, mappings, ioctls
 * uring_io.c   mediated rings: SQEs to the device, CQEs back
 * uring_reg.c  mediated rings: IORING_REGISTER_*
 *
 * Locks, outermost first: upv_uring.lock, upv_user.lock, upv_uring.cq_lock,
 * upv_uring.spin. upv_uring.lock may be held for as long as a process likes: only
 * with it is the process's own memory touched, which may fault, and are pages let
 * go of. So nobody waits for it but the process and works of the ring's own, and a
 * mapping's code takes upv_user.map_lock and no other. The device's commands, whose
 * admin_lock is the innermost, are executed with upv_uring.lock or upv_user.life,
 * and with none of the others: completions of all rings wait for these.
 *
 * A ring's works hold a reference while they are queued. Those with a timer are
 * queued with a lock that the ring's death takes, which cancels them: when the
 * function has gone no timer is left, and the works that run end by themselves.
 */
#ifndef UPV_URING_H
#define UPV_URING_H

#include <linux/bvec.h>
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/kref.h>
#include <linux/llist.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/wait.h>

#include "driver.h"
#include "uringpv_user.h"

/* The most pieces of memory in one request; what is beyond makes a transfer short. */
#define UPV_MAX_PIECES 1024

/* struct io_uring_cqe without what follows large ones. */
struct upv_cqe {
	u64 user_data;
	s32 res;
	u32 flags;
};

/* Words of a mediated ring in the process's memory, in the manner of io_uring. */
struct upv_words {
	u32 sq_head, sq_flags, sq_dropped; /* the driver's */
	u32 pad0[13];
	u32 sq_tail; /* the process's */
	u32 pad1[15];
	u32 cq_head, cq_flags; /* the process's */
	u32 pad2[14];
	u32 cq_tail, cq_overflow; /* the driver's */
	u32 pad3[14];
	u32 sq_mask, sq_entries, cq_mask, cq_entries; /* constant, never read back */
	u32 pad4[12];
	struct upv_cqe cqes[];
};

/* Memory that was registered by IORING_REGISTER_BUFFERS; requests hold it. */
struct upv_buf {
	struct kref ref;
	struct upv_uring *u; /* whose it is: the table's and all requests' */
	struct mm_struct *mm; /* whose pinned memory it counts as */
	u64 addr, len;
	unsigned int nr;
	struct page *pages[];
};

/* An entry of a registered table of files. */
struct upv_slot {
	bool used;
	bool reserved; /* an ACCEPT under way has chosen it */
	fmode_t mode;  /* of the open file */
	u32 index;     /* the device's */
	u32 coming;    /* not used yet: entry of the device's ring that an ACCEPT under way fills; 0: none */
};

/* Requests that are linked, while any of them is under way. */
struct upv_chain {
	unsigned int users;
	bool silent; /* one with CQE_SKIP_SUCCESS has failed: those it cancels say nothing */
};

/* Memory of the driver's that the device reads or writes for a request. */
struct upv_mem {
	struct {
		u64 name;
		u32 namelen, pad0;
		u64 iov, iovlen, control, controllen;
		u32 flags, pad1;
	} msg; /* struct msghdr */
	struct __kernel_timespec ts;
	u8 name[128];
	struct {
		u64 base, len;
	} iov[];
};

/*
 * A request of a mediated ring: free; then taken for an SQE, and busy if that is for
 * the device; then, after its last CQE, spent, as long as it holds memory.
 */
struct upv_req {
	u32 gen;     /* tells one user of this struct from the next */
	bool busy;
	struct llist_node spent; /* this and all below are nothing in a free one */
	u64 user_data;
	u8 opcode;   /* the process's */
	bool skip;   /* IOSQE_CQE_SKIP_SUCCESS */
	bool orders; /* the device has it, and what comes after it: IOSQE_IO_DRAIN, TIMEOUT that counts */
	bool in;     /* the device writes to the memory */
	bool pinned; /* the pieces are this request's own, not a registered buffer's */
	s32 fail;    /* the error that an SQE of the device's stands for */
	u32 want;    /* bytes of a transfer that is not short; 0: not a transfer */
	struct mm_struct *mm; /* whose pinned memory the pieces count as; NULL: I/O ends by itself */

	struct bio_vec *pieces; /* pages of the process; nr_data are data */
	unsigned int nr_data, nr_pieces;
	bool answers; /* RECVMSG, ACCEPT: what is said of the peer goes to the pieces from header on */
	unsigned int header, name; /* pieces of the msghdr or socklen_t and of the name; the end is nr_pieces */
	u32 name_room;
	u32 slot;  /* ACCEPT, CLOSE: entry of the process's table */
	u32 entry; /* the same: entry of the device's ring, 0: none */
	bool alloc; /* ACCEPT: the driver has chosen the slot */

	struct upv_mem *mem;
	void *bounce;
	size_t bounce_len;
	struct upv_buf *buf;
	struct upv_chain *chain;
};

/* A CQE for which the process's ring has had no room. */
struct upv_late {
	struct list_head list;
	struct upv_cqe cqe;
};

/* What IORING_REGISTER_RESTRICTIONS allows. */
struct upv_restrictions {
	bool on;
	DECLARE_BITMAP(ops, 256);
	DECLARE_BITMAP(registers, 256);
	u8 flags, flags_required;
};

/* An open file of /dev/uringpvN. */
struct upv_uring {
	struct upv_user *user;
	struct kref ref;
	struct mutex lock;   /* setup, submission, registration, death */
	struct upv_dev *dev; /* under lock; NULL: not set up, or dead */
	bool ready, dead;    /* it was set up; it is no more. Read anywhere */
	bool mapped;
	unsigned int place;  /* in upv_user.rings */
	unsigned int index;  /* the device's */
	unsigned int epoch;  /* the device's, at birth */
	struct delayed_work end_work;   /* ends it, after a reset or when the function goes */
	struct delayed_work stuck_work; /* tries to end it, until the host lets it; queued with lock held */
	struct delayed_work drain_work; /* lets go of what spent requests hold; queued with cq_lock held, and not ended */
	struct address_space *mapping; /* of the node */

	/* The device's ring. */
	void *rings, *sqe_area;
	size_t rings_len, sqe_len;
	void __iomem *doorbell;
	unsigned long doorbell_pfn;
	struct io_uring_params params; /* as the process has seen them */
	u8 opcodes[URINGPV_OPCODE_BYTES];
	bool sqpoll;
	u32 *sq_head, *sq_tail, *sq_flags, *sq_array, *cq_head, *cq_tail, *cq_flags;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	u32 sq_entries, sq_mask, cq_mask;
	u32 tail, shown; /* under lock: SQEs written, SQEs that the device has been told of */
	u64 doorbells;   /* under lock */
	u32 head;        /* under cq_lock: CQEs taken */
	bool ended;      /* under cq_lock: there is no ring to take them from */
	u32 timeouts;    /* under cq_lock: TIMEOUTs that have ended, which end waits */
	u32 ordering;    /* under cq_lock: requests with orders */

	wait_queue_head_t wait;
	struct mutex cq_lock; /* completions, and the process's CQ ring */
	struct eventfd_ctx *eventfd; /* under cq_lock */
	bool eventfd_async;

	/* Mediated. */
	struct upv_words *words;
	struct io_uring_sqe *user_sqes;
	u32 *user_array;
	size_t words_len, user_sqe_len;
	u32 user_sq_entries, user_cq_entries;
	u32 user_head; /* under lock */
	u32 user_tail, user_shown; /* under cq_lock: CQEs written, CQEs that the process has been shown */
	u32 dropped, overflow;
	struct list_head late; /* under cq_lock */
	unsigned int nr_late;
	struct upv_req *reqs;
	u32 nr_reqs;
	u32 *free;   /* under lock */
	u32 nr_free;
	struct llist_head spent;
	spinlock_t spin; /* guards the slots and the entries */
	struct upv_slot *slots; /* the table itself is also under lock */
	unsigned int nr_slots;
	unsigned long *entries;         /* of the device's ring, that sockets have or will have */
	unsigned long *emptying;        /* of these, those that are to be emptied; atomic */
	unsigned int nr_entries, first; /* in the bitmap; and the index of the first one */
	u32 nothing;                    /* URINGPV_SLOT_EMPTY, for the device to read */
	atomic_long_t pinned;           /* pages */
	struct upv_buf **bufs; /* under lock */
	unsigned int nr_bufs;
	struct upv_restrictions restrictions;
	bool disabled;
	struct pid *issuer; /* under lock: the only thread that may submit and register; NULL: any may */

	/* Mapped. */
	void **chunks;
	unsigned int nr_chunks;
	size_t chunk_len;
	u32 seen; /* cq_tail when waiters were last woken */
};

/* What a function has for programs; it outlives the function while files are open. */
struct upv_user {
	struct kref ref;
	struct upv_dev *dev; /* for rings that are in the table, and with life held if not gone */
	struct rw_semaphore life;
	struct mutex lock;   /* the table, interrupts */
	bool gone;           /* no new rings, and no files; written with life and lock held */
	bool over;           /* the device has none of the rings any more */
	struct mutex map_lock; /* a ring's death, against its doorbell's mapping */
	int minor;
	struct device *node;
	struct work_struct end_work; /* has rings ended after a reset */
	bool stuck;          /* the last reset left rings that the host has not let go of; written with reset_lock held */
	u64 interrupts;
	struct upv_uring *rings[UPV_MAX_USER_RINGS];
	unsigned int nr_rings, first; /* places in the table, and the first one's index */
	struct upv_node *files;
	unsigned int nr_files;
	u8 opcodes[URINGPV_OPCODE_BYTES]; /* also the extra ones */
};

/* A file in /dev/uringpv/. */
struct upv_node {
	struct upv_user *user;
	u32 index;
	u32 kind;  /* URINGPV_FILE_DISK and so on */
	int minor; /* -1: there is no node */
	struct device *node;
};

static inline bool upv_bit(const u8 *bits, unsigned int n)
{
	return bits[n / 8] & 1 << n % 8;
}

/* CQEs that the process has not taken; what it wrote into cq_head may be anything. */
static inline u32 upv_pending(u32 tail, u32 head, u32 entries)
{
	return min(tail - head, entries);
}

/* uring.c */
#define UPV_SETUP_NO_SQARRAY (1U << 16) /* IORING_SETUP_NO_SQARRAY, since 6.6 */
bool upv_uring_file(struct upv_uring *u, int fd, u32 *index, fmode_t *mode);
u32 upv_uring_ready(struct upv_uring *u);
void upv_uring_wake(struct upv_uring *u, bool eventfd);
void upv_uring_ring(struct upv_uring *u);
void upv_uring_queue(struct upv_uring *u, struct delayed_work *work, unsigned long delay);

/* uring_io.c */
int upv_med_init(struct upv_uring *u, bool accepts);
void upv_med_exit(struct upv_uring *u);
int upv_med_submit(struct upv_uring *u, u32 n);
void upv_med_reap(struct upv_uring *u, bool flush);
void upv_med_drain(struct upv_uring *u);
unsigned int upv_med_in_flight(struct upv_uring *u);
void upv_med_end(struct upv_uring *u);
bool upv_med_translates(unsigned int op);
bool upv_med_knows(struct upv_uring *u, unsigned int op);

/* uring_reg.c */
void upv_med_issues(struct upv_uring *u);
bool upv_med_issuer(struct upv_uring *u);
int upv_med_register(struct upv_uring *u, struct uringpv_user_register *r);
void upv_entry_put(struct upv_uring *u, u32 index);
void upv_med_unregister(struct upv_uring *u);
void upv_buf_put(struct upv_buf *buf);
int upv_account(struct mm_struct *mm, unsigned int pages);
void upv_unaccount(struct mm_struct *mm, unsigned int pages);

#endif
