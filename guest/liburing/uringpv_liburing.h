/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The port of liburing's system-call layer to /dev/uringpvN: liburing, and what
 * is to run on it, are compiled with this header before all others,
 *
 *     ./configure --use-libc
 *     make CFLAGS="-O2 -include .../uringpv_liburing.h -I<directory of uringpv_user.h>"
 *
 * so that its calls of syscall(2) for io_uring become ioctls of the driver's. The
 * offsets for mmap(2) are io_uring's own. The node is /dev/uringpv0, or what the
 * environment's URINGPV names.
 */
#ifndef URINGPV_LIBURING_H
#define URINGPV_LIBURING_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Not uringpv_user.h itself: it would bring the system's linux/io_uring.h before liburing's own. */
#define URINGPV_LIBURING_PARAMS 120 /* bytes of struct io_uring_params */

struct uringpv_liburing_setup {
	unsigned int entries, flags;
	unsigned char params[URINGPV_LIBURING_PARAMS];
	unsigned long long pool_len, files;
	unsigned int nr_files, nr_chunks;
	unsigned long long resv[4];
} __attribute__((aligned(8)));

struct uringpv_liburing_enter {
	unsigned int to_submit, min_complete, flags, resv;
	unsigned long long arg, argsz;
};

struct uringpv_liburing_register {
	unsigned int opcode, nr_args;
	unsigned long long arg;
};

#define URINGPV_LIBURING_SETUP _IOWR(0xb5, 1, struct uringpv_liburing_setup)
#define URINGPV_LIBURING_ENTER _IOW(0xb5, 2, struct uringpv_liburing_enter)
#define URINGPV_LIBURING_REGISTER _IOW(0xb5, 3, struct uringpv_liburing_register)

static inline long uringpv_setup(unsigned int entries, void *params)
{
	struct uringpv_liburing_setup s;
	const char *node = getenv("URINGPV");
	int fd, err;

	if (!params) {
		errno = EFAULT;
		return -1;
	}
	fd = open(node ? node : "/dev/uringpv0", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -1;
	memset(&s, 0, sizeof(s));
	s.entries = entries;
	memcpy(s.params, params, sizeof(s.params));
	if (ioctl(fd, URINGPV_LIBURING_SETUP, &s)) {
		err = errno;
		close(fd);
		errno = err;
		return -1;
	}
	memcpy(params, s.params, sizeof(s.params));
	return fd;
}

static inline long uringpv_enter(int fd, unsigned int to_submit, unsigned int min_complete, unsigned int flags,
				 const void *arg, unsigned long argsz)
{
	struct uringpv_liburing_enter e;

	memset(&e, 0, sizeof(e));
	e.to_submit = to_submit;
	e.min_complete = min_complete;
	e.flags = flags;
	e.arg = (unsigned long)arg;
	e.argsz = argsz;
	return ioctl(fd, URINGPV_LIBURING_ENTER, &e);
}

static inline long uringpv_register(int fd, unsigned int opcode, const void *arg, unsigned int nr_args)
{
	struct uringpv_liburing_register r = { opcode, nr_args, (unsigned long)arg };

	return ioctl(fd, URINGPV_LIBURING_REGISTER, &r);
}

/* Numbers of the system calls, which are the same on every machine. */
#define URINGPV_NR_SETUP 425
#define URINGPV_NR_ENTER 426
#define URINGPV_NR_REGISTER 427

/* syscall(2), but for io_uring's three. Others have at most six words. */
static inline long uringpv_syscall(long nr, ...)
{
	unsigned long a[6];
	va_list list;
	int i;

	va_start(list, nr);
	for (i = 0; i < 6; i++)
		a[i] = va_arg(list, unsigned long);
	va_end(list);
	switch (nr) {
	case URINGPV_NR_SETUP:
		return uringpv_setup((unsigned int)a[0], (void *)a[1]);
	case URINGPV_NR_ENTER:
		return uringpv_enter((int)a[0], (unsigned int)a[1], (unsigned int)a[2], (unsigned int)a[3], (void *)a[4], a[5]);
	case URINGPV_NR_REGISTER:
		return uringpv_register((int)a[0], (unsigned int)a[1], (void *)a[2], (unsigned int)a[3]);
	}
	return syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* Words that are not given are zeros. */
#define URINGPV_SYSCALL(nr, a, b, c, d, e, f, ...)                                                             \
	uringpv_syscall((long)(nr), (unsigned long)(a), (unsigned long)(b), (unsigned long)(c), (unsigned long)(d), \
			(unsigned long)(e), (unsigned long)(f))
#define syscall(...) URINGPV_SYSCALL(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

#endif
