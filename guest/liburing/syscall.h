/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes the place of liburing's src/arch/x86/syscall.h, which makes system calls by
 * itself: with this one liburing calls syscall(2), which uringpv_liburing.h
 * replaces.
 */
#ifndef LIBURING_ARCH_X86_SYSCALL_H
#define LIBURING_ARCH_X86_SYSCALL_H

#include "../generic/syscall.h"

#endif
