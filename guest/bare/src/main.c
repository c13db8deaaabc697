/* SPDX-License-Identifier: Apache-2.0 */
/* CPL 3 begins here: which program? */
#include "lib.h"

const struct bootinfo *boot;

static const struct program {
	const char *name;
	void (*run)(void);
} programs[] = {
	{ "selftest", selftest },
	{ "checksum", checksum },
	{ "bench", bench },
	{ "bench-virtio", bench_virtio },
	{ "conformance", conformance },
	{ "idle", idle },
};

/* Called by start.S. */
void user_main(const struct bootinfo *info);
void user_main(const struct bootinfo *info)
{
	char name[32];

	boot = info;
	if (info->magic != BOOTINFO_MAGIC || info->version != BOOTINFO_VERSION)
		die("boot information %x, version %u: not what this guest knows", info->magic, info->version);
	if (!info->tsc_khz)
		die("the monitor does not know the frequency of the time-stamp counter");
	mem_init();
	if (!arg("guest", name, sizeof(name)))
		die("no argument guest=NAME");
	for (u32 i = 0; i < ARRAY_SIZE(programs); i++) {
		if (same(name, programs[i].name)) {
			programs[i].run();
			finish(0);
		}
	}
	die("argument guest=%s: no such program", name);
}
