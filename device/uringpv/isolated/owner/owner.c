// SPDX-License-Identifier: Apache-2.0
// The owner of one ring: a process whose address space holds guest RAM and nothing
// else, so that no pointer in an SQE, an iovec or a msghdr can reach anything else.
// It gives up what it can, maps guest RAM, makes the ring in it, lets the monitor
// take the ring's descriptor, and then unmaps and closes everything (end.S).

#include "owner.h"

#define NR_read 0
#define NR_close 3
#define NR_mmap 9
#define NR_mprotect 10
#define NR_rt_sigaction 13
#define NR_rt_sigprocmask 14
#define NR_write 1
#define NR_munmap 11
#define NR_pause 34
#define NR_fchdir 81
#define NR_getppid 110
#define NR_capget 125
#define NR_capset 126
#define NR_prctl 157
#define NR_chroot 161
#define NR_exit_group 231
#define NR_unshare 272
#define NR_prlimit64 302
#define NR_seccomp 317
#define NR_io_uring_setup 425
#define NR_fsopen 430
#define NR_fsconfig 431
#define NR_fsmount 432
#define NR_close_range 436

#define EINTR 4
#define EINVAL 22
#define EPERM 1

/* The end of the address space that mmap(2) uses without being asked for more. */
#define SPACE_END 0x7ffffffff000UL

static long call(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

#define call0(nr) call(nr, 0, 0, 0, 0, 0, 0)
#define call1(nr, a) call(nr, (long)(a), 0, 0, 0, 0, 0)
#define call2(nr, a, b) call(nr, (long)(a), (long)(b), 0, 0, 0, 0)
#define call3(nr, a, b, c) call(nr, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define call4(nr, a, b, c, d) call(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define call5(nr, a, b, c, d, e) call(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

extern void owner_end(u64 start0, u64 end0, u64 start1, u64 end1, u64 top) __attribute__((noreturn));

static __attribute__((noreturn)) void leave(int status)
{
	for (;;)
		call1(NR_exit_group, status);
}

/* The compiler may ask for these. */
void *memset(void *to, int c, unsigned long n)
{
	u8 *p = to;

	while (n--)
		*p++ = (u8)c;
	return to;
}

void *memcpy(void *to, const void *from, unsigned long n)
{
	u8 *p = to;
	const u8 *q = from;

	while (n--)
		*p++ = *q++;
	return to;
}

static struct owner_answer answer_of(long result, u32 step, u32 apart, const u8 *params)
{
	struct owner_answer a;

	memset(&a, 0, sizeof(a));
	a.result = (s32)result;
	a.step = step;
	a.apart = apart;
	memcpy(a.params, params, sizeof(a.params));
	return a;
}

static void answer(const struct owner_answer *a)
{
	long n;

	do
		n = call3(NR_write, FD_MONITOR, a, sizeof(*a));
	while (n == -EINTR);
	if (n != (long)sizeof(*a))
		leave(EXIT_ALONE);
}

static __attribute__((noreturn)) void fail(long error, u32 step, u32 apart, const u8 *params)
{
	struct owner_answer a = answer_of(error, step, apart, params);

	answer(&a);
	leave(EXIT_FAILED);
}

static long receive(void *to, unsigned long n)
{
	long got;

	do
		got = call3(NR_read, FD_MONITOR, to, n);
	while (got == -EINTR);
	return got;
}

#define PR_SET_PDEATHSIG 1
#define PR_SET_NAME 15
#define PR_CAPBSET_DROP 24
#define PR_SET_SECUREBITS 28
#define PR_SET_NO_NEW_PRIVS 38
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_CLEAR_ALL 4
#define SIGKILL 9
#define SIGXFSZ 25

/* All but SECBIT_KEEP_CAPS, and the lock of each. */
#define SECUREBITS 0xef

#define CAPABILITY_VERSION_3 0x20080522
#define CAP_IPC_LOCK 14
#define CAP_SYS_ADMIN 21

struct cap_header {
	u32 version;
	s32 pid;
};

struct cap_data {
	u32 effective, permitted, inheritable;
};

static long get_caps(struct cap_data data[2])
{
	struct cap_header h = { CAPABILITY_VERSION_3, 0 };

	return call2(NR_capget, &h, data);
}

/* Keeps of the low 32 capabilities what is in keep, and is permitted. */
static long keep_caps(u32 keep)
{
	struct cap_header h = { CAPABILITY_VERSION_3, 0 };
	struct cap_data data[2];
	long err = get_caps(data);

	if (err)
		return err;
	data[0].permitted &= keep;
	data[0].effective = data[0].permitted;
	data[0].inheritable = 0;
	data[1].permitted = data[1].effective = data[1].inheritable = 0;
	return call2(NR_capset, &h, data);
}

#define CLONE_NEWNS 0x00020000
#define CLONE_NEWCGROUP 0x02000000
#define CLONE_NEWUTS 0x04000000
#define CLONE_NEWIPC 0x08000000
#define CLONE_NEWUSER 0x10000000
#define CLONE_NEWNET 0x40000000

#define FSOPEN_CLOEXEC 1
#define FSMOUNT_CLOEXEC 1
#define FSCONFIG_CMD_CREATE 6
#define MOUNT_ATTR_RDONLY 1
#define MOUNT_ATTR_NOSUID 2
#define MOUNT_ATTR_NODEV 4
#define MOUNT_ATTR_NOEXEC 8

/* Makes an empty directory the root: a file system that is mounted nowhere. */
static int empty_root(void)
{
	long fs, mount, err = -1;

	fs = call2(NR_fsopen, "tmpfs", FSOPEN_CLOEXEC);
	if (fs < 0)
		return 0;
	if (call5(NR_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0) == 0) {
		mount = call3(NR_fsmount, fs, FSMOUNT_CLOEXEC,
			      MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
		if (mount >= 0) {
			err = call1(NR_fchdir, mount);
			if (!err)
				err = call1(NR_chroot, ".");
			call1(NR_close, mount);
		}
	}
	call1(NR_close, fs);
	return err == 0;
}

/* Leaves every namespace that the host lets it leave, and says which. There is no
 * PID namespace: the process would have to be born in it. */
static u32 go_apart(const struct cap_data *had, u32 flags)
{
	static const struct {
		u32 flag, bit;
	} spaces[] = {
		{ CLONE_NEWNS, APART_MOUNT }, { CLONE_NEWNET, APART_NET },	 { CLONE_NEWIPC, APART_IPC },
		{ CLONE_NEWUTS, APART_UTS },  { CLONE_NEWCGROUP, APART_CGROUP },
	};
	u32 apart = 0;
	unsigned long i;

	/* A user namespace would take CAP_IPC_LOCK away, and root needs none. */
	if (!(had->effective & (1U << CAP_SYS_ADMIN | 1U << CAP_IPC_LOCK)) && !(flags & OWNER_NO_USERNS) &&
	    call1(NR_unshare, CLONE_NEWUSER) == 0)
		apart |= APART_USER;
	for (i = 0; i < sizeof(spaces) / sizeof(spaces[0]); i++)
		if (call1(NR_unshare, spaces[i].flag) == 0)
			apart |= spaces[i].bit;
	if ((apart & APART_MOUNT) && empty_root())
		apart |= APART_ROOT;
	return apart;
}

#define RLIMIT_FSIZE 1
#define RLIMIT_CORE 4
#define RLIMIT_NOFILE 7

struct limit {
	u64 soft, hard;
};

static long set_limit(int which, u64 soft, u64 hard)
{
	struct limit l = { soft, hard };

	return call4(NR_prlimit64, 0, which, &l, 0);
}

static long set_limits(u64 fsize)
{
	struct limit now;
	long err = call4(NR_prlimit64, 0, RLIMIT_FSIZE, 0, &now);

	if (err)
		return err;
	if (fsize > now.hard)
		return -EPERM;
	/* The monitor sets it again when the ring gets another file. */
	err = set_limit(RLIMIT_FSIZE, fsize, now.hard);
	if (err)
		return err;
	return set_limit(RLIMIT_CORE, 0, 0);
}

struct action {
	u64 handler, flags, restorer, mask;
};

#define SIG_IGN 1
#define SIG_SETMASK 2

static long set_signals(void)
{
	struct action ignore = { SIG_IGN, 0, 0, 0 };
	u64 all = ~0UL;
	long err = call4(NR_rt_sigaction, SIGXFSZ, &ignore, 0, sizeof(all));

	return err ? err : call4(NR_rt_sigprocmask, SIG_SETMASK, &all, 0, sizeof(all));
}

#define SECCOMP_SET_MODE_FILTER 1
#define SECCOMP_RET_KILL_PROCESS 0x80000000U
#define SECCOMP_RET_ALLOW 0x7fff0000U
#define AUDIT_ARCH_X86_64 0xc000003eU
#define BPF_LOAD 0x20  /* BPF_LD | BPF_W | BPF_ABS */
#define BPF_EQUAL 0x15 /* BPF_JMP | BPF_JEQ | BPF_K */
#define BPF_RETURN 0x06

struct bpf {
	u16 code;
	u8 yes, no;
	u32 k;
};

struct bpf_program {
	u16 len;
	const struct bpf *code;
};

/* struct seccomp_data has the call's number at 0, the architecture at 4. */
#define ALLOW(nr) { BPF_EQUAL, 0, 1, nr }, { BPF_RETURN, 0, 0, SECCOMP_RET_ALLOW }

/* Leaves no system calls but those that follow: of the answer and of the end. The
 * ring's own threads make none. Says whether the host lets it. */
static int filter_calls(void)
{
	static const struct bpf code[] = {
		{ BPF_LOAD, 0, 0, 4 },
		{ BPF_EQUAL, 1, 0, AUDIT_ARCH_X86_64 },
		{ BPF_RETURN, 0, 0, SECCOMP_RET_KILL_PROCESS },
		{ BPF_LOAD, 0, 0, 0 },
		ALLOW(NR_write),
		ALLOW(NR_read),
		ALLOW(NR_munmap),
		ALLOW(NR_mprotect),
		ALLOW(NR_close_range),
		ALLOW(NR_pause),
		ALLOW(NR_exit_group),
		{ BPF_RETURN, 0, 0, SECCOMP_RET_KILL_PROCESS },
	};
	struct bpf_program p = { sizeof(code) / sizeof(code[0]), code };

	return call3(NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &p) == 0;
}

#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_SHARED 1
#define MAP_FIXED_NOREPLACE 0x100000

static long map_memory(const struct owner_start *s)
{
	int i;

	for (i = 0; i < OWNER_REGIONS; i++) {
		const struct owner_region *r = &s->region[i];
		long at;

		if (r->len == 0)
			continue;
		at = call(NR_mmap, (long)r->addr, (long)r->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE,
			  FD_MEMORY, (long)r->off);
		if (at < 0 && at > -4096)
			return at;
		if ((u64)at != r->addr)
			return -EINVAL;
	}
	return 0;
}

/* Whether the regions are as owner_end wants them. */
static int sound(const struct owner_start *s)
{
	const struct owner_region *r = s->region;

	if (r[0].len == 0 || r[0].addr < (u64)owner_end + 4096 || r[0].len > SPACE_END || r[0].addr > SPACE_END - r[0].len)
		return 0;
	if (r[1].len == 0)
		return 1;
	return r[1].addr >= r[0].addr + r[0].len && r[1].len <= SPACE_END && r[1].addr <= SPACE_END - r[1].len;
}

__attribute__((noreturn)) void owner(void)
{
	struct owner_start s;
	struct owner_answer a;
	struct cap_data had[2];
	u64 second, last;
	u32 apart = 0;
	u8 taken = 0;
	long err, ring;
	int cap;

	memset(&s, 0, sizeof(s));
	call3(NR_close_range, FD_PROGRAM, ~0U, 0);
	if (receive(&s, sizeof(s)) != (long)sizeof(s))
		leave(EXIT_ALONE);
	if (!sound(&s))
		fail(-EINVAL, STEP_START, apart, s.params);

	err = call2(NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
	if (!err)
		err = call5(NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (err)
		fail(err, STEP_DEATH, apart, s.params);
	call2(NR_prctl, PR_SET_NAME, "uringpv-ring");
	err = set_signals();
	if (err)
		fail(err, STEP_SIGNALS, apart, s.params);
	err = set_limits(s.fsize);
	if (err)
		fail(err, STEP_LIMITS, apart, s.params);
	err = get_caps(had);
	if (err)
		fail(err, STEP_CAPABILITIES, apart, s.params);
	apart = go_apart(&had[0], s.flags);

	/* What may fail here for want of a capability is then not needed. */
	for (cap = 0; cap < 64; cap++)
		call2(NR_prctl, PR_CAPBSET_DROP, cap);
	call5(NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	call2(NR_prctl, PR_SET_SECUREBITS, SECUREBITS);
	/* The ring's requests have the credentials of this moment. CAP_IPC_LOCK only
	 * says how pinned memory counts. */
	err = keep_caps(apart & APART_USER ? 0 : 1U << CAP_IPC_LOCK);
	if (err)
		fail(err, STEP_CAPABILITIES, apart, s.params);

	err = map_memory(&s);
	if (err)
		fail(err, STEP_MEMORY, apart, s.params);
	ring = call2(NR_io_uring_setup, s.entries, s.params);
	if (ring < 0)
		fail(ring, STEP_RING, apart, s.params);

	err = keep_caps(0);
	if (err)
		fail(err, STEP_CAPABILITIES, apart, s.params);
	/* No request of the ring can make a descriptor either. */
	err = set_limit(RLIMIT_NOFILE, 0, 0);
	if (err)
		fail(err, STEP_LIMITS, apart, s.params);
	/* Changes of credentials may have cleared it; and the monitor may have died
	 * before it was set. */
	err = call2(NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
	if (err)
		fail(err, STEP_DEATH, apart, s.params);
	if (call0(NR_getppid) != (long)s.parent)
		leave(EXIT_ALONE);
	if (filter_calls())
		apart |= APART_FILTER;

	a = answer_of(ring, STEP_READY, apart, s.params);
	answer(&a);
	if (receive(&taken, 1) != 1)
		leave(EXIT_ALONE);

	second = last = SPACE_END;
	if (s.region[1].len) {
		second = s.region[1].addr;
		last = second + s.region[1].len;
	}
	owner_end(s.region[0].addr, s.region[0].addr + s.region[0].len, second, last, SPACE_END);
}
