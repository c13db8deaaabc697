// SPDX-License-Identifier: GPL-2.0
/*
 * One ring (section 4). An SQE's index stays its request's until its CQE has
 * come, so that the rest of a short transfer is the same SQE moved on, and the
 * number of SQEs bounds what the CQ ring has to hold.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/falloc.h>
#include <linux/slab.h>

#include "driver.h"

/* For how long a request is started again that the host refuses for now. */
#define UPV_TRIES (10 * HZ)

/* SQEs of a ring. Requests use half of them at once: the other half covers for a late sq.head (section 4). */
static u32 upv_ring_entries(struct upv_dev *dev)
{
	u32 want = roundup_pow_of_two(2 * max(2 * upv_params.queue_depth, 2 * upv_params.max_segments));

	return clamp(want, 4u, dev->identity.max_sq_entries);
}

/* Memory of a ring, which stays for all its lives. */
int upv_ring_init(struct upv_ring *ring)
{
	spin_lock_init(&ring->lock);
	ring->sq_entries = upv_ring_entries(ring->dev);
	ring->rings_len = URINGPV_RINGS_SIZE(ring->sq_entries, 2 * ring->sq_entries);
	ring->sqe_len = PAGE_ALIGN(ring->sq_entries * sizeof(struct io_uring_sqe));
	ring->rings = alloc_pages_exact(ring->rings_len, GFP_KERNEL | __GFP_ZERO);
	ring->sqe_area = alloc_pages_exact(ring->sqe_len, GFP_KERNEL | __GFP_ZERO);
	ring->owner = kvcalloc(ring->sq_entries, sizeof(*ring->owner), GFP_KERNEL);
	ring->free = kvcalloc(ring->sq_entries, sizeof(*ring->free), GFP_KERNEL);
	return ring->rings && ring->sqe_area && ring->owner && ring->free ? 0 : -ENOMEM;
}

void upv_ring_exit(struct upv_ring *ring)
{
	if (ring->rings)
		free_pages_exact(ring->rings, ring->rings_len);
	if (ring->sqe_area)
		free_pages_exact(ring->sqe_area, ring->sqe_len);
	kvfree(ring->owner);
	kvfree(ring->free);
}

static void upv_allow(struct uringpv_ring_setup *s, unsigned int op)
{
	s->opcodes[op / 8] |= 1 << op % 8;
}

/* RING_SETUP. No request is in the ring. */
int upv_ring_start(struct upv_ring *ring)
{
	struct upv_dev *dev = ring->dev;
	struct uringpv_ring_setup s = {
		.params.sq_entries = ring->sq_entries,
		.params.flags = ring->setup & dev->identity.setup_flags,
		.rings_addr = virt_to_phys(ring->rings),
		.rings_len = ring->rings_len,
		.sqes_addr = virt_to_phys(ring->sqe_area),
		.sqes_len = ring->sqe_len,
		.vector = ring->vector < 0 ? URINGPV_NO_VECTOR : ring->vector,
	};
	struct uringpv_params *p = &s.params;
	unsigned long flags;
	u32 i;
	int ret;

	if (p->flags & IORING_SETUP_SQPOLL)
		p->sq_thread_idle = upv_params.sqpoll_idle_ms;
	/* Ask for no more than is used. */
	if (!(p->flags & IORING_SETUP_IOPOLL))
		upv_allow(&s, IORING_OP_FSYNC);
	if (ring != dev->control || ring == dev->rings) {
		upv_allow(&s, IORING_OP_READ_FIXED);
		upv_allow(&s, IORING_OP_WRITE_FIXED);
	}
	if (ring == dev->control && dev->can_fallocate)
		upv_allow(&s, IORING_OP_FALLOCATE);
	ret = upv_command(dev, URINGPV_CMD_RING_SETUP, ring->index, &s, sizeof(s));
	if (ret)
		return ret;
	if (p->sq_entries != ring->sq_entries || p->cq_entries < p->sq_entries) {
		upv_command(dev, URINGPV_CMD_RING_DESTROY, ring->index, NULL, 0);
		return -EPROTO;
	}

	spin_lock_irqsave(&ring->lock, flags);
	ring->sq_head = ring->rings + p->sq_off.head;
	ring->sq_tail = ring->rings + p->sq_off.tail;
	ring->sq_flags = ring->rings + p->sq_off.flags;
	ring->sq_array = ring->rings + p->sq_off.array;
	ring->sq_mask = p->sq_entries - 1;
	ring->cq_head = ring->rings + p->cq_off.head;
	ring->cq_tail = ring->rings + p->cq_off.tail;
	ring->cqes = ring->rings + p->cq_off.cqes;
	ring->cq_mask = p->cq_entries - 1;
	ring->sqes = ring->sqe_area;
	ring->tail = ring->head = 0;
	ring->nr_free = ring->sq_entries / 2;
	for (i = 0; i < ring->nr_free; i++) {
		ring->owner[i] = NULL;
		ring->free[i] = i;
	}
	ring->live = true;
	spin_unlock_irqrestore(&ring->lock, flags);
	return 0;
}

static void upv_complete(struct request *list)
{
	struct request *rq;

	while ((rq = list)) {
		list = ((struct upv_rq *)blk_mq_rq_to_pdu(rq))->next;
		blk_mq_complete_request(rq);
	}
}

/*
 * After RING_DESTROY or RESET: nothing of the ring touches memory any more. The
 * requests that are still in it are to be queued again, or fail with status.
 */
void upv_ring_stop(struct upv_ring *ring, blk_status_t status)
{
	struct request *list = NULL;
	unsigned long flags;
	u32 i;

	upv_ring_reap(ring);
	spin_lock_irqsave(&ring->lock, flags);
	for (i = 0; ring->live && i < ring->sq_entries / 2; i++) {
		struct request *rq = ring->owner[i];
		struct upv_rq *p;

		ring->owner[i] = NULL;
		if (!rq)
			continue;
		p = blk_mq_rq_to_pdu(rq);
		if (!p->left)
			continue; /* by another of its SQEs */
		p->left = 0;
		p->again = status ? 0 : UPV_AGAIN_NOW;
		p->status = p->status ?: status;
		p->next = list;
		list = rq;
	}
	ring->live = false;
	spin_unlock_irqrestore(&ring->lock, flags);
	upv_complete(list);
}

/* The entry of the buffer table that holds addr; the table is in ascending order. */
int upv_buffer(struct upv_dev *dev, u64 addr)
{
	unsigned int low = 0, high = dev->nr_buffers;

	while (low < high) {
		unsigned int mid = (low + high) / 2;

		if (addr < dev->buffers[mid].addr)
			high = mid;
		else if (addr - dev->buffers[mid].addr >= dev->buffers[mid].len)
			low = mid + 1;
		else
			return mid;
	}
	return -1;
}

/* Room in the SQ ring: what the host has not passed is not to be written over. */
static u32 upv_room(struct upv_ring *ring)
{
	return ring->sq_entries - (ring->tail - virt_load_acquire(ring->sq_head));
}

/* Hands SQE i to the host; the tail that shows it is stored by upv_publish. */
static void upv_push(struct upv_ring *ring, u32 i)
{
	WRITE_ONCE(ring->sq_array[ring->tail++ & ring->sq_mask], i);
	ring->submitted++;
}

static void upv_publish(struct upv_ring *ring)
{
	virt_store_release(ring->sq_tail, ring->tail);
}

/* Does the host have to be told of new SQEs? */
static bool upv_sleeps(struct upv_ring *ring)
{
	if (!(ring->setup & ring->dev->identity.setup_flags & IORING_SETUP_SQPOLL))
		return true;
	virt_mb(); /* the tail before the flags (section 4, Notify) */
	return READ_ONCE(*ring->sq_flags) & IORING_SQ_NEED_WAKEUP;
}

/* Rings the doorbell if the host does not look at the ring by itself. */
void upv_ring_notify(struct upv_ring *ring)
{
	unsigned long flags;
	bool ringing;

	spin_lock_irqsave(&ring->lock, flags);
	ringing = ring->live && upv_sleeps(ring);
	ring->doorbells += ringing;
	spin_unlock_irqrestore(&ring->lock, flags);
	if (ringing)
		writel(1, ring->doorbell);
}

/* At how many timeouts a request may wait for others. */
#define UPV_WAITS 8

/* Each reset for a request's sake doubles the time that it gets next, so often. */
#define UPV_DOUBLINGS 6

/*
 * A request has timed out: is the host still at it? Then a reset would only have all
 * begin again. It is if it has completed others meanwhile; and what frees or zeroes
 * blocks may take as long as it takes, without a sign of life. A doorbell that the host
 * may have missed is made up for.
 */
bool upv_ring_goes_on(struct upv_ring *ring, struct request *rq)
{
	bool zeroes = req_op(rq) == REQ_OP_DISCARD || req_op(rq) == REQ_OP_WRITE_ZEROES;
	struct upv_rq *p = blk_mq_rq_to_pdu(rq);
	bool untaken, ringing, goes_on = false;
	unsigned long flags;

	spin_lock_irqsave(&ring->lock, flags);
	untaken = ring->live && upv_room(ring) < ring->sq_entries;
	ringing = untaken && !p->rung;
	if (ringing || (zeroes && !untaken) || (ring->completed != p->seen && p->waits++ < UPV_WAITS)) {
		goes_on = true;
	} else if (p->patience) {
		p->patience--;
		goes_on = true;
	} else if (!READ_ONCE(ring->dev->held)) { /* else one is under way */
		p->resets = min(p->resets + 1, UPV_DOUBLINGS);
	}
	goes_on &= ring->live;
	p->seen = ring->completed;
	p->rung |= ringing;
	ring->doorbells += ringing;
	spin_unlock_irqrestore(&ring->lock, flags);
	if (ringing)
		writel(1, ring->doorbell);
	return goes_on;
}

/* A run of memory that is one SQE. */
struct upv_run {
	u64 addr, end;
	int buffer;
};

/*
 * The request's memory as runs, one after another: adjacent segments are joined,
 * and a run is cut where an entry of the buffer table ends. Calls emit for each,
 * and returns how many there are, or -EFAULT for memory that is in no entry.
 */
static int upv_runs(struct upv_ring *ring, struct request *rq,
		    void (*emit)(struct upv_ring *, struct request *, struct upv_run *, u64 off))
{
	struct upv_dev *dev = ring->dev;
	struct upv_run run = { .buffer = -1 };
	u64 off = (u64)blk_rq_pos(rq) << SECTOR_SHIFT;
	struct req_iterator iter;
	struct bio_vec bv;
	int n = 0;

	rq_for_each_bvec(bv, rq, iter) {
		u64 addr = page_to_phys(bv.bv_page) + bv.bv_offset;
		u64 left = bv.bv_len;

		while (left) {
			struct uringpv_range *b;
			u64 part;

			if (run.buffer < 0 || addr != run.end ||
			    addr == dev->buffers[run.buffer].addr + dev->buffers[run.buffer].len) {
				if (run.buffer >= 0) {
					if (emit)
						emit(ring, rq, &run, off);
					off += run.end - run.addr;
					n++;
				}
				run.addr = run.end = addr;
				run.buffer = upv_buffer(dev, addr);
				if (run.buffer < 0)
					return -EFAULT;
			}
			b = &dev->buffers[run.buffer];
			part = min(left, b->addr + b->len - addr);
			run.end += part;
			addr += part;
			left -= part;
		}
	}
	if (run.buffer >= 0) {
		if (emit)
			emit(ring, rq, &run, off);
		n++;
	}
	return n;
}

/* A free SQE for rq, filled with what all have. */
static struct io_uring_sqe *upv_sqe(struct upv_ring *ring, struct request *rq, u8 opcode)
{
	struct upv_disk *d = rq->q->queuedata;
	u32 i = ring->free[--ring->nr_free];
	struct io_uring_sqe *sqe = ring->sqes + i;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = opcode;
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->fd = d->file;
	sqe->user_data = i;
	ring->owner[i] = rq;
	upv_push(ring, i);
	return sqe;
}

static void upv_emit_rw(struct upv_ring *ring, struct request *rq, struct upv_run *run, u64 off)
{
	bool write = op_is_write(req_op(rq));
	struct io_uring_sqe *sqe = upv_sqe(ring, rq, write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED);

	sqe->off = off;
	sqe->addr = ring->dev->addr_base + run->addr;
	sqe->len = run->end - run->addr;
	sqe->buf_index = run->buffer;
	if (write && (rq->cmd_flags & REQ_FUA))
		sqe->rw_flags = (__force typeof(sqe->rw_flags))RWF_DSYNC;
}

static void upv_emit_flush(struct upv_ring *ring, struct request *rq)
{
	upv_sqe(ring, rq, IORING_OP_FSYNC)->fsync_flags = IORING_FSYNC_DATASYNC;
}

static void upv_emit_fallocate(struct upv_ring *ring, struct request *rq)
{
	struct io_uring_sqe *sqe = upv_sqe(ring, rq, IORING_OP_FALLOCATE);

	sqe->off = (u64)blk_rq_pos(rq) << SECTOR_SHIFT;
	sqe->addr = blk_rq_bytes(rq);
	sqe->len = FALLOC_FL_KEEP_SIZE;
	if (req_op(rq) == REQ_OP_WRITE_ZEROES && (rq->cmd_flags & REQ_NOUNMAP))
		sqe->len |= FALLOC_FL_ZERO_RANGE;
	else
		sqe->len |= FALLOC_FL_PUNCH_HOLE;
}

/*
 * Puts rq's SQEs into the ring, or none: BLK_STS_DEV_RESOURCE if there is no
 * room, which completions of the ring's other requests make. rq has been
 * started.
 */
blk_status_t upv_ring_submit(struct upv_ring *ring, struct request *rq, bool last)
{
	struct upv_rq *p = blk_mq_rq_to_pdu(rq);
	bool ringing = false;
	unsigned long flags;
	int n = 1;

	if (req_op(rq) == REQ_OP_READ || req_op(rq) == REQ_OP_WRITE)
		n = upv_runs(ring, rq, NULL);
	if (n <= 0 || n > ring->sq_entries / 2)
		return BLK_STS_IOERR;

	spin_lock_irqsave(&ring->lock, flags);
	if (!ring->live) {
		spin_unlock_irqrestore(&ring->lock, flags);
		return BLK_STS_RESOURCE; /* a reset is under way */
	}
	if (n > ring->nr_free || n > upv_room(ring)) {
		bool idle = ring->nr_free == ring->sq_entries / 2;

		spin_unlock_irqrestore(&ring->lock, flags);
		/* If nothing is in flight only time brings room. */
		return idle ? BLK_STS_RESOURCE : BLK_STS_DEV_RESOURCE;
	}
	p->ring = ring;
	p->left = n;
	p->status = BLK_STS_OK;
	p->again = 0;
	p->seen = ring->completed;
	p->waits = 0;
	p->patience = (1 << p->resets) - 1;
	p->rung = false;
	switch (req_op(rq)) {
	case REQ_OP_FLUSH:
		upv_emit_flush(ring, rq);
		break;
	case REQ_OP_DISCARD:
	case REQ_OP_WRITE_ZEROES:
		upv_emit_fallocate(ring, rq);
		break;
	default:
		upv_runs(ring, rq, upv_emit_rw);
	}
	upv_publish(ring);
	if (last) {
		ringing = upv_sleeps(ring);
		ring->doorbells += ringing;
	}
	spin_unlock_irqrestore(&ring->lock, flags);
	if (ringing)
		writel(1, ring->doorbell);
	return BLK_STS_OK;
}

/*
 * What CQE res means for SQE i of rq. True if the SQE went back into the ring
 * for the rest.
 */
static bool upv_result(struct upv_ring *ring, u32 i, struct request *rq, s32 res)
{
	struct io_uring_sqe *sqe = ring->sqes + i;
	struct upv_rq *p = blk_mq_rq_to_pdu(rq);
	bool rw = sqe->opcode == IORING_OP_READ_FIXED || sqe->opcode == IORING_OP_WRITE_FIXED;

	if (rw ? res == sqe->len : !res)
		return false;
	/* By the driver's own RESET: no fault of the request's. */
	if (res == -ECANCELED && READ_ONCE(ring->dev->held)) {
		p->again = p->again ?: UPV_AGAIN_NOW;
		return false;
	}
	if (res == -EINTR || res == -EAGAIN || res == -ENOMEM || res == -ECANCELED || (rw && res > 0 && res < sqe->len)) {
		if (res < 0 && !p->since) {
			p->since = jiffies ?: 1;
		} else if (res < 0 && time_after(jiffies, p->since + UPV_TRIES)) {
			p->status = p->status ?: BLK_STS_IOERR;
			return false;
		}
		if (res < 0 && res != -EINTR) {
			p->again = UPV_AGAIN_LATER;
			return false;
		}
		if (p->status || upv_room(ring) < 1) {
			p->again = p->again ?: UPV_AGAIN_NOW;
			return false;
		}
		if (res > 0) {
			sqe->off += res;
			sqe->addr += res;
			sqe->len -= res;
		}
		upv_push(ring, i);
		ring->resubmitted++;
		return true;
	}
	/* Nothing moved, the file ends here; or a failure. */
	if (res >= 0)
		res = -EIO;
	if (!p->status)
		p->status = res == -EFBIG ? BLK_STS_NOSPC : errno_to_blk_status(res);
	return false;
}

/* Takes CQEs, and completes the requests that have all theirs. Returns how many did. */
unsigned int upv_ring_reap(struct upv_ring *ring)
{
	struct request *done = NULL, **end = &done, *rq;
	bool more = false, ringing = false;
	unsigned int n = 0;
	unsigned long flags;
	u32 tail;

	spin_lock_irqsave(&ring->lock, flags);
	if (!ring->live) {
		spin_unlock_irqrestore(&ring->lock, flags);
		return 0;
	}
	while (tail = virt_load_acquire(ring->cq_tail), ring->head != tail) {
		for (; ring->head != tail; ring->head++) {
			struct io_uring_cqe *cqe = ring->cqes + (ring->head & ring->cq_mask);
			u64 i = READ_ONCE(cqe->user_data);
			struct upv_rq *p;

			if (i >= ring->sq_entries / 2 || !ring->owner[i]) {
				dev_warn_ratelimited(&ring->dev->pdev->dev, "ring %u: completion of nothing, user_data %#llx\n",
						     ring->index, i);
				continue;
			}
			rq = ring->owner[i];
			ring->completed++;
			if (upv_result(ring, i, rq, READ_ONCE(cqe->res))) {
				more = true;
				continue;
			}
			ring->owner[i] = NULL;
			ring->free[ring->nr_free++] = i;
			p = blk_mq_rq_to_pdu(rq);
			if (--p->left)
				continue;
			p->next = NULL;
			*end = rq;
			end = &p->next;
			n++;
		}
		virt_store_release(ring->cq_head, ring->head);
	}
	if (more) {
		upv_publish(ring);
		ringing = upv_sleeps(ring);
		ring->doorbells += ringing;
	}
	spin_unlock_irqrestore(&ring->lock, flags);
	if (ringing)
		writel(1, ring->doorbell);

	upv_complete(done);
	return n;
}

irqreturn_t upv_ring_interrupt(int irq, void *data)
{
	struct upv_ring *ring = data;

	ring->interrupts++; /* of one vector, which does not interrupt itself */
	upv_ring_reap(ring);
	return IRQ_HANDLED;
}
