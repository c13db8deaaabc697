// SPDX-License-Identifier: Apache-2.0

package bare

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The committed programs are what the committed sources make, by the hashes that
// were noted when they were made. `make check` also builds them again.
func TestGeneratedProgramsMatchTheirSources(t *testing.T) {
	f, err := os.Open("generated/MANIFEST")
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
	sources := []string{"Makefile", "bare.ld", "../../device/uringpv/abi/uringpv.h"}
	for _, pattern := range []string{"src/*.c", "src/*.S", "include/*.h", "native/*.c", "native/*.h"} {
		found, _ := filepath.Glob(pattern)
		sources = append(sources, found...)
	}
	if len(sources) < 20 {
		t.Fatalf("found only %d sources", len(sources))
	}
	programs := []string{"bare.elf", "native", "conformance"}
	for _, name := range append(sources, programs...) {
		path := name
		if slices.Contains(programs, name) {
			path = filepath.Join("generated", name)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		if got := hex.EncodeToString(sum[:]); noted[name] != got {
			t.Errorf("%s is not what generated/ was made from: run make -C guest/bare", name)
		}
	}
	if len(noted) != len(sources)+len(programs) {
		t.Errorf("the manifest lists %d files, there are %d", len(noted), len(sources)+len(programs))
	}
}

func TestProgramsAreStaticAndSmall(t *testing.T) {
	for name, program := range map[string][]byte{"guest": Guest(), "native": Native(), "native conformance": NativeConformance()} {
		f, err := elf.NewFile(bytes.NewReader(program))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if f.Type != elf.ET_EXEC || f.Machine != elf.EM_X86_64 || len(program) > 160<<10 {
			t.Errorf("%s: %v for %v of %d bytes", name, f.Type, f.Machine, len(program))
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s needs a dynamic linker", name)
			}
		}
	}
}

func TestParseLine(t *testing.T) {
	for in, want := range map[string]Line{
		"case fsync pass":               {Case, "fsync", Pass, ""},
		"case fsync pass ":              {Case, "fsync", Pass, ""},
		"case verify fail block 7 is 9": {Case, "verify", Fail, "block 7 is 9"},
		"case x skip why":               {Case, "x", Skip, "why"},
		"value ios 12":                  {Kind: Value, Name: "ios", Detail: "12"},
		"case fsync maybe":              {Kind: Text, Detail: "case fsync maybe"},
		"case":                          {Kind: Text, Detail: "case"},
		"case a/b pass":                 {Kind: Text, Detail: "case a/b pass"},
		"value ios":                     {Kind: Text, Detail: "value ios"},
		"hello":                         {Kind: Text, Detail: "hello"},
		"":                              {Kind: Text},
	} {
		if got := ParseLine(in); got != want {
			t.Errorf("%q: %+v, want %+v", in, got, want)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add("case fsync pass detail")
	f.Add("value sha256 00ff")
	f.Fuzz(func(t *testing.T, s string) {
		switch l := ParseLine(s); {
		case l.Kind == Text && l.Detail != s:
			t.Errorf("%q became the text %q", s, l.Detail)
		case l.Kind != Text && !isName(l.Name):
			t.Errorf("%q has the name %q", s, l.Name)
		case l.Kind == Case && l.Result != Pass && l.Result != Fail && l.Result != Skip:
			t.Errorf("%q has the result %q", s, l.Result)
		}
	})
}
