/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR Apache-2.0 */
/*
 * Rings for programs: the ioctls of /dev/uringpvN and of the files in
 * /dev/uringpv/. docs/guest-programs.md tells how to use them.
 *
 * A file opened from /dev/uringpvN is what io_uring_setup(2) returns, once it has
 * been set up: its rings are mapped at io_uring's own offsets, and it is polled
 * like an io_uring. Its files are opened from /dev/uringpv/NAME, one for each file
 * that the device exports.
 *
 * Structures have no implicit padding. Reserved fields are zero.
 */
#ifndef URINGPV_USER_H
#define URINGPV_USER_H

#include <linux/ioctl.h>
#include <linux/types.h>
#ifdef __KERNEL__
#include <uapi/linux/io_uring.h>
#else
#include <linux/io_uring.h>
#endif

#define URINGPV_IOC 0xb5

/* uringpv_user_setup.flags */
#define URINGPV_USER_MAPPED 0x1   /* the device's own ring, doorbell and a pool of memory are mapped */
#define URINGPV_USER_NO_EXTRA 0x2 /* mediated: no opcodes for which another backend than the device's serves the ring */

/* Offsets for mmap of a mapped ring, beside IORING_OFF_SQ_RING, _CQ_RING and _SQES. */
#define URINGPV_OFF_DOORBELL 0x100000000ull /* a page; a 4-byte write to its start rings */
#define URINGPV_OFF_POOL 0x200000000ull     /* pool_len bytes */

/* io_uring_setup(2). Once for an open file. */
struct uringpv_user_setup {
	__u32 entries;  /* of the SQ ring */
	__u32 flags;    /* URINGPV_USER_* */
	struct io_uring_params params; /* in and out */
	__u64 pool_len; /* mapped: bytes of memory wanted; out: bytes to be had, whole chunks */
	__u64 files;    /* mapped: address of nr_files __s32, files that were opened in /dev/uringpv/ */
	__u32 nr_files; /* mapped: at least 1; SQEs name them by their place in the list */
	__u32 nr_chunks; /* out, mapped: chunks of the pool */
	__u64 resv[4];
};

/* io_uring_enter(2); arg and argsz as there. Returns the number of SQEs taken. */
struct uringpv_user_enter {
	__u32 to_submit;
	__u32 min_complete;
	__u32 flags; /* IORING_ENTER_GETEVENTS, IORING_ENTER_SQ_WAKEUP, IORING_ENTER_EXT_ARG */
	__u32 resv;
	__u64 arg;
	__u64 argsz;
};

/* io_uring_register(2). */
struct uringpv_user_register {
	__u32 opcode; /* IORING_REGISTER_* */
	__u32 nr_args;
	__u64 arg;
};

/* A chunk of a mapped ring's pool: what SQEs have to say to name its memory. */
struct uringpv_user_chunk {
	__u32 index;     /* in: 0 to nr_chunks-1 */
	__u32 buf_index; /* out: of SQEs */
	__u64 offset;    /* out: bytes from the pool's start */
	__u64 len;       /* out: bytes; an I/O lies in one chunk */
	__u64 addr;      /* out: of the chunk's start, in SQEs */
};

/* What a file is: as the device's struct uringpv_file (uringpv.h). */
struct uringpv_user_file {
	__u32 kind;
	__u32 flags;
	__u64 size;
	__u32 block_size;
	__u32 dio_mem_align;
	__u32 dio_offset_align;
	__u32 resv;
	char name[64];
	char serial[32];
};

/* Of /dev/uringpvN. */
#define URINGPV_IOC_SETUP _IOWR(URINGPV_IOC, 1, struct uringpv_user_setup)
#define URINGPV_IOC_ENTER _IOW(URINGPV_IOC, 2, struct uringpv_user_enter)
#define URINGPV_IOC_REGISTER _IOW(URINGPV_IOC, 3, struct uringpv_user_register)
#define URINGPV_IOC_CHUNK _IOWR(URINGPV_IOC, 4, struct uringpv_user_chunk)

/* Of /dev/uringpv/NAME. */
#define URINGPV_IOC_FILE _IOR(URINGPV_IOC, 16, struct uringpv_user_file)

#endif
