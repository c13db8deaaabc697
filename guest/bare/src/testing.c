/* SPDX-License-Identifier: Apache-2.0 */
#include "testing.h"

void run_cases(struct test *t, const struct testcase *cases, u32 n)
{
	static const char *const words[] = { "pass", "fail", "skip" };
	char only[64] = "";
	u32 failed = 0;
	u64 irqs = 0;

	arg("case", only, sizeof(only));
	for (u32 i = 0; i < n; i++) {
		u64 mark = mem_mark();
		enum verdict v;
		s32 error;

		if (only[0] && (strlen(only) != strlen(cases[i].name) || memcmp(only, cases[i].name, strlen(only))))
			continue;
		t->deadline = rdtsc() + tsc_of_ms((cases[i].seconds ? cases[i].seconds : 60) * 1000ull * arg_u64("patience", 1));
		t->detail[0] = t->trace[0] = 0;
		if (t->begin)
			t->begin(t);
		v = cases[i].run(t);
		if (t->end)
			t->end(t);
		error = upv_reset(t->dev);
		if (!error && t->second)
			error = upv_reset(t->second);
		if (error && v != FAIL)
			v = fail(t, "RESET after the case: %d", error);
		if (v == FAIL)
			failed++;
		report_case(cases[i].name, words[v], t->detail);
		if (v == PASS && t->trace[0])
			print("value trace-%s %s\n", cases[i].name, t->trace);
		if (error) {
			print("error RESET: %d: memory may be in use, the other cases are left out\n", error);
			break;
		}
		mem_release(mark);
	}
	for (u32 v = VECTOR_DEVICE; v < VECTOR_TIMER; v++)
		irqs += interrupt_count[v];
	report_value("ios", t->ios);
	report_value("irqs", irqs);
	report_value("doorbells", t->dev->doorbells + (t->second ? t->second->doorbells : 0));
	finish(failed ? 1 : 0);
}
