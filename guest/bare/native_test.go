// SPDX-License-Identifier: Apache-2.0

package bare_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/guest/bare"
	"github.com/uringpv/uringpv/internal/testutil"
)

// What the conformance cases want of a device is what io_uring itself does.
func TestConformanceCasesHoldOnTheHostsOwnRings(t *testing.T) {
	testutil.NeedIOUring(t)
	fd, err := unix.MemfdCreate("conformance", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	program := os.NewFile(uintptr(fd), "conformance")
	defer program.Close()
	if _, err := program.Write(bare.NativeConformance()); err != nil {
		t.Fatal(err)
	}
	var said, wrong bytes.Buffer
	cmd := exec.Command("/proc/self/fd/3", "listener="+filepath.Join(t.TempDir(), "s"))
	cmd.ExtraFiles = []*os.File{program}
	cmd.Stdout, cmd.Stderr = &said, &wrong
	if err := cmd.Run(); err != nil {
		t.Errorf("%v: %s", err, &wrong)
	}
	cases, traces := 0, 0
	for s := range strings.Lines(said.String()) {
		switch l := bare.ParseLine(strings.TrimSuffix(s, "\n")); l.Kind {
		case bare.Case:
			cases++
			want := bare.Pass
			if l.Name == "iopoll" { // it was given no disk; tools/uringpv has one for it
				want = bare.Skip
			}
			if l.Result != want {
				t.Errorf("%s: %s: %s", l.Name, l.Result, l.Detail)
			}
		case bare.Value:
			traces++
		default:
			t.Errorf("it wrote %q", l.Detail)
		}
	}
	if cases < 40 || traces < 40 {
		t.Errorf("%d cases and %d traces: some are missing", cases, traces)
	}
}
