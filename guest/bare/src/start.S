/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the monitor's entry at CPL 0 to user_main at CPL 3, and back for traps.
 *
 * Code at CPL 0 may be run by an instruction emulator, a hundred times slower
 * than code at CPL 3: here is only what must be.
 */
	.set CODE0, 0x08
	.set DATA0, 0x10
	.set DATA3, 0x18 + 3
	.set CODE3, 0x20 + 3
	.set TSS, 0x28
	.set LAPIC_EOI, 0xfee000b0

	.section .text.start, "ax"
	.globl _start
_start:
	lea	stack0_top(%rip), %rsp
	mov	%rdi, %rbx
	call	setup_tables		/* GDT, TSS, local APIC */
	lgdt	gdt_pointer(%rip)
	lidt	idt_pointer(%rip)
	mov	$DATA0, %eax
	mov	%eax, %ss
	mov	$DATA3, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	$TSS, %eax
	ltr	%ax

	/* To CPL 3, interrupts on. */
	pushq	$DATA3
	lea	stack3_top(%rip), %rax
	push	%rax
	pushq	$0x202
	pushq	$CODE3
	lea	enter3(%rip), %rax
	push	%rax
	iretq

	.text
enter3:
	mov	%rbx, %rdi
	xor	%ebp, %ebp
	call	user_main
	ud2

/* An interrupt: count it, end it. */
	.balign 16
interrupt:
	push	%rax
	mov	8(%rsp), %rax
	lock incl interrupt_count(,%rax,4)
	mov	$LAPIC_EOI, %eax
	movl	$0, (%rax)
	pop	%rax
	add	$8, %rsp
	iretq

/* An exception, or a call from CPL 3 by int3: all registers for C. */
	.balign 16
exception:
	push	%r15
	push	%r14
	push	%r13
	push	%r12
	push	%r11
	push	%r10
	push	%r9
	push	%r8
	push	%rbp
	push	%rdi
	push	%rsi
	push	%rdx
	push	%rcx
	push	%rbx
	push	%rax
	mov	%rsp, %rdi
	cld
	call	trap
	pop	%rax
	pop	%rbx
	pop	%rcx
	pop	%rdx
	pop	%rsi
	pop	%rdi
	pop	%rbp
	pop	%r8
	pop	%r9
	pop	%r10
	pop	%r11
	pop	%r12
	pop	%r13
	pop	%r14
	pop	%r15
	add	$16, %rsp		/* vector and error code */
	iretq

/* A stub for each vector, 16 bytes apart; the first 32 are exceptions. All lie in one
 * page, so that their addresses differ in the low 16 bits alone. */
	.balign 4096
	.globl stubs
stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.if vector < 32
	/* The CPU pushes an error code for 8, 10 to 14, 17, 21, 29 and 30. */
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
	pushq	$0
	.endif
	pushq	$vector
	jmp	exception
	.else
	pushq	$vector
	jmp	interrupt
	.endif
	.set vector, vector + 1
	.endr

/* The IDT: interrupt gates, int3 from CPL 3 too. The linker fills in the stubs'
 * addresses, in the two halves that bare.ld makes: at CPL 0 that took longer than all
 * else until the first request. */
	.section .rodata
	.balign 16
	.globl idt
idt:
	.set vector, 0
	.rept 256
	.word	stubs_low + 16 * vector
	.word	CODE0
	.byte	0
	.if vector == 3
	.byte	0xee
	.else
	.byte	0x8e
	.endif
	.word	stubs_high
	.quad	0
	.set vector, vector + 1
	.endr
	.globl idt_pointer
idt_pointer:
	.word	. - idt - 1
	.quad	idt

	.bss
	.balign 4096
	.skip	16384
	.globl stack0_top
stack0_top:
	.skip	65536
stack3_top:
