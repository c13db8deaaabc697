/* SPDX-License-Identifier: Apache-2.0 */
/* The command line. */
#include "lib.h"

bool arg(const char *key, char *value, size_t size)
{
	const char *p = (const char *)boot->cmdline;
	size_t k = strlen(key);

	while (*p) {
		size_t n = 0;

		while (*p == ' ')
			p++;
		while (p[n] && p[n] != ' ')
			n++;
		if (n > k && p[k] == '=' && !memcmp(p, key, k)) {
			n -= k + 1;
			if (n >= size)
				die("argument %s: longer than %lu bytes", key, size - 1);
			memcpy(value, p + k + 1, n);
			value[n] = 0;
			return true;
		}
		p += n;
	}
	return false;
}
