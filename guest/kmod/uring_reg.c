// SPDX-License-Identifier: GPL-2.0
/* Mediated rings: IORING_REGISTER_*. All with upv_uring.lock held. */
#include <linux/capability.h>
#include <linux/mm.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uio.h>

#include "compat.h"
#include "uring.h"

/* Tables, at most. */
#define UPV_MAX_SLOTS 32768
#define UPV_MAX_BUFS 1024

/* --- Buffers --- */

/* Pages that are to be pinned for who knows how long: as many as the process may lock. */
int upv_account(struct mm_struct *mm, unsigned int pages)
{
	if (atomic64_add_return(pages, &mm->pinned_vm) <= rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT || capable(CAP_IPC_LOCK))
		return 0;
	upv_unaccount(mm, pages);
	return -ENOMEM;
}

void upv_unaccount(struct mm_struct *mm, unsigned int pages)
{
	atomic64_sub(pages, &mm->pinned_vm);
}

static void upv_buf_free(struct kref *ref)
{
	struct upv_buf *buf = container_of(ref, struct upv_buf, ref);

	unpin_user_pages_dirty_lock(buf->pages, buf->nr, true);
	atomic_long_sub(buf->nr, &buf->u->pinned);
	upv_unaccount(buf->mm, buf->nr);
	mmdrop(buf->mm);
	kvfree(buf);
}

void upv_buf_put(struct upv_buf *buf)
{
	kref_put(&buf->ref, upv_buf_free);
}

/* Pins and accounts a buffer, as io_uring does: writable, at most 1 GiB. An empty one is NULL. */
static struct upv_buf *upv_buf_get(struct upv_uring *u, const struct iovec *iov)
{
	u64 addr = (unsigned long)iov->iov_base, len = iov->iov_len;
	struct upv_buf *buf;
	unsigned int nr;
	int ret;

	if (!addr)
		return len ? ERR_PTR(-EFAULT) : NULL;
	if (!len || len > SZ_1G || addr + len < addr)
		return ERR_PTR(-EFAULT);
	nr = ((addr + len - 1) >> PAGE_SHIFT) - (addr >> PAGE_SHIFT) + 1;
	buf = kvzalloc(struct_size(buf, pages, nr), GFP_KERNEL_ACCOUNT);
	if (!buf)
		return ERR_PTR(-ENOMEM);
	ret = upv_account(current->mm, nr);
	if (ret)
		goto free;
	while (buf->nr < nr) {
		ret = pin_user_pages_fast((addr & PAGE_MASK) + (u64)buf->nr * PAGE_SIZE, nr - buf->nr,
					  FOLL_WRITE | FOLL_LONGTERM, buf->pages + buf->nr);
		if (ret <= 0)
			goto unpin;
		buf->nr += ret;
	}
	atomic_long_add(nr, &u->pinned);
	kref_init(&buf->ref);
	buf->u = u;
	buf->mm = current->mm;
	mmgrab(buf->mm);
	buf->addr = addr;
	buf->len = len;
	return buf;
unpin:
	ret = ret ?: -EFAULT;
	unpin_user_pages(buf->pages, buf->nr);
	upv_unaccount(current->mm, nr);
free:
	kvfree(buf);
	return ERR_PTR(ret);
}

static int upv_unregister_buffers(struct upv_uring *u)
{
	unsigned int i;

	if (!u->bufs)
		return -ENXIO;
	for (i = 0; i < u->nr_bufs; i++)
		if (u->bufs[i])
			upv_buf_put(u->bufs[i]); /* requests under way keep theirs */
	kvfree(u->bufs);
	u->bufs = NULL;
	u->nr_bufs = 0;
	return 0;
}

/* Fills entries from off on. Returns how many were done, or an errno. */
static int upv_fill_bufs(struct upv_uring *u, u32 off, u64 iovs, u32 n)
{
	u32 i;

	for (i = 0; i < n; i++) {
		struct upv_buf *buf, **at = &u->bufs[off + i];
		struct iovec iov;

		if (copy_from_user(&iov, u64_to_user_ptr(iovs + i * sizeof(iov)), sizeof(iov)))
			return i ?: -EFAULT;
		buf = upv_buf_get(u, &iov);
		if (IS_ERR(buf))
			return i ?: PTR_ERR(buf);
		if (*at)
			upv_buf_put(*at);
		*at = buf;
	}
	return n;
}

/* iovs 0: entries without buffers. */
static int upv_register_buffers(struct upv_uring *u, u64 iovs, u32 n)
{
	int ret = n;

	if (u->bufs)
		return -EBUSY;
	if (!n || n > UPV_MAX_BUFS)
		return -EINVAL;
	u->bufs = kvcalloc(n, sizeof(*u->bufs), GFP_KERNEL_ACCOUNT);
	if (!u->bufs)
		return -ENOMEM;
	u->nr_bufs = n;
	if (iovs)
		ret = upv_fill_bufs(u, 0, iovs, n);
	if (ret == n)
		return 0;
	upv_unregister_buffers(u);
	return ret < 0 ? ret : -EFAULT;
}

/* --- Files --- */

/* Changes an entry; what an ACCEPT under way does to it stays as it is. */
static void upv_put_slot(struct upv_uring *u, u32 i, struct upv_slot new)
{
	struct upv_slot old;

	spin_lock(&u->spin);
	old = u->slots[i];
	new.reserved = old.reserved;
	new.coming = old.coming;
	u->slots[i] = new;
	spin_unlock(&u->spin);
	if (old.used)
		upv_entry_put(u, old.index);
}

/* Fills slots from off on; -1 empties one, IORING_REGISTER_FILES_SKIP leaves it. Returns how many were done, or an errno. */
static int upv_fill_slots(struct upv_uring *u, u32 off, u64 fds, u32 n)
{
	u32 i;

	for (i = 0; i < n; i++) {
		struct upv_slot slot = { .used = true };
		s32 fd;

		if (copy_from_user(&fd, u64_to_user_ptr(fds + i * sizeof(fd)), sizeof(fd)))
			return i ?: -EFAULT;
		if (fd == IORING_REGISTER_FILES_SKIP)
			continue;
		if (fd == -1)
			slot.used = false;
		else if (!upv_uring_file(u, fd, &slot.index, &slot.mode))
			return i ?: -EBADF;
		upv_put_slot(u, off + i, slot);
	}
	return n;
}

static int upv_unregister_files(struct upv_uring *u)
{
	struct upv_slot *old = u->slots;
	unsigned int i, n = u->nr_slots;

	if (!old)
		return -ENXIO;
	spin_lock(&u->spin);
	u->slots = NULL;
	u->nr_slots = 0;
	spin_unlock(&u->spin);
	for (i = 0; i < n; i++)
		if (old[i].used)
			upv_entry_put(u, old[i].index);
	kvfree(old);
	return 0;
}

/* fds 0: entries without files. */
static int upv_register_files(struct upv_uring *u, u64 fds, u32 n)
{
	struct upv_slot *slots;
	int ret = n;

	if (u->slots)
		return -EBUSY;
	if (!n)
		return -EINVAL;
	if (n > UPV_MAX_SLOTS)
		return -EMFILE;
	slots = kvcalloc(n, sizeof(*slots), GFP_KERNEL_ACCOUNT);
	if (!slots)
		return -ENOMEM;
	spin_lock(&u->spin);
	u->slots = slots;
	u->nr_slots = n;
	spin_unlock(&u->spin);
	if (fds)
		ret = upv_fill_slots(u, 0, fds, n);
	if (ret == n)
		return 0;
	upv_unregister_files(u);
	return ret < 0 ? ret : -EBADF;
}

static int upv_update_files(struct upv_uring *u, u32 off, u64 fds, u32 n)
{
	if (!u->slots)
		return -ENXIO;
	if (!n || off > u->nr_slots || n > u->nr_slots - off)
		return -EINVAL;
	return upv_fill_slots(u, off, fds, n);
}

static int upv_update_bufs(struct upv_uring *u, u32 off, u64 iovs, u32 n)
{
	if (!u->bufs)
		return -ENXIO;
	if (!n || off > u->nr_bufs || n > u->nr_bufs - off)
		return -EINVAL;
	return upv_fill_bufs(u, off, iovs, n);
}

static int upv_files_update(struct upv_uring *u, u64 arg, u32 n)
{
	struct io_uring_files_update up;

	if (copy_from_user(&up, u64_to_user_ptr(arg), sizeof(up)))
		return -EFAULT;
	return up.resv ? -EINVAL : upv_update_files(u, up.offset, up.fds, n);
}

/* The newer forms, without tags: files or buffers; they also make tables in which there is nothing yet. */
static int upv_register2(struct upv_uring *u, u64 arg, u32 size, int (*table)(struct upv_uring *, u64, u32))
{
	struct io_uring_rsrc_register r;

	if (size != sizeof(r))
		return -EINVAL;
	if (copy_from_user(&r, u64_to_user_ptr(arg), sizeof(r)))
		return -EFAULT;
	if (r.resv2 || r.tags || r.flags & ~IORING_RSRC_REGISTER_SPARSE)
		return -EINVAL;
	if (r.flags & IORING_RSRC_REGISTER_SPARSE)
		return r.data ? -EINVAL : table(u, 0, r.nr);
	return r.data ? table(u, r.data, r.nr) : -EFAULT;
}

static int upv_update2(struct upv_uring *u, u64 arg, u32 size, int (*update)(struct upv_uring *, u32, u64, u32))
{
	struct io_uring_rsrc_update2 up;

	if (size != sizeof(up))
		return -EINVAL;
	if (copy_from_user(&up, u64_to_user_ptr(arg), sizeof(up)))
		return -EFAULT;
	return up.resv || up.resv2 || up.tags ? -EINVAL : update(u, up.offset, up.data, up.nr);
}

/* --- The rest --- */

static int upv_register_eventfd(struct upv_uring *u, u64 arg, bool async)
{
	struct eventfd_ctx *ctx;
	s32 fd;

	if (copy_from_user(&fd, u64_to_user_ptr(arg), sizeof(fd)))
		return -EFAULT;
	if (u->eventfd)
		return -EBUSY;
	ctx = eventfd_ctx_fdget(fd);
	if (IS_ERR(ctx))
		return PTR_ERR(ctx);
	mutex_lock(&u->cq_lock);
	u->eventfd = ctx;
	u->eventfd_async = async;
	mutex_unlock(&u->cq_lock);
	return 0;
}

static int upv_unregister_eventfd(struct upv_uring *u)
{
	struct eventfd_ctx *ctx;

	mutex_lock(&u->cq_lock);
	ctx = u->eventfd;
	u->eventfd = NULL;
	u->eventfd_async = false;
	mutex_unlock(&u->cq_lock);
	if (!ctx)
		return -ENXIO;
	eventfd_ctx_put(ctx);
	return 0;
}

static int upv_probe_ops(struct upv_uring *u, u64 arg, u32 n)
{
	struct io_uring_probe *p;
	unsigned int i, last = 0;
	int ret = 0;

	if (n > 256)
		return -EINVAL;
	p = kzalloc(struct_size(p, ops, n), GFP_KERNEL);
	if (!p)
		return -ENOMEM;
	if (copy_from_user(p, u64_to_user_ptr(arg), struct_size(p, ops, n)))
		ret = -EFAULT;
	else if (memchr_inv(p, 0, struct_size(p, ops, n)))
		ret = -EINVAL;
	for (i = 0; i < 256; i++)
		if (upv_med_knows(u, i))
			last = i;
	p->last_op = last;
	p->ops_len = min(n, last + 1);
	for (i = 0; i < p->ops_len; i++) {
		p->ops[i].op = i;
		if (upv_med_knows(u, i))
			p->ops[i].flags = IO_URING_OP_SUPPORTED;
	}
	if (!ret && copy_to_user(u64_to_user_ptr(arg), p, struct_size(p, ops, n)))
		ret = -EFAULT;
	kfree(p);
	return ret;
}

static int upv_restrict(struct upv_uring *u, u64 arg, u32 n)
{
	struct upv_restrictions new = { .on = true };
	u32 i;

	if (!u->disabled)
		return -EBADFD;
	if (u->restrictions.on)
		return -EBUSY;
	if (!arg || n > 256)
		return -EINVAL;
	for (i = 0; i < n; i++) {
		struct io_uring_restriction r;

		if (copy_from_user(&r, u64_to_user_ptr(arg + i * sizeof(r)), sizeof(r)))
			return -EFAULT;
		switch (r.opcode) {
		case IORING_RESTRICTION_REGISTER_OP:
			__set_bit(r.register_op, new.registers);
			break;
		case IORING_RESTRICTION_SQE_OP:
			__set_bit(r.sqe_op, new.ops);
			break;
		case IORING_RESTRICTION_SQE_FLAGS_ALLOWED:
			new.flags = r.sqe_flags;
			break;
		case IORING_RESTRICTION_SQE_FLAGS_REQUIRED:
			new.flags_required = r.sqe_flags;
			break;
		default:
			return -EINVAL;
		}
	}
	u->restrictions = new;
	return 0;
}

/* A command that has no argument. */
static bool upv_bare(struct uringpv_user_register *r)
{
	return !r->arg && !r->nr_args;
}

/* IORING_SETUP_SINGLE_ISSUER: the ring is this thread's from now on. */
void upv_med_issues(struct upv_uring *u)
{
	if (u->params.flags & IORING_SETUP_SINGLE_ISSUER)
		u->issuer = get_task_pid(current, PIDTYPE_PID);
}

/* May this thread use the ring? */
bool upv_med_issuer(struct upv_uring *u)
{
	return !u->issuer || u->issuer == task_pid(current);
}

int upv_med_register(struct upv_uring *u, struct uringpv_user_register *r)
{
	if (!upv_med_issuer(u))
		return -EEXIST;
	if (u->restrictions.on && !u->disabled && (r->opcode >= 256 || !test_bit(r->opcode, u->restrictions.registers)))
		return -EACCES;
	switch (r->opcode) {
	case IORING_REGISTER_BUFFERS:
		return r->arg ? upv_register_buffers(u, r->arg, r->nr_args) : -EFAULT;
	case IORING_UNREGISTER_BUFFERS:
		return upv_bare(r) ? upv_unregister_buffers(u) : -EINVAL;
	case IORING_REGISTER_FILES:
		return r->arg ? upv_register_files(u, r->arg, r->nr_args) : -EFAULT;
	case IORING_REGISTER_FILES2:
		return upv_register2(u, r->arg, r->nr_args, upv_register_files);
	case IORING_REGISTER_BUFFERS2:
		return upv_register2(u, r->arg, r->nr_args, upv_register_buffers);
	case IORING_UNREGISTER_FILES:
		return upv_bare(r) ? upv_unregister_files(u) : -EINVAL;
	case IORING_REGISTER_FILES_UPDATE:
		return upv_files_update(u, r->arg, r->nr_args);
	case IORING_REGISTER_FILES_UPDATE2:
		return upv_update2(u, r->arg, r->nr_args, upv_update_files);
	case IORING_REGISTER_BUFFERS_UPDATE:
		return upv_update2(u, r->arg, r->nr_args, upv_update_bufs);
	case IORING_REGISTER_EVENTFD:
	case IORING_REGISTER_EVENTFD_ASYNC:
		return r->nr_args == 1 ? upv_register_eventfd(u, r->arg, r->opcode == IORING_REGISTER_EVENTFD_ASYNC) : -EINVAL;
	case IORING_UNREGISTER_EVENTFD:
		return upv_bare(r) ? upv_unregister_eventfd(u) : -EINVAL;
	case IORING_REGISTER_PROBE:
		return r->arg ? upv_probe_ops(u, r->arg, r->nr_args) : -EINVAL;
	case IORING_REGISTER_RESTRICTIONS:
		return upv_restrict(u, r->arg, r->nr_args);
	case IORING_REGISTER_ENABLE_RINGS:
		if (!upv_bare(r))
			return -EINVAL;
		if (!u->disabled)
			return -EBADFD;
		upv_med_issues(u);
		WRITE_ONCE(u->disabled, false);
		return 0;
	}
	return -EINVAL;
}

/* Gives back all that was registered, with the process's files closed. */
void upv_med_unregister(struct upv_uring *u)
{
	upv_unregister_buffers(u);
	upv_unregister_files(u);
	upv_unregister_eventfd(u);
}
