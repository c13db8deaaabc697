// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"encoding/binary"
	"strings"
	"testing"
)

func TestTheFirstStackIsRAMThatNothingElseUses(t *testing.T) {
	m := memory(t, 16<<20)
	e, err := Bare{ELF: program(ImageStart, ImageStart, 16, []byte{0xf4}), CPUs: 1}.Load(m)
	if err != nil {
		t.Fatal(err)
	}
	if e.RSP%16 != 0 || e.RSP <= CountersAddr+pageTableSize || e.RSP > pdAddr {
		t.Errorf("the stack's top is %#x", e.RSP)
	}
	for a := uint64(CountersAddr + pageTableSize); a < e.RSP; a += 8 {
		if v := u64(t, m, a); v != 0 {
			t.Fatalf("the stack has %#x at %#x", v, a)
		}
	}
}

// The program header's fields, by their place in program's file.
const (
	fileOff    = 64 + 8
	fileVaddr  = 64 + 16
	fileFilesz = 64 + 32
	fileMemsz  = 64 + 40
)

func TestProgramsThatLieAreRefusedWithTheReason(t *testing.T) {
	m := memory(t, 16<<20)
	for name, c := range map[string]struct {
		at    int
		value uint64
		want  string
	}{
		"linked elsewhere":       {fileVaddr, ImageStart + 4096, "memory is mapped to itself"},
		"begins behind the file": {fileOff, 1 << 40, "cut short"},
		"offset wraps":           {fileOff, ^uint64(0) - 4, ""},
		"more than the file has": {fileFilesz, 4096, "cut short"},
		"more than RAM":          {fileMemsz, 1 << 50, "guest RAM"},
	} {
		image := program(ImageStart, ImageStart, 8192, []byte{1, 2, 3})
		binary.LittleEndian.PutUint64(image[c.at:], c.value)
		if _, err := (Bare{ELF: image}).Load(m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}
