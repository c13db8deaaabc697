/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR Apache-2.0 */
/*
 * The uringpv device ABI, version 1.2: the contract between a guest driver and
 * the device. docs/protocol.md is the normative text; abi.go is the Go twin.
 *
 * All words are little-endian and naturally aligned. Structures have no
 * implicit padding. Reserved fields are zero when written, ignored when read.
 */
#ifndef URINGPV_H
#define URINGPV_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stdint.h>
typedef uint8_t __u8;
typedef uint16_t __u16;
typedef uint32_t __u32;
typedef int32_t __s32;
typedef uint64_t __u64;
#endif

/* PCI identity: Red Hat's vendor id, in the device range set aside for experiments. */
#define URINGPV_PCI_VENDOR 0x1af4
#define URINGPV_PCI_DEVICE 0x10f1
#define URINGPV_PCI_CLASS 0x018000 /* mass storage, other */

/* BARs. */
#define URINGPV_BAR_CONTROL 0  /* registers, below */
#define URINGPV_BAR_DOORBELL 2 /* one URINGPV_DOORBELL_STRIDE page for each ring */
#define URINGPV_BAR_MSIX 4     /* MSI-X table and pending bits */

#define URINGPV_DOORBELL_STRIDE 4096

/* Control registers: offsets in BAR 0. */
#define URINGPV_REG_MAGIC 0x00          /* u32, ro: URINGPV_MAGIC */
#define URINGPV_REG_VERSION 0x04        /* u32, ro: URINGPV_VERSION */
#define URINGPV_REG_STATUS 0x08         /* u32, ro: URINGPV_STATUS_* */
#define URINGPV_REG_NUM_RINGS 0x0c      /* u32, ro: rings, doorbell pages and MSI-X vectors */
#define URINGPV_REG_ADDR_BASE 0x10      /* u64, ro: add it to a GPA wherever io_uring wants an address */
#define URINGPV_REG_ADMIN_ADDR 0x18     /* u64, rw: GPA of a struct uringpv_cmd, 64-byte aligned */
#define URINGPV_REG_ADMIN_DOORBELL 0x20 /* u32, wo: any value executes the command */
#define URINGPV_REG_ADMIN_ERROR 0x24    /* s32, ro: 0, or why the last command could not be read or answered */

#define URINGPV_MAGIC 0x31765075u /* "uPv1" */
#define URINGPV_VERSION_MAJOR 1
#define URINGPV_VERSION_MINOR 2
#define URINGPV_VERSION ((URINGPV_VERSION_MAJOR << 16) | URINGPV_VERSION_MINOR)

#define URINGPV_STATUS_READY 0x1  /* commands are accepted */
#define URINGPV_STATUS_FAILED 0x2 /* a host fault stopped the device; RESET may revive it */

/* Admin commands. */
#define URINGPV_CMD_IDENTIFY 1      /* out: struct uringpv_identity */
#define URINGPV_CMD_FILE_INFO 2     /* index: file; out: struct uringpv_file */
#define URINGPV_CMD_BUFFER_INFO 3   /* index: buffer; out: struct uringpv_range */
#define URINGPV_CMD_RING_SETUP 4    /* index: ring; in and out: struct uringpv_ring_setup */
#define URINGPV_CMD_RING_REGISTER 5 /* index: ring; in: struct uringpv_register */
#define URINGPV_CMD_RING_ENTER 6    /* index: ring; in: struct uringpv_enter */
#define URINGPV_CMD_RING_DESTROY 7  /* index: ring; no payload */
#define URINGPV_CMD_RESET 8         /* no payload */
#define URINGPV_CMD_RING_STATS 9    /* index: ring; out: struct uringpv_ring_stats */

struct uringpv_cmd {
	__u32 op;     /* URINGPV_CMD_* */
	__s32 result; /* 0 or a negative errno; the device writes it last */
	__u32 index;  /* file, buffer or ring; else 0 */
	__u32 flags;  /* 0 */
	__u64 addr;   /* GPA of the payload, 8-byte aligned */
	__u32 len;    /* bytes of payload */
	__u32 resv0;
	__u64 resv[4];
};

/* Backends, for information: a driver needs no other code for any of them. */
#define URINGPV_BACKEND_RELAY 1
#define URINGPV_BACKEND_PASSTHROUGH 2
#define URINGPV_BACKEND_ISOLATED 3

#define URINGPV_OPCODE_BYTES 32 /* a bitmap of 256 opcodes, bit n%8 of byte n/8 */

struct uringpv_identity {
	__u32 version;            /* URINGPV_VERSION */
	__u32 backend;            /* URINGPV_BACKEND_* */
	__u64 addr_base;          /* as URINGPV_REG_ADDR_BASE */
	__u32 num_rings;          /* ring indices are 0 to num_rings-1 */
	__u32 num_vectors;        /* MSI-X vectors */
	__u32 num_files;          /* file indices are 0 to num_files-1 */
	__u32 num_buffers;        /* entries of the buffer table */
	__u32 max_sq_entries;     /* a power of two */
	__u32 max_cq_entries;     /* a power of two */
	__u32 setup_flags;        /* IORING_SETUP_* that RING_SETUP accepts */
	__u32 ring_features;      /* IORING_FEAT_* of the rings */
	__u32 sqe_flags;          /* IOSQE_* (1 << bit) that an SQE may carry */
	__u32 sqe_flags_required; /* IOSQE_* that every SQE must carry */
	__u32 max_ring_files;     /* files in one RING_SETUP */
	__u32 max_ring_buffers;   /* ranges in one RING_SETUP */
	__u8 opcodes[URINGPV_OPCODE_BYTES];
	char name[32];            /* UTF-8, padded with NUL */
	__u8 opcodes_extra[URINGPV_OPCODE_BYTES]; /* 1.1: further opcodes, for rings that name them in RING_SETUP */
};

/* Kinds of files. All but the first since 1.2. */
#define URINGPV_FILE_DISK 1     /* a disk: fixed size, read and written at offsets */
#define URINGPV_FILE_REGULAR 2  /* a regular file, as a disk but nothing to mount */
#define URINGPV_FILE_STREAM 3   /* a stream socket */
#define URINGPV_FILE_DGRAM 4    /* a datagram socket */
#define URINGPV_FILE_LISTENER 5 /* a listening stream socket, for ACCEPT */
#define URINGPV_FILE_PIPE 6     /* one end of a pipe: READONLY or WRITEONLY */
#define URINGPV_FILE_EVENTFD 7  /* an eventfd: reads and writes of 8 bytes */
#define URINGPV_FILE_TAP 8      /* a network interface of the host's: a packet for each read and write */

#define URINGPV_FILE_READONLY 0x1 /* writes end in -EBADF */
#define URINGPV_FILE_DIRECT 0x2   /* O_DIRECT: alignment rules apply */
#define URINGPV_FILE_BLOCKDEV 0x4 /* a block device on the host */
#define URINGPV_FILE_POLL 0x8     /* 1.1: rings with IORING_SETUP_IOPOLL may read and write it */
#define URINGPV_FILE_WRITEONLY 0x10   /* 1.2: reads end in -EBADF */
#define URINGPV_FILE_UNCONNECTED 0x20 /* 1.2: a socket that CONNECT has to connect first */

struct uringpv_file {
	__u32 kind;             /* URINGPV_FILE_DISK and the other kinds */
	__u32 flags;            /* URINGPV_FILE_* flags */
	__u64 size;             /* bytes; 0 for what has no size */
	__u32 block_size;       /* logical block size in bytes, a power of two */
	__u32 dio_mem_align;    /* with URINGPV_FILE_DIRECT: alignment of addresses, else 1 */
	__u32 dio_offset_align; /* with URINGPV_FILE_DIRECT: alignment of offsets and lengths, else 1 */
	__u32 resv;
	char name[64];          /* UTF-8, padded with NUL */
	char serial[32];        /* ASCII, padded with NUL */
};

struct uringpv_range {
	__u64 addr; /* GPA */
	__u64 len;  /* bytes */
};

/* linux/io_uring.h's struct io_uring_params, which see. */
struct uringpv_sq_offsets {
	__u32 head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
	__u64 user_addr;
};

struct uringpv_cq_offsets {
	__u32 head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
	__u64 user_addr;
};

struct uringpv_params {
	__u32 sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
	__u32 resv[3];
	struct uringpv_sq_offsets sq_off;
	struct uringpv_cq_offsets cq_off;
};

#define URINGPV_NO_VECTOR 0xffffffffu

struct uringpv_ring_setup {
	struct uringpv_params params; /* in: sq_entries, cq_entries, flags, sq_thread_idle; out: all */
	__u64 rings_addr;   /* GPA of the SQ and CQ rings, 4096-byte aligned */
	__u64 rings_len;    /* bytes, a multiple of 4096, at least URINGPV_RINGS_SIZE() */
	__u64 sqes_addr;    /* GPA of the SQE array, 4096-byte aligned */
	__u64 sqes_len;     /* bytes, a multiple of 4096, at least 64 * sq_entries */
	__u64 files_addr;   /* GPA of nr_files u32 file indices */
	__u64 buffers_addr; /* GPA of nr_buffers struct uringpv_range */
	__u32 nr_files;     /* 0: every file, by its own index */
	__u32 nr_buffers;   /* 0: the whole buffer table */
	__u32 vector;       /* MSI-X vector of completions, or URINGPV_NO_VECTOR */
	__u32 flags;        /* 0 */
	__u8 opcodes[URINGPV_OPCODE_BYTES]; /* opcodes wanted; all zero: every one allowed */
	__u32 nr_slots;     /* 1.2: entries of the ring's file table; 0: as many as files */
	__u32 resv0;
	__u64 resv[4];
};

/* Bytes to give RING_SETUP for the rings; entries are powers of two. */
#define URINGPV_RINGS_SIZE(sq_entries, cq_entries) \
	((384 + 16 * (__u64)(cq_entries) + 4 * (__u64)(sq_entries) + 4095) & ~(__u64)4095)

/* In a list of IORING_REGISTER_FILES_UPDATE: not a file's index. */
#define URINGPV_SLOT_EMPTY 0xffffffffu /* the entry becomes empty, io_uring's -1 */
#define URINGPV_SLOT_KEEP 0xfffffffeu  /* the entry stays as it is, IORING_REGISTER_FILES_SKIP */

struct uringpv_register {
	__u32 opcode; /* IORING_REGISTER_* */
	__u32 nr_args;
	__u64 addr;   /* GPA of the argument; with IORING_REGISTER_EVENTFD a vector */
	__u32 offset; /* 1.2: first entry, with FILES_UPDATE and BUFFERS_UPDATE; else 0 */
	__u32 resv;
};

struct uringpv_enter {
	__u32 to_submit;
	__u32 min_complete; /* 0: the device never waits, drivers sleep on interrupts */
	__u32 flags;        /* IORING_ENTER_GETEVENTS, IORING_ENTER_SQ_WAKEUP */
	__u32 resv;
};

/* Bits of uringpv_ring_stats.valid: what this backend can count. */
#define URINGPV_STAT_SQES 0x01
#define URINGPV_STAT_CQES 0x02
#define URINGPV_STAT_ERRORS 0x04
#define URINGPV_STAT_BYTES 0x08
#define URINGPV_STAT_DOORBELLS 0x10
#define URINGPV_STAT_INTERRUPTS 0x20
#define URINGPV_STAT_OVERFLOWS 0x40

struct uringpv_ring_stats {
	__u64 valid;         /* URINGPV_STAT_* */
	__u64 sqes;          /* SQEs consumed */
	__u64 cqes;          /* CQEs posted */
	__u64 errors;        /* CQEs with a negative result */
	__u64 bytes_read;    /* by completed reads */
	__u64 bytes_written; /* by completed writes */
	__u64 doorbells;     /* doorbell writes served */
	__u64 interrupts;    /* completion signals sent */
	__u64 overflows;     /* CQEs that found the CQ ring full */
	__u64 resv[7];
};

#if defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define URINGPV_AT(type, field, off) \
	_Static_assert(__builtin_offsetof(struct type, field) == (off), #type "." #field)
#define URINGPV_SIZE(type, size) _Static_assert(sizeof(struct type) == (size), "sizeof " #type)

URINGPV_SIZE(uringpv_cmd, 64);
URINGPV_AT(uringpv_cmd, op, 0);
URINGPV_AT(uringpv_cmd, result, 4);
URINGPV_AT(uringpv_cmd, index, 8);
URINGPV_AT(uringpv_cmd, flags, 12);
URINGPV_AT(uringpv_cmd, addr, 16);
URINGPV_AT(uringpv_cmd, len, 24);
URINGPV_AT(uringpv_cmd, resv0, 28);
URINGPV_AT(uringpv_cmd, resv, 32);

URINGPV_SIZE(uringpv_identity, 160);
URINGPV_AT(uringpv_identity, version, 0);
URINGPV_AT(uringpv_identity, backend, 4);
URINGPV_AT(uringpv_identity, addr_base, 8);
URINGPV_AT(uringpv_identity, num_rings, 16);
URINGPV_AT(uringpv_identity, num_vectors, 20);
URINGPV_AT(uringpv_identity, num_files, 24);
URINGPV_AT(uringpv_identity, num_buffers, 28);
URINGPV_AT(uringpv_identity, max_sq_entries, 32);
URINGPV_AT(uringpv_identity, max_cq_entries, 36);
URINGPV_AT(uringpv_identity, setup_flags, 40);
URINGPV_AT(uringpv_identity, ring_features, 44);
URINGPV_AT(uringpv_identity, sqe_flags, 48);
URINGPV_AT(uringpv_identity, sqe_flags_required, 52);
URINGPV_AT(uringpv_identity, max_ring_files, 56);
URINGPV_AT(uringpv_identity, max_ring_buffers, 60);
URINGPV_AT(uringpv_identity, opcodes, 64);
URINGPV_AT(uringpv_identity, name, 96);
URINGPV_AT(uringpv_identity, opcodes_extra, 128);

URINGPV_SIZE(uringpv_file, 128);
URINGPV_AT(uringpv_file, kind, 0);
URINGPV_AT(uringpv_file, flags, 4);
URINGPV_AT(uringpv_file, size, 8);
URINGPV_AT(uringpv_file, block_size, 16);
URINGPV_AT(uringpv_file, dio_mem_align, 20);
URINGPV_AT(uringpv_file, dio_offset_align, 24);
URINGPV_AT(uringpv_file, resv, 28);
URINGPV_AT(uringpv_file, name, 32);
URINGPV_AT(uringpv_file, serial, 96);

URINGPV_SIZE(uringpv_range, 16);
URINGPV_AT(uringpv_range, addr, 0);
URINGPV_AT(uringpv_range, len, 8);

URINGPV_SIZE(uringpv_params, 120);
URINGPV_AT(uringpv_params, sq_entries, 0);
URINGPV_AT(uringpv_params, cq_entries, 4);
URINGPV_AT(uringpv_params, flags, 8);
URINGPV_AT(uringpv_params, sq_thread_cpu, 12);
URINGPV_AT(uringpv_params, sq_thread_idle, 16);
URINGPV_AT(uringpv_params, features, 20);
URINGPV_AT(uringpv_params, wq_fd, 24);
URINGPV_AT(uringpv_params, resv, 28);
URINGPV_AT(uringpv_params, sq_off, 40);
URINGPV_AT(uringpv_params, cq_off, 80);
URINGPV_AT(uringpv_sq_offsets, user_addr, 32);
URINGPV_AT(uringpv_cq_offsets, user_addr, 32);

URINGPV_SIZE(uringpv_ring_setup, 256);
URINGPV_AT(uringpv_ring_setup, params, 0);
URINGPV_AT(uringpv_ring_setup, rings_addr, 120);
URINGPV_AT(uringpv_ring_setup, rings_len, 128);
URINGPV_AT(uringpv_ring_setup, sqes_addr, 136);
URINGPV_AT(uringpv_ring_setup, sqes_len, 144);
URINGPV_AT(uringpv_ring_setup, files_addr, 152);
URINGPV_AT(uringpv_ring_setup, buffers_addr, 160);
URINGPV_AT(uringpv_ring_setup, nr_files, 168);
URINGPV_AT(uringpv_ring_setup, nr_buffers, 172);
URINGPV_AT(uringpv_ring_setup, vector, 176);
URINGPV_AT(uringpv_ring_setup, flags, 180);
URINGPV_AT(uringpv_ring_setup, opcodes, 184);
URINGPV_AT(uringpv_ring_setup, nr_slots, 216);
URINGPV_AT(uringpv_ring_setup, resv0, 220);
URINGPV_AT(uringpv_ring_setup, resv, 224);

URINGPV_SIZE(uringpv_register, 24);
URINGPV_AT(uringpv_register, opcode, 0);
URINGPV_AT(uringpv_register, nr_args, 4);
URINGPV_AT(uringpv_register, addr, 8);
URINGPV_AT(uringpv_register, offset, 16);
URINGPV_AT(uringpv_register, resv, 20);

URINGPV_SIZE(uringpv_enter, 16);
URINGPV_AT(uringpv_enter, to_submit, 0);
URINGPV_AT(uringpv_enter, min_complete, 4);
URINGPV_AT(uringpv_enter, flags, 8);
URINGPV_AT(uringpv_enter, resv, 12);

URINGPV_SIZE(uringpv_ring_stats, 128);
URINGPV_AT(uringpv_ring_stats, valid, 0);
URINGPV_AT(uringpv_ring_stats, sqes, 8);
URINGPV_AT(uringpv_ring_stats, cqes, 16);
URINGPV_AT(uringpv_ring_stats, errors, 24);
URINGPV_AT(uringpv_ring_stats, bytes_read, 32);
URINGPV_AT(uringpv_ring_stats, bytes_written, 40);
URINGPV_AT(uringpv_ring_stats, doorbells, 48);
URINGPV_AT(uringpv_ring_stats, interrupts, 56);
URINGPV_AT(uringpv_ring_stats, overflows, 64);
URINGPV_AT(uringpv_ring_stats, resv, 72);

#undef URINGPV_AT
#undef URINGPV_SIZE
#endif

#endif /* URINGPV_H */
