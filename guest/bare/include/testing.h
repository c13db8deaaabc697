/* SPDX-License-Identifier: Apache-2.0 */
/* A program made of cases. */
#ifndef TESTING_H
#define TESTING_H

#include "lib.h"
#include "upv.h"

enum verdict { PASS, FAIL, SKIP };

/* What a case works with. The device was reset just before. */
struct test {
	struct upv *dev;
	struct upv *second; /* a second device, reset as the first is; NULL: none */
	struct uringpv_file file; /* file 0 */
	void (*begin)(struct test *t), (*end)(struct test *t); /* around each case; NULL: nothing */
	struct rand rand;
	u64 deadline; /* TSC */
	u64 ios;      /* completed, over all cases */
	char detail[240];
	char trace[400]; /* what conformance's cases leave: a value of the case's name, if not empty */
};

struct testcase {
	const char *name;
	enum verdict (*run)(struct test *t);
	u32 seconds; /* until it counts as hung; 0: 60 */
};

/* Run the cases and end the guest. */
void __attribute__((noreturn)) run_cases(struct test *t, const struct testcase *cases, u32 n);

/* Note a verdict's detail and return it. */
enum verdict verdict(struct test *t, enum verdict v, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define fail(t, ...) verdict(t, FAIL, __VA_ARGS__)
#define skip(t, ...) verdict(t, SKIP, __VA_ARGS__)
#define pass(t, ...) verdict(t, PASS, __VA_ARGS__)

/* End the case as failed unless cond holds. */
#define REQUIRE(t, cond, ...) \
	do { \
		if (!(cond)) \
			return fail(t, __VA_ARGS__); \
	} while (0)

/* End the case with the verdict of a part of it that did not pass. */
#define TRY(expr) \
	do { \
		enum verdict v_ = (expr); \
		if (v_ != PASS) \
			return v_; \
	} while (0)

static inline bool expired(const struct test *t)
{
	return rdtsc() > t->deadline;
}

#endif
