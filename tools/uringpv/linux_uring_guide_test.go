// SPDX-License-Identifier: Apache-2.0

package main

import (
	_ "embed"
	"fmt"
	"log"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/guest/uring"
)

func init() { programs["guide"] = func(*program, []string) { guide() } }

//go:embed linux_uring_guide_test.go
var guideSource string

// guide is the main function of the first program in docs/guest-programs.md.
func guide() {
	r, err := uring.Open("/dev/uringpv0", uring.Config{Entries: 8})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	f, err := os.Open(uring.Directory + "/disk0")
	if err != nil {
		log.Fatal(err)
	}
	// Memory that does not move until the CQE has come.
	b, err := unix.Mmap(-1, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		log.Fatal(err)
	}
	sqe, _ := r.SQE()
	sqe.Opcode, sqe.FD, sqe.Addr, sqe.Len, sqe.UserData = uring.OpRead, int32(f.Fd()), uring.Addr(b), uint32(len(b)), 1
	if _, err := r.Submit(); err != nil {
		log.Fatal(err)
	}
	if err := r.Wait(1); err != nil {
		log.Fatal(err)
	}
	var cqes [8]uring.CQE
	for _, c := range cqes[:r.Reap(cqes[:])] {
		fmt.Println("request", c.UserData, "read", c.Res, "bytes")
	}
}

// What runs in the guest is what readers of the guide have.
func TestTheGuidesProgramIsTheOneThatRuns(t *testing.T) {
	text, err := os.ReadFile("../../docs/guest-programs.md")
	if _, e := os.Stat("../../go.mod"); e != nil {
		t.Skip("NOT TESTED: this is no source tree, with documents in it")
	}
	if err != nil {
		t.Fatal(err)
	}
	body := func(s, begin string) string {
		_, s, _ = strings.Cut(s, "\n"+begin+" {\n")
		s, _, ok := strings.Cut(s, "\n}\n")
		if !ok {
			t.Fatalf("there is no %q", begin)
		}
		return s
	}
	if doc, here := body(string(text), "func main()"), body(guideSource, "func guide()"); doc != here {
		t.Errorf("the guide's program is\n%s\nand here it is\n%s", doc, here)
	}
}
