// SPDX-License-Identifier: GPL-2.0
/* The block layer's side: one tag set for the function, a disk for each file. */
#include <linux/idr.h>
#include <linux/module.h>

#include "compat.h"
#include "driver.h"

/* N of /dev/upvN, over all functions. */
static DEFINE_IDA(upv_ids);

static const struct block_device_operations upv_fops = { .owner = THIS_MODULE };

static blk_status_t upv_queue_rq(struct blk_mq_hw_ctx *hctx, const struct blk_mq_queue_data *bd)
{
	struct request *rq = bd->rq;
	struct upv_rq *p = blk_mq_rq_to_pdu(rq);
	struct upv_disk *d = rq->q->queuedata;
	struct upv_ring *ring = hctx->driver_data, *own = ring;
	blk_status_t status;

	if (READ_ONCE(d->dev->dead))
		return BLK_STS_IOERR;
	if (!(rq->rq_flags & RQF_DONTPREP)) {
		p->since = 0;
		p->resets = 0;
		rq->rq_flags |= RQF_DONTPREP;
	}
	switch (req_op(rq)) {
	case REQ_OP_READ:
	case REQ_OP_WRITE:
		break;
	case REQ_OP_FLUSH:
		if (ring->setup & IORING_SETUP_IOPOLL || ring->vector < 0)
			ring = d->dev->control;
		break;
	case REQ_OP_DISCARD:
	case REQ_OP_WRITE_ZEROES:
		ring = d->dev->control;
		break;
	default:
		return BLK_STS_NOTSUPP;
	}
	blk_mq_start_request(rq);
	status = upv_ring_submit(ring, rq, bd->last || ring != own);
	/* Requests before this one in the batch wait for their doorbell. */
	if (bd->last && (status || ring != own))
		upv_ring_notify(own);
	/* A completion runs the queue again whose request it was, no other disk's and no other ring's. */
	if (status == BLK_STS_DEV_RESOURCE && (ring != own || d->dev->identity.num_files > 1))
		status = BLK_STS_RESOURCE;
	return status;
}

static void upv_commit_rqs(struct blk_mq_hw_ctx *hctx)
{
	upv_ring_notify(hctx->driver_data);
}

/* Milliseconds until a request is tried again that the host has refused for now. */
#define UPV_LATER 10

static void upv_complete_rq(struct request *rq)
{
	struct upv_rq *p = blk_mq_rq_to_pdu(rq);

	if (!p->status && p->again) {
		blk_mq_requeue_request(rq, p->again == UPV_AGAIN_NOW);
		if (p->again == UPV_AGAIN_LATER)
			blk_mq_delay_kick_requeue_list(rq->q, UPV_LATER);
		return;
	}
	rq->rq_flags &= ~RQF_DONTPREP;
	blk_mq_end_request(rq, p->status);
}

/*
 * A request took longer than the queue's io_timeout: an interrupt was lost, or
 * the host is slow or stuck. A reset tells which, and loses nothing.
 */
static enum blk_eh_timer_return upv_timeout(struct request *rq)
{
	struct upv_rq *p = blk_mq_rq_to_pdu(rq);
	struct upv_ring *ring = p->ring;

	upv_ring_reap(ring);
	if (!blk_mq_request_started(rq) || blk_mq_request_completed(rq)) {
		dev_warn_ratelimited(&ring->dev->pdev->dev, "ring %u: a completion without an interrupt\n", ring->index);
		return BLK_EH_DONE;
	}
	if (upv_ring_goes_on(ring, rq)) {
		dev_notice_ratelimited(&ring->dev->pdev->dev, "%s: request %d takes long on ring %u\n",
				       rq->q->disk ? rq->q->disk->disk_name : "?", rq->tag, ring->index);
		return BLK_EH_RESET_TIMER;
	}
	dev_warn_ratelimited(&ring->dev->pdev->dev, "%s: request %d timed out on ring %u, resetting\n",
			     rq->q->disk ? rq->q->disk->disk_name : "?", rq->tag, ring->index);
	upv_reset_soon(ring->dev, 0);
	return BLK_EH_RESET_TIMER;
}

static int upv_poll(struct blk_mq_hw_ctx *hctx, struct io_comp_batch *batch)
{
	return upv_ring_reap(hctx->driver_data);
}

static int upv_init_hctx(struct blk_mq_hw_ctx *hctx, void *data, unsigned int i)
{
	struct upv_dev *dev = data;

	hctx->driver_data = dev->rings + i; /* polled rings follow the others, as polled queues do */
	return 0;
}

static void upv_map(struct blk_mq_tag_set *set)
{
	struct upv_dev *dev = set->driver_data;

	set->map[HCTX_TYPE_DEFAULT].nr_queues = dev->nr_queues;
	set->map[HCTX_TYPE_DEFAULT].queue_offset = 0;
	if (dev->nr_vectors > 1)
		upv_map_queues(&set->map[HCTX_TYPE_DEFAULT], dev->pdev);
	else
		blk_mq_map_queues(&set->map[HCTX_TYPE_DEFAULT]);
	if (set->nr_maps == 1)
		return;
	set->map[HCTX_TYPE_READ].nr_queues = 0;
	set->map[HCTX_TYPE_POLL].nr_queues = dev->nr_polled;
	set->map[HCTX_TYPE_POLL].queue_offset = dev->nr_queues;
	blk_mq_map_queues(&set->map[HCTX_TYPE_POLL]);
}

static const struct blk_mq_ops upv_ops = {
	.queue_rq = upv_queue_rq,
	.commit_rqs = upv_commit_rqs,
	.complete = upv_complete_rq,
	.timeout = upv_timeout,
	.init_hctx = upv_init_hctx,
	.map_queues = upv_map,
	.poll = upv_poll,
};

int upv_tags_init(struct upv_dev *dev)
{
	struct blk_mq_tag_set *set = &dev->tags;

	set->ops = &upv_ops;
	set->nr_hw_queues = dev->nr_queues + dev->nr_polled;
	set->nr_maps = dev->nr_polled ? HCTX_MAX_TYPES : 1;
	set->queue_depth = upv_params.queue_depth;
	set->numa_node = dev_to_node(&dev->pdev->dev);
	set->cmd_size = sizeof(struct upv_rq);
	set->flags = UPV_TAG_FLAGS;
	set->driver_data = dev;
	return blk_mq_alloc_tag_set(set);
}

/* The disk's size now, in sectors of 512 bytes, in whole logical blocks. */
static sector_t upv_sectors(struct upv_disk *d)
{
	return round_down(d->info.size, queue_logical_block_size(d->disk->queue)) >> SECTOR_SHIFT;
}

/* Asks for the file's size, and tells the block layer if it has changed. */
void upv_disk_rescan(struct upv_disk *d)
{
	struct uringpv_file info = {};

	mutex_lock(&d->rescan_lock);
	if (upv_command(d->dev, URINGPV_CMD_FILE_INFO, d->file, &info, sizeof(info)) || info.size == d->info.size)
		goto unlock;
	d->info.size = info.size;
	if (set_capacity_and_notify(d->disk, upv_sectors(d)))
		dev_info(&d->dev->pdev->dev, "%s: the host's file has %llu bytes now\n", d->disk->disk_name, info.size);
unlock:
	mutex_unlock(&d->rescan_lock);
}

/* No request of any disk's goes to the driver until upv_disks_release. */
void upv_disks_hold(struct upv_dev *dev)
{
	unsigned int i;

	mutex_lock(&dev->disks_lock);
	for (i = 0; i < dev->nr_disks; i++) {
		if (dev->disks[i]->quiesced)
			continue;
		dev->disks[i]->quiesced = true;
		blk_mq_quiesce_queue_nowait(dev->disks[i]->disk->queue);
	}
	if (dev->nr_disks)
		upv_wait_quiesced(&dev->tags, dev->disks[0]->disk->queue);
	mutex_unlock(&dev->disks_lock);
}

static void upv_disk_release(struct upv_disk *d)
{
	if (d->quiesced)
		blk_mq_unquiesce_queue(d->disk->queue);
	d->quiesced = false;
}

void upv_disks_release(struct upv_dev *dev)
{
	unsigned int i;

	mutex_lock(&dev->disks_lock);
	for (i = 0; i < dev->nr_disks; i++)
		upv_disk_release(dev->disks[i]);
	mutex_unlock(&dev->disks_lock);
}

/* From here on d is one of the disks. If they are held, its requests wait at the rings, which take none. */
static void upv_disk_show(struct upv_dev *dev, struct upv_disk *d)
{
	mutex_lock(&dev->disks_lock);
	dev->disks[dev->nr_disks++] = d;
	mutex_unlock(&dev->disks_lock);
}

/* The disk that came last is none any more. */
static void upv_disk_hide(struct upv_dev *dev)
{
	mutex_lock(&dev->disks_lock);
	upv_disk_release(dev->disks[--dev->nr_disks]);
	mutex_unlock(&dev->disks_lock);
}

static int upv_disk_add(struct upv_dev *dev, unsigned int file)
{
	struct queue_limits lim = {};
	struct upv_disk *d;
	unsigned int block, aligned;
	int ret;

	d = kzalloc(sizeof(*d), GFP_KERNEL);
	if (!d)
		return -ENOMEM;
	d->dev = dev;
	d->file = file;
	mutex_init(&d->rescan_lock);
	ret = upv_command(dev, URINGPV_CMD_FILE_INFO, file, &d->info, sizeof(d->info));
	if (ret || d->info.kind != URINGPV_FILE_DISK)
		goto free;
	block = max3(d->info.block_size, d->info.dio_offset_align, (u32)SECTOR_SIZE);
	if (block > PAGE_SIZE || !is_power_of_2(block)) {
		dev_err(&dev->pdev->dev, "file %u has logical blocks of %u bytes: not a disk that Linux can use\n", file, block);
		goto free;
	}
	d->id = ida_alloc(&upv_ids, GFP_KERNEL);
	if (d->id < 0) {
		ret = d->id;
		goto free;
	}
	lim.logical_block_size = block;
	lim.physical_block_size = max(block, 4096u);
	lim.max_hw_sectors = upv_params.max_sectors_kb << 1;
	/* One more than half a ring has SQEs for could be cut at a buffer's end. */
	lim.max_segments = clamp(dev->rings[0].sq_entries / 2 - 1, 1u, upv_params.max_segments);
	lim.max_segment_size = SZ_1G - PAGE_SIZE;
	if (dev->can_fallocate && !(d->info.flags & URINGPV_FILE_READONLY)) {
		lim.max_hw_discard_sectors = SZ_1G >> SECTOR_SHIFT;
		lim.max_write_zeroes_sectors = SZ_1G >> SECTOR_SHIFT;
		lim.discard_granularity = lim.physical_block_size;
	}
	aligned = max(d->info.dio_mem_align, (u32)SECTOR_SIZE);
	if (d->info.flags & URINGPV_FILE_DIRECT)
		aligned = max(aligned, block); /* each segment is an SQE, whose length is whole blocks then */
	d->disk = upv_alloc_disk(&dev->tags, &lim, aligned - 1, d);
	if (IS_ERR(d->disk)) {
		ret = PTR_ERR(d->disk);
		goto id;
	}
	snprintf(d->disk->disk_name, sizeof(d->disk->disk_name), "upv%d", d->id);
	d->disk->fops = &upv_fops;
	d->disk->private_data = d;
	set_capacity(d->disk, upv_sectors(d));
	set_disk_ro(d->disk, d->info.flags & URINGPV_FILE_READONLY);
	upv_disk_show(dev, d);
	ret = device_add_disk(&dev->pdev->dev, d->disk, upv_disk_groups);
	if (ret) {
		upv_disk_hide(dev);
		put_disk(d->disk);
		goto id;
	}
	dev_info(&dev->pdev->dev, "%s: %.*s, %llu bytes in blocks of %u%s\n", d->disk->disk_name,
		 (int)sizeof(d->info.name), d->info.name, d->info.size, block, get_disk_ro(d->disk) ? ", read-only" : "");
	return 0;
id:
	ida_free(&upv_ids, d->id);
free:
	kfree(d);
	return ret;
}

int upv_disks_add(struct upv_dev *dev)
{
	unsigned int i;
	int ret;

	dev->disks = kcalloc(dev->identity.num_files, sizeof(*dev->disks), GFP_KERNEL);
	if (!dev->disks)
		return -ENOMEM;
	for (i = 0; i < dev->identity.num_files; i++) {
		ret = upv_disk_add(dev, i);
		if (ret)
			dev_err(&dev->pdev->dev, "file %u: error %d\n", i, ret);
	}
	return 0;
}

void upv_disks_remove(struct upv_dev *dev)
{
	while (dev->nr_disks) {
		struct upv_disk *d = dev->disks[dev->nr_disks - 1];

		del_gendisk(d->disk); /* waits for its requests, which a reset may have to bring back */
		upv_disk_hide(dev);
		put_disk(d->disk);
		ida_free(&upv_ids, d->id);
		kfree(d);
	}
	kfree(dev->disks);
	dev->disks = NULL;
}
