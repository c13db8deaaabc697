// SPDX-License-Identifier: Apache-2.0

package isolated

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/uringpv/uringpv/memmap"
)

// The messages must be owner.h's, byte by byte.
func TestMessagesAreTheOwners(t *testing.T) {
	if n := binary.Size(start{}); n != startSize {
		t.Errorf("struct owner_start has %d bytes, want %d", n, startSize)
	}
	if n := binary.Size(answer{}); n != answerSize {
		t.Errorf("struct owner_answer has %d bytes, want %d", n, answerSize)
	}
	for field, want := range map[string]uintptr{
		"Regions": 0, "FSize": 48, "Parent": 56, "Entries": 60, "Flags": 64, "Resv": 68, "Params": 72,
	} {
		if f, _ := reflect.TypeFor[start]().FieldByName(field); f.Offset != want {
			t.Errorf("owner_start.%s is at %d, want %d", field, f.Offset, want)
		}
	}
	for field, want := range map[string]uintptr{"Result": 0, "Step": 4, "Apart": 8, "Resv": 12, "Params": 16} {
		if f, _ := reflect.TypeFor[answer]().FieldByName(field); f.Offset != want {
			t.Errorf("owner_answer.%s is at %d, want %d", field, f.Offset, want)
		}
	}
	a := answer{Result: -14, Step: ready, Apart: apartRoot}
	a.Params.Features = 7
	var b answer
	if !decode(encode(&a), &b) || a != b {
		t.Errorf("%+v became %+v", a, b)
	}
	if decode(append(encode(&a), 0), &b) || decode(encode(&a)[1:], &b) {
		t.Error("a message of another length was taken")
	}
	if !bytes.HasPrefix(program, []byte("\x7fELF")) {
		t.Error("the embedded program is no ELF")
	}
}

// The committed program is what the committed sources make, by the hashes that
// were noted when it was made. `make check-generated` also builds it again.
func TestGeneratedOwnerMatchesItsSources(t *testing.T) {
	f, err := os.Open("owner/generated/MANIFEST")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	noted := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if hash, name, ok := strings.Cut(lines.Text(), "  "); ok && len(hash) == 64 {
			noted[name] = hash
		}
	}
	files := []string{"Makefile", "owner.ld", "owner.h", "owner.c", "end.S", "owner"}
	for _, name := range files {
		path := filepath.Join("owner", name)
		if name == "owner" {
			path = filepath.Join("owner", "generated", name)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(b); noted[name] != hex.EncodeToString(sum[:]) {
			t.Errorf("%s is not what owner/generated was made from: run make -C device/uringpv/isolated/owner", name)
		}
	}
	if len(noted) != len(files) {
		t.Errorf("the manifest lists %d files, there are %d", len(noted), len(files))
	}
}

func TestOwnerIsStaticAndSmall(t *testing.T) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	if f.Type != elf.ET_EXEC || f.Machine != elf.EM_X86_64 || len(program) > 32<<10 {
		t.Errorf("%v for %v of %d bytes", f.Type, f.Machine, len(program))
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC || p.Type == elf.PT_LOAD && p.Flags != elf.PF_R|elf.PF_X {
			t.Errorf("a segment of type %v with %v", p.Type, p.Flags)
		}
		if p.Type == elf.PT_LOAD && p.Vaddr+p.Memsz > uint64(memmap.AddrBase) {
			t.Errorf("a segment at %#x, where guest RAM may be", p.Vaddr)
		}
	}
}

// TestConstantsAreTheOwners holds the names that both sides have.
func TestConstantsAreTheOwners(t *testing.T) {
	h, err := os.ReadFile("owner/owner.h")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for line := range strings.Lines(string(h)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "#define" {
			have[f[1]] = f[2]
		}
	}
	for name, want := range map[string]int{
		"OWNER_REGIONS": regions, "FD_MONITOR": fdMonitor, "FD_MEMORY": fdMemory, "FD_PROGRAM": fdProgram,
		"OWNER_NO_USERNS": noUserNamespace, "OWNER_PARAMS": answerSize - 16,
		"APART_USER": int(apartUser), "APART_MOUNT": int(apartMount), "APART_NET": int(apartNet), "APART_IPC": int(apartIPC),
		"APART_UTS": int(apartUTS), "APART_CGROUP": int(apartCgroup), "APART_ROOT": int(apartRoot), "APART_FILTER": int(apartFilter),
		"EXIT_ALONE": exitAlone, "EXIT_FAILED": exitFailed, "EXIT_UNMAP": exitUnmap,
	} {
		if have[name] != fmt.Sprint(want) {
			t.Errorf("%s is %q in owner.h, want %d", name, have[name], want)
		}
	}
	_, enum, _ := strings.Cut(string(h), "enum owner_step {")
	enum, _, _ = strings.Cut(enum, "}")
	var steps []string
	for line := range strings.Lines(enum) {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), ","); ok {
			steps = append(steps, strings.TrimSuffix(name, " = 1"))
		}
	}
	for name, s := range map[string]step{"STEP_MEMORY": stepMemory, "STEP_RING": stepRing, "STEP_READY": ready} {
		if int(s) > len(steps) || steps[s-1] != name {
			t.Errorf("%s is not step %d of %v", name, s, steps)
		}
	}
}
