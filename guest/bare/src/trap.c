/* SPDX-License-Identifier: Apache-2.0 */
/* CPL 0: descriptor tables, the local APIC, exceptions, waiting. */
#include "trap.h"

#include "bootinfo.h"
#include "cpu.h"
#include "print.h"

#define LAPIC 0xfee00000ull
#define LAPIC_TPR 0x080
#define LAPIC_SVR 0x0f0
#define LAPIC_LVT_TIMER 0x320
#define LAPIC_TIMER_COUNT 0x380
#define LAPIC_TIMER_DIVIDE 0x3e0
#define LVT_MASKED 0x10000

#define VECTOR_BREAKPOINT 3

u32 interrupt_count[256];

extern char stack0_top[];

struct __attribute__((packed)) table_pointer {
	u16 limit;
	u64 base;
};

static u64 gdt[7];
/* The TSS, and behind it the I/O permission bitmap, all clear: CPL 3 may use
 * every port. (IOPL does not survive `iretq` on every KVM.) The bitmap ends in a
 * byte of ones. */
static struct {
	u32 tss[26];
	u8 ports[65536 / 8], end;
} task;

struct table_pointer gdt_pointer;

static void lapic_write(u32 reg, u32 v)
{
	*(volatile u32 *)(LAPIC + reg) = v;
}

/* Called at CPL 0 before anything else. */
void setup_tables(void)
{
	u64 t = (u64)&task, s = (u64)stack0_top;

	gdt[1] = 0x00af9b000000ffff; /* 0x08: code, CPL 0 */
	gdt[2] = 0x00cf93000000ffff; /* 0x10: data, CPL 0 */
	gdt[3] = 0x00cff3000000ffff; /* 0x18: data, CPL 3 */
	gdt[4] = 0x00affb000000ffff; /* 0x20: code, CPL 3 */
	gdt[5] = (sizeof(task.tss) + sizeof(task.ports)) | (t & 0xffffff) << 16 | 0x89ull << 40 | (t >> 24 & 0xff) << 56;
	gdt[6] = t >> 32;
	task.end = 0xff;
	task.tss[1] = (u32)s; /* RSP0 */
	task.tss[2] = (u32)(s >> 32);
	task.tss[25] = sizeof(task.tss) << 16; /* where the bitmap begins */
	gdt_pointer = (struct table_pointer){ sizeof(gdt) - 1, (u64)gdt };

	lapic_write(LAPIC_SVR, 0x1ff); /* on; spurious vector 0xff */
	lapic_write(LAPIC_TPR, 0);
	lapic_write(LAPIC_TIMER_DIVIDE, 0xb); /* by 1 */
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
}

/* As start.S pushes them. */
struct frame {
	u64 rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15;
	u64 vector, error, rip, cs, rflags, rsp, ss;
};

/* Halt until an interrupt, unless the word has changed already. The check and
 * the halt are one: interrupts are off between them, and `sti` lets none in
 * before `hlt`. */
static void wait_while(volatile u32 *word, u32 value)
{
	if (*word != value)
		return;
	lapic_write(LAPIC_LVT_TIMER, VECTOR_TIMER);
	lapic_write(LAPIC_TIMER_COUNT, WAIT_SLICE_NS); /* KVM's APIC bus runs at 1 GHz */
	__asm__ volatile("sti; hlt; cli" ::: "memory");
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
	lapic_write(LAPIC_TIMER_COUNT, 0);
}

void trap(struct frame *f)
{
	u64 cr2;

	if (f->vector == VECTOR_BREAKPOINT && (f->cs & 3) == 3) {
		if (f->rdi)
			wait_while((volatile u32 *)f->rdi, (u32)f->rsi);
		else
			__asm__ volatile("sti; hlt; cli" ::: "memory");
		return;
	}
	__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
	print("guest exception %lu, error %lx, at %lx:%lx, rflags %lx, rsp %lx, cr2 %lx\n", f->vector, f->error, f->cs, f->rip,
	      f->rflags, f->rsp, cr2);
	print("rax %lx rbx %lx rcx %lx rdx %lx rsi %lx rdi %lx rbp %lx\n", f->rax, f->rbx, f->rcx, f->rdx, f->rsi, f->rdi, f->rbp);
	print("r8 %lx r9 %lx r10 %lx r11 %lx r12 %lx r13 %lx r14 %lx r15 %lx\n", f->r8, f->r9, f->r10, f->r11, f->r12, f->r13, f->r14,
	      f->r15);
	for (;;)
		out32(PORT_EXIT, 100 + (u32)f->vector);
}

void wait_for_change(u32 *word, u32 value)
{
	__asm__ volatile("int3" ::"D"(word), "S"((u64)value) : "memory");
}

void rest(void)
{
	wait_for_change(NULL, 0);
}
