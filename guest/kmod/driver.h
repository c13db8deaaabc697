/* SPDX-License-Identifier: GPL-2.0 */
/*
 * uringpv: a blk-mq disk for each file that a uringpv device exports, whose I/O
 * runs on the host's io_uring. docs/protocol.md of the project describes the
 * device; section numbers in comments are that text's.
 *
 * admin.c  commands; ring.c  one ring; disk.c  blk-mq; sysfs.c  what users see;
 * main.c  the PCI function, and its rings' birth and death; uring.c, uring_io.c,
 * uring_reg.c  rings for programs.
 */
#ifndef UPV_DRIVER_H
#define UPV_DRIVER_H

#include <linux/blk-mq.h>
#include <linux/debugfs.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <uapi/linux/io_uring.h>

#include "uringpv.h"

#define UPV_NAME "uringpv"

struct upv_dev;

/*
 * One request of the block layer: its SQEs are all in one ring, whose lock
 * guards this.
 */
struct upv_rq {
	struct upv_ring *ring; /* where the SQEs are */
	struct request *next;  /* in a list of completed requests */
	unsigned int left;     /* SQEs without a CQE */
	blk_status_t status;   /* the first failure */
	u8 again;              /* to be queued once more, as a whole: UPV_AGAIN_* */
	unsigned long since;   /* jiffies when the host first refused it for now, never 0; 0: it has not */
	u8 resets;             /* timeouts of this request that led to a reset */
	u8 patience;           /* timeouts that it may have without one */
	u8 waits;              /* timeouts at which the ring was going on */
	bool rung;             /* the doorbell was rung at a timeout */
	u64 seen;              /* completions of the ring's when this went in, or timed out last */
};

#define UPV_AGAIN_NOW 1
#define UPV_AGAIN_LATER 2 /* the host was short of something */

/* A ring (section 4) and the requests in it. */
struct upv_ring {
	struct upv_dev *dev;
	unsigned int index;     /* the device's */
	unsigned int setup;     /* IORING_SETUP_* wanted */
	int vector;             /* MSI-X, or -1: polled */
	void __iomem *doorbell;

	void *rings, *sqe_area; /* guest RAM, the device's while live */
	size_t rings_len, sqe_len;

	spinlock_t lock;        /* guards all below */
	bool live;              /* set up; no SQE goes in if not */
	u32 *sq_head, *sq_tail, *sq_flags, *sq_array, *cq_head, *cq_tail;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	u32 sq_entries, sq_mask, cq_mask, tail, head;
	struct request **owner; /* by SQE index; NULL: free */
	u32 *free;              /* indices of free SQEs, a stack */
	u32 nr_free;

	u64 submitted, completed, doorbells, interrupts, resubmitted;
};

/* A disk, and the device's file behind it. */
struct upv_disk {
	struct upv_dev *dev;
	struct gendisk *disk;
	unsigned int file; /* index, also in every ring */
	int id;            /* N of upvN */
	bool quiesced;     /* under disks_lock */
	struct mutex rescan_lock; /* one question and its answer at a time */
	struct uringpv_file info;
};

/* A PCI function. */
struct upv_dev {
	struct pci_dev *pdev;
	void __iomem *regs, *doorbells;
	u64 addr_base;
	struct uringpv_identity identity;

	struct mutex admin_lock; /* guards admin and the registers of commands */
	struct upv_admin *admin;
	unsigned int epoch; /* resets; written with admin_lock held */

	struct uringpv_range *buffers; /* the buffer table */
	unsigned int nr_buffers;

	/* rings[0 .. nr_queues-1] with interrupts, then nr_polled without, then control, which may be rings[0]. */
	struct upv_ring *rings;
	struct upv_ring *control;
	unsigned int nr_rings, nr_queues, nr_polled;
	bool can_fallocate;
	int nr_vectors;

	struct upv_user *user; /* programs' rings, which come after those; NULL: none */
	unsigned int nr_user_rings, user_vector;

	struct blk_mq_tag_set tags;
	struct mutex disks_lock; /* guards which disks there are; not held while one is waited for */
	struct upv_disk **disks;
	unsigned int nr_disks;

	struct mutex reset_lock; /* one start or stop of the rings at a time */
	bool held, stopped, dead; /* under reset_lock; stopped: there are no rings, for now or for good */
	unsigned long since; /* jiffies when rings could first not be made, never 0; 0: they could. Under reset_lock */
	bool off; /* no new rings: the machine is going down */
	bool lent; /* the host may have memory of ours; under admin_lock */
	bool have_irqs;
	struct delayed_work reset_work, watch_work, capacity_work;
	unsigned int resets;
	struct dentry *debugfs;
};

/* What users chose. */
struct upv_params {
	unsigned int queues, poll_queues, queue_depth, max_segments, max_sectors_kb, capacity_poll_ms, sqpoll_idle_ms;
	unsigned int user_rings, user_pool_mb;
	bool sqpoll;
};
extern struct upv_params upv_params;

/* admin.c. Commands may sleep; they return 0 or a negative errno. */
#define UPV_PAYLOAD_MAX 3072
int upv_admin_init(struct upv_dev *dev);
void upv_admin_exit(struct upv_dev *dev);
int upv_command(struct upv_dev *dev, u32 op, u32 index, void *payload, u32 len);
int upv_ring_setup(struct upv_dev *dev, u32 index, struct uringpv_ring_setup *setup, unsigned int *epoch);
void upv_new_epoch(struct upv_dev *dev);

/* ring.c */
int upv_ring_init(struct upv_ring *ring);
void upv_ring_exit(struct upv_ring *ring);
int upv_ring_start(struct upv_ring *ring);
void upv_ring_stop(struct upv_ring *ring, blk_status_t status);
blk_status_t upv_ring_submit(struct upv_ring *ring, struct request *rq, bool last);
void upv_ring_notify(struct upv_ring *ring);
bool upv_ring_goes_on(struct upv_ring *ring, struct request *rq);
unsigned int upv_ring_reap(struct upv_ring *ring);
irqreturn_t upv_ring_interrupt(int irq, void *ring);
int upv_buffer(struct upv_dev *dev, u64 addr);

/* disk.c */
int upv_tags_init(struct upv_dev *dev);
int upv_disks_add(struct upv_dev *dev);
void upv_disks_remove(struct upv_dev *dev);
void upv_disks_hold(struct upv_dev *dev);
void upv_disks_release(struct upv_dev *dev);
void upv_disk_rescan(struct upv_disk *d);

/* main.c */
void upv_reset_soon(struct upv_dev *dev, unsigned long delay);
void upv_watch(struct upv_dev *dev);
bool upv_gone(struct upv_dev *dev);
bool upv_failed(struct upv_dev *dev);

/* uring.c */
#define UPV_MAX_USER_RINGS 64
int upv_user_init(void);
void upv_user_exit(void);
int upv_user_add(struct upv_dev *dev);
void upv_user_reset(struct upv_dev *dev, bool stuck);
void upv_user_close(struct upv_dev *dev);
void upv_user_remove(struct upv_dev *dev);
void upv_user_show(struct seq_file *s, struct upv_dev *dev);

/* sysfs.c */
extern const struct attribute_group *upv_disk_groups[];
extern const struct attribute_group *upv_dev_groups[];
void upv_debugfs_add(struct upv_dev *dev);

#endif
