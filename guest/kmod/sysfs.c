// SPDX-License-Identifier: GPL-2.0
/* What users see: attributes of the disks and of the function, and debugfs. */
#include <linux/seq_file.h>
#include <linux/sysfs.h>

#include "driver.h"

/* /sys/block/upvN/... */

static struct upv_disk *upv_disk_of(struct device *device)
{
	return dev_to_disk(device)->private_data;
}

static ssize_t serial_show(struct device *device, struct device_attribute *attr, char *buf)
{
	struct upv_disk *d = upv_disk_of(device);

	return sysfs_emit(buf, "%.*s\n", (int)sizeof(d->info.serial), d->info.serial);
}
static DEVICE_ATTR_RO(serial);

/* The name by which the host knows the disk. */
static ssize_t host_name_show(struct device *device, struct device_attribute *attr, char *buf)
{
	struct upv_disk *d = upv_disk_of(device);

	return sysfs_emit(buf, "%.*s\n", (int)sizeof(d->info.name), d->info.name);
}
static DEVICE_ATTR_RO(host_name);

static ssize_t rescan_store(struct device *device, struct device_attribute *attr, const char *buf, size_t len)
{
	upv_disk_rescan(upv_disk_of(device));
	return len;
}
static DEVICE_ATTR_WO(rescan);

static struct attribute *upv_disk_attrs[] = {
	&dev_attr_serial.attr,
	&dev_attr_host_name.attr,
	&dev_attr_rescan.attr,
	NULL,
};

static const struct attribute_group upv_disk_group = { .attrs = upv_disk_attrs };
const struct attribute_group *upv_disk_groups[] = { &upv_disk_group, NULL };

/* /sys/bus/pci/drivers/uringpv/<function>/uringpv/... */

static ssize_t backend_show(struct device *device, struct device_attribute *attr, char *buf)
{
	static const char * const names[] = { "unknown", "relay", "passthrough", "isolated" };
	struct upv_dev *dev = dev_get_drvdata(device);
	u32 i = dev->identity.backend;

	return sysfs_emit(buf, "%s\n", names[i < ARRAY_SIZE(names) ? i : 0]);
}
static DEVICE_ATTR_RO(backend);

static ssize_t version_show(struct device *device, struct device_attribute *attr, char *buf)
{
	struct upv_dev *dev = dev_get_drvdata(device);

	return sysfs_emit(buf, "%u.%u\n", dev->identity.version >> 16, dev->identity.version & 0xffff);
}
static DEVICE_ATTR_RO(version);

static ssize_t queues_show(struct device *device, struct device_attribute *attr, char *buf)
{
	struct upv_dev *dev = dev_get_drvdata(device);

	return sysfs_emit(buf, "%u\n", dev->nr_queues);
}
static DEVICE_ATTR_RO(queues);

static ssize_t poll_queues_show(struct device *device, struct device_attribute *attr, char *buf)
{
	struct upv_dev *dev = dev_get_drvdata(device);

	return sysfs_emit(buf, "%u\n", dev->nr_polled);
}
static DEVICE_ATTR_RO(poll_queues);

static ssize_t resets_show(struct device *device, struct device_attribute *attr, char *buf)
{
	struct upv_dev *dev = dev_get_drvdata(device);

	return sysfs_emit(buf, "%u\n", READ_ONCE(dev->resets));
}
static DEVICE_ATTR_RO(resets);

static ssize_t reset_store(struct device *device, struct device_attribute *attr, const char *buf, size_t len)
{
	struct upv_dev *dev = dev_get_drvdata(device);

	upv_reset_soon(dev, 0);
	flush_delayed_work(&dev->reset_work);
	if (READ_ONCE(dev->dead))
		return -EIO;
	return READ_ONCE(dev->held) ? -EAGAIN : len; /* -EAGAIN: it goes on by itself */
}
static DEVICE_ATTR_WO(reset);

static struct attribute *upv_dev_attrs[] = {
	&dev_attr_backend.attr,
	&dev_attr_version.attr,
	&dev_attr_queues.attr,
	&dev_attr_poll_queues.attr,
	&dev_attr_resets.attr,
	&dev_attr_reset.attr,
	NULL,
};

static const struct attribute_group upv_dev_group = { .name = UPV_NAME, .attrs = upv_dev_attrs };
const struct attribute_group *upv_dev_groups[] = { &upv_dev_group, NULL };

/*
 * /sys/kernel/debug/uringpv-<function>/rings: the driver's counters, then the device's,
 * "-" where it keeps none. /programs: what programs have.
 */

static void upv_count(struct seq_file *s, u64 valid, u64 value)
{
	if (valid)
		seq_printf(s, " %llu", value);
	else
		seq_puts(s, " -");
}

static int rings_show(struct seq_file *s, void *unused)
{
	struct upv_dev *dev = s->private;
	unsigned int i;

	seq_puts(s, "ring vector flags submitted completed resubmitted doorbells interrupts"
		    " host_sqes host_cqes host_errors host_doorbells host_interrupts\n");
	for (i = 0; i < dev->nr_rings; i++) {
		struct upv_ring *r = &dev->rings[i];
		struct uringpv_ring_stats st = {};

		upv_command(dev, URINGPV_CMD_RING_STATS, r->index, &st, sizeof(st));
		seq_printf(s, "%u %d %#x %llu %llu %llu %llu %llu", r->index, r->vector, r->setup, READ_ONCE(r->submitted),
			   READ_ONCE(r->completed), READ_ONCE(r->resubmitted), READ_ONCE(r->doorbells),
			   READ_ONCE(r->interrupts));
		upv_count(s, st.valid & URINGPV_STAT_SQES, st.sqes);
		upv_count(s, st.valid & URINGPV_STAT_CQES, st.cqes);
		upv_count(s, st.valid & URINGPV_STAT_ERRORS, st.errors);
		upv_count(s, st.valid & URINGPV_STAT_DOORBELLS, st.doorbells);
		upv_count(s, st.valid & URINGPV_STAT_INTERRUPTS, st.interrupts);
		seq_putc(s, '\n');
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(rings);

static int programs_show(struct seq_file *s, void *unused)
{
	upv_user_show(s, s->private);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(programs);

void upv_debugfs_add(struct upv_dev *dev)
{
	char name[32];

	snprintf(name, sizeof(name), UPV_NAME "-%s", pci_name(dev->pdev));
	dev->debugfs = debugfs_create_dir(name, NULL);
	debugfs_create_file("rings", 0444, dev->debugfs, dev, &rings_fops);
	debugfs_create_file("programs", 0444, dev->debugfs, dev, &programs_fops);
}
