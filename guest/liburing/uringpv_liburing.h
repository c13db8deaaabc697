/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The port of liburing's system-call layer to /dev/uringpvN: liburing, and what
 * is to run on it, are compiled with this header before all others (build.sh does
 * so), so that its calls of syscall(2) for io_uring become ioctls of the driver's.
 * The offsets for mmap(2) are io_uring's own. The node is /dev/uringpv0, or what the
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Not uringpv_user.h itself: it would bring the system's linux/io_uring.h before liburing's own. */
struct uringpv_liburing_params {
	unsigned int sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, rest[24];
};

struct uringpv_liburing_ring {
	unsigned int offset, resv;
	unsigned long long data;
}; /* struct io_uring_rsrc_update */

struct uringpv_liburing_setup {
	unsigned int entries, flags;
	struct uringpv_liburing_params params; /* struct io_uring_params */
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

struct uringpv_liburing_file {
	unsigned int kind, flags;
	unsigned long long size;
	unsigned int block_size, rest[27];
};

#define URINGPV_LIBURING_SETUP _IOWR(0xb5, 1, struct uringpv_liburing_setup)
#define URINGPV_LIBURING_ENTER _IOW(0xb5, 2, struct uringpv_liburing_enter)
#define URINGPV_LIBURING_REGISTER _IOW(0xb5, 3, struct uringpv_liburing_register)
#define URINGPV_LIBURING_FILE _IOR(0xb5, 16, struct uringpv_liburing_file)

/* Registered descriptors of rings. */
#define URINGPV_LIBURING_RINGS 16
#define URINGPV_LIBURING_RING_FDS 20
#define URINGPV_LIBURING_NO_RING_FDS 21
#define URINGPV_LIBURING_USE_REGISTERED (1u << 31)
#define URINGPV_LIBURING_REGISTERED_RING (1u << 4)
#define URINGPV_LIBURING_REG_REG_RING (1u << 13)

/* Kinds of files that have a size. */
#define URINGPV_LIBURING_DISK 1
#define URINGPV_LIBURING_REGULAR 2

/* Flags of set-up. */
#define URINGPV_LIBURING_IOPOLL 0x1u
#define URINGPV_LIBURING_SQPOLL 0x2u
#define URINGPV_LIBURING_SUBMIT_ALL 0x80u
#define URINGPV_LIBURING_SINGLE_ISSUER 0x1000u

/*
 * Programs that ask for a ring whose SQ or files the kernel polls get one that is
 * entered for each batch and completes by interrupts: a mediated ring is no other,
 * and the host does the polling. params->flags tells liburing so. Like a polling
 * kernel it goes on after an SQE that is refused, and does not mind which thread
 * submits.
 *
 * A device whose rings are all taken has io_uring's word for a lack of memory.
 */
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
	memcpy(&s.params, params, sizeof(s.params));
	if (s.params.flags & URINGPV_LIBURING_SQPOLL) {
		s.params.flags |= URINGPV_LIBURING_SUBMIT_ALL;
		s.params.flags &= ~URINGPV_LIBURING_SINGLE_ISSUER;
	}
	s.params.flags &= ~(URINGPV_LIBURING_IOPOLL | URINGPV_LIBURING_SQPOLL);
	if (ioctl(fd, URINGPV_LIBURING_SETUP, &s)) {
		err = errno == EBUSY ? ENOMEM : errno;
		close(fd);
		errno = err;
		return -1;
	}
	s.params.features |= URINGPV_LIBURING_REG_REG_RING;
	memcpy(params, &s.params, sizeof(s.params));
	return fd;
}

/*
 * IORING_REGISTER_RING_FDS is a table of each thread, by which the kernel finds rings
 * sooner than by descriptors. Here it has duplicates of the descriptors: a program may
 * close its own. What a thread does not take out stays open until the process ends.
 */
__attribute__((weak)) __thread int uringpv_rings[URINGPV_LIBURING_RINGS]; /* descriptors and 1; 0: empty */

static inline int uringpv_ring(unsigned int i)
{
	return i < URINGPV_LIBURING_RINGS && uringpv_rings[i] ? uringpv_rings[i] - 1 : -1;
}

static inline int uringpv_put_ring(struct uringpv_liburing_ring *r)
{
	unsigned int i = r->offset;
	int fd;

	if (i == -1u)
		for (i = 0; i < URINGPV_LIBURING_RINGS && uringpv_rings[i]; i++)
			;
	if (r->resv || r->data > 0x7fffffff)
		return EINVAL;
	if (i >= URINGPV_LIBURING_RINGS)
		return r->offset == -1u ? EBUSY : EINVAL;
	if (uringpv_rings[i])
		return EBUSY;
	fd = fcntl((int)r->data, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return errno;
	uringpv_rings[i] = fd + 1;
	r->offset = i;
	return 0;
}

static inline int uringpv_take_ring(const struct uringpv_liburing_ring *r)
{
	if (r->resv || r->data || r->offset >= URINGPV_LIBURING_RINGS)
		return EINVAL;
	if (uringpv_rings[r->offset])
		close(uringpv_rings[r->offset] - 1);
	uringpv_rings[r->offset] = 0;
	return 0;
}

static inline long uringpv_register_rings(int put, struct uringpv_liburing_ring *rings, unsigned int n)
{
	unsigned int i;
	int err = !n || n > URINGPV_LIBURING_RINGS ? EINVAL : 0;

	for (i = 0; !err && i < n; i++)
		err = put ? uringpv_put_ring(&rings[i]) : uringpv_take_ring(&rings[i]);
	if (!err)
		return n;
	if (i > 1)
		return i - 1; /* so many were done */
	errno = err;
	return -1;
}

static inline long uringpv_enter(int fd, unsigned int to_submit, unsigned int min_complete, unsigned int flags,
				 const void *arg, unsigned long argsz)
{
	struct uringpv_liburing_enter e;

	if (flags & URINGPV_LIBURING_REGISTERED_RING)
		fd = uringpv_ring((unsigned int)fd);
	memset(&e, 0, sizeof(e));
	e.to_submit = to_submit;
	e.min_complete = min_complete;
	e.flags = flags & ~URINGPV_LIBURING_REGISTERED_RING;
	e.arg = (unsigned long)arg;
	e.argsz = argsz;
	return ioctl(fd, URINGPV_LIBURING_ENTER, &e);
}

static inline long uringpv_register(int fd, unsigned int opcode, void *arg, unsigned int nr_args)
{
	struct uringpv_liburing_register r = { opcode & ~URINGPV_LIBURING_USE_REGISTERED, nr_args, (unsigned long)arg };

	if (opcode & URINGPV_LIBURING_USE_REGISTERED)
		fd = uringpv_ring((unsigned int)fd);
	if (r.opcode == URINGPV_LIBURING_RING_FDS || r.opcode == URINGPV_LIBURING_NO_RING_FDS)
		return uringpv_register_rings(r.opcode == URINGPV_LIBURING_RING_FDS, (struct uringpv_liburing_ring *)arg, nr_args);
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

/*
 * fstat(2). The guest's kernel knows a file from /dev/uringpv/ as a character device
 * without a size; programs want to hear of a file that they can read.
 */
static inline int uringpv_fstat(int fd, struct stat *st)
{
	struct uringpv_liburing_file f;
	int ret = fstat(fd, st), err = errno;

	if (ret || !S_ISCHR(st->st_mode) || ioctl(fd, URINGPV_LIBURING_FILE, &f)) {
		errno = err;
		return ret;
	}
	if (f.kind == URINGPV_LIBURING_DISK || f.kind == URINGPV_LIBURING_REGULAR) {
		st->st_mode = (st->st_mode & ~S_IFMT) | S_IFREG;
		st->st_size = f.size;
		st->st_blocks = f.size / 512;
		st->st_blksize = f.block_size;
	}
	return 0;
}

#define fstat(fd, st) uringpv_fstat(fd, st)

/* Words that are not given are zeros. */
#define URINGPV_SYSCALL(nr, a, b, c, d, e, f, ...)                                                             \
	uringpv_syscall((long)(nr), (unsigned long)(a), (unsigned long)(b), (unsigned long)(c), (unsigned long)(d), \
			(unsigned long)(e), (unsigned long)(f))
#define syscall(...) URINGPV_SYSCALL(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

#endif
