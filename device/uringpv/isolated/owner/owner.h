/* SPDX-License-Identifier: Apache-2.0 */
/* What the monitor and a ring's owner say to each other, over one socket of type
 * SOCK_SEQPACKET: start, answer, one byte; then the owner's end closes, which says
 * that nothing but guest RAM is mapped any more. wire.go is the same in Go. */
#ifndef OWNER_H
#define OWNER_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long u64;

#define OWNER_REGIONS 2
#define OWNER_PARAMS 120 /* sizeof(struct io_uring_params) */

/* Descriptors that the owner begins with. */
#define FD_MONITOR 3
#define FD_MEMORY 4
#define FD_PROGRAM 5

struct owner_region {
	u64 addr; /* in the owner's address space, as in the monitor's */
	u64 len;  /* bytes; 0: there is no such region */
	u64 off;  /* in the memfd */
};

struct owner_start {
	struct owner_region region[OWNER_REGIONS]; /* ascending */
	u64 fsize;  /* the bound of regular files, in bytes */
	u32 parent; /* the monitor's process id */
	u32 entries;
	u32 flags; /* OWNER_* */
	u32 resv;
	u8 params[OWNER_PARAMS]; /* struct io_uring_params; its areas lie in the regions */
};

/* Flags of owner_start. */
#define OWNER_NO_USERNS 1 /* make no user namespace */

struct owner_answer {
	s32 result; /* the ring's descriptor, or a negative errno */
	u32 step;   /* STEP_*, what was being done */
	u32 apart;  /* APART_*, what the host has allowed */
	u32 resv;
	u8 params[OWNER_PARAMS]; /* as io_uring_setup(2) has filled them */
};

enum owner_step {
	STEP_START = 1, /* the first message makes no sense */
	STEP_DEATH,	/* prctl(PR_SET_PDEATHSIG), prctl(PR_SET_NO_NEW_PRIVS) */
	STEP_SIGNALS,
	STEP_LIMITS,
	STEP_CAPABILITIES,
	STEP_MEMORY, /* mmap of guest RAM */
	STEP_RING,   /* io_uring_setup */
	STEP_READY,
};

#define APART_USER 1
#define APART_MOUNT 2
#define APART_NET 4
#define APART_IPC 8
#define APART_UTS 16
#define APART_CGROUP 32
#define APART_ROOT 64	 /* the root directory is empty */
#define APART_FILTER 128 /* no system calls but those of its end */

/* Exit statuses. */
#define EXIT_ALONE 3	/* the monitor has gone */
#define EXIT_FAILED 4	/* the answer says why */
#define EXIT_UNMAP 5	/* something could not be unmapped, protected or closed */

#endif
