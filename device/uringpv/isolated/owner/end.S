/* SPDX-License-Identifier: Apache-2.0 */
/* The page that stays: it unmaps all but itself and guest RAM, makes itself
 * unreadable, closes every descriptor, which tells the monitor that it has, and
 * sleeps. It has no stack, no data, and nowhere to return to.
 *
 * To map code that cannot be read takes the CPU's protection keys. The kernel uses one
 * for memory that may be executed and nothing else, where there are any, and its
 * threads for the ring have no access by any key but the common one. */

#define __NR_mprotect 10
#define __NR_munmap 11
#define __NR_pause 34
#define __NR_exit_group 231
#define __NR_close_range 436
#define PROT_EXEC 4
#define PAGE 4096

	.section .end, "ax"
	.globl owner_end
/* rdi, rsi: the first region's start and end; rdx, rcx: the second's, or twice
 * the address space's end; r8: that end. Regions ascend and lie above the page. */
owner_end:
	mov	%rdi, %rbx
	mov	%rsi, %rbp
	mov	%rdx, %r12
	mov	%rcx, %r13
	mov	%r8, %r14
	lea	owner_end(%rip), %r15

	xor	%edi, %edi
	mov	%r15, %rsi
	mov	$__NR_munmap, %eax
	syscall
	test	%rax, %rax
	jnz	fail

	lea	PAGE(%r15), %rdi
	mov	%rbx, %rsi
	sub	%rdi, %rsi
	mov	$__NR_munmap, %eax
	syscall
	test	%rax, %rax
	jnz	fail

	mov	%rbp, %rdi
	mov	%r12, %rsi
	sub	%rdi, %rsi
	jz	1f
	mov	$__NR_munmap, %eax
	syscall
	test	%rax, %rax
	jnz	fail

1:	mov	%r13, %rdi
	mov	%r14, %rsi
	sub	%rdi, %rsi
	jz	2f
	mov	$__NR_munmap, %eax
	syscall
	test	%rax, %rax
	jnz	fail

2:	mov	%r15, %rdi
	mov	$PAGE, %esi
	mov	$PROT_EXEC, %edx
	mov	$__NR_mprotect, %eax
	syscall
	test	%rax, %rax
	jnz	fail

	xor	%edi, %edi
	mov	$-1, %esi
	xor	%edx, %edx
	mov	$__NR_close_range, %eax
	syscall
	test	%rax, %rax
	jnz	fail

	/* Every signal that can be is blocked. The kernel's own work for the ring
	 * ends a pause. */
3:	mov	$__NR_pause, %eax
	syscall
	jmp	3b

fail:	mov	$5, %edi /* EXIT_UNMAP */
	mov	$__NR_exit_group, %eax
	syscall
	ud2
	.balign	PAGE, 0xcc

	.section .text.start, "ax"
	.globl _start
_start:
	xor	%ebp, %ebp
	and	$-16, %rsp
	call	owner
	ud2

	.section .note.GNU-stack, "", @progbits
