// SPDX-License-Identifier: GPL-2.0
/*
 * Mediated rings: the process has an io_uring of the driver's, whose SQEs are
 * copied, checked and translated into the device's ring; CQEs come back.
 *
 * A request's memory is pinned from its SQE to its last CQE, and a little longer:
 * to let go of pages may take locks that a process holds, which who takes CQEs for
 * all rings must not wait for. What the device is given are addresses of pinned
 * pages and of memory of the driver's.
 */
#include <linux/bitmap.h>
#include <linux/delay.h>
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/socket.h>
#include <linux/timekeeping.h>
#include <linux/uio.h>
#include <linux/vmalloc.h>

#include "uring.h"

/* CQEs held back for one ring, at most. */
#define UPV_MAX_LATE 65536

/* The longest transfer through memory of the driver's. */
#define UPV_MAX_BOUNCE SZ_4M

/* How long the device may take to make room in its SQ ring. */
#define UPV_ROOM_WAIT HZ

/* When what spent requests hold is let go of, if the process does not call until then. */
#define UPV_DRAIN_DELAY msecs_to_jiffies(10)

#define UPV_TIMEOUT_FLAGS (IORING_TIMEOUT_ABS | IORING_TIMEOUT_BOOTTIME | IORING_TIMEOUT_REALTIME | \
			   IORING_TIMEOUT_ETIME_SUCCESS | 1U << 6 /* IORING_TIMEOUT_MULTISHOT, since 6.4 */)

#define UPV_LINKS (IOSQE_IO_LINK | IOSQE_IO_HARDLINK)

/* A request while it is translated. */
struct upv_build {
	struct upv_uring *u;
	struct upv_req *req;
	struct io_uring_sqe sqe; /* the process's, then the device's */
	u32 file;
	fmode_t mode;
};

static u64 upv_addr(struct upv_uring *u, const void *p)
{
	return u->dev->addr_base + virt_to_phys((void *)p);
}

static bool upv_may(struct upv_uring *u, unsigned int op)
{
	return upv_bit(u->opcodes, op);
}

/* --- Requests --- */

/* With cq_lock held. */
static void upv_chain_put(struct upv_chain *chain)
{
	if (chain && !--chain->users)
		kfree(chain);
}

/* Lets go of all that a spent request holds. */
static void upv_req_release(struct upv_uring *u, struct upv_req *req)
{
	unsigned int i;

	for (i = 0; req->pinned && i < req->nr_pieces; i++)
		unpin_user_pages_dirty_lock(&req->pieces[i].bv_page, 1, req->in);
	if (req->pinned)
		atomic_long_sub(req->nr_pieces, &u->pinned);
	if (req->mm) {
		upv_unaccount(req->mm, req->pinned ? req->nr_pieces : 0);
		mmdrop(req->mm);
	}
	kvfree(req->pieces);
	kfree(req->mem);
	if (req->bounce)
		free_pages_exact(req->bounce, req->bounce_len);
	if (req->buf)
		upv_buf_put(req->buf);
	memset_after(req, 0, busy);
}

/* Spent requests become free, and what is to be empty becomes so. With lock held. */
void upv_med_drain(struct upv_uring *u)
{
	struct upv_req *req, *next;
	unsigned int i;

	if (llist_empty(&u->spent))
		return;
	llist_for_each_entry_safe(req, next, llist_del_all(&u->spent), spent) {
		upv_req_release(u, req);
		u->free[u->nr_free++] = req - u->reqs;
	}
	for_each_set_bit(i, u->emptying, u->nr_entries) {
		clear_bit(i, u->emptying);
		upv_entry_put(u, u->first + i);
	}
}

/* Requests that have SQEs and no last CQE. */
unsigned int upv_med_in_flight(struct upv_uring *u)
{
	unsigned int n = 0;
	u32 i;

	for (i = 0; i < u->nr_reqs; i++)
		n += READ_ONCE(u->reqs[i].busy);
	return n;
}

/* The device's user_data of a request. */
static u64 upv_tag(struct upv_uring *u, struct upv_req *req)
{
	return (u64)req->gen << 32 | (u32)(req - u->reqs);
}

/* --- Entries of the device's ring that sockets have which ACCEPT made --- */

/* Sockets of one ring, at most. */
#define UPV_MAX_ENTRIES 64u

/* An empty entry, 0 if there is none. With spin held. */
static u32 upv_entry_get(struct upv_uring *u)
{
	unsigned int i = find_first_zero_bit(u->entries, u->nr_entries);

	if (i >= u->nr_entries)
		return 0;
	__set_bit(i, u->entries);
	return u->first + i;
}

/* Empties an entry if it is a socket's that was accepted; requests under way keep the socket. With lock held. */
void upv_entry_put(struct upv_uring *u, u32 index)
{
	struct uringpv_register r = {
		.opcode = IORING_REGISTER_FILES_UPDATE,
		.nr_args = 1,
		.addr = virt_to_phys(&u->nothing),
		.offset = index,
	};
	int ret;

	if (!u->nr_entries || index < u->first)
		return;
	ret = u->ended || u->dead ? 0 : upv_command(u->dev, URINGPV_CMD_RING_REGISTER, u->index, &r, sizeof(r));
	if (ret) {
		if (ret != -ENXIO) /* the ring has gone; else it stays out of use */
			pr_warn_ratelimited(UPV_NAME ": ring %u: entry %u: error %d\n", u->index, index, ret);
		return;
	}
	spin_lock(&u->spin);
	__clear_bit(index - u->first, u->entries);
	spin_unlock(&u->spin);
}

/* ACCEPT and CLOSE have ended: what that does to the process's table. */
static s32 upv_slot_change(struct upv_uring *u, struct upv_req *req, s32 res)
{
	struct upv_slot *slot = NULL;
	u32 full = 0, empty = 0; /* entries that have lost their slots */

	spin_lock(&u->spin);
	if (req->slot < u->nr_slots)
		slot = &u->slots[req->slot];
	if (req->opcode == IORING_OP_ACCEPT) {
		if (slot && slot->coming == req->entry)
			slot->coming = 0;
		if (slot && req->alloc)
			slot->reserved = false;
		if (res < 0) {
			empty = req->entry;
		} else if (!slot) {
			full = req->entry; /* the table has gone meanwhile */
		} else {
			full = slot->used ? slot->index : 0;
			slot->used = true;
			slot->mode = FMODE_READ | FMODE_WRITE;
			slot->index = req->entry;
			res = req->alloc ? req->slot : res;
		}
	} else if (res >= 0 && slot && slot->used && slot->index == req->entry) {
		slot->used = false;
		empty = req->entry;
	}
	if (u->nr_entries && empty >= u->first)
		__clear_bit(empty - u->first, u->entries);
	if (u->nr_entries && full >= u->first)
		set_bit(full - u->first, u->emptying);
	spin_unlock(&u->spin);
	return res;
}

/* --- Completions. All with cq_lock held --- */

static bool upv_cq_room(struct upv_uring *u)
{
	return upv_pending(u->user_tail, READ_ONCE(u->words->cq_head), u->user_cq_entries) < u->user_cq_entries;
}

static void upv_cq_put(struct upv_uring *u, const struct upv_cqe *from)
{
	struct upv_cqe *cqe = &u->words->cqes[u->user_tail & (u->user_cq_entries - 1)];

	WRITE_ONCE(cqe->user_data, from->user_data);
	WRITE_ONCE(cqe->res, from->res);
	WRITE_ONCE(cqe->flags, from->flags);
	u->user_tail++;
}

static void upv_post(struct upv_uring *u, u64 user_data, s32 res, u32 flags)
{
	struct upv_cqe cqe = { .user_data = user_data, .res = res, .flags = flags };
	struct upv_late *late;

	if (!u->nr_late && upv_cq_room(u)) {
		upv_cq_put(u, &cqe);
		return;
	}
	late = u->nr_late < UPV_MAX_LATE ? kmalloc(sizeof(*late), GFP_KERNEL_ACCOUNT) : NULL;
	if (!late) {
		WRITE_ONCE(u->words->cq_overflow, ++u->overflow);
		return;
	}
	late->cqe = cqe;
	list_add_tail(&late->list, &u->late);
	u->nr_late++;
	WRITE_ONCE(u->words->sq_flags, IORING_SQ_CQ_OVERFLOW);
}

/* Moves CQEs that were held back into the ring. */
static void upv_flush(struct upv_uring *u)
{
	while (u->nr_late && upv_cq_room(u)) {
		struct upv_late *late = list_first_entry(&u->late, struct upv_late, list);

		upv_cq_put(u, &late->cqe);
		list_del(&late->list);
		kfree(late);
		if (!--u->nr_late)
			WRITE_ONCE(u->words->sq_flags, 0);
	}
}

/* Shows the process its CQEs, and wakes who waits for them. inl: nothing but what a call has done itself. */
static void upv_show(struct upv_uring *u, bool inl)
{
	if (u->user_shown == u->user_tail)
		return;
	u->user_shown = u->user_tail;
	smp_store_release(&u->words->cq_tail, u->user_tail);
	upv_uring_wake(u, !(inl && u->eventfd_async));
}

/* Copies between a request's pieces, from the first one on, and memory of the driver's. */
static void upv_copy(struct bio_vec *piece, unsigned int n, void *mem, size_t len, bool to_pieces)
{
	for (; n && len; n--, piece++) {
		size_t part = min_t(size_t, len, piece->bv_len);

		if (to_pieces)
			memcpy_to_page(piece->bv_page, piece->bv_offset, mem, part);
		else
			memcpy_from_page(mem, piece->bv_page, piece->bv_offset, part);
		mem += part;
		len -= part;
	}
}

/* Writes what RECVMSG or ACCEPT has to say of the peer into the process's msghdr, or sockaddr and socklen_t. */
static void upv_put_msg(struct upv_req *req)
{
	struct upv_mem *m = req->mem;
	struct bio_vec *h = req->pieces + req->header, *name = req->pieces + req->name;
	struct user_msghdr msg;
	u32 len = READ_ONCE(m->msg.namelen);

	if (req->name_room)
		upv_copy(name, req->nr_pieces - req->name, m->name, min(len, req->name_room), true);
	if (req->opcode == IORING_OP_ACCEPT) {
		upv_copy(h, req->name - req->header, &len, sizeof(len), true);
		return;
	}
	upv_copy(h, req->name - req->header, &msg, sizeof(msg), false);
	msg.msg_namelen = req->name_room ? len : 0;
	msg.msg_controllen = 0;
	msg.msg_flags = READ_ONCE(m->msg.flags);
	upv_copy(h, req->name - req->header, &msg, sizeof(msg), true);
}

/* A CQE has come for req, or stands for one. */
static void upv_finish(struct upv_uring *u, struct upv_req *req, s32 res, u32 flags)
{
	bool failed = res < 0 || (req->want && res != req->want);
	bool say = !req->skip || failed;

	if (req->fail && res != -ECANCELED)
		res = req->fail;

	/*
	 * io_uring's rules: a failure that would have been silent makes the requests it
	 * cancels silent, and a timeout that its request has outrun is no failure.
	 */
	if (req->skip && req->opcode == IORING_OP_LINK_TIMEOUT && res == -ECANCELED)
		say = false;
	else if (req->chain && req->chain->silent && res == -ECANCELED)
		say = false;
	else if (req->chain && req->skip && failed)
		req->chain->silent = true;
	if (req->bounce && req->in && res > 0)
		upv_copy(req->pieces, req->nr_data, req->bounce, min_t(size_t, res, req->bounce_len), true);
	if (req->answers && res >= 0)
		upv_put_msg(req);
	if (req->opcode == IORING_OP_TIMEOUT)
		WRITE_ONCE(u->timeouts, u->timeouts + 1);
	if (req->entry || req->opcode == IORING_OP_CLOSE)
		res = upv_slot_change(u, req, res);
	if (say)
		upv_post(u, req->user_data, res, flags);
	if (flags & IORING_CQE_F_MORE)
		return;
	WRITE_ONCE(req->busy, false);
	req->gen++;
	WRITE_ONCE(u->ordering, u->ordering - req->orders);
	upv_chain_put(req->chain);
	llist_add(&req->spent, &u->spent);
}

/* Takes the device's CQEs. */
static void upv_take(struct upv_uring *u)
{
	u32 tail;

	while (tail = virt_load_acquire(u->cq_tail), u->head != tail) {
		struct io_uring_cqe *cqe = u->cqes + (u->head & u->cq_mask);
		u64 tag = READ_ONCE(cqe->user_data);
		u32 i = lower_32_bits(tag);

		if (i < u->nr_reqs && u->reqs[i].busy && upv_tag(u, &u->reqs[i]) == tag)
			upv_finish(u, &u->reqs[i], READ_ONCE(cqe->res), READ_ONCE(cqe->flags));
		else
			pr_warn_ratelimited(UPV_NAME ": ring %u: completion of nothing, user_data %#llx\n", u->index, tag);
		u->head++;
		virt_store_release(u->cq_head, u->head);
	}
	virt_mb(); /* the head before the flags: either the device sees room, or this that it has more */
	if (READ_ONCE(*u->sq_flags) & IORING_SQ_CQ_OVERFLOW && !READ_ONCE(u->dead))
		writel(1, u->doorbell); /* the device has more */
}

/* Takes the device's CQEs, and with flush those that the process's ring had no room for. */
void upv_med_reap(struct upv_uring *u, bool flush)
{
	mutex_lock(&u->cq_lock);
	if (!u->ended) {
		upv_take(u);
		if (!llist_empty(&u->spent)) /* a process that is busy drains them itself before that */
			upv_uring_queue(u, &u->drain_work, UPV_DRAIN_DELAY);
	}
	if (flush)
		upv_flush(u);
	upv_show(u, false);
	mutex_unlock(&u->cq_lock);
}

/* The device's ring is no more: nothing of it touches memory. What is left in it is cancelled. With lock held. */
void upv_med_end(struct upv_uring *u)
{
	u32 i;

	mutex_lock(&u->cq_lock);
	u->ended = true;
	upv_take(u);
	for (i = 0; i < u->nr_reqs; i++)
		if (u->reqs[i].busy)
			upv_finish(u, &u->reqs[i], -ECANCELED, 0);
	upv_show(u, false);
	mutex_unlock(&u->cq_lock);
	upv_med_drain(u);
}

/* --- The memory of a request --- */

/* Room for pieces of len bytes at addr and more. */
static int upv_pieces(struct upv_req *req, u64 pages)
{
	req->pieces = kvcalloc(min_t(u64, pages, UPV_MAX_PIECES) + 4, sizeof(*req->pieces), GFP_KERNEL_ACCOUNT);
	return req->pieces ? 0 : -ENOMEM;
}

static u64 upv_pages(u64 addr, u64 len)
{
	return len ? ((addr + len - 1) >> PAGE_SHIFT) - (addr >> PAGE_SHIFT) + 1 : 0;
}

/* Pins len bytes at addr, as far as the pieces reach. */
static int upv_pin(struct upv_uring *u, struct upv_req *req, u64 addr, u64 len, unsigned int limit)
{
	unsigned int flags = (req->in ? FOLL_WRITE : 0) | (req->mm ? FOLL_LONGTERM : 0);
	struct page *pages[16];

	req->pinned = true;
	while (len && req->nr_pieces < limit) {
		unsigned int off = offset_in_page(addr);
		u64 want = min3(upv_pages(addr, len), (u64)ARRAY_SIZE(pages), (u64)limit - req->nr_pieces);
		int got, i, ret = req->mm ? upv_account(req->mm, want) : 0;

		if (ret)
			return ret;
		got = pin_user_pages_fast(addr & PAGE_MASK, want, flags, pages);
		if (req->mm)
			upv_unaccount(req->mm, want - max(got, 0));
		if (got <= 0)
			return -EFAULT;
		for (i = 0; i < got; i++, off = 0) {
			struct bio_vec *p = &req->pieces[req->nr_pieces++];

			p->bv_page = pages[i];
			p->bv_offset = off;
			p->bv_len = min_t(u64, len, PAGE_SIZE - off);
			addr += p->bv_len;
			len -= p->bv_len;
		}
		atomic_long_add(got, &u->pinned);
	}
	return 0;
}

static int upv_mem(struct upv_req *req, unsigned int vectors)
{
	req->mem = kzalloc(struct_size(req->mem, iov, vectors), GFP_KERNEL_ACCOUNT);
	return req->mem ? 0 : -ENOMEM;
}

/* The data of one address. */
static int upv_data_at(struct upv_build *b, u64 addr, u64 len)
{
	struct upv_req *req = b->req;
	int ret;

	len = min_t(u64, len, MAX_RW_COUNT);
	if (addr + len < addr)
		return -EFAULT;
	ret = upv_pieces(req, upv_pages(addr, len));
	if (!ret)
		ret = upv_pin(b->u, req, addr, len, UPV_MAX_PIECES);
	req->nr_data = req->nr_pieces;
	return ret;
}

/* The data of n struct iovec at addr. */
static int upv_data_of(struct upv_build *b, u64 addr, u64 n)
{
	struct upv_req *req = b->req;
	u64 pages = 0, total = 0;
	struct iovec *iov;
	unsigned int i;
	int ret;

	if (n > UIO_MAXIOV)
		return -EINVAL;
	iov = kvmalloc_array(n ?: 1, sizeof(*iov), GFP_KERNEL_ACCOUNT);
	if (!iov)
		return -ENOMEM;
	ret = copy_from_user(iov, u64_to_user_ptr(addr), n * sizeof(*iov)) ? -EFAULT : 0;
	for (i = 0; !ret && i < n; i++) {
		u64 at = (unsigned long)iov[i].iov_base;

		if ((ssize_t)iov[i].iov_len < 0)
			ret = -EINVAL;
		else if (at + iov[i].iov_len < at)
			ret = -EFAULT;
		iov[i].iov_len = min_t(u64, iov[i].iov_len, MAX_RW_COUNT - total);
		total += iov[i].iov_len;
		pages += upv_pages(at, iov[i].iov_len);
	}
	if (!ret)
		ret = upv_pieces(req, pages);
	for (i = 0; !ret && i < n; i++)
		ret = upv_pin(b->u, req, (unsigned long)iov[i].iov_base, iov[i].iov_len, UPV_MAX_PIECES);
	req->nr_data = req->nr_pieces;
	kvfree(iov);
	return ret;
}

/* The data that lies in registered buffer i. */
static int upv_data_in(struct upv_build *b, u64 addr, u64 len, unsigned int i)
{
	struct upv_req *req = b->req;
	struct upv_buf *buf;
	int ret;

	if (i >= b->u->nr_bufs)
		return -EFAULT;
	buf = b->u->bufs[array_index_nospec(i, b->u->nr_bufs)];
	if (!buf)
		return -EFAULT;
	if (addr < buf->addr || addr - buf->addr > buf->len || len > buf->len - (addr - buf->addr))
		return -EFAULT;
	kref_get(&buf->ref);
	req->buf = buf;
	ret = upv_pieces(req, upv_pages(addr, len));
	if (ret)
		return ret;
	i = (addr >> PAGE_SHIFT) - (buf->addr >> PAGE_SHIFT);
	for (; len && req->nr_pieces < UPV_MAX_PIECES; i++) {
		struct bio_vec *p = &req->pieces[req->nr_pieces++];

		p->bv_page = buf->pages[i];
		p->bv_offset = offset_in_page(addr);
		p->bv_len = min_t(u64, len, PAGE_SIZE - p->bv_offset);
		addr += p->bv_len;
		len -= p->bv_len;
	}
	req->nr_data = req->nr_pieces;
	return 0;
}

/* Bytes of a request's data. */
static u32 upv_bytes(struct upv_req *req)
{
	u32 n = 0;
	unsigned int i;

	for (i = 0; i < req->nr_data; i++)
		n += req->pieces[i].bv_len;
	return n;
}

/* Makes an iovec array of the data: pieces that lie one after another are joined. Returns its length. */
static int upv_vector(struct upv_build *b)
{
	struct upv_req *req = b->req;
	unsigned int i, n = 0;
	int ret;

	ret = req->mem ? 0 : upv_mem(req, req->nr_data);
	if (ret)
		return ret;
	for (i = 0; i < req->nr_data; i++) {
		struct bio_vec *p = &req->pieces[i];
		u64 at = b->u->dev->addr_base + page_to_phys(p->bv_page) + p->bv_offset;

		if (n && req->mem->iov[n - 1].base + req->mem->iov[n - 1].len == at) {
			req->mem->iov[n - 1].len += p->bv_len;
			continue;
		}
		req->mem->iov[n].base = at;
		req->mem->iov[n++].len = p->bv_len;
	}
	return n;
}

/* A transfer of one run of memory: FIXED if it lies in one entry of the buffer table. */
static int upv_one_run(struct upv_build *b, u64 addr, u32 len)
{
	struct upv_dev *dev = b->u->dev;
	bool in = b->req->in;
	int i = upv_buffer(dev, addr - dev->addr_base);

	if (i >= 0 && addr - dev->addr_base + len <= dev->buffers[i].addr + dev->buffers[i].len &&
	    upv_may(b->u, in ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED)) {
		b->sqe.opcode = in ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED;
		b->sqe.buf_index = i;
	} else if (upv_may(b->u, in ? IORING_OP_READ : IORING_OP_WRITE)) {
		b->sqe.opcode = in ? IORING_OP_READ : IORING_OP_WRITE;
		b->sqe.buf_index = 0;
	} else {
		return -EFAULT;
	}
	b->sqe.addr = addr;
	b->sqe.len = len;
	return 0;
}

/* A read or write, in whatever way the ring has. */
static int upv_transfer(struct upv_build *b)
{
	struct upv_req *req = b->req;
	u32 total = upv_bytes(req);
	int n;

	req->want = total;
	if (!total)
		return upv_one_run(b, upv_addr(b->u, b->u->sqe_area), 0);
	n = upv_vector(b);
	if (n < 0)
		return n;
	if (n == 1 && !upv_one_run(b, req->mem->iov[0].base, total))
		return 0;
	if (upv_may(b->u, req->in ? IORING_OP_READV : IORING_OP_WRITEV)) {
		b->sqe.opcode = req->in ? IORING_OP_READV : IORING_OP_WRITEV;
		b->sqe.addr = upv_addr(b->u, req->mem->iov);
		b->sqe.len = n;
		b->sqe.buf_index = 0;
		return 0;
	}
	if (req->chain)
		return -EOPNOTSUPP; /* the others of the chain would see what is not in the copy yet, or no longer */
	total = min_t(u32, total, UPV_MAX_BOUNCE);
	req->bounce_len = total;
	req->bounce = alloc_pages_exact(total, GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN);
	if (!req->bounce)
		return -ENOMEM;
	if (!req->in)
		upv_copy(req->pieces, req->nr_data, req->bounce, total, false);
	return upv_one_run(b, upv_addr(b->u, req->bounce), total);
}

/* A message of the data. The SQE's flags are in place. */
static int upv_message(struct upv_build *b)
{
	struct upv_req *req = b->req;
	int n = upv_vector(b);

	if (n < 0)
		return n;
	req->mem->msg.iov = n ? upv_addr(b->u, req->mem->iov) : 0;
	req->mem->msg.iovlen = n;
	b->sqe.opcode = req->in ? IORING_OP_RECVMSG : IORING_OP_SENDMSG;
	b->sqe.addr = upv_addr(b->u, &req->mem->msg);
	b->sqe.len = 1;
	return 0;
}

/* Pins what is written when the CQE has come: len bytes at header, and room for the name. */
static int upv_answer(struct upv_build *b, u64 header, u32 len, u64 name)
{
	struct upv_req *req = b->req;
	int ret;

	req->answers = true;
	req->header = req->nr_pieces;
	ret = upv_pin(b->u, req, header, len, UPV_MAX_PIECES + 4);
	req->name = req->nr_pieces;
	return ret ?: upv_pin(b->u, req, name, req->name_room, UPV_MAX_PIECES + 4);
}

static int upv_msg(struct upv_build *b)
{
	struct upv_req *req = b->req;
	u64 at = b->sqe.addr;
	struct user_msghdr msg;
	int ret;

	if (copy_from_user(&msg, u64_to_user_ptr(at), sizeof(msg)))
		return -EFAULT;
	if (msg.msg_namelen < 0 || (!req->in && (msg.msg_controllen || msg.msg_namelen > sizeof(req->mem->name))))
		return -EINVAL;
	if (msg.msg_iovlen > UIO_MAXIOV)
		return -EMSGSIZE;
	if (!msg.msg_name)
		msg.msg_namelen = 0;
	ret = upv_data_of(b, (unsigned long)msg.msg_iov, msg.msg_iovlen);
	if (!ret)
		ret = upv_mem(req, req->nr_data);
	if (ret)
		return ret;
	req->name_room = min_t(u32, msg.msg_namelen, sizeof(req->mem->name));
	if (req->in) {
		ret = upv_answer(b, at, sizeof(msg), (unsigned long)msg.msg_name);
	} else if (copy_from_user(req->mem->name, msg.msg_name, req->name_room)) {
		ret = -EFAULT;
	}
	if (ret)
		return ret;
	if (req->name_room)
		req->mem->msg.name = upv_addr(b->u, req->mem->name);
	req->mem->msg.namelen = req->name_room;
	return upv_message(b);
}

static int upv_send_recv(struct upv_build *b)
{
	int n, ret = upv_data_at(b, b->sqe.addr, b->sqe.len);

	if (ret)
		return ret;
	n = upv_vector(b);
	if (n < 0)
		return n;
	if (n > 1)
		return upv_message(b);
	b->sqe.addr = n ? b->req->mem->iov[0].base : upv_addr(b->u, b->req->mem);
	b->sqe.len = n ? b->req->mem->iov[0].len : 0;
	return 0;
}

/* --- Other opcodes --- */

/*
 * A time of the process's. The host has clocks of its own, so a point in time
 * becomes the time until then.
 */
static int upv_time(struct upv_build *b, u64 from, __u64 *to)
{
	u32 flags = b->sqe.timeout_flags;
	struct __kernel_timespec *ts;
	int ret = upv_mem(b->req, 0);

	if (ret)
		return ret;
	ts = &b->req->mem->ts;
	if (flags & IORING_TIMEOUT_BOOTTIME && flags & IORING_TIMEOUT_REALTIME)
		return -EINVAL;
	if (copy_from_user(ts, u64_to_user_ptr(from), sizeof(*ts)))
		return -EFAULT;
	if (flags & IORING_TIMEOUT_ABS) {
		s64 now = flags & IORING_TIMEOUT_BOOTTIME ? ktime_get_boottime_ns() :
			  flags & IORING_TIMEOUT_REALTIME ? ktime_get_real_ns() : ktime_get_ns();
		struct timespec64 until = { .tv_sec = ts->tv_sec, .tv_nsec = ts->tv_nsec };

		if (!timespec64_valid(&until))
			return -EINVAL;
		until = ns_to_timespec64(max_t(s64, timespec64_to_ns(&until) - now, 0));
		ts->tv_sec = until.tv_sec;
		ts->tv_nsec = until.tv_nsec;
		b->sqe.timeout_flags &= ~(IORING_TIMEOUT_ABS | IORING_TIMEOUT_BOOTTIME | IORING_TIMEOUT_REALTIME);
	}
	*to = upv_addr(b->u, ts);
	return 0;
}

/* Finds the request that another one is about, and puts what the device calls it into *tag. */
static int upv_target(struct upv_build *b, u64 user_data, __u64 *tag)
{
	struct upv_uring *u = b->u;
	int ret = -ENOENT;
	u32 i;

	mutex_lock(&u->cq_lock);
	for (i = 0; i < u->nr_reqs; i++) {
		struct upv_req *req = &u->reqs[i];

		if (!req->busy || req == b->req || req->user_data != user_data)
			continue;
		if (b->req->opcode == IORING_OP_POLL_REMOVE && req->opcode != IORING_OP_POLL_ADD)
			continue;
		if (b->req->opcode == IORING_OP_TIMEOUT_REMOVE &&
		    req->opcode != (b->sqe.timeout_flags & IORING_LINK_TIMEOUT_UPDATE ? IORING_OP_LINK_TIMEOUT : IORING_OP_TIMEOUT))
			continue;
		*tag = upv_tag(u, req);
		ret = 0;
		break;
	}
	mutex_unlock(&u->cq_lock);
	return ret;
}

/* What entry i of the process's table is, or will be when the requests before this one are done. */
static bool upv_slot(struct upv_uring *u, u32 i, u32 *index, fmode_t *mode)
{
	struct upv_slot slot = {};

	spin_lock(&u->spin);
	if (i < u->nr_slots)
		slot = u->slots[array_index_nospec(i, u->nr_slots)];
	spin_unlock(&u->spin);
	*index = slot.used ? slot.index : slot.coming;
	*mode = slot.used ? slot.mode : FMODE_READ | FMODE_WRITE;
	return slot.used || slot.coming;
}

static int upv_cancel(struct upv_build *b)
{
	u32 flags = b->sqe.cancel_flags;
	fmode_t mode;

	if (flags & ~(IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_ANY |
		      IORING_ASYNC_CANCEL_FD_FIXED))
		return -EINVAL;
	if (flags & IORING_ASYNC_CANCEL_FD) {
		u32 fd = b->sqe.fd, file;

		if (!(flags & IORING_ASYNC_CANCEL_FD_FIXED ? upv_slot(b->u, fd, &file, &mode) :
							     upv_uring_file(b->u, fd, &file, &mode)))
			return -EBADF;
		b->sqe.fd = file;
		b->sqe.cancel_flags |= IORING_ASYNC_CANCEL_FD_FIXED;
		return 0;
	}
	b->sqe.fd = 0;
	if (flags & IORING_ASYNC_CANCEL_ANY)
		return 0;
	if (flags & IORING_ASYNC_CANCEL_ALL)
		return -EINVAL; /* the device knows each by a name of its own */
	return upv_target(b, b->sqe.addr, &b->sqe.addr);
}

static int upv_connect(struct upv_build *b)
{
	u64 len = b->sqe.off;
	int ret = upv_mem(b->req, 0);

	if (ret)
		return ret;
	if (len > sizeof(b->req->mem->name))
		return -EINVAL;
	if (copy_from_user(b->req->mem->name, u64_to_user_ptr(b->sqe.addr), len))
		return -EFAULT;
	b->sqe.addr = upv_addr(b->u, b->req->mem->name);
	return 0;
}

/* ACCEPT, whose socket goes into the process's table. */
static int upv_accept(struct upv_build *b)
{
	struct upv_uring *u = b->u;
	struct upv_req *req = b->req;
	u64 name = b->sqe.addr, lenp = b->sqe.addr2;
	u32 i = b->sqe.file_index;
	int ret;

	if (!i)
		return -EINVAL; /* a descriptor of the process's would be a file of the guest's */
	if (name) {
		s32 room;

		ret = upv_mem(req, 0) ?: upv_pieces(req, 0);
		if (ret)
			return ret;
		if (get_user(room, (s32 __user *)u64_to_user_ptr(lenp)))
			return -EFAULT;
		if (room < 0)
			return -EINVAL;
		req->mem->msg.namelen = req->name_room = min_t(u32, room, sizeof(req->mem->name));
		ret = upv_answer(b, lenp, sizeof(room), name);
		if (ret)
			return ret;
		b->sqe.addr = upv_addr(u, req->mem->name);
		b->sqe.addr2 = upv_addr(u, &req->mem->msg.namelen);
	}
	spin_lock(&u->spin);
	req->alloc = i == IORING_FILE_INDEX_ALLOC;
	if (req->alloc)
		for (i = 0; i < u->nr_slots && (u->slots[i].used || u->slots[i].reserved);)
			i++;
	else
		i--;
	if (i >= u->nr_slots) {
		ret = req->alloc ? -ENFILE : u->nr_slots ? -EINVAL : -ENXIO;
	} else {
		i = array_index_nospec(i, u->nr_slots);
		req->slot = i;
		req->entry = upv_entry_get(u);
		ret = req->entry ? 0 : -ENFILE;
	}
	if (!ret) {
		u->slots[i].coming = req->entry;
		u->slots[i].reserved |= req->alloc;
	}
	spin_unlock(&u->spin);
	b->sqe.file_index = req->entry + 1;
	return ret;
}

/* CLOSE of an entry of the process's table. Only a socket that was accepted is the device's to close. */
static int upv_close(struct upv_build *b)
{
	struct io_uring_sqe *sqe = &b->sqe;
	u32 i = sqe->file_index;
	fmode_t mode;

	if (!i || sqe->fd || sqe->off || sqe->addr || sqe->len || sqe->rw_flags || sqe->buf_index)
		return -EINVAL;
	if (!upv_slot(b->u, i - 1, &b->req->entry, &mode))
		return -EBADF;
	b->req->slot = i - 1;
	if (b->u->nr_entries && b->req->entry >= b->u->first) {
		sqe->file_index = b->req->entry + 1;
	} else {
		sqe->opcode = IORING_OP_NOP;
		sqe->file_index = 0;
	}
	return 0;
}

/* What opcodes are like. */
enum {
	UPV_NO_FILE = 1,
	UPV_NEEDS_READ = 2,
	UPV_NEEDS_WRITE = 4,
	UPV_KNOWN = 8,
};

static const u8 upv_traits[] = {
	[IORING_OP_NOP] = UPV_KNOWN | UPV_NO_FILE,
	[IORING_OP_READV] = UPV_KNOWN | UPV_NEEDS_READ,
	[IORING_OP_WRITEV] = UPV_KNOWN | UPV_NEEDS_WRITE,
	[IORING_OP_FSYNC] = UPV_KNOWN,
	[IORING_OP_READ_FIXED] = UPV_KNOWN | UPV_NEEDS_READ,
	[IORING_OP_WRITE_FIXED] = UPV_KNOWN | UPV_NEEDS_WRITE,
	[IORING_OP_POLL_ADD] = UPV_KNOWN,
	[IORING_OP_POLL_REMOVE] = UPV_KNOWN | UPV_NO_FILE,
	[IORING_OP_SYNC_FILE_RANGE] = UPV_KNOWN,
	[IORING_OP_SENDMSG] = UPV_KNOWN | UPV_NEEDS_WRITE,
	[IORING_OP_RECVMSG] = UPV_KNOWN | UPV_NEEDS_READ,
	[IORING_OP_TIMEOUT] = UPV_KNOWN | UPV_NO_FILE,
	[IORING_OP_TIMEOUT_REMOVE] = UPV_KNOWN | UPV_NO_FILE,
	[IORING_OP_ACCEPT] = UPV_KNOWN | UPV_NEEDS_READ,
	[IORING_OP_ASYNC_CANCEL] = UPV_KNOWN | UPV_NO_FILE,
	[IORING_OP_LINK_TIMEOUT] = UPV_KNOWN | UPV_NO_FILE,
	[IORING_OP_CONNECT] = UPV_KNOWN | UPV_NEEDS_WRITE,
	[IORING_OP_FALLOCATE] = UPV_KNOWN | UPV_NEEDS_WRITE,
	[IORING_OP_CLOSE] = UPV_KNOWN | UPV_NO_FILE,
	[IORING_OP_READ] = UPV_KNOWN | UPV_NEEDS_READ,
	[IORING_OP_WRITE] = UPV_KNOWN | UPV_NEEDS_WRITE,
	[IORING_OP_SEND] = UPV_KNOWN | UPV_NEEDS_WRITE,
	[IORING_OP_RECV] = UPV_KNOWN | UPV_NEEDS_READ,
	[IORING_OP_REMOVE_BUFFERS] = UPV_KNOWN | UPV_NO_FILE,
	[IORING_OP_SHUTDOWN] = UPV_KNOWN | UPV_NEEDS_WRITE,
};

/* Can the opcode be translated? */
bool upv_med_translates(unsigned int op)
{
	return op < ARRAY_SIZE(upv_traits) && upv_traits[op] & UPV_KNOWN;
}

/* Can programs use the opcode on this ring? */
bool upv_med_knows(struct upv_uring *u, unsigned int op)
{
	if (u->mapped)
		return upv_may(u, op);
	if (!upv_med_translates(op))
		return false;
	switch (op) {
	case IORING_OP_READ:
	case IORING_OP_READV:
		return upv_may(u, IORING_OP_READ_FIXED) || upv_may(u, op);
	case IORING_OP_WRITE:
	case IORING_OP_WRITEV:
		return upv_may(u, IORING_OP_WRITE_FIXED) || upv_may(u, op);
	case IORING_OP_REMOVE_BUFFERS:
		return true; /* there are none */
	default:
		return upv_may(u, op);
	}
}

/* May I/O on the file wait for ever? It may on all but disks and regular files, and on sockets that were accepted. */
static bool upv_waits(struct upv_uring *u, u32 file)
{
	u32 kind = file < u->user->nr_files ? u->user->files[file].kind : 0;

	return kind != URINGPV_FILE_DISK && kind != URINGPV_FILE_REGULAR;
}

static int upv_file(struct upv_build *b)
{
	u8 traits = upv_traits[b->req->opcode];
	u32 fd = b->sqe.fd;

	if (b->sqe.flags & IOSQE_FIXED_FILE) {
		if (!upv_slot(b->u, fd, &b->file, &b->mode))
			return -EBADF;
	} else if (!upv_uring_file(b->u, fd, &b->file, &b->mode)) {
		return -EBADF;
	}
	if ((traits & UPV_NEEDS_READ && !(b->mode & FMODE_READ)) || (traits & UPV_NEEDS_WRITE && !(b->mode & FMODE_WRITE)))
		return -EBADF;
	b->sqe.fd = b->file;
	if (upv_waits(b->u, b->file)) {
		b->req->mm = current->mm;
		mmgrab(b->req->mm);
	}
	return 0;
}

/* Do the ring's restrictions allow the process's SQE? */
static bool upv_allowed(struct upv_uring *u, const struct io_uring_sqe *sqe)
{
	struct upv_restrictions *r = &u->restrictions;

	return !r->on || (test_bit(sqe->opcode, r->ops) && !(r->flags_required & ~sqe->flags) &&
			  !(sqe->flags & ~(r->flags | r->flags_required)));
}

/* Bits of ioprio that an opcode may have. */
static u16 upv_ioprio(u8 op)
{
	switch (op) {
	case IORING_OP_SEND:
	case IORING_OP_RECV:
	case IORING_OP_SENDMSG:
	case IORING_OP_RECVMSG:
		return IORING_RECVSEND_POLL_FIRST;
	case IORING_OP_ACCEPT:
		return 6; /* IORING_ACCEPT_DONTWAIT and _POLL_FIRST, since 6.10 */
	}
	return 0;
}

/* Buffers that a REMOVE_BUFFERS may name, as in io_uring. */
#define UPV_MAX_REMOVED 65536

/* Makes the device's SQE of the process's. */
static int upv_translate(struct upv_build *b)
{
	const u8 flags = IOSQE_FIXED_FILE | IOSQE_IO_DRAIN | UPV_LINKS | IOSQE_ASYNC | IOSQE_CQE_SKIP_SUCCESS;
	struct io_uring_sqe *sqe = &b->sqe;
	struct upv_req *req = b->req;
	u8 op = sqe->opcode;
	int ret = 0;

	if (sqe->flags & ~(flags | IOSQE_BUFFER_SELECT) || !upv_med_knows(b->u, op))
		return -EINVAL;
	if (sqe->flags & IOSQE_BUFFER_SELECT)
		return -EOPNOTSUPP;
	if (sqe->flags & IOSQE_CQE_SKIP_SUCCESS && sqe->flags & IOSQE_IO_DRAIN)
		return -EOPNOTSUPP;
	/* Without these, memory can go by a copy of the driver's, which drains order nothing with. */
	if (sqe->flags & IOSQE_IO_DRAIN && !(upv_may(b->u, IORING_OP_READV) && upv_may(b->u, IORING_OP_WRITEV)))
		return -EOPNOTSUPP;
	if (!upv_allowed(b->u, sqe))
		return -EACCES;
	/* What is not looked at below must be nothing: it could be an address, now or in a later kernel. */
	if (sqe->file_index && op != IORING_OP_ACCEPT && op != IORING_OP_CLOSE)
		return -EINVAL;
	if (sqe->personality || memchr_inv((u8 *)sqe + 48, 0, 16) || sqe->ioprio & ~upv_ioprio(op))
		return -EINVAL;
	req->in = upv_traits[op] & UPV_NEEDS_READ;
	if (!(upv_traits[op] & UPV_NO_FILE)) {
		ret = upv_file(b);
		if (ret)
			return ret;
	} else if (op != IORING_OP_ASYNC_CANCEL && op != IORING_OP_CLOSE && op != IORING_OP_REMOVE_BUFFERS) {
		sqe->fd = 0;
	}
	switch (op) {
	case IORING_OP_READ:
	case IORING_OP_WRITE:
		ret = sqe->buf_index ? -EINVAL : upv_data_at(b, sqe->addr, sqe->len);
		break;
	case IORING_OP_READV:
	case IORING_OP_WRITEV:
		ret = sqe->buf_index ? -EINVAL : upv_data_of(b, sqe->addr, sqe->len);
		break;
	case IORING_OP_READ_FIXED:
	case IORING_OP_WRITE_FIXED:
		ret = upv_data_in(b, sqe->addr, sqe->len, sqe->buf_index);
		break;
	case IORING_OP_SENDMSG:
	case IORING_OP_RECVMSG:
		return sqe->off || sqe->buf_index ? -EINVAL : upv_msg(b);
	case IORING_OP_SEND:
	case IORING_OP_RECV:
		return sqe->off || sqe->buf_index ? -EINVAL : upv_send_recv(b);
	case IORING_OP_TIMEOUT:
	case IORING_OP_LINK_TIMEOUT:
		if (sqe->timeout_flags & ~UPV_TIMEOUT_FLAGS)
			return -EINVAL; /* there is one that makes a number of the address */
		return upv_time(b, sqe->addr, &sqe->addr);
	case IORING_OP_TIMEOUT_REMOVE:
		if (sqe->timeout_flags & ~(UPV_TIMEOUT_FLAGS | IORING_TIMEOUT_UPDATE_MASK))
			return -EINVAL;
		if (sqe->timeout_flags & IORING_TIMEOUT_UPDATE_MASK)
			ret = upv_time(b, sqe->addr2, &sqe->addr2);
		else if (sqe->timeout_flags)
			return -EINVAL; /* before the device could say so: the target may be none */
		return ret ?: upv_target(b, sqe->addr, &sqe->addr);
	case IORING_OP_POLL_REMOVE:
		if (sqe->len & IORING_POLL_UPDATE_USER_DATA)
			return -EINVAL;
		return upv_target(b, sqe->addr, &sqe->addr);
	case IORING_OP_ASYNC_CANCEL:
		return upv_cancel(b);
	case IORING_OP_CONNECT:
		return upv_connect(b);
	case IORING_OP_ACCEPT:
		return upv_accept(b);
	case IORING_OP_CLOSE:
		return upv_close(b);
	case IORING_OP_REMOVE_BUFFERS:
		if (sqe->fd < 1 || sqe->fd > UPV_MAX_REMOVED || sqe->off || sqe->addr || sqe->len || sqe->rw_flags)
			return -EINVAL;
		return -ENOENT; /* a ring has no groups of buffers to choose from */
	default:
		return sqe->buf_index ? -EINVAL : 0; /* there is no address in it */
	}
	return ret ?: upv_transfer(b);
}

/*
 * io_uring finds some errors only when it comes to a request's turn, after what it
 * is linked to and what drains. So that they come in that order, the device gets
 * an SQE that fails, and the process is told of the error that it stands for.
 */
static bool upv_fails_in_turn(struct upv_build *b, int err)
{
	u8 flags = b->sqe.flags, op = IORING_OP_FSYNC;

	if (err == -EINVAL || err == -EACCES || err == -EOPNOTSUPP || err == -ECANCELED)
		return false;
	if (!upv_may(b->u, op))
		op = IORING_OP_READ_FIXED;
	if (!upv_may(b->u, op))
		return false;
	memset(&b->sqe, 0, sizeof(b->sqe));
	b->sqe.opcode = op;
	b->sqe.flags = flags;
	b->sqe.fd = INT_MAX; /* no file of any device's */
	b->req->fail = err;
	return true;
}

/* --- Submission, with lock held --- */

/* A free request; NULL: there is none. */
static struct upv_req *upv_req_get(struct upv_uring *u)
{
	if (!u->nr_free) {
		mutex_lock(&u->cq_lock);
		upv_take(u);
		upv_show(u, false);
		mutex_unlock(&u->cq_lock);
		upv_med_drain(u);
	}
	return u->nr_free ? &u->reqs[u->free[--u->nr_free]] : NULL;
}

/* Shows the device the SQEs up to tail, and tells it if it does not look. */
static void upv_publish(struct upv_uring *u, u32 tail)
{
	if (u->shown == tail)
		return;
	u->shown = tail;
	virt_store_release(u->sq_tail, tail);
	upv_uring_ring(u);
}

/* Waits for room for one SQE; whole: SQEs up to there may be shown for that. */
static bool upv_wait_room(struct upv_uring *u, u32 whole)
{
	unsigned long end = jiffies + UPV_ROOM_WAIT;

	while (u->tail - virt_load_acquire(u->sq_head) >= u->sq_entries) {
		upv_publish(u, whole);
		if (fatal_signal_pending(current) || time_after(jiffies, end))
			return false;
		usleep_range(10, 50);
	}
	return true;
}

static void upv_push(struct upv_uring *u, const struct io_uring_sqe *sqe)
{
	u32 i = u->tail++ & u->sq_mask;

	u->sqes[i] = *sqe;
	WRITE_ONCE(u->sq_array[i], i);
}

/* The process's SQE at its head; false: its index array names none. */
static bool upv_fetch(struct upv_uring *u, struct io_uring_sqe *sqe)
{
	u32 i = u->user_head & (u->user_sq_entries - 1);
	unsigned int k;

	if (u->user_array) {
		i = READ_ONCE(u->user_array[i]);
		if (i >= u->user_sq_entries)
			return false;
		i = array_index_nospec(i, u->user_sq_entries);
	}
	/* The process may write it meanwhile: it is read once. */
	for (k = 0; k < sizeof(*sqe) / sizeof(u64); k++)
		((u64 *)sqe)[k] = READ_ONCE(((u64 *)&u->user_sqes[i])[k]);
	return true;
}

/* Ends a request that the device has not seen; it has been in the ring, or not. */
static void upv_refuse(struct upv_uring *u, struct upv_req *req, s32 res)
{
	mutex_lock(&u->cq_lock);
	upv_finish(u, req, res, 0);
	upv_show(u, true);
	mutex_unlock(&u->cq_lock);
}

/* Takes back the SQEs from first on, which the device has not seen, and cancels their requests. */
static void upv_take_back(struct upv_uring *u, u32 first)
{
	u32 i;

	for (i = first; i != u->tail; i++)
		upv_refuse(u, &u->reqs[lower_32_bits(u->sqes[i & u->sq_mask].user_data)], -ECANCELED);
	u->tail = first;
}

/*
 * Ends the SQEs from first on, a request or a chain of them, if they need no device:
 * NOPs, and errors that come in their turn. io_uring has the CQEs of these in the ring
 * when a call returns, and programs look for them there.
 */
static void upv_inline(struct upv_uring *u, u32 first)
{
	bool broken = false;
	u32 i, tail = u->tail;

	/* What comes after a request that drains waits for it, and a timeout counts it. */
	if (READ_ONCE(u->ordering))
		return;
	for (i = first; i != tail; i++) {
		struct io_uring_sqe *sqe = &u->sqes[i & u->sq_mask];

		if (sqe->flags & (IOSQE_IO_DRAIN | IOSQE_ASYNC))
			return;
		if (!u->reqs[lower_32_bits(sqe->user_data)].fail && (sqe->opcode != IORING_OP_NOP || sqe->rw_flags))
			return;
	}
	for (i = first; i != tail; i++) {
		struct io_uring_sqe *sqe = &u->sqes[i & u->sq_mask];
		struct upv_req *req = &u->reqs[lower_32_bits(sqe->user_data)];
		s32 res = broken ? -ECANCELED : req->fail;

		if (res && !(sqe->flags & IOSQE_IO_HARDLINK))
			broken = true;
		upv_refuse(u, req, res);
	}
	u->tail = first;
}

/* A chain begins or goes on with req. */
static int upv_chain(struct upv_uring *u, struct upv_chain **chain, struct upv_req *req)
{
	if (!*chain) {
		*chain = kzalloc(sizeof(**chain), GFP_KERNEL_ACCOUNT);
		if (!*chain)
			return -ENOMEM;
		(*chain)->users = 1; /* upv_med_submit */
	}
	mutex_lock(&u->cq_lock);
	(*chain)->users++;
	req->chain = *chain;
	mutex_unlock(&u->cq_lock);
	return 0;
}

static void upv_chain_end(struct upv_uring *u, struct upv_chain *chain)
{
	mutex_lock(&u->cq_lock);
	upv_chain_put(chain);
	mutex_unlock(&u->cq_lock);
}

/*
 * Takes up to n SQEs of the process's. Links end with the call, as io_uring's do.
 * Returns how many SQEs were taken, or a negative errno if none could be.
 */
int upv_med_submit(struct upv_uring *u, u32 n)
{
	struct upv_chain *chain = NULL;
	bool broken = false, stop = false, drains = false;
	u32 done = 0, whole = u->tail; /* SQEs before whole are in chains that have their end */
	int ret = 0;

	n = min(n, upv_pending(smp_load_acquire(&u->words->sq_tail), u->user_head, u->user_sq_entries));
	while (done < n && !stop) {
		struct upv_build b = { .u = u };
		bool linked;
		int err = 0;

		if (!upv_fetch(u, &b.sqe)) {
			u->user_head++;
			WRITE_ONCE(u->words->sq_dropped, ++u->dropped);
			break;
		}
		if (READ_ONCE(u->nr_late) >= u->nr_reqs) {
			ret = -EBUSY; /* the process is to take its CQEs first */
			break;
		}
		b.req = upv_wait_room(u, whole) ? upv_req_get(u) : NULL;
		if (!b.req) {
			ret = -EAGAIN;
			break;
		}
		done++;
		u->user_head++;
		b.req->user_data = b.sqe.user_data;
		b.req->opcode = b.sqe.opcode;
		b.req->skip = b.sqe.flags & IOSQE_CQE_SKIP_SUCCESS;

		linked = b.sqe.flags & UPV_LINKS;
		if (linked || chain)
			err = upv_chain(u, &chain, b.req);
		if (broken)
			err = -ECANCELED;
		if (!err)
			err = upv_translate(&b);
		if (!err || upv_fails_in_turn(&b, err)) {
			b.sqe.flags = (b.sqe.flags & ~IOSQE_CQE_SKIP_SUCCESS) | IOSQE_FIXED_FILE;
			b.sqe.user_data = upv_tag(u, b.req);
			WRITE_ONCE(b.req->busy, true);
			/* What comes after a link that drains waits for all of its chain. */
			drains |= b.sqe.flags & IOSQE_IO_DRAIN;
			if (drains || (b.sqe.opcode == IORING_OP_TIMEOUT && b.sqe.off)) {
				mutex_lock(&u->cq_lock);
				b.req->orders = true;
				WRITE_ONCE(u->ordering, u->ordering + 1);
				mutex_unlock(&u->cq_lock);
			}
			upv_push(u, &b.sqe);
		} else {
			/* Nothing of its chain is done. */
			upv_take_back(u, whole);
			upv_refuse(u, b.req, err);
			broken = linked;
			/* io_uring goes no further than an SQE that is none. */
			stop = !(u->params.flags & IORING_SETUP_SUBMIT_ALL) &&
			       (err == -EINVAL || err == -EACCES || err == -EOPNOTSUPP);
		}
		if (!linked) {
			upv_chain_end(u, chain);
			chain = NULL;
			broken = drains = false;
			upv_inline(u, whole);
			whole = u->tail;
		}
	}
	if (whole != u->tail)
		u->sqes[(u->tail - 1) & u->sq_mask].flags &= ~UPV_LINKS;
	upv_chain_end(u, chain);
	upv_inline(u, whole);
	upv_publish(u, u->tail);
	smp_store_release(&u->words->sq_head, u->user_head);
	return done ?: ret;
}

/* --- Memory --- */

/* What the process maps, and the requests. The device's ring has been set up. */
int upv_med_init(struct upv_uring *u, bool accepts)
{
	struct io_uring_params *p = &u->params;
	size_t words = struct_size(u->words, cqes, p->cq_entries);
	u32 i;

	u->words_len = PAGE_ALIGN(words + p->sq_entries * sizeof(u32));
	u->user_sqe_len = PAGE_ALIGN(p->sq_entries * sizeof(struct io_uring_sqe));
	u->words = vmalloc_user(u->words_len);
	u->user_sqes = vmalloc_user(u->user_sqe_len);
	u->nr_reqs = u->cq_mask + 1;
	u->reqs = kvcalloc(u->nr_reqs, sizeof(*u->reqs), GFP_KERNEL_ACCOUNT);
	u->free = kvcalloc(u->nr_reqs, sizeof(*u->free), GFP_KERNEL_ACCOUNT);
	if (!u->words || !u->user_sqes || !u->reqs || !u->free)
		return -ENOMEM;
	for (i = 0; i < u->nr_reqs; i++)
		u->free[u->nr_free++] = u->nr_reqs - 1 - i;
	u->user_sq_entries = u->words->sq_entries = p->sq_entries;
	u->user_cq_entries = u->words->cq_entries = p->cq_entries;
	u->words->sq_mask = p->sq_entries - 1;
	u->words->cq_mask = p->cq_entries - 1;
	u->disabled = p->flags & IORING_SETUP_R_DISABLED;
	if (!u->disabled)
		upv_med_issues(u);
	u->nothing = URINGPV_SLOT_EMPTY;
	u->first = u->user->nr_files;
	if (accepts && u->dev->identity.max_ring_files > u->first) {
		u->nr_entries = min(u->dev->identity.max_ring_files - u->first, UPV_MAX_ENTRIES);
		u->entries = bitmap_zalloc(u->nr_entries, GFP_KERNEL_ACCOUNT);
		u->emptying = bitmap_zalloc(u->nr_entries, GFP_KERNEL_ACCOUNT);
		if (!u->entries || !u->emptying)
			return -ENOMEM;
	}

	memset(&p->sq_off, 0, sizeof(p->sq_off));
	memset(&p->cq_off, 0, sizeof(p->cq_off));
	p->sq_off.head = offsetof(struct upv_words, sq_head);
	p->sq_off.tail = offsetof(struct upv_words, sq_tail);
	p->sq_off.ring_mask = offsetof(struct upv_words, sq_mask);
	p->sq_off.ring_entries = offsetof(struct upv_words, sq_entries);
	p->sq_off.flags = offsetof(struct upv_words, sq_flags);
	p->sq_off.dropped = offsetof(struct upv_words, sq_dropped);
	if (!(p->flags & UPV_SETUP_NO_SQARRAY)) {
		p->sq_off.array = words;
		u->user_array = (u32 *)((u8 *)u->words + words);
	}
	p->cq_off.head = offsetof(struct upv_words, cq_head);
	p->cq_off.tail = offsetof(struct upv_words, cq_tail);
	p->cq_off.ring_mask = offsetof(struct upv_words, cq_mask);
	p->cq_off.ring_entries = offsetof(struct upv_words, cq_entries);
	p->cq_off.overflow = offsetof(struct upv_words, cq_overflow);
	p->cq_off.cqes = offsetof(struct upv_words, cqes);
	p->cq_off.flags = offsetof(struct upv_words, cq_flags);
	p->features = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_POLL_32BITS |
		      IORING_FEAT_EXT_ARG | IORING_FEAT_CQE_SKIP;
	return 0;
}

/* No request is in the ring. */
void upv_med_exit(struct upv_uring *u)
{
	while (!list_empty(&u->late)) {
		struct upv_late *late = list_first_entry(&u->late, struct upv_late, list);

		list_del(&late->list);
		kfree(late);
	}
	vfree(u->words);
	vfree(u->user_sqes);
	kvfree(u->reqs);
	kvfree(u->free);
	bitmap_free(u->entries);
	bitmap_free(u->emptying);
}
