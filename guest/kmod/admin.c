// SPDX-License-Identifier: GPL-2.0
/* Admin commands (section 3). */
#include <linux/io.h>
#include <linux/mm.h>

#include "driver.h"

/* What the device reads and writes, in guest RAM. */
struct upv_admin {
	struct uringpv_cmd cmd;
	u8 payload[UPV_PAYLOAD_MAX] __aligned(64);
};

/* The page of commands. The device must be idle: it gets the page's address. */
int upv_admin_init(struct upv_dev *dev)
{
	BUILD_BUG_ON(sizeof(struct upv_admin) > PAGE_SIZE);
	mutex_init(&dev->admin_lock);
	dev->admin = (struct upv_admin *)get_zeroed_page(GFP_KERNEL);
	return dev->admin ? 0 : -ENOMEM;
}

void upv_admin_exit(struct upv_dev *dev)
{
	free_page((unsigned long)dev->admin);
}

/*
 * Executes a command; payload, len bytes, goes in and comes back changed. The
 * command has been executed when the write to the doorbell is done. epoch is how
 * often the device was reset before.
 */
static int upv_execute(struct upv_dev *dev, u32 op, u32 index, void *payload, u32 len, unsigned int *epoch)
{
	struct upv_admin *a = dev->admin;
	int ret;

	if (WARN_ON_ONCE(len > sizeof(a->payload)))
		return -E2BIG;
	mutex_lock(&dev->admin_lock);
	if (op == URINGPV_CMD_RING_SETUP && READ_ONCE(dev->off)) {
		mutex_unlock(&dev->admin_lock);
		return -ESHUTDOWN;
	}
	memset(&a->cmd, 0, sizeof(a->cmd));
	a->cmd.op = op;
	a->cmd.index = index;
	a->cmd.result = -ENXIO; /* stays if nobody answers */
	if (len) {
		memcpy(a->payload, payload, len);
		a->cmd.addr = virt_to_phys(a->payload);
		a->cmd.len = len;
	}
	if (op == URINGPV_CMD_RING_SETUP)
		WRITE_ONCE(dev->lent, true);
	virt_wmb();
	writel(lower_32_bits(virt_to_phys(&a->cmd)), dev->regs + URINGPV_REG_ADMIN_ADDR);
	writel(upper_32_bits(virt_to_phys(&a->cmd)), dev->regs + URINGPV_REG_ADMIN_ADDR + 4);
	writel(1, dev->regs + URINGPV_REG_ADMIN_DOORBELL);
	virt_rmb();
	ret = (s32)readl(dev->regs + URINGPV_REG_ADMIN_ERROR);
	if (!ret)
		ret = READ_ONCE(a->cmd.result);
	if (!ret && len)
		memcpy(payload, a->payload, len);
	*epoch = dev->epoch;
	if (op == URINGPV_CMD_RESET) { /* with an error, too: rings that are not stuck have gone */
		WRITE_ONCE(dev->epoch, dev->epoch + 1);
		if (!ret)
			WRITE_ONCE(dev->lent, false);
	}
	mutex_unlock(&dev->admin_lock);
	if (ret == -EIO && op != URINGPV_CMD_RESET && upv_failed(dev))
		upv_watch(dev);
	/* A function that is gone reads as all ones. */
	return ret > 0 || ret < -MAX_ERRNO || ret == -1 ? -EIO : ret;
}

int upv_command(struct upv_dev *dev, u32 op, u32 index, void *payload, u32 len)
{
	unsigned int epoch;

	return upv_execute(dev, op, index, payload, len, &epoch);
}

/* RING_SETUP of a ring that is no more when the device's epoch is another. */
int upv_ring_setup(struct upv_dev *dev, u32 index, struct uringpv_ring_setup *setup, unsigned int *epoch)
{
	return upv_execute(dev, URINGPV_CMD_RING_SETUP, index, setup, sizeof(*setup), epoch);
}

/* The device has gone, and its rings with it. */
void upv_new_epoch(struct upv_dev *dev)
{
	mutex_lock(&dev->admin_lock);
	WRITE_ONCE(dev->epoch, dev->epoch + 1);
	mutex_unlock(&dev->admin_lock);
}
