#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Builds liburing 2.x, and programs on it, for a Linux guest:
#
#     build.sh SOURCE [PROGRAM...]
#
# SOURCE is liburing's unpacked source. It is changed in one file, and has
# src/liburing.a in the end. A PROGRAM is one of liburing's own, test/NAME.t or
# examples/NAME, which is made where it is, or a file NAME.c, which becomes NAME. All
# are linked statically: a guest need not have this host's C library.
set -e
port=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$1" && pwd)
shift
flags="-O2 -w -include $port/uringpv_liburing.h"
tests= examples=
for program; do
	case $program in
	test/*) tests="$tests ${program#test/}" ;;
	examples/*) examples="$examples ${program#examples/}" ;;
	esac
done

cp "$port/syscall.h" "$source/src/arch/x86/syscall.h"
(cd "$source" && ./configure --use-libc)
make -C "$source/src" liburing.a CFLAGS="$flags"
[ -z "$tests" ] || make -C "$source/test" $tests CFLAGS="$flags" LDFLAGS="-static -s"
[ -z "$examples" ] || make -C "$source/examples" $examples CFLAGS="$flags" LDFLAGS="-static -s"
for program; do
	case $program in
	*.c) gcc $flags -static -s -I"$source/src/include" -o "${program%.c}" "$program" "$source/src/liburing.a" ;;
	esac
done
