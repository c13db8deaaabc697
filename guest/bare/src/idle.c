/* SPDX-License-Identifier: Apache-2.0 */
/* A guest that has done something once and then has nothing to do: what it costs is
 * measured from outside. It never ends by itself.
 *
 *   device=N
 */
#include "lib.h"
#include "upv.h"

#define PATIENCE_MS 60000

void idle(void)
{
	static struct upv dev;
	static struct upv_ring ring;
	struct upv_ring_options o = { .idle_ms = 1 };
	u8 *buf = alloc(4096);
	struct sqe *s;
	s32 res;
	u64 until;

	if (!upv_init(&dev, (u32)arg_u64("device", 0)))
		die("there is no uringpv device");
	o.vector1 = 1;
	res = upv_ring_setup(&dev, &ring, 0, &o);
	if (res)
		die("RING_SETUP: %d", res);
	s = uring_sqe(&ring.uring);
	s->opcode = IORING_OP_READ_FIXED;
	s->flags = IOSQE_FIXED_FILE;
	s->addr = upv_addr(&dev, buf);
	s->buf_index = upv_buffer(buf);
	s->len = 4096;
	uring_submit(&ring.uring);
	for (until = rdtsc() + tsc_of_ms(PATIENCE_MS); !uring_ready(&ring.uring); cpu_relax())
		if (rdtsc() > until)
			die("the read has not ended");
	if (uring_cqe(&ring.uring, 0)->res != 4096)
		die("the read has ended with %d", uring_cqe(&ring.uring, 0)->res);
	uring_advance(&ring.uring, 1);
	report_value("idle", 1);
	for (;;)
		rest();
}
