/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The entry for other monitors, by the x86/HVM direct boot ABI ("PVH", Xen's
 * docs/misc/pvh.pandoc): 32-bit protected mode, no paging, EBX has the physical
 * address of struct hvm_start_info. From here to the state in which uringpv's own
 * monitor begins: 64-bit mode at CPL 0, the first 4 GiB mapped to themselves, RDI
 * has struct bootinfo.
 */
	.set PHYS32_ENTRY, 18		/* XEN_ELFNOTE_PHYS32_ENTRY */
	.set PRESENT_WRITE_USER, 7
	.set LARGE, 0x80
	.set PAE, 0x20			/* CR4 */
	.set EFER, 0xc0000080
	.set LONG_MODE, 0x100
	.set PAGING, 0x80000000		/* CR0 */

	.section .note.pvh, "a", @note
	.balign 4
	.long	4, 4, PHYS32_ENTRY
	.asciz	"Xen"
	.long	pvh_start

	.text
	.code32
pvh_start:
	mov	$stack0_top, %esp
	mov	$tables + 0x2000, %edi	/* four page directories of 2 MiB pages */
	mov	$PRESENT_WRITE_USER + LARGE, %eax
	xor	%edx, %edx
	mov	$2048, %ecx
1:	mov	%eax, (%edi)
	mov	%edx, 4(%edi)
	add	$0x200000, %eax
	add	$8, %edi
	dec	%ecx
	jnz	1b
	mov	$tables + 0x1000, %edi
	mov	$tables + 0x2000 + PRESENT_WRITE_USER, %eax
	mov	$4, %ecx
2:	mov	%eax, (%edi)
	add	$0x1000, %eax
	add	$8, %edi
	dec	%ecx
	jnz	2b
	movl	$tables + 0x1000 + PRESENT_WRITE_USER, tables

	mov	%cr4, %eax
	or	$PAE, %eax
	mov	%eax, %cr4
	mov	$tables, %eax
	mov	%eax, %cr3
	mov	$EFER, %ecx
	rdmsr
	or	$LONG_MODE, %eax
	wrmsr
	mov	%cr0, %eax
	or	$PAGING, %eax
	mov	%eax, %cr0
	lgdt	first_gdt_pointer
	ljmp	$8, $3f

	.code64
3:	mov	$16, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	%ebx, %edi
	call	pvh_bootinfo
	mov	%rax, %rdi
	jmp	_start

	.section .rodata
	.balign 8
first_gdt:
	.quad	0, 0x00af9b000000ffff, 0x00cf93000000ffff
first_gdt_pointer:
	.word	23
	.quad	first_gdt

	.bss
	.balign 4096
tables:
	.skip	0x6000
