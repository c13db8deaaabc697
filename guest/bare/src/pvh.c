/* SPDX-License-Identifier: Apache-2.0 */
/* What another monitor tells a guest that it boots by PVH, as bootinfo. Runs at
 * CPL 0. Without uringpv's monitor there are no counters, and the frequency of the
 * time-stamp counter is an argument, tsc_khz=N. */
#include "bootinfo.h"
#include "lib.h"

#define HVM_START_MAGIC 0x336ec578u
#define HVM_MEMMAP_RAM 1

struct hvm_start_info {
	u32 magic, version, flags, nr_modules;
	u64 modlist, cmdline, rsdp, memmap;
	u32 memmap_entries, resv;
};

struct hvm_memmap_entry {
	u64 addr, size;
	u32 type, resv;
};

extern char _end[];

static struct bootinfo info;
static struct counters none;
static char cmdline[1024];

/* boot is set by user_main; arg() wants it earlier. */
struct bootinfo *pvh_bootinfo(const struct hvm_start_info *from);
struct bootinfo *pvh_bootinfo(const struct hvm_start_info *from)
{
	const struct hvm_memmap_entry *map = (const struct hvm_memmap_entry *)from->memmap;
	const char *line = (const char *)from->cmdline;

	for (u32 i = 0; line && i < sizeof(cmdline) - 1 && line[i]; i++)
		cmdline[i] = line[i];
	info = (struct bootinfo){
		.magic = from->magic == HVM_START_MAGIC ? BOOTINFO_MAGIC : 0,
		.version = BOOTINFO_VERSION,
		.size = sizeof(info),
		.nr_cpus = 1,
		.cmdline = (u64)cmdline,
		.counters = (u64)&none,
		.nr_ram = 1,
	};
	boot = &info;
	mem_dirty = true; /* firmware was here */
	info.tsc_khz = arg_u64("tsc_khz", 0);
	for (u32 i = 0; i < from->memmap_entries; i++) {
		if (map[i].type == HVM_MEMMAP_RAM && map[i].addr <= (u64)_end && map[i].addr + map[i].size > (u64)_end) {
			info.ram[0].start = map[i].addr;
			info.ram[0].len = map[i].size;
		}
	}
	return &info;
}
