// SPDX-License-Identifier: GPL-2.0
/* The PCI function: its start, its end, and resets. */
#include <linux/cc_platform.h>
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/sched/mm.h>

#include "compat.h"
#include "driver.h"

struct upv_params upv_params = {
	.queue_depth = 128,
	.max_segments = 128,
	.max_sectors_kb = 4096,
	.capacity_poll_ms = 2000,
	.user_rings = UPV_MAX_USER_RINGS,
	.user_pool_mb = 64,
	.sqpoll = true,
};

module_param_named(queues, upv_params.queues, uint, 0444);
MODULE_PARM_DESC(queues, "hardware queues with interrupts (0: one for each CPU, as far as the device has rings)");
module_param_named(poll_queues, upv_params.poll_queues, uint, 0444);
MODULE_PARM_DESC(poll_queues, "hardware queues for polled I/O (default 0)");
module_param_named(queue_depth, upv_params.queue_depth, uint, 0444);
MODULE_PARM_DESC(queue_depth, "requests in flight for each queue, 1 to 1024 (default 128)");
module_param_named(max_segments, upv_params.max_segments, uint, 0444);
MODULE_PARM_DESC(max_segments, "runs of memory in one request, 1 to 1024 (default 128)");
module_param_named(max_sectors_kb, upv_params.max_sectors_kb, uint, 0444);
MODULE_PARM_DESC(max_sectors_kb, "KiB in one request, 4 to 65536 (default 4096)");
module_param_named(sqpoll, upv_params.sqpoll, bool, 0444);
MODULE_PARM_DESC(sqpoll, "have the host poll the rings (default Y)");
module_param_named(sqpoll_idle_ms, upv_params.sqpoll_idle_ms, uint, 0444);
MODULE_PARM_DESC(sqpoll_idle_ms, "milliseconds without work before the host stops polling (0: the host's default)");
module_param_named(capacity_poll_ms, upv_params.capacity_poll_ms, uint, 0444);
MODULE_PARM_DESC(capacity_poll_ms, "milliseconds between looks at the disks' sizes (0: never; default 2000)");
module_param_named(user_rings, upv_params.user_rings, uint, 0444);
MODULE_PARM_DESC(user_rings, "rings for programs, of those that the disks leave, 0 to 64 (default 64)");
module_param_named(user_pool_mb, upv_params.user_pool_mb, uint, 0644);
MODULE_PARM_DESC(user_pool_mb, "MiB of memory for one mapped ring of a program's, at most (default 64)");

/* How long a reset waits between tries while the host's I/O is stuck. */
#define UPV_STUCK_WAIT (5 * HZ)

/* How often to look whether the device has failed: it tells nobody, and who polls a ring asks for nothing. */
#define UPV_WATCH HZ

/* Memory may wait for disks, and disks for a reset. */
static struct workqueue_struct *upv_reset_wq;

static bool upv_has(const u8 *opcodes, unsigned int op)
{
	return opcodes[op / 8] & 1 << op % 8;
}

/* Stops every ring: RESET, then what was in them is queued again. With an error rings are stuck on the host. */
static int upv_rings_stop(struct upv_dev *dev)
{
	int ret = upv_command(dev, URINGPV_CMD_RESET, 0, NULL, 0);
	unsigned int i;

	for (i = 0; !ret && i < dev->nr_rings; i++)
		upv_ring_stop(&dev->rings[i], BLK_STS_OK);
	upv_user_reset(dev, ret);
	return ret;
}

static int upv_rings_start(struct upv_dev *dev)
{
	unsigned int i;
	int ret;

	for (i = 0; i < dev->nr_rings; i++) {
		ret = upv_ring_start(&dev->rings[i]);
		if (ret) {
			dev_err(&dev->pdev->dev, "ring %u: RING_SETUP: error %d\n", i, ret);
			return ret;
		}
	}
	return 0;
}

/* Has the function gone away, or does it no longer answer? */
bool upv_gone(struct upv_dev *dev)
{
	return readl(dev->regs + URINGPV_REG_MAGIC) != URINGPV_MAGIC;
}

/* Has it stopped, for a fault of the host's? */
bool upv_failed(struct upv_dev *dev)
{
	return readl(dev->regs + URINGPV_REG_STATUS) & URINGPV_STATUS_FAILED && !upv_gone(dev);
}

/* A RESET has failed, and not all memory is this kernel's again. */
static void upv_say_stuck(struct upv_dev *dev, int error)
{
	if (error == -ETIMEDOUT)
		dev_warn(&dev->pdev->dev, "I/O is stuck on the host; waiting\n");
	else
		dev_warn(&dev->pdev->dev, "the host cannot end I/O, error %d; waiting\n", error);
}

/* No request will ever be served again: all fail. */
static void upv_die(struct upv_dev *dev, int error)
{
	unsigned int i;

	dev_err(&dev->pdev->dev, "the device has failed, error %d: its disks are offline\n", error);
	WRITE_ONCE(dev->dead, true);
	for (i = 0; i < dev->nr_rings; i++)
		upv_ring_stop(&dev->rings[i], BLK_STS_IOERR);
	upv_new_epoch(dev);
	upv_user_reset(dev, false);
}

/* No request goes into the rings from upv_hold to upv_release. Both under reset_lock. */
static void upv_hold(struct upv_dev *dev)
{
	WRITE_ONCE(dev->held, true);
	upv_disks_hold(dev);
}

static void upv_release(struct upv_dev *dev)
{
	WRITE_ONCE(dev->held, false);
	upv_disks_release(dev);
}

/* For how long to try to make the rings anew, UPV_STUCK_WAIT apart: the host may be short of something. */
#define UPV_STARTS (60 * HZ)

/*
 * New rings after a RESET, and the end of upv_hold. If there can be none yet, another
 * reset comes soon. With an error there will be none any more.
 */
static int upv_go_on(struct upv_dev *dev)
{
	int ret = upv_rings_start(dev);

	if (ret && !dev->since)
		dev->since = jiffies ?: 1;
	if (ret && !time_after(jiffies, dev->since + UPV_STARTS) && !upv_gone(dev)) {
		upv_reset_soon(dev, UPV_STUCK_WAIT);
		return 0;
	}
	dev->since = 0;
	if (ret)
		upv_die(dev, ret);
	else
		dev_info(&dev->pdev->dev, "reset; requests go on\n");
	upv_release(dev);
	return ret;
}

/*
 * RESET and new rings; requests in flight are served again. While the host's I/O
 * is stuck, requests wait: their memory is still the host's. With reset_lock held.
 */
static void upv_reset(struct upv_dev *dev)
{
	int ret;

	if (dev->stopped || dev->dead)
		return;
	upv_hold(dev);
	dev->resets++;
	ret = upv_gone(dev) ? -ENODEV : upv_rings_stop(dev);
	if (ret && upv_gone(dev)) {
		upv_die(dev, -ENODEV);
		upv_release(dev);
	} else if (ret) {
		upv_say_stuck(dev, ret);
		upv_reset_soon(dev, UPV_STUCK_WAIT);
	} else {
		upv_go_on(dev);
	}
}

static void upv_reset_work(struct work_struct *work)
{
	struct upv_dev *dev = container_of(work, struct upv_dev, reset_work.work);
	unsigned int flags = memalloc_noio_save();

	mutex_lock(&dev->reset_lock);
	upv_reset(dev);
	mutex_unlock(&dev->reset_lock);
	memalloc_noio_restore(flags);
}

void upv_reset_soon(struct upv_dev *dev, unsigned long delay)
{
	queue_delayed_work(upv_reset_wq, &dev->reset_work, delay);
}

/*
 * A device that has failed on the host does nothing until it is reset, which may
 * mend it. With reset_lock held it is known not to have been reset meanwhile.
 */
static void upv_watch_work(struct work_struct *work)
{
	struct upv_dev *dev = container_of(work, struct upv_dev, watch_work.work);
	unsigned int flags = memalloc_noio_save();

	mutex_lock(&dev->reset_lock);
	if (!dev->stopped && !dev->dead) {
		/* One that is held has a reset before it already. */
		if (!dev->held && upv_failed(dev)) {
			dev_warn_ratelimited(&dev->pdev->dev, "the device has failed on the host, resetting\n");
			upv_reset(dev);
		}
		queue_delayed_work(upv_reset_wq, &dev->watch_work, UPV_WATCH);
	}
	mutex_unlock(&dev->reset_lock);
	memalloc_noio_restore(flags);
}

/* Looks whether the device has failed, now and from then on. */
void upv_watch(struct upv_dev *dev)
{
	mod_delayed_work(upv_reset_wq, &dev->watch_work, 0);
}

/* Looks at the disks' sizes after ms, and from then on as often as users chose. */
static void upv_capacity_soon(struct upv_dev *dev, unsigned int ms)
{
	if (upv_params.capacity_poll_ms)
		queue_delayed_work(system_freezable_wq, &dev->capacity_work, msecs_to_jiffies(ms));
}

static void upv_capacity_work(struct work_struct *work)
{
	struct upv_dev *dev = container_of(work, struct upv_dev, capacity_work.work);
	unsigned int i;

	for (i = 0; i < dev->nr_disks; i++)
		upv_disk_rescan(dev->disks[i]);
	upv_capacity_soon(dev, upv_params.capacity_poll_ms);
}

/* The device as it is: version, limits, buffer table. */
static int upv_identify(struct upv_dev *dev)
{
	struct uringpv_identity *id = &dev->identity;
	u32 version = readl(dev->regs + URINGPV_REG_VERSION);
	unsigned int i;
	int ret;

	if (upv_gone(dev) || version >> 16 != URINGPV_VERSION_MAJOR) {
		dev_err(&dev->pdev->dev, "speaks version %u.%u, this driver knows %u\n", version >> 16, version & 0xffff,
			URINGPV_VERSION_MAJOR);
		return -ENODEV;
	}
	for (i = 0; !(readl(dev->regs + URINGPV_REG_STATUS) & URINGPV_STATUS_READY); i++) {
		if (i == 100)
			return -ENXIO;
		msleep(10);
	}
	dev->addr_base = readl(dev->regs + URINGPV_REG_ADDR_BASE) |
			 (u64)readl(dev->regs + URINGPV_REG_ADDR_BASE + 4) << 32;
	ret = upv_command(dev, URINGPV_CMD_RESET, 0, NULL, 0);
	if (!ret)
		ret = upv_command(dev, URINGPV_CMD_IDENTIFY, 0, id, sizeof(*id));
	if (ret)
		return ret;
	if (!id->num_rings || !id->num_buffers || id->max_sq_entries < 4)
		return -EPROTO;
	dev->buffers = kvcalloc(id->num_buffers, sizeof(*dev->buffers), GFP_KERNEL);
	if (!dev->buffers)
		return -ENOMEM;
	for (i = 0; i < id->num_buffers; i++) {
		ret = upv_command(dev, URINGPV_CMD_BUFFER_INFO, i, &dev->buffers[i], sizeof(dev->buffers[i]));
		if (ret)
			return ret;
	}
	dev->nr_buffers = id->num_buffers;
	return 0;
}

/* Can every disk be polled by the host? */
static bool upv_host_polls(struct upv_dev *dev)
{
	unsigned int i;

	for (i = 0; i < dev->identity.num_files; i++) {
		struct uringpv_file info = {};

		if (upv_command(dev, URINGPV_CMD_FILE_INFO, i, &info, sizeof(info)) || !(info.flags & URINGPV_FILE_POLL))
			return false;
	}
	return i && dev->identity.setup_flags & IORING_SETUP_IOPOLL;
}

static bool upv_has_disks(struct upv_dev *dev)
{
	unsigned int i;

	for (i = 0; i < dev->identity.num_files; i++) {
		struct uringpv_file info = {};

		if (!upv_command(dev, URINGPV_CMD_FILE_INFO, i, &info, sizeof(info)) && info.kind == URINGPV_FILE_DISK)
			return true;
	}
	return false;
}

/* Allocates vectors: one for each of n queues, one for the control ring, one for programs' rings if there may be some. */
static int upv_vectors(struct upv_dev *dev, int n, bool programs)
{
	struct irq_affinity affinity = { .post_vectors = 1 + programs };
	int ret;

	ret = pci_alloc_irq_vectors_affinity(dev->pdev, 2 + programs, n + 1 + programs, PCI_IRQ_MSIX | PCI_IRQ_AFFINITY,
					     &affinity);
	return ret > 0 ? ret - 1 - programs : ret;
}

/* Shares the device's rings out, and allocates their vectors. Programs have what the disks do not want. */
static int upv_plan(struct upv_dev *dev)
{
	unsigned int sqpoll = upv_params.sqpoll ? IORING_SETUP_SQPOLL : 0;
	unsigned int have = dev->identity.num_rings, polled, programs = 0, i;
	bool disks = upv_has_disks(dev);
	int n = 0;

	polled = have > 2 ? min(upv_params.poll_queues, have - 2) : 0;
	if (disks && have > 1) {
		unsigned int queues = min(upv_params.queues ?: num_possible_cpus(), have - 1 - polled);

		programs = min3(upv_params.user_rings, have - queues - polled - 1, (unsigned int)UPV_MAX_USER_RINGS);
		n = programs ? upv_vectors(dev, queues, true) : 0;
		if (n <= 0) {
			programs = 0;
			n = upv_vectors(dev, queues, false);
		}
	} else if (!disks) {
		programs = min3(upv_params.user_rings, have, (unsigned int)UPV_MAX_USER_RINGS);
	}
	if (n <= 0) {
		n = pci_alloc_irq_vectors(dev->pdev, 1, 1, PCI_IRQ_MSIX);
		if (n < 0)
			return n;
		n = 0;
	}
	dev->nr_user_rings = programs;
	if (!disks) {
		dev->nr_vectors = 1;
		return 0;
	}
	/* n is 0 if the control ring is the only one. */
	dev->nr_vectors = n ? n + 1 + !!programs : 1;
	dev->user_vector = n + 1;
	dev->nr_queues = n ?: 1;
	dev->nr_polled = n ? polled : 0;
	dev->nr_rings = n ? dev->nr_queues + dev->nr_polled + 1 : 1;
	dev->rings = kcalloc(dev->nr_rings, sizeof(*dev->rings), GFP_KERNEL);
	if (!dev->rings)
		return -ENOMEM;
	dev->control = &dev->rings[dev->nr_rings - 1];
	dev->can_fallocate = upv_has(dev->identity.opcodes, IORING_OP_FALLOCATE) ||
			     (n && upv_has(dev->identity.opcodes_extra, IORING_OP_FALLOCATE));
	for (i = 0; i < dev->nr_rings; i++) {
		struct upv_ring *ring = &dev->rings[i];

		ring->dev = dev;
		ring->index = i;
		ring->doorbell = dev->doorbells + i * URINGPV_DOORBELL_STRIDE;
		ring->vector = min_t(int, i, dev->nr_queues);
		ring->setup = sqpoll;
		if (i >= dev->nr_queues && ring != dev->control) {
			ring->vector = -1;
			if (sqpoll && upv_host_polls(dev))
				ring->setup |= IORING_SETUP_IOPOLL;
		} else if (ring == dev->control && n) {
			ring->setup = 0; /* seldom used, not worth a thread */
		}
	}
	return 0;
}

static void upv_free_irqs(struct upv_dev *dev, unsigned int rings)
{
	while (rings--)
		if (dev->rings[rings].vector >= 0)
			pci_free_irq(dev->pdev, dev->rings[rings].vector, &dev->rings[rings]);
}

/* Memory and interrupts of the rings. */
static int upv_rings_init(struct upv_dev *dev)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < dev->nr_rings; i++) {
		ret = upv_ring_init(&dev->rings[i]);
		if (ret)
			return ret;
	}
	for (i = 0; i < dev->nr_rings; i++) {
		struct upv_ring *ring = &dev->rings[i];

		if (ring->vector < 0)
			continue;
		ret = pci_request_irq(dev->pdev, ring->vector, upv_ring_interrupt, NULL, ring, UPV_NAME "-%s-%u",
				      pci_name(dev->pdev), i);
		if (ret) {
			upv_free_irqs(dev, i);
			return ret;
		}
	}
	dev->have_irqs = true;
	return 0;
}

/* No more resets. */
static void upv_stop(struct upv_dev *dev)
{
	mutex_lock(&dev->reset_lock);
	dev->stopped = true;
	mutex_unlock(&dev->reset_lock);
}

/* Ends all that probe began, as far as it came. */
static void upv_free(struct upv_dev *dev)
{
	unsigned int i;
	int ret;

	if (dev->tags.tags)
		blk_mq_free_tag_set(&dev->tags);
	while (READ_ONCE(dev->lent) && !upv_gone(dev)) {
		ret = upv_command(dev, URINGPV_CMD_RESET, 0, NULL, 0);
		if (!ret)
			break;
		/* Its memory must not be given away. */
		upv_say_stuck(dev, ret);
		msleep(1000);
	}
	upv_user_remove(dev);
	/* Nobody else asks for one any more, and what is queued finds stopped set. */
	cancel_delayed_work_sync(&dev->watch_work);
	cancel_delayed_work_sync(&dev->reset_work);
	if (dev->have_irqs)
		upv_free_irqs(dev, dev->nr_rings);
	for (i = 0; dev->rings && i < dev->nr_rings; i++)
		upv_ring_exit(&dev->rings[i]);
	kfree(dev->rings);
	kvfree(dev->buffers);
	upv_admin_exit(dev);
	if (dev->nr_vectors > 0)
		pci_free_irq_vectors(dev->pdev);
	if (dev->doorbells)
		pci_iounmap(dev->pdev, dev->doorbells);
	if (dev->regs)
		pci_iounmap(dev->pdev, dev->regs);
	pci_clear_master(dev->pdev);
	pci_release_mem_regions(dev->pdev);
	pci_disable_device(dev->pdev);
	kfree(dev);
}

static int upv_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct upv_dev *dev;
	int ret;

	if (cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT)) {
		dev_err(&pdev->dev, "this guest's memory is encrypted: the host could not read what is in its rings\n");
		return -EOPNOTSUPP;
	}
	ret = pci_enable_device_mem(pdev);
	if (ret)
		return ret;
	ret = pci_request_mem_regions(pdev, UPV_NAME);
	if (ret)
		goto disable;
	dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	if (!dev) {
		ret = -ENOMEM;
		goto regions;
	}
	dev->pdev = pdev;
	mutex_init(&dev->reset_lock);
	mutex_init(&dev->disks_lock);
	dev->stopped = true; /* until it has its rings */
	INIT_DELAYED_WORK(&dev->reset_work, upv_reset_work);
	INIT_DELAYED_WORK(&dev->watch_work, upv_watch_work);
	INIT_DELAYED_WORK(&dev->capacity_work, upv_capacity_work);
	pci_set_drvdata(pdev, dev);
	pci_set_master(pdev);

	ret = -ENOMEM;
	dev->regs = pci_iomap(pdev, URINGPV_BAR_CONTROL, 0);
	dev->doorbells = pci_iomap(pdev, URINGPV_BAR_DOORBELL, 0);
	if (!dev->regs || !dev->doorbells)
		goto free;
	ret = upv_admin_init(dev);
	if (!ret)
		ret = upv_identify(dev);
	if (!ret)
		ret = upv_plan(dev);
	if (!ret)
		ret = upv_rings_init(dev);
	if (!ret)
		ret = upv_rings_start(dev);
	if (!ret && dev->nr_rings)
		ret = upv_tags_init(dev);
	if (ret)
		goto free;
	dev_info(&pdev->dev, "%.*s: %u queues, %u polled%s, %u requests each\n", (int)sizeof(dev->identity.name),
		 dev->identity.name, dev->nr_queues, dev->nr_polled,
		 dev->nr_polled && dev->rings[dev->nr_queues].setup & IORING_SETUP_IOPOLL ? " by the host too" : "",
		 upv_params.queue_depth);
	mutex_lock(&dev->reset_lock);
	dev->stopped = false;
	mutex_unlock(&dev->reset_lock);
	upv_watch(dev);
	ret = dev->nr_rings ? upv_disks_add(dev) : 0;
	if (ret)
		goto stop;
	ret = upv_user_add(dev);
	if (ret) {
		dev_err(&pdev->dev, "programs cannot use it, error %d\n", ret);
		upv_user_close(dev);
	}
	upv_debugfs_add(dev);
	upv_capacity_soon(dev, upv_params.capacity_poll_ms);
	return 0;
stop:
	upv_stop(dev);
free:
	dev_err(&pdev->dev, "cannot be used, error %d\n", ret);
	upv_free(dev);
	return ret;
regions:
	pci_release_mem_regions(pdev);
disable:
	pci_disable_device(pdev);
	return ret;
}

static void upv_remove(struct pci_dev *pdev)
{
	struct upv_dev *dev = pci_get_drvdata(pdev);

	debugfs_remove_recursive(dev->debugfs);
	cancel_delayed_work_sync(&dev->capacity_work);
	upv_user_close(dev);
	if (upv_gone(dev)) {
		mutex_lock(&dev->reset_lock);
		upv_hold(dev);
		upv_die(dev, -ENODEV);
		upv_release(dev);
		mutex_unlock(&dev->reset_lock);
	}
	upv_disks_remove(dev); /* I/O goes on until here, and resets with it */
	upv_stop(dev);
	upv_free(dev);
}

/* Stops the rings for a while: the host touches no memory of this kernel any more. */
static int upv_suspend(struct device *device)
{
	struct upv_dev *dev = dev_get_drvdata(device);
	int ret;

	cancel_delayed_work_sync(&dev->capacity_work);
	mutex_lock(&dev->reset_lock);
	upv_hold(dev);
	ret = dev->dead ? 0 : upv_rings_stop(dev);
	if (!ret)
		dev->stopped = true;
	else
		upv_reset_soon(dev, 0); /* rings may have gone: I/O is held until there are new ones */
	mutex_unlock(&dev->reset_lock);
	if (ret)
		upv_capacity_soon(dev, 0);
	return ret;
}

static int __maybe_unused upv_resume(struct device *device)
{
	struct upv_dev *dev = dev_get_drvdata(device);
	int ret = 0;

	mutex_lock(&dev->reset_lock);
	dev->stopped = false;
	if (dev->dead)
		upv_release(dev);
	else
		ret = upv_go_on(dev);
	mutex_unlock(&dev->reset_lock);
	if (!ret) {
		upv_capacity_soon(dev, 0);
		upv_watch(dev);
	}
	return ret;
}

/* Stops the rings for good: the memory may be another kernel's next. What is stuck on the host is left to it. */
static void upv_shutdown(struct pci_dev *pdev)
{
	struct upv_dev *dev = pci_get_drvdata(pdev);
	int ret;

	cancel_delayed_work_sync(&dev->capacity_work);
	mutex_lock(&dev->reset_lock);
	upv_hold(dev);
	WRITE_ONCE(dev->off, true); /* before RESET: a program's ring goes with it, or is refused */
	ret = upv_rings_stop(dev);
	dev->stopped = true;
	mutex_unlock(&dev->reset_lock);
	if (ret)
		dev_warn(&pdev->dev, "the rings could not be stopped, error %d\n", ret);
}

static DEFINE_SIMPLE_DEV_PM_OPS(upv_pm, upv_suspend, upv_resume);

static const struct pci_device_id upv_pci_ids[] = {
	{ PCI_DEVICE(URINGPV_PCI_VENDOR, URINGPV_PCI_DEVICE) },
	{}
};
MODULE_DEVICE_TABLE(pci, upv_pci_ids);

static struct pci_driver upv_driver = {
	.name = UPV_NAME,
	.id_table = upv_pci_ids,
	.probe = upv_probe,
	.remove = upv_remove,
	.shutdown = upv_shutdown,
	.dev_groups = upv_dev_groups,
	.driver.pm = pm_sleep_ptr(&upv_pm),
};

static int __init upv_init(void)
{
	struct upv_params *p = &upv_params;
	int ret;

	if (p->queue_depth < 1 || p->queue_depth > 1024 || p->max_segments < 1 || p->max_segments > 1024 ||
	    p->max_sectors_kb < 4 || p->max_sectors_kb > 65536) {
		pr_err(UPV_NAME ": queue_depth=%u max_segments=%u max_sectors_kb=%u: must be 1 to 1024, 1 to 1024, 4 to 65536\n",
		       p->queue_depth, p->max_segments, p->max_sectors_kb);
		return -EINVAL;
	}
	upv_reset_wq = alloc_workqueue(UPV_NAME "-reset", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!upv_reset_wq)
		return -ENOMEM;
	ret = upv_user_init();
	if (ret)
		goto wq;
	ret = pci_register_driver(&upv_driver);
	if (!ret)
		return 0;
	upv_user_exit();
wq:
	destroy_workqueue(upv_reset_wq);
	return ret;
}

static void __exit upv_exit(void)
{
	pci_unregister_driver(&upv_driver);
	upv_user_exit();
	destroy_workqueue(upv_reset_wq);
}

module_init(upv_init);
module_exit(upv_exit);
MODULE_DESCRIPTION("uringpv: disks whose I/O runs on the host's io_uring");
MODULE_LICENSE("GPL");
MODULE_VERSION("1.1");
