/* SPDX-License-Identifier: Apache-2.0 */
/* Memory: what lies between the image and the end of the RAM that begins at 0,
 * handed out in one direction. RAM above the hole is not used: no test needs it. */
#include "lib.h"

extern char _end[];
static u64 mem_next, mem_end, mem_used; /* what is above mem_used is zero yet */

bool mem_dirty;

void mem_init(void)
{
	mem_next = ROUND_UP((u64)_end, 4096);
	mem_end = boot->ram[0].start + boot->ram[0].len;
	mem_used = mem_dirty ? mem_end : mem_next;
}

void *alloc(u64 size)
{
	u64 p = mem_next;

	size = ROUND_UP(size, 4096);
	if (size > mem_end - p)
		die("out of memory: %lu KiB wanted, %lu KiB left; give the guest more by --memory", size >> 10, (mem_end - p) >> 10);
	mem_next = p + size;
	if (p < mem_used)
		memset((void *)p, 0, MIN(mem_next, mem_used) - p);
	mem_used = MAX(mem_next, mem_used);
	return (void *)p;
}

u64 mem_mark(void)
{
	return mem_next;
}

void mem_release(u64 mark)
{
	mem_next = mark;
}
