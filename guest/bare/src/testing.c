/* SPDX-License-Identifier: Apache-2.0 */
#include "testing.h"

enum verdict verdict(struct test *t, enum verdict v, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	format(t->detail, sizeof(t->detail), fmt, args);
	va_end(args);
	return v;
}

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
		t->detail[0] = 0;
		v = cases[i].run(t);
		error = upv_reset(t->dev);
		if (error && v != FAIL)
			v = fail(t, "RESET after the case: %d", error);
		if (v == FAIL)
			failed++;
		report_case(cases[i].name, words[v], t->detail);
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
	report_value("doorbells", t->dev->doorbells);
	finish(failed ? 1 : 0);
}
