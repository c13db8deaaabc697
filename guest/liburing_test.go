// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uringpv/uringpv/device/uringpv/abi"
)

// document is where the port's users read.
const document = "../docs/guest-programs.md"

// The table stands between these lines.
const (
	tableBegin = "<!-- liburing: begin -->\n"
	tableEnd   = "<!-- liburing: end -->\n"
)

// liburingTable is the list of programs in Markdown.
func liburingTable(programs []LiburingProgram) string {
	cell := func(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
	var b strings.Builder
	b.WriteString("| program | result | it says | why |\n|---|---|---|---|\n")
	for _, p := range programs {
		says := ""
		if p.Says != "" {
			says = "`" + cell(p.Says) + "`"
		}
		result := p.Result
		if p.Timed {
			result += ", timed"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", strings.Join(append([]string{p.File}, p.Args...), " "), result, says, cell(p.Why))
	}
	return b.String()
}

// UPDATE_GOLDEN=1 writes the table anew.
func TestLiburingTableIsCurrent(t *testing.T) {
	programs, err := LiburingPrograms()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := bytes.Cut(text, []byte(tableBegin))
	table, after, ended := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !ended {
		t.Fatalf("%s has no lines %q and %q", document, tableBegin, tableEnd)
	}
	want := liburingTable(programs)
	if string(table) == want {
		return
	}
	if os.Getenv("UPDATE_GOLDEN") == "" {
		t.Fatalf("%s: the table is not that of guest/liburing/programs; UPDATE_GOLDEN=1 writes it anew", document)
	}
	text = slices.Concat(before, []byte(tableBegin), []byte(want), []byte(tableEnd), after)
	if err := os.WriteFile(document, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// What the document says of liburing's version and shows as a program is what is
// built and run.
func TestLiburingDocumentShowsWhatIsTested(t *testing.T) {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if want := "liburing " + LiburingVersion; !bytes.Contains(text, []byte(want)) {
		t.Errorf("%s does not speak of %s", document, want)
	}
	example, _ := strings.CutPrefix(string(LiburingPort()["example.c"]), "/* SPDX-License-Identifier: Apache-2.0 */\n")
	if !bytes.Contains(text, []byte("```c\n"+example+"```\n")) {
		t.Errorf("%s does not show guest/liburing/example.c, without its first line", document)
	}
}

func TestLiburingProgramsAreNamedOnce(t *testing.T) {
	programs, err := LiburingPrograms()
	if err != nil {
		t.Fatal(err)
	}
	if len(programs) == 0 {
		t.Fatal("no programs")
	}
	files := map[string]string{}
	for _, p := range programs {
		if other, ok := files[p.Name()]; ok && other != p.File {
			t.Errorf("%s and %s have one name", other, p.File)
		}
		files[p.Name()] = p.File
		port := LiburingPort()[p.File] != nil
		if !port && !strings.HasPrefix(p.File, "test/") && !strings.HasPrefix(p.File, "examples/") {
			t.Errorf("%s is neither a program of liburing's nor one of the port's", p.File)
		}
	}
}

// The port has its own words for what the driver's header says, for it must not bring
// that of the system's <linux/io_uring.h>; and it says nothing that a compiler minds.
func TestLiburingLayerIsTheDriversInterface(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("SKIPPED, NOT TESTED: no gcc to compile the header with")
	}
	const check = `
#include <linux/io_uring.h>
#include "uringpv_user.h"
_Static_assert(sizeof(struct uringpv_liburing_params) == sizeof(struct io_uring_params), "");
_Static_assert(URINGPV_LIBURING_IOPOLL == IORING_SETUP_IOPOLL && URINGPV_LIBURING_SQPOLL == IORING_SETUP_SQPOLL &&
	       URINGPV_LIBURING_SUBMIT_ALL == IORING_SETUP_SUBMIT_ALL, "");
_Static_assert(__builtin_offsetof(struct uringpv_liburing_params, flags) == __builtin_offsetof(struct io_uring_params, flags), "");
#define SAME(ours, theirs, field) \
	_Static_assert(__builtin_offsetof(struct ours, field) == __builtin_offsetof(struct theirs, field) && \
		       sizeof(((struct ours *)0)->field) == sizeof(((struct theirs *)0)->field), "")
SAME(uringpv_liburing_setup, uringpv_user_setup, entries);
SAME(uringpv_liburing_setup, uringpv_user_setup, params);
SAME(uringpv_liburing_enter, uringpv_user_enter, to_submit);
SAME(uringpv_liburing_enter, uringpv_user_enter, min_complete);
SAME(uringpv_liburing_enter, uringpv_user_enter, flags);
SAME(uringpv_liburing_enter, uringpv_user_enter, arg);
SAME(uringpv_liburing_enter, uringpv_user_enter, argsz);
SAME(uringpv_liburing_register, uringpv_user_register, opcode);
SAME(uringpv_liburing_register, uringpv_user_register, nr_args);
SAME(uringpv_liburing_register, uringpv_user_register, arg);
SAME(uringpv_liburing_file, uringpv_user_file, kind);
SAME(uringpv_liburing_file, uringpv_user_file, size);
SAME(uringpv_liburing_file, uringpv_user_file, block_size);
_Static_assert(URINGPV_LIBURING_SETUP == URINGPV_IOC_SETUP, "");
_Static_assert(URINGPV_LIBURING_ENTER == URINGPV_IOC_ENTER, "");
_Static_assert(URINGPV_LIBURING_REGISTER == URINGPV_IOC_REGISTER, "");
_Static_assert(URINGPV_LIBURING_FILE == URINGPV_IOC_FILE, "");
_Static_assert(URINGPV_LIBURING_DISK == DISK && URINGPV_LIBURING_REGULAR == REGULAR, "");
_Static_assert(URINGPV_NR_SETUP == __NR_io_uring_setup && URINGPV_NR_ENTER == __NR_io_uring_enter &&
	       URINGPV_NR_REGISTER == __NR_io_uring_register, "");

int main(void)
{
	struct stat st;

	return fstat(0, &st) + (int)syscall(__NR_getpid);
}
`
	c := filepath.Join(t.TempDir(), "check.c")
	if err := os.WriteFile(c, []byte(check), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-Ikmod",
		fmt.Sprintf("-DDISK=%d", abi.FileDisk), fmt.Sprintf("-DREGULAR=%d", abi.FileRegular), "-include", "liburing/uringpv_liburing.h", c).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
