/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SHA256_H
#define SHA256_H

#include "types.h"

/* FIPS 180-4. */
struct sha256 {
	u32 state[8];
	u64 length; /* bytes so far */
	u8 block[64];
};

void sha256_init(struct sha256 *s);
void sha256_update(struct sha256 *s, const void *p, u64 n);
void sha256_final(struct sha256 *s, u8 digest[32]);

#endif
