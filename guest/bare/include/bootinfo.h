/* SPDX-License-Identifier: Apache-2.0 */
/* What the monitor tells a freestanding guest: docs/memory-layout.md, Go twin in vmm/boot. */
#ifndef BOOTINFO_H
#define BOOTINFO_H

#include "types.h"

#define BOOTINFO_MAGIC 0x69425075u /* "uPBi" */
#define BOOTINFO_VERSION 1
#define BOOTINFO_MAX_RAM 8

struct bootinfo {
	u32 magic, version, size, nr_cpus;
	u64 tsc_khz;
	u64 cmdline;  /* GPA of a NUL-terminated string */
	u64 counters; /* GPA of struct counters */
	u32 nr_ram, resv;
	struct {
		u64 start, len;
	} ram[BOOTINFO_MAX_RAM];
};

/* Filled by the monitor on a write to PORT_COUNTERS. */
struct counters {
	u64 kvm_exits, irq_exits, irq_injections, vmm_syscalls;
	u64 host_ns; /* a steady clock of the host: differences mean something */
	u64 resv[3];
};

#define PORT_CONSOLE 0xe9  /* bytes: output */
#define PORT_EXIT 0xf4     /* u32: ends the run with that status */
#define PORT_COUNTERS 0xf8 /* u32: fills struct counters */

_Static_assert(sizeof(struct bootinfo) == 176, "sizeof bootinfo");
_Static_assert(sizeof(struct counters) == 64, "sizeof counters");

#endif
