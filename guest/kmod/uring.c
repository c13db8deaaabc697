// SPDX-License-Identifier: GPL-2.0
/*
 * Rings for programs: the nodes in /dev, and a ring's birth and death.
 *
 * A ring dies when its last file and mapping is closed, when the device is reset
 * and when the function goes. Its memory stays until the host has let go of it.
 */
#include <linux/cdev.h>
#include <linux/ctype.h>
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/time.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "uring.h"

#define UPV_MAX_RING_NODES 256
#define UPV_MAX_FILE_NODES 4096

/* Chunks of a mapped ring's pool: as large as can be had, of one size. */
#define UPV_MAX_CHUNK SZ_4M
#define UPV_MIN_CHUNK SZ_64K

/* How long to wait until a ring whose I/O is stuck on the host is looked at again. */
#define UPV_STUCK_WAIT (5 * HZ)

static dev_t upv_numbers;
static struct workqueue_struct *upv_wq; /* what ends rings whose processes do not */
static struct cdev upv_ring_cdev, upv_file_cdev;
static DEFINE_MUTEX(upv_nodes_lock); /* guards both */
static DEFINE_IDR(upv_ring_nodes);   /* struct upv_user, by minor */
static DEFINE_IDR(upv_file_nodes);   /* struct upv_node */
static struct class upv_class = { .name = UPV_NAME "_user" }; /* functions have a directory of the plain name */

static const struct file_operations upv_file_fops;

/* --- What outlives a function --- */

static void upv_user_free(struct kref *ref)
{
	struct upv_user *user = container_of(ref, struct upv_user, ref);

	kfree(user->files);
	kfree(user);
}

static void upv_user_put(struct upv_user *user)
{
	kref_put(&user->ref, upv_user_free);
}

static void upv_free_pages(void *p, size_t len)
{
	if (p)
		free_pages_exact(p, len);
}

/* The host has let go of all of it. */
static void upv_uring_free(struct kref *ref)
{
	struct upv_uring *u = container_of(ref, struct upv_uring, ref);
	unsigned int i;

	upv_med_unregister(u);
	upv_med_exit(u);
	put_pid(u->issuer);
	WARN_ON_ONCE(atomic_long_read(&u->pinned));
	for (i = 0; i < u->nr_chunks; i++)
		upv_free_pages(u->chunks[i], u->chunk_len);
	kfree(u->chunks);
	upv_free_pages(u->rings, u->rings_len);
	upv_free_pages(u->sqe_area, u->sqe_len);
	upv_user_put(u->user);
	kfree(u);
}

static void upv_uring_put(struct upv_uring *u)
{
	kref_put(&u->ref, upv_uring_free);
}

/* --- What the other files ask for --- */

/* Queues a work of the ring's, which puts its reference when it is done. */
void upv_uring_queue(struct upv_uring *u, struct delayed_work *work, unsigned long delay)
{
	kref_get(&u->ref);
	if (!queue_delayed_work(upv_wq, work, delay))
		upv_uring_put(u); /* it is queued already */
}

/* Is fd a file of this function's, opened from /dev/uringpv/? */
bool upv_uring_file(struct upv_uring *u, int fd, u32 *index, fmode_t *mode)
{
	struct file *file = fget(fd);
	bool ours = file && file->f_op == &upv_file_fops;

	if (ours) {
		struct upv_node *node = file->private_data;

		ours = node->user == u->user;
		*index = node->index;
		*mode = file->f_mode;
	}
	if (file)
		fput(file);
	return ours;
}

/* CQEs that the process can take. */
u32 upv_uring_ready(struct upv_uring *u)
{
	if (u->mapped)
		return upv_pending(smp_load_acquire(u->cq_tail), READ_ONCE(*u->cq_head), u->params.cq_entries);
	return upv_pending(smp_load_acquire(&u->words->cq_tail), READ_ONCE(u->words->cq_head), u->user_cq_entries);
}

/* Tells who waits that there are new CQEs, also by the eventfd. With cq_lock held. */
void upv_uring_wake(struct upv_uring *u, bool eventfd)
{
	u32 flags = READ_ONCE(*(u->mapped ? u->cq_flags : &u->words->cq_flags));

	wake_up_poll(&u->wait, EPOLLIN | EPOLLRDNORM);
	if (eventfd && u->eventfd && !(flags & IORING_CQ_EVENTFD_DISABLED))
		upv_eventfd_signal(u->eventfd);
}

/* Rings the doorbell if the host does not look at the ring by itself. With lock held, and dev there. */
void upv_uring_ring(struct upv_uring *u)
{
	virt_mb(); /* the tail before the flags (section 4, Notify) */
	if (!u->sqpoll || READ_ONCE(*u->sq_flags) & IORING_SQ_NEED_WAKEUP) {
		u->doorbells++;
		writel(1, u->doorbell);
	}
}

/* --- Birth --- */

/* A place in the table, which is a ring of the device's. */
static int upv_claim(struct upv_uring *u)
{
	struct upv_user *user = u->user;
	int ret = -EBUSY;
	unsigned int i;

	mutex_lock(&user->lock);
	if (user->gone)
		ret = -ENODEV;
	for (i = 0; ret == -EBUSY && i < user->nr_rings; i++) {
		if (user->rings[i])
			continue;
		user->rings[i] = u;
		u->place = i;
		u->index = user->first + i;
		u->dev = user->dev;
		ret = 0;
	}
	mutex_unlock(&user->lock);
	return ret;
}

static void upv_unclaim(struct upv_uring *u)
{
	mutex_lock(&u->user->lock);
	u->user->rings[u->place] = NULL;
	mutex_unlock(&u->user->lock);
	u->dev = NULL;
}

/* Entries as io_uring_setup(2) rounds them. */
static int upv_entries(struct upv_uring *u, u32 entries, struct io_uring_params *p)
{
	u32 max_sq = u->dev->identity.max_sq_entries, max_cq = u->dev->identity.max_cq_entries;
	u32 cq = p->cq_entries;

	if (!entries || (entries > max_sq && !(p->flags & IORING_SETUP_CLAMP)))
		return -EINVAL;
	p->sq_entries = roundup_pow_of_two(min(entries, max_sq));
	p->cq_entries = min(2 * p->sq_entries, max_cq);
	if (!(p->flags & IORING_SETUP_CQSIZE))
		return 0;
	if (!cq || (cq > max_cq && !(p->flags & IORING_SETUP_CLAMP)))
		return -EINVAL;
	p->cq_entries = roundup_pow_of_two(min(cq, max_cq));
	return p->cq_entries < p->sq_entries ? -EINVAL : 0;
}

/* Memory of the device's ring. */
static int upv_ring_memory(struct upv_uring *u, u32 cq_entries)
{
	u->rings_len = URINGPV_RINGS_SIZE(u->sq_entries, cq_entries);
	u->sqe_len = PAGE_ALIGN(u->sq_entries * sizeof(struct io_uring_sqe));
	u->rings = alloc_pages_exact(u->rings_len, GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN);
	u->sqe_area = alloc_pages_exact(u->sqe_len, GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN);
	return u->rings && u->sqe_area ? 0 : -ENOMEM;
}

/* A mapped ring's pool, len bytes or a little more. */
static int upv_pool(struct upv_uring *u, u64 len)
{
	const gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN;
	unsigned int max = min(u->dev->identity.max_ring_buffers, 1024u);
	size_t size = clamp_t(u64, roundup_pow_of_two(len), UPV_MIN_CHUNK, UPV_MAX_CHUNK);

	for (; size >= UPV_MIN_CHUNK && DIV_ROUND_UP_ULL(len, size) <= max; size /= 2) {
		unsigned int want = DIV_ROUND_UP_ULL(len, size);

		u->chunk_len = size;
		u->chunks = kcalloc(want, sizeof(*u->chunks), GFP_KERNEL_ACCOUNT);
		if (!u->chunks)
			return -ENOMEM;
		while (u->nr_chunks < want) {
			u->chunks[u->nr_chunks] = alloc_pages_exact(size, gfp);
			if (!u->chunks[u->nr_chunks])
				break;
			u->nr_chunks++;
		}
		if (u->nr_chunks == want)
			return 0;
		while (u->nr_chunks)
			upv_free_pages(u->chunks[--u->nr_chunks], size);
		kfree(u->chunks);
		u->chunks = NULL;
	}
	return -ENOMEM;
}

static void upv_want(struct uringpv_ring_setup *d, const u8 *have, unsigned int op)
{
	if (upv_bit(have, op))
		d->opcodes[op / 8] |= 1 << op % 8;
}

/* The files of a mapped ring: the device's indices. What the process may not do to one, it may do to none. */
static int upv_mapped_files(struct upv_uring *u, struct uringpv_user_setup *s, u32 *files, fmode_t *mode)
{
	u32 i;

	*mode = FMODE_READ | FMODE_WRITE;
	for (i = 0; i < s->nr_files; i++) {
		fmode_t one;
		s32 fd;

		if (copy_from_user(&fd, u64_to_user_ptr(s->files + i * sizeof(fd)), sizeof(fd)))
			return -EFAULT;
		if (!upv_uring_file(u, fd, &files[i], &one))
			return -EBADF;
		*mode &= one;
	}
	return *mode & (FMODE_READ | FMODE_WRITE) ? 0 : -EACCES;
}

/* Fills the device's RING_SETUP for a mapped ring; lists has its two lists. */
static int upv_mapped_setup(struct upv_uring *u, struct uringpv_user_setup *s, struct uringpv_ring_setup *d, void **lists)
{
	const u8 *have = u->dev->identity.opcodes;
	struct uringpv_range *ranges;
	fmode_t mode;
	u32 *files, i;
	int ret;

	ret = upv_pool(u, s->pool_len);
	if (ret)
		return ret;
	ranges = kzalloc(u->nr_chunks * sizeof(*ranges) + s->nr_files * sizeof(*files), GFP_KERNEL);
	if (!ranges)
		return -ENOMEM;
	*lists = ranges;
	files = (u32 *)(ranges + u->nr_chunks);
	ret = upv_mapped_files(u, s, files, &mode);
	if (ret)
		return ret;
	for (i = 0; i < u->nr_chunks; i++) {
		ranges[i].addr = virt_to_phys(u->chunks[i]);
		ranges[i].len = u->chunk_len;
	}
	d->buffers_addr = virt_to_phys(ranges);
	d->nr_buffers = u->nr_chunks;
	d->files_addr = virt_to_phys(files);
	d->nr_files = s->nr_files;
	upv_want(d, have, IORING_OP_NOP);
	if (mode & FMODE_READ)
		upv_want(d, have, IORING_OP_READ_FIXED);
	if (mode & FMODE_WRITE) {
		upv_want(d, have, IORING_OP_WRITE_FIXED);
		upv_want(d, have, IORING_OP_FSYNC);
	}
	return 0;
}

/* RING_SETUP, and where the ring's words are. */
static int upv_ring_birth(struct upv_uring *u, struct uringpv_ring_setup *d)
{
	struct uringpv_params *p = &d->params;
	u32 cq_entries = p->cq_entries;
	int ret;

	d->rings_addr = virt_to_phys(u->rings);
	d->rings_len = u->rings_len;
	d->sqes_addr = virt_to_phys(u->sqe_area);
	d->sqes_len = u->sqe_len;
	d->vector = u->dev->user_vector;
	p->sq_entries = u->sq_entries;
	p->flags = IORING_SETUP_CQSIZE;
	u->sqpoll = upv_params.sqpoll && u->dev->identity.setup_flags & IORING_SETUP_SQPOLL;
	if (u->sqpoll) {
		p->flags |= IORING_SETUP_SQPOLL;
		p->sq_thread_idle = upv_params.sqpoll_idle_ms;
	}
	ret = upv_ring_setup(u->dev, u->index, d, &u->epoch);
	if (ret)
		return ret;
	u->sq_head = u->rings + p->sq_off.head;
	u->sq_tail = u->rings + p->sq_off.tail;
	u->sq_flags = u->rings + p->sq_off.flags;
	u->sq_array = u->rings + p->sq_off.array;
	u->sq_mask = u->sq_entries - 1;
	u->sqes = u->sqe_area;
	u->cq_head = u->rings + p->cq_off.head;
	u->cq_tail = u->rings + p->cq_off.tail;
	u->cq_flags = u->rings + p->cq_off.flags;
	u->cqes = u->rings + p->cq_off.cqes;
	u->cq_mask = cq_entries - 1;
	u->doorbell = u->dev->doorbells + u->index * URINGPV_DOORBELL_STRIDE;
	u->doorbell_pfn = PHYS_PFN(pci_resource_start(u->dev->pdev, URINGPV_BAR_DOORBELL)) +
			  u->index * URINGPV_DOORBELL_STRIDE / PAGE_SIZE;
	return p->sq_entries == u->sq_entries && p->cq_entries == cq_entries ? 0 : -EPROTO;
}

/* With lock held. The caller has a reference of its own. */
static void upv_uring_cancel(struct upv_uring *u, struct delayed_work *work)
{
	if (cancel_delayed_work(work))
		upv_uring_put(u);
}

/*
 * Ends the ring. -ETIMEDOUT, or another error: it could not be ended, its memory
 * is still the host's. With lock held.
 */
static int upv_uring_kill(struct upv_uring *u)
{
	int ret = 0;

	if (!u->dev)
		return 0;
	if (!READ_ONCE(u->user->over) && !upv_gone(u->dev))
		ret = upv_command(u->dev, URINGPV_CMD_RING_DESTROY, u->index, NULL, 0);
	if (ret == -ENXIO)
		ret = 0; /* there is none any more */
	if (!ret && !u->mapped && u->reqs && u->cqes)
		upv_med_end(u); /* who sees a dead ring sees all its CQEs */
	mutex_lock(&u->user->map_lock);
	WRITE_ONCE(u->dead, true);
	mutex_unlock(&u->user->map_lock);
	if (u->mapping)
		unmap_mapping_range(u->mapping, URINGPV_OFF_DOORBELL, PAGE_SIZE, 1);
	if (ret) {
		wake_up_all(&u->wait);
		return ret;
	}
	upv_unclaim(u);
	wake_up_all(&u->wait);
	/* Neither is queued any more from here on. One that runs waits for lock, and finds nothing to do. */
	upv_uring_cancel(u, &u->drain_work);
	upv_uring_cancel(u, &u->stuck_work);
	return 0;
}

#define UPV_SETUP_FLAGS (IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP)
#define UPV_SETUP_MEDIATED (IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | \
			    IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | \
			    UPV_SETUP_NO_SQARRAY)

/* Flags that want another, as io_uring_setup(2) has it. */
static bool upv_setup_agrees(u32 flags)
{
	if (flags & IORING_SETUP_DEFER_TASKRUN && !(flags & IORING_SETUP_SINGLE_ISSUER))
		return false;
	return !(flags & IORING_SETUP_TASKRUN_FLAG) || flags & (IORING_SETUP_COOP_TASKRUN | IORING_SETUP_DEFER_TASKRUN);
}

static int upv_do_setup(struct upv_uring *u, struct uringpv_user_setup *s)
{
	struct uringpv_ring_setup d = {};
	struct io_uring_params *p = &s->params;
	void *lists = NULL;
	const u8 *have;
	u32 cq, i;
	int ret;

	ret = upv_entries(u, s->entries, p);
	if (ret)
		return ret;
	u->mapped = s->flags & URINGPV_USER_MAPPED;
	have = s->flags & URINGPV_USER_NO_EXTRA ? u->dev->identity.opcodes : u->user->opcodes;
	u->sq_entries = p->sq_entries;
	cq = p->cq_entries;
	if (!u->mapped) /* as many requests may be under way as the device's CQ ring has entries */
		cq = min(max(2 * cq, 256u), u->dev->identity.max_cq_entries);
	d.params.cq_entries = cq;
	u->cq_mask = cq - 1;
	ret = upv_ring_memory(u, cq);
	if (ret)
		return ret;
	if (u->mapped) {
		ret = upv_mapped_setup(u, s, &d, &lists);
	} else {
		u->params = *p;
		/* Without these, what a request has to say of memory in pieces cannot be said. */
		if (s->flags & URINGPV_USER_NO_EXTRA && !(upv_bit(have, IORING_OP_READV) && upv_bit(have, IORING_OP_WRITEV)))
			return -EOPNOTSUPP;
		for (i = 0; i < 8 * URINGPV_OPCODE_BYTES; i++)
			if (upv_med_translates(i))
				upv_want(&d, have, i);
		ret = upv_med_init(u, upv_bit(d.opcodes, IORING_OP_ACCEPT));
		d.nr_slots = u->nr_entries ? u->first + u->nr_entries : 0;
	}
	memcpy(u->opcodes, d.opcodes, sizeof(u->opcodes));
	if (!ret && !memchr_inv(d.opcodes, 0, sizeof(d.opcodes)))
		ret = -EOPNOTSUPP; /* none would be all */
	if (!ret)
		ret = upv_ring_birth(u, &d);
	kfree(lists);
	if (ret)
		return ret;
	if (u->mapped) {
		BUILD_BUG_ON(sizeof(d.params) != sizeof(*p));
		memcpy(p, &d.params, sizeof(*p));
		s->pool_len = (u64)u->nr_chunks * u->chunk_len;
		s->nr_chunks = u->nr_chunks;
		u->params = *p;
	} else {
		*p = u->params;
	}
	return 0;
}

static long upv_setup(struct upv_uring *u, struct uringpv_user_setup __user *arg)
{
	struct uringpv_user_setup s;
	bool mapped;
	int ret;

	if (copy_from_user(&s, arg, sizeof(s)))
		return -EFAULT;
	mapped = s.flags & URINGPV_USER_MAPPED;
	if (s.flags & ~(mapped ? URINGPV_USER_MAPPED : URINGPV_USER_NO_EXTRA) ||
	    memchr_inv(s.resv, 0, sizeof(s.resv)) || s.nr_chunks || memchr_inv(s.params.resv, 0, sizeof(s.params.resv)) ||
	    s.params.flags & ~(UPV_SETUP_FLAGS | (mapped ? 0 : UPV_SETUP_MEDIATED)) || !upv_setup_agrees(s.params.flags))
		return -EINVAL;
	if (mapped ? !s.pool_len || !s.nr_files || s.nr_files > u->user->nr_files : s.pool_len || s.nr_files)
		return -EINVAL;
	if (s.pool_len > (u64)upv_params.user_pool_mb << 20)
		return -ENOMEM;

	mutex_lock(&u->lock);
	ret = u->ready || u->dead ? -EBUSY : upv_claim(u);
	if (ret)
		goto unlock;
	ret = upv_do_setup(u, &s);
	if (!ret && copy_to_user(arg, &s, sizeof(s)))
		ret = -EFAULT;
	if (!ret) {
		smp_store_release(&u->ready, true);
		goto unlock;
	}
	upv_uring_kill(u); /* there may be a ring */
unlock:
	mutex_unlock(&u->lock);
	return ret;
}

/* --- Use --- */

/* How long to wait, of the extended argument of io_uring_enter(2). */
static int upv_wait_time(struct uringpv_user_enter *e, ktime_t *wait)
{
	struct {
		u64 sigmask;
		u32 sigmask_sz, pad;
		u64 ts;
	} arg; /* struct io_uring_getevents_arg */
	struct timespec64 ts;

	*wait = KTIME_MAX;
	if (!(e->flags & IORING_ENTER_EXT_ARG))
		return e->arg ? -EINVAL : 0; /* a signal mask is beyond a driver */
	if (e->argsz != sizeof(arg))
		return -EINVAL;
	if (copy_from_user(&arg, u64_to_user_ptr(e->arg), sizeof(arg)))
		return -EFAULT;
	if (arg.sigmask || arg.pad)
		return -EINVAL;
	if (!arg.ts)
		return 0;
	if (get_timespec64(&ts, u64_to_user_ptr(arg.ts)))
		return -EFAULT;
	*wait = timespec64_to_ktime(ts);
	return 0;
}

/* Waits for want CQEs; as io_uring_enter(2) does, for fewer if a TIMEOUT ends meanwhile. */
static int upv_wait(struct upv_uring *u, u32 want, ktime_t time)
{
	u32 timeouts = READ_ONCE(u->timeouts);
	int ret;

	if (!u->mapped)
		upv_med_reap(u, true);
	if (!want)
		return 0;
	want = min(want, u->params.cq_entries);
	ret = wait_event_interruptible_hrtimeout(u->wait, upv_uring_ready(u) >= want || READ_ONCE(u->timeouts) != timeouts ||
						 READ_ONCE(u->dead), time);
	if (upv_uring_ready(u) >= want || READ_ONCE(u->timeouts) != timeouts)
		return 0;
	if (READ_ONCE(u->dead))
		return -ENODEV;
	if (upv_uring_ready(u))
		return 0; /* too few, but io_uring tells no error to who has CQEs to take */
	return ret == -ERESTARTSYS ? -EINTR : ret;
}

/* A mapped ring's process rings for itself; this is for those that would rather not. */
static int upv_mapped_enter(struct upv_uring *u, struct uringpv_user_enter *e)
{
	struct uringpv_enter enter = { .flags = IORING_ENTER_GETEVENTS };

	if (e->to_submit || e->flags & IORING_ENTER_SQ_WAKEUP)
		upv_uring_ring(u);
	if (e->flags & IORING_ENTER_GETEVENTS && READ_ONCE(*u->sq_flags) & IORING_SQ_CQ_OVERFLOW)
		upv_command(u->dev, URINGPV_CMD_RING_ENTER, u->index, &enter, sizeof(enter));
	return e->to_submit;
}

static long upv_enter(struct upv_uring *u, struct uringpv_user_enter __user *arg)
{
	struct uringpv_user_enter e;
	ktime_t time;
	int ret, waited;

	if (copy_from_user(&e, arg, sizeof(e)))
		return -EFAULT;
	if (e.resv || e.to_submit > INT_MAX ||
	    e.flags & ~(IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP | IORING_ENTER_EXT_ARG))
		return -EINVAL;
	ret = upv_wait_time(&e, &time);
	if (ret)
		return ret;
	if (mutex_lock_interruptible(&u->lock))
		return -EINTR;
	if (!u->dev || u->dead)
		ret = -ENODEV;
	else if (u->disabled)
		ret = -EBADFD;
	else if (u->mapped)
		ret = upv_mapped_enter(u, &e);
	else if ((e.to_submit || (e.flags & IORING_ENTER_GETEVENTS && u->params.flags & IORING_SETUP_DEFER_TASKRUN)) &&
		 !upv_med_issuer(u))
		ret = -EEXIST;
	else if (e.to_submit)
		ret = upv_med_submit(u, e.to_submit);
	upv_med_drain(u); /* while the device is at work */
	mutex_unlock(&u->lock);
	if (ret < 0 || !(e.flags & IORING_ENTER_GETEVENTS) || (!u->mapped && ret != e.to_submit))
		return ret;
	waited = upv_wait(u, e.min_complete, time);
	return ret ?: waited;
}

/* What of io_uring_register(2) a mapped ring has; its buffers and files are the host's. */
static int upv_mapped_register(struct upv_uring *u, struct uringpv_user_register *r)
{
	switch (r->opcode) {
	case IORING_REGISTER_EVENTFD:
	case IORING_UNREGISTER_EVENTFD:
	case IORING_REGISTER_PROBE:
		return upv_med_register(u, r);
	}
	return -EINVAL;
}

static long upv_register(struct upv_uring *u, struct uringpv_user_register __user *arg)
{
	struct uringpv_user_register r;
	int ret;

	if (copy_from_user(&r, arg, sizeof(r)))
		return -EFAULT;
	mutex_lock(&u->lock);
	upv_med_drain(u); /* what has a CQE holds no buffer */
	if (!u->dev || u->dead)
		ret = -ENODEV;
	else
		ret = u->mapped ? upv_mapped_register(u, &r) : upv_med_register(u, &r);
	mutex_unlock(&u->lock);
	return ret;
}

static long upv_chunk(struct upv_uring *u, struct uringpv_user_chunk __user *arg)
{
	struct uringpv_user_chunk c;
	int ret = 0;

	if (copy_from_user(&c, arg, sizeof(c)))
		return -EFAULT;
	mutex_lock(&u->lock);
	if (!u->dev)
		ret = -ENODEV;
	else if (c.index >= u->nr_chunks)
		ret = -EINVAL;
	else
		c = (struct uringpv_user_chunk){
			.index = c.index,
			.buf_index = c.index,
			.offset = (u64)c.index * u->chunk_len,
			.len = u->chunk_len,
			.addr = u->dev->addr_base + virt_to_phys(u->chunks[c.index]),
		};
	mutex_unlock(&u->lock);
	if (!ret && copy_to_user(arg, &c, sizeof(c)))
		ret = -EFAULT;
	return ret;
}

static long upv_ring_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct upv_uring *u = file->private_data;
	void __user *p = (void __user *)arg;

	if (cmd == URINGPV_IOC_SETUP)
		return upv_setup(u, p);
	if (cmd != URINGPV_IOC_ENTER && cmd != URINGPV_IOC_REGISTER && cmd != URINGPV_IOC_CHUNK)
		return -ENOTTY;
	if (!smp_load_acquire(&u->ready))
		return -ENXIO;
	if (cmd == URINGPV_IOC_ENTER)
		return upv_enter(u, p);
	if (cmd == URINGPV_IOC_REGISTER)
		return upv_register(u, p);
	return upv_chunk(u, p);
}

static __poll_t upv_ring_poll(struct file *file, poll_table *table)
{
	struct upv_uring *u = file->private_data;
	__poll_t mask = 0;
	u32 used;

	poll_wait(file, &u->wait, table);
	if (!smp_load_acquire(&u->ready))
		return EPOLLERR;
	if (READ_ONCE(u->dead))
		mask |= EPOLLERR | EPOLLHUP;
	if (upv_uring_ready(u) || READ_ONCE(u->nr_late))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (u->mapped)
		used = READ_ONCE(*u->sq_tail) - READ_ONCE(*u->sq_head);
	else
		used = READ_ONCE(u->words->sq_tail) - READ_ONCE(u->user_head);
	if (used < u->params.sq_entries)
		mask |= EPOLLOUT | EPOLLWRNORM;
	return mask;
}

/* Puts len bytes of the driver's memory into a mapping, as far as it reaches. */
static int upv_insert(struct vm_area_struct *vma, unsigned long *at, void *memory, size_t len)
{
	size_t off;

	for (off = 0; off < len && *at < vma->vm_end; off += PAGE_SIZE, *at += PAGE_SIZE) {
		int ret = vm_insert_page(vma, *at, virt_to_page(memory + off));

		if (ret)
			return ret;
	}
	return 0;
}

/* The doorbell's page is there as long as the ring is. */
static vm_fault_t upv_doorbell_fault(struct vm_fault *vmf)
{
	struct upv_uring *u = vmf->vma->vm_private_data;
	vm_fault_t ret = VM_FAULT_SIGBUS;

	mutex_lock(&u->user->map_lock);
	if (!u->dead)
		ret = vmf_insert_pfn(vmf->vma, vmf->vma->vm_start, u->doorbell_pfn);
	mutex_unlock(&u->user->map_lock);
	return ret;
}

static const struct vm_operations_struct upv_doorbell_ops = { .fault = upv_doorbell_fault };

static int upv_ring_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct upv_uring *u = file->private_data;
	u64 off = (u64)vma->vm_pgoff << PAGE_SHIFT, len = vma->vm_end - vma->vm_start;
	unsigned long at = vma->vm_start;
	unsigned int i;
	int ret = 0;

	if (!smp_load_acquire(&u->ready) || !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (!u->mapped) {
		switch (off) {
		case IORING_OFF_SQ_RING:
		case IORING_OFF_CQ_RING:
			return remap_vmalloc_range(vma, u->words, 0);
		case IORING_OFF_SQES:
			return remap_vmalloc_range(vma, u->user_sqes, 0);
		}
		return -EINVAL;
	}
	/* One process has it: a child of fork has not. */
	upv_vm_flags_set(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP);
	switch (off) {
	case IORING_OFF_SQ_RING:
	case IORING_OFF_CQ_RING:
		return len > u->rings_len ? -EINVAL : upv_insert(vma, &at, u->rings, u->rings_len);
	case IORING_OFF_SQES:
		return len > u->sqe_len ? -EINVAL : upv_insert(vma, &at, u->sqe_area, u->sqe_len);
	case URINGPV_OFF_POOL:
		if (len > (u64)u->nr_chunks * u->chunk_len)
			return -EINVAL;
		for (i = 0; !ret && i < u->nr_chunks; i++)
			ret = upv_insert(vma, &at, u->chunks[i], u->chunk_len);
		return ret;
	case URINGPV_OFF_DOORBELL:
		if (len != PAGE_SIZE)
			return -EINVAL;
		upv_vm_flags_set(vma, VM_IO | VM_PFNMAP);
		vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
		vma->vm_private_data = u;
		vma->vm_ops = &upv_doorbell_ops;
		return 0;
	}
	return -EINVAL;
}

/* The device has been reset, or the function goes. The ring's process may keep it waiting. */
static void upv_end(struct work_struct *work)
{
	struct upv_uring *u = container_of(work, struct upv_uring, end_work.work);
	struct upv_user *user = u->user;

	mutex_lock(&u->lock);
	/* To ask for a stuck ring takes seconds, in which a CPU stands still: after a reset that is done once. */
	if (u->dev && (READ_ONCE(user->gone) ||
		       (u->epoch != READ_ONCE(u->dev->epoch) && !(u->dead && READ_ONCE(user->stuck)))))
		upv_uring_kill(u);
	mutex_unlock(&u->lock);
	upv_uring_put(u);
}

/* A ring that is no process's any more, and that the host has not let go of. */
static void upv_stuck(struct work_struct *work)
{
	struct upv_uring *u = container_of(work, struct upv_uring, stuck_work.work);

	mutex_lock(&u->lock);
	if (upv_uring_kill(u))
		upv_uring_queue(u, &u->stuck_work, UPV_STUCK_WAIT);
	mutex_unlock(&u->lock);
	upv_uring_put(u);
}

/* The process has not called since requests ended. */
static void upv_drain(struct work_struct *work)
{
	struct upv_uring *u = container_of(work, struct upv_uring, drain_work.work);

	mutex_lock(&u->lock);
	upv_med_drain(u);
	mutex_unlock(&u->lock);
	upv_uring_put(u);
}

static int upv_ring_open(struct inode *inode, struct file *file)
{
	struct upv_user *user;
	struct upv_uring *u;

	u = kzalloc(sizeof(*u), GFP_KERNEL_ACCOUNT);
	if (!u)
		return -ENOMEM;
	mutex_lock(&upv_nodes_lock);
	user = idr_find(&upv_ring_nodes, iminor(inode));
	if (user)
		kref_get(&user->ref);
	mutex_unlock(&upv_nodes_lock);
	if (!user) {
		kfree(u);
		return -ENODEV;
	}
	u->user = user;
	kref_init(&u->ref);
	mutex_init(&u->lock);
	mutex_init(&u->cq_lock);
	spin_lock_init(&u->spin);
	init_waitqueue_head(&u->wait);
	INIT_LIST_HEAD(&u->late);
	init_llist_head(&u->spent);
	INIT_DELAYED_WORK(&u->end_work, upv_end);
	INIT_DELAYED_WORK(&u->stuck_work, upv_stuck);
	INIT_DELAYED_WORK(&u->drain_work, upv_drain);
	u->mapping = file->f_mapping;
	file->private_data = u;
	return nonseekable_open(inode, file);
}

static int upv_ring_release(struct inode *inode, struct file *file)
{
	struct upv_uring *u = file->private_data;

	mutex_lock(&u->lock);
	u->mapping = NULL; /* no mapping has outlived the file */
	if (upv_uring_kill(u))
		upv_uring_queue(u, &u->stuck_work, UPV_STUCK_WAIT);
	else
		upv_med_unregister(u); /* now, whatever work still has the ring */
	mutex_unlock(&u->lock);
	upv_uring_put(u);
	return 0;
}

static const struct file_operations upv_ring_fops = {
	.owner = THIS_MODULE,
	.open = upv_ring_open,
	.release = upv_ring_release,
	.unlocked_ioctl = upv_ring_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.poll = upv_ring_poll,
	.mmap = upv_ring_mmap,
	.llseek = UPV_NO_LLSEEK,
};

/* --- The files that the device exports --- */

static int upv_file_open(struct inode *inode, struct file *file)
{
	struct upv_node *node;

	mutex_lock(&upv_nodes_lock);
	node = idr_find(&upv_file_nodes, iminor(inode));
	if (node)
		kref_get(&node->user->ref);
	mutex_unlock(&upv_nodes_lock);
	if (!node)
		return -ENODEV;
	file->private_data = node;
	file->f_mode |= FMODE_CAN_ODIRECT; /* no page cache of this kernel's is ever in between */
	return nonseekable_open(inode, file);
}

static int upv_file_release(struct inode *inode, struct file *file)
{
	struct upv_node *node = file->private_data;

	upv_user_put(node->user);
	return 0;
}

static long upv_file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct upv_node *node = file->private_data;
	struct uringpv_file info = {};
	int ret = -ENODEV;

	BUILD_BUG_ON(sizeof(struct uringpv_user_file) != sizeof(info));
	if (cmd != URINGPV_IOC_FILE)
		return -ENOTTY;
	down_read(&node->user->life);
	if (!node->user->gone)
		ret = upv_command(node->user->dev, URINGPV_CMD_FILE_INFO, node->index, &info, sizeof(info));
	up_read(&node->user->life);
	if (!ret && copy_to_user((void __user *)arg, &info, sizeof(info)))
		ret = -EFAULT;
	return ret;
}

static const struct file_operations upv_file_fops = {
	.owner = THIS_MODULE,
	.open = upv_file_open,
	.release = upv_file_release,
	.unlocked_ioctl = upv_file_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = UPV_NO_LLSEEK,
};

/* --- A function's coming and going --- */

/* A file's name as one of /dev's; it is the host's, and may be anything. */
static void upv_file_name(struct uringpv_file *info, unsigned int i, char *name, size_t len)
{
	unsigned int k;

	strscpy(name, UPV_NAME "!", len);
	for (k = 0; k < sizeof(info->name) && info->name[k]; k++)
		if (!isalnum(info->name[k]) && !strchr("-_.+:@", info->name[k]))
			info->name[k] = '_';
	if (!k || info->name[0] == '.')
		snprintf(name, len, UPV_NAME "!file%u", i);
	else
		snprintf(name, len, UPV_NAME "!%.*s", (int)k, info->name);
}

/* Is the name another file's, of any function? With upv_nodes_lock held. */
static bool upv_name_taken(const char *name)
{
	struct upv_node *node;
	int id;

	idr_for_each_entry(&upv_file_nodes, node, id)
		if (node->node && !strcmp(dev_name(node->node), name))
			return true;
	return false;
}

static void upv_add_file(struct upv_dev *dev, struct upv_user *user, unsigned int i)
{
	struct upv_node *node = &user->files[i];
	struct uringpv_file info = {};
	char name[96];

	node->user = user;
	node->index = i;
	node->minor = -1;
	if (upv_command(dev, URINGPV_CMD_FILE_INFO, i, &info, sizeof(info)))
		return;
	node->kind = info.kind;
	upv_file_name(&info, i, name, sizeof(name));
	mutex_lock(&upv_nodes_lock);
	if (upv_name_taken(name))
		snprintf(name + strlen(name), sizeof(name) - strlen(name), ".%s.%u", pci_name(dev->pdev), i);
	node->minor = idr_alloc(&upv_file_nodes, node, UPV_MAX_RING_NODES, UPV_MAX_RING_NODES + UPV_MAX_FILE_NODES, GFP_KERNEL);
	if (node->minor >= 0) {
		node->node = device_create(&upv_class, &dev->pdev->dev, upv_numbers + node->minor, NULL, "%s", name);
		if (IS_ERR(node->node)) {
			dev_err(&dev->pdev->dev, "/dev/%s: error %ld\n", name, PTR_ERR(node->node));
			node->node = NULL;
		}
	}
	mutex_unlock(&upv_nodes_lock);
}

/* Completions of programs' rings, whose vector they share. */
static irqreturn_t upv_user_thread(int irq, void *data)
{
	struct upv_user *user = data;
	unsigned int i;

	mutex_lock(&user->lock);
	user->interrupts++;
	for (i = 0; i < user->nr_rings; i++) {
		struct upv_uring *u = user->rings[i];
		u32 tail;

		if (!u || !smp_load_acquire(&u->ready))
			continue;
		if (!u->mapped) {
			upv_med_reap(u, false);
			continue;
		}
		mutex_lock(&u->cq_lock);
		tail = smp_load_acquire(u->cq_tail);
		if (tail != u->seen) {
			u->seen = tail;
			upv_uring_wake(u, true);
		}
		mutex_unlock(&u->cq_lock);
	}
	mutex_unlock(&user->lock);
	return IRQ_HANDLED;
}

static struct upv_uring *upv_ring_at(struct upv_user *user, unsigned int i)
{
	struct upv_uring *u;

	mutex_lock(&user->lock);
	u = user->rings[i];
	if (u)
		kref_get(&u->ref);
	mutex_unlock(&user->lock);
	return u;
}

/* Has rings ended, all at once: one whose process keeps it waiting keeps no other. */
static void upv_end_all(struct upv_user *user, bool wait)
{
	struct upv_uring *u;
	unsigned int i;

	for (i = 0; i < user->nr_rings; i++) {
		u = upv_ring_at(user, i);
		if (!u)
			continue;
		upv_uring_queue(u, &u->end_work, 0);
		upv_uring_put(u);
	}
	for (i = 0; wait && i < user->nr_rings; i++) {
		u = upv_ring_at(user, i);
		if (!u)
			continue;
		flush_delayed_work(&u->end_work);
		upv_uring_put(u);
	}
}

static void upv_end_work(struct work_struct *work)
{
	upv_end_all(container_of(work, struct upv_user, end_work), false);
}

/* Gives programs the rings that the disks have left. The function works without, too. */
int upv_user_add(struct upv_dev *dev)
{
	struct upv_user *user;
	unsigned int i;
	int ret, minor;

	if (!dev->nr_user_rings)
		return 0;
	user = kzalloc(sizeof(*user), GFP_KERNEL);
	if (!user)
		return -ENOMEM;
	kref_init(&user->ref);
	init_rwsem(&user->life);
	mutex_init(&user->lock);
	mutex_init(&user->map_lock);
	INIT_WORK(&user->end_work, upv_end_work);
	user->dev = dev;
	user->first = dev->nr_rings;
	user->nr_rings = dev->nr_user_rings;
	for (i = 0; i < URINGPV_OPCODE_BYTES; i++)
		user->opcodes[i] = dev->identity.opcodes[i] | dev->identity.opcodes_extra[i];
	user->nr_files = dev->identity.num_files;
	user->files = kcalloc(max(user->nr_files, 1u), sizeof(*user->files), GFP_KERNEL);
	ret = user->files ? 0 : -ENOMEM;
	if (!ret)
		ret = request_threaded_irq(pci_irq_vector(dev->pdev, dev->user_vector), NULL, upv_user_thread, IRQF_ONESHOT,
					   UPV_NAME "-programs", user);
	if (ret) {
		upv_user_put(user);
		return ret;
	}
	dev->user = user;
	mutex_lock(&upv_nodes_lock);
	minor = idr_alloc(&upv_ring_nodes, user, 0, UPV_MAX_RING_NODES, GFP_KERNEL);
	mutex_unlock(&upv_nodes_lock);
	user->minor = minor;
	if (minor < 0)
		return minor; /* upv_user_remove does the rest */
	for (i = 0; i < user->nr_files; i++)
		upv_add_file(dev, user, i);
	user->node = device_create(&upv_class, &dev->pdev->dev, upv_numbers + minor, NULL, UPV_NAME "%d", minor);
	if (IS_ERR(user->node)) {
		ret = PTR_ERR(user->node);
		user->node = NULL;
	}
	return ret;
}

/*
 * The device has been reset: programs' rings are no more, with stuck but for some.
 * Who resets does not wait until they know. A process that submits may be waiting
 * for a page of its memory, and that for a disk of this function's, whose requests
 * go on after the reset.
 */
void upv_user_reset(struct upv_dev *dev, bool stuck)
{
	struct upv_user *user = dev->user;

	if (!user)
		return;
	WRITE_ONCE(user->stuck, stuck);
	queue_work(upv_wq, &user->end_work);
}

/* No new rings and no new files; the rings that there are end, as far as the host lets them. */
void upv_user_close(struct upv_dev *dev)
{
	struct upv_user *user = dev->user;
	unsigned int i;

	if (!user || user->gone)
		return;
	mutex_lock(&upv_nodes_lock);
	if (user->minor >= 0)
		idr_remove(&upv_ring_nodes, user->minor);
	for (i = 0; i < user->nr_files; i++)
		if (user->files[i].minor >= 0)
			idr_remove(&upv_file_nodes, user->files[i].minor);
	mutex_unlock(&upv_nodes_lock);
	if (user->node)
		device_destroy(&upv_class, upv_numbers + user->minor);
	for (i = 0; i < user->nr_files; i++)
		if (user->files[i].node)
			device_destroy(&upv_class, upv_numbers + user->files[i].minor);
	down_write(&user->life);
	mutex_lock(&user->lock);
	WRITE_ONCE(user->gone, true);
	mutex_unlock(&user->lock);
	up_write(&user->life);
	upv_end_all(user, true);
}

/* The device has been reset for the last time, or is gone. */
void upv_user_remove(struct upv_dev *dev)
{
	struct upv_user *user = dev->user;

	if (!user)
		return;
	free_irq(pci_irq_vector(dev->pdev, dev->user_vector), user);
	cancel_work_sync(&user->end_work);
	WRITE_ONCE(user->over, true);
	upv_end_all(user, true);
	dev->user = NULL;
	upv_user_put(user);
}

/* --- debugfs --- */

/* Programs' rings: as the driver and the process see them, then the device's own counters. With no lock held. */
void upv_user_show(struct seq_file *s, struct upv_dev *dev)
{
	struct upv_user *user = dev->user;
	unsigned int i;

	if (!user)
		return;
	seq_printf(s, "interrupts %llu\n", READ_ONCE(user->interrupts));
	seq_puts(s, "ring kind state in_flight late pinned doorbells sq cq device_sq sq_flags device_cq cq_flags"
		    " host_sqes host_cqes host_doorbells host_interrupts\n");
	for (i = 0; i < user->nr_rings; i++) {
		struct upv_uring *u = upv_ring_at(user, i);
		struct uringpv_ring_stats st = {};

		if (!u)
			continue;
		if (!smp_load_acquire(&u->ready)) {
			upv_uring_put(u);
			continue;
		}
		upv_command(dev, URINGPV_CMD_RING_STATS, u->index, &st, sizeof(st));
		seq_printf(s, "%u %s %s ", u->index, u->mapped ? "mapped" : "mediated", READ_ONCE(u->dead) ? "dead" : "alive");
		if (u->mapped)
			seq_printf(s, "- - %lu %llu - -", (unsigned long)u->nr_chunks * (u->chunk_len >> PAGE_SHIFT),
				   READ_ONCE(u->doorbells));
		else
			seq_printf(s, "%u %u %ld %llu %u-%u %u-%u", upv_med_in_flight(u), READ_ONCE(u->nr_late),
				   atomic_long_read(&u->pinned), READ_ONCE(u->doorbells), READ_ONCE(u->user_head),
				   READ_ONCE(u->words->sq_tail), READ_ONCE(u->words->cq_head), READ_ONCE(u->user_tail));
		seq_printf(s, " %u-%u %#x %u-%u %#x %llu %llu %llu %llu\n", READ_ONCE(*u->sq_head), READ_ONCE(*u->sq_tail),
			   READ_ONCE(*u->sq_flags), READ_ONCE(*u->cq_head), READ_ONCE(*u->cq_tail), READ_ONCE(*u->cq_flags),
			   st.sqes, st.cqes, st.doorbells, st.interrupts);
		upv_uring_put(u);
	}
}

/* --- The module's --- */

int upv_user_init(void)
{
	int ret;

	upv_wq = alloc_workqueue(UPV_NAME, WQ_UNBOUND, WQ_MAX_ACTIVE); /* works may wait for processes */
	if (!upv_wq)
		return -ENOMEM;
	ret = alloc_chrdev_region(&upv_numbers, 0, UPV_MAX_RING_NODES + UPV_MAX_FILE_NODES, UPV_NAME);
	if (ret)
		goto wq;
	ret = class_register(&upv_class);
	if (ret)
		goto region;
	cdev_init(&upv_ring_cdev, &upv_ring_fops);
	cdev_init(&upv_file_cdev, &upv_file_fops);
	upv_ring_cdev.owner = upv_file_cdev.owner = THIS_MODULE;
	ret = cdev_add(&upv_ring_cdev, upv_numbers, UPV_MAX_RING_NODES);
	if (ret)
		goto class;
	ret = cdev_add(&upv_file_cdev, upv_numbers + UPV_MAX_RING_NODES, UPV_MAX_FILE_NODES);
	if (!ret)
		return 0;
	cdev_del(&upv_ring_cdev);
class:
	class_unregister(&upv_class);
region:
	unregister_chrdev_region(upv_numbers, UPV_MAX_RING_NODES + UPV_MAX_FILE_NODES);
wq:
	destroy_workqueue(upv_wq);
	return ret;
}

void upv_user_exit(void)
{
	cdev_del(&upv_file_cdev);
	cdev_del(&upv_ring_cdev);
	class_unregister(&upv_class);
	unregister_chrdev_region(upv_numbers, UPV_MAX_RING_NODES + UPV_MAX_FILE_NODES);
	destroy_workqueue(upv_wq); /* waits for works that run; no timer of one is left */
	idr_destroy(&upv_ring_nodes);
	idr_destroy(&upv_file_nodes);
}
