/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the kernels that the driver builds for, 6.1 and later.
 * Nothing else in the driver looks at LINUX_VERSION_CODE.
 */
#ifndef UPV_COMPAT_H
#define UPV_COMPAT_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/version.h>
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 14, 0)
#include <linux/blk-mq-pci.h>
#endif

/* 6.14: every tag set merges. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 14, 0)
#define UPV_TAG_FLAGS BLK_MQ_F_SHOULD_MERGE
#else
#define UPV_TAG_FLAGS 0
#endif

/* Hardware queues of map belong to the CPUs that their vectors, from 0 on, go to. */
static inline void upv_map_queues(struct blk_mq_queue_map *map, struct pci_dev *pdev)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 14, 0)
	blk_mq_pci_map_queues(map, pdev, 0);
#else
	blk_mq_map_hw_queues(map, &pdev->dev, 0);
#endif
}

/* A disk with these limits, a volatile write cache and FUA. 6.9: limits are given at birth; 6.11: so are features. */
static inline struct gendisk *upv_alloc_disk(struct blk_mq_tag_set *set, struct queue_limits *lim,
					     unsigned int dma_alignment, void *data)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
	lim->dma_alignment = dma_alignment;
	lim->features = BLK_FEAT_WRITE_CACHE | BLK_FEAT_FUA;
	return blk_mq_alloc_disk(set, lim, data);
#else
	struct gendisk *disk;
	struct request_queue *q;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
	disk = blk_mq_alloc_disk(set, NULL, data);
#else
	disk = blk_mq_alloc_disk(set, data);
#endif
	if (IS_ERR(disk))
		return disk;
	q = disk->queue;
	blk_queue_logical_block_size(q, lim->logical_block_size);
	blk_queue_physical_block_size(q, lim->physical_block_size);
	blk_queue_max_hw_sectors(q, lim->max_hw_sectors);
	blk_queue_max_segments(q, lim->max_segments);
	blk_queue_max_segment_size(q, lim->max_segment_size);
	blk_queue_dma_alignment(q, dma_alignment);
	if (lim->max_hw_discard_sectors) {
		blk_queue_max_discard_sectors(q, lim->max_hw_discard_sectors);
		blk_queue_max_write_zeroes_sectors(q, lim->max_write_zeroes_sectors);
		q->limits.discard_granularity = lim->discard_granularity;
	}
	blk_queue_write_cache(q, true, true);
	blk_queue_flag_set(QUEUE_FLAG_NONROT, q);
	blk_queue_flag_clear(QUEUE_FLAG_ADD_RANDOM, q);
	return disk;
#endif
}

/* 6.3: a mapping's flags change under its lock. */
static inline void upv_vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

/* 6.8: an eventfd is signalled once. */
static inline void upv_eventfd_signal(struct eventfd_ctx *ctx)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	eventfd_signal(ctx);
#else
	eventfd_signal(ctx, 1);
#endif
}

/* 6.12: a file without an offset needs no function for that. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#define UPV_NO_LLSEEK NULL
#else
#define UPV_NO_LLSEEK no_llseek
#endif

/* Waits until nothing of set's queues, of which q is one, is in queue_rq. 6.2: one wait for a tag set. */
static inline void upv_wait_quiesced(struct blk_mq_tag_set *set, struct request_queue *q)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	blk_mq_wait_quiesce_done(set);
#else
	blk_mq_wait_quiesce_done(q);
#endif
}

#endif
