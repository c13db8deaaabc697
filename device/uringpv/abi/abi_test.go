// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// structures pairs each C structure with its twin.
var structures = map[string]any{
	"uringpv_cmd": Cmd{}, "uringpv_identity": Identity{}, "uringpv_file": File{}, "uringpv_range": Range{},
	"uringpv_params": Params{}, "uringpv_ring_setup": RingSetup{}, "uringpv_register": Register{},
	"uringpv_enter": Enter{}, "uringpv_ring_stats": RingStats{},
	"uringpv_sq_offsets": SQOffsets{}, "uringpv_cq_offsets": CQOffsets{},
}

// sizes are the exported sizes.
var sizes = map[string]int{
	"uringpv_cmd": CmdSize, "uringpv_identity": IdentitySize, "uringpv_file": FileSize, "uringpv_range": RangeSize,
	"uringpv_params": ParamsSize, "uringpv_ring_setup": RingSetupSize, "uringpv_register": RegisterSize,
	"uringpv_enter": EnterSize, "uringpv_ring_stats": RingStatsSize,
}

func headerText(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("uringpv.h")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// fold makes a C and a Go name comparable.
func fold(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }

func TestSizesAndOffsetsAreTheHeaders(t *testing.T) {
	h := headerText(t)
	checked := 0
	for _, m := range regexp.MustCompile(`URINGPV_SIZE\((\w+), (\d+)\);`).FindAllStringSubmatch(h, -1) {
		want, _ := strconv.Atoi(m[2])
		v, ok := structures[m[1]]
		if !ok {
			t.Errorf("struct %s has no twin", m[1])
			continue
		}
		if got, mem := binary.Size(v), int(reflect.TypeOf(v).Size()); got != want || mem != want || sizes[m[1]] != want {
			t.Errorf("%s: %d bytes on the wire, %d in memory, constant %d; the header says %d", m[1], got, mem, sizes[m[1]], want)
		}
		checked++
	}
	if checked != len(sizes) {
		t.Errorf("checked %d sizes, want %d", checked, len(sizes))
	}
	checked = 0
	for _, m := range regexp.MustCompile(`URINGPV_AT\((\w+), (\w+), (\d+)\);`).FindAllStringSubmatch(h, -1) {
		want, _ := strconv.Atoi(m[3])
		typ := reflect.TypeOf(structures[m[1]])
		f, ok := typ.FieldByNameFunc(func(n string) bool { return fold(n) == fold(m[2]) })
		if !ok {
			t.Errorf("%s.%s has no twin", m[1], m[2])
			continue
		}
		if int(f.Offset) != want {
			t.Errorf("%s.%s: offset %d, the header says %d", m[1], m[2], f.Offset, want)
		}
		checked++
	}
	if checked < 78 {
		t.Errorf("only %d offsets found in the header", checked)
	}
}

// The asserts in the header do not name every field; this does.
func TestFieldsAreTheHeadersOneByOne(t *testing.T) {
	comment := regexp.MustCompile(`(?s)/\*.*?\*/`)
	field := regexp.MustCompile(`^(\w+)(?:\[(\w+)\])?$`)
	size := map[string]int{"__u8": 1, "char": 1, "__u32": 4, "__s32": 4, "__u64": 8, "URINGPV_OPCODE_BYTES": OpcodeBytes}
	h := comment.ReplaceAllString(headerText(t), "")
	found := 0
	for _, m := range regexp.MustCompile(`(?s)struct (\w+) \{(.*?)\};`).FindAllStringSubmatch(h, -1) {
		v, ok := structures[m[1]]
		if !ok {
			t.Errorf("struct %s has no twin", m[1])
			continue
		}
		found++
		typ := reflect.TypeOf(v)
		var fields []reflect.StructField
		for i := range typ.NumField() {
			if f := typ.Field(i); f.Name != "_" {
				fields = append(fields, f)
			}
		}
		for decl := range strings.SplitSeq(m[2], ";") {
			decl = strings.TrimPrefix(strings.Join(strings.Fields(decl), " "), "struct ")
			if decl == "" {
				continue
			}
			ctype, names, _ := strings.Cut(decl, " ")
			for name := range strings.SplitSeq(names, ", ") {
				f := field.FindStringSubmatch(name)
				if f == nil || len(fields) == 0 {
					t.Fatalf("%s: %q has no twin", m[1], name)
				}
				want := size[ctype]
				if inner, ok := structures[ctype]; ok {
					want = binary.Size(inner)
				}
				if f[2] != "" {
					n, ok := size[f[2]]
					if !ok {
						n, _ = strconv.Atoi(f[2])
					}
					want *= n
				}
				if got := fields[0]; fold(got.Name) != fold(f[1]) || int(got.Type.Size()) != want || want == 0 {
					t.Errorf("%s: %s of %d bytes, the header has %s of %d", m[1], got.Name, got.Type.Size(), f[1], want)
				}
				fields = fields[1:]
			}
		}
		if len(fields) != 0 {
			t.Errorf("%s: the header has no %s", m[1], fields[0].Name)
		}
	}
	if found != len(structures) {
		t.Errorf("found %d structures in the header, want %d", found, len(structures))
	}
}

func TestConstantsAreTheHeaders(t *testing.T) {
	twins := map[string]uint64{
		"PCI_VENDOR": PCIVendor, "PCI_DEVICE": PCIDevice, "PCI_CLASS": PCIClass,
		"BAR_CONTROL": BARControl, "BAR_DOORBELL": BARDoorbell, "BAR_MSIX": BARMSIX, "DOORBELL_STRIDE": DoorbellStride,
		"REG_MAGIC": RegMagic, "REG_VERSION": RegVersion, "REG_STATUS": RegStatus, "REG_NUM_RINGS": RegNumRings,
		"REG_ADDR_BASE": RegAddrBase, "REG_ADMIN_ADDR": RegAdminAddr, "REG_ADMIN_DOORBELL": RegAdminDoorbell, "REG_ADMIN_ERROR": RegAdminError,
		"MAGIC": Magic, "VERSION_MAJOR": VersionMajor, "VERSION_MINOR": VersionMinor,
		"STATUS_READY": StatusReady, "STATUS_FAILED": StatusFailed,
		"CMD_IDENTIFY": CmdIdentify, "CMD_FILE_INFO": CmdFileInfo, "CMD_BUFFER_INFO": CmdBufferInfo, "CMD_RING_SETUP": CmdRingSetup,
		"CMD_RING_REGISTER": CmdRingRegister, "CMD_RING_ENTER": CmdRingEnter, "CMD_RING_DESTROY": CmdRingDestroy, "CMD_RESET": CmdReset,
		"CMD_RING_STATS": CmdRingStats,
		"BACKEND_RELAY":  uint64(BackendRelay), "BACKEND_PASSTHROUGH": uint64(BackendPassthrough), "BACKEND_ISOLATED": uint64(BackendIsolated),
		"OPCODE_BYTES": OpcodeBytes, "FILE_DISK": uint64(FileDisk), "FILE_REGULAR": uint64(FileRegular),
		"FILE_STREAM": uint64(FileStream), "FILE_DGRAM": uint64(FileDgram), "FILE_LISTENER": uint64(FileListener), "FILE_PIPE": uint64(FilePipe),
		"FILE_EVENTFD": uint64(FileEventfd), "FILE_TAP": uint64(FileTap), "FILE_WRITEONLY": FileWriteonly, "FILE_UNCONNECTED": FileUnconnected,
		"SLOT_EMPTY": SlotEmpty, "SLOT_KEEP": SlotKeep,
		"FILE_READONLY": FileReadonly, "FILE_DIRECT": FileDirect, "FILE_BLOCKDEV": FileBlockdev, "FILE_POLL": FilePoll,
		"NO_VECTOR": NoVector,
		"STAT_SQES": StatSQEs, "STAT_CQES": StatCQEs, "STAT_ERRORS": StatErrors, "STAT_BYTES": StatBytes, "STAT_DOORBELLS": StatDoorbells,
		"STAT_INTERRUPTS": StatInterrupts, "STAT_OVERFLOWS": StatOverflows,
	}
	found := 0
	for _, m := range regexp.MustCompile(`(?m)^#define URINGPV_(\w+) (0x[0-9a-f]+|\d+)u?\b`).FindAllStringSubmatch(headerText(t), -1) {
		want, err := strconv.ParseUint(m[2], 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := twins[m[1]]
		if !ok {
			t.Errorf("URINGPV_%s has no twin", m[1])
		} else if got != want {
			t.Errorf("URINGPV_%s: %#x, the header says %#x", m[1], got, want)
		}
		found++
	}
	if found != len(twins) {
		t.Errorf("found %d constants in the header, want %d", found, len(twins))
	}
}

func TestHeaderStandsAlone(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("SKIPPED, NOT TESTED: no gcc to compile the header with")
	}
	c := filepath.Join(t.TempDir(), "header.c")
	if err := os.WriteFile(c, []byte("#include \"uringpv.h\"\n_Static_assert(URINGPV_RINGS_SIZE(4096, 8192) == 151552, \"\");\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffreestanding", "-fsyntax-only", "-I.", c).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if got := RingsSize(4096, 8192); got != 151552 {
		t.Errorf("RingsSize(4096, 8192) is %d", got)
	}
}

// eachStruct calls a test for every structure of the contract.
func eachStruct(t *testing.T, test func(t *testing.T, c codec)) {
	for _, c := range []codec{
		codecOf[Cmd](), codecOf[Identity](), codecOf[File](), codecOf[Range](), codecOf[Params](),
		codecOf[RingSetup](), codecOf[Register](), codecOf[Enter](), codecOf[RingStats](),
	} {
		t.Run(c.name, func(t *testing.T) { test(t, c) })
	}
}

// codec is Decode and Encode of one structure.
type codec struct {
	name  string
	size  int
	again func(b []byte) ([]byte, error) // decoded and encoded
}

func codecOf[T Struct]() codec {
	var zero T
	return codec{reflect.TypeFor[T]().Name(), len(Encode(&zero)), func(b []byte) ([]byte, error) {
		v, err := Decode[T](b)
		return Encode(&v), err
	}}
}

// No byte of a structure is padding: whatever is in it comes back.
func TestEncodeUndoesDecode(t *testing.T) {
	eachStruct(t, func(t *testing.T, c codec) {
		rapid.Check(t, func(t *rapid.T) {
			in := rapid.SliceOfN(rapid.Byte(), c.size, c.size).Draw(t, "bytes")
			if out, err := c.again(in); err != nil || !bytes.Equal(in, out) {
				t.Fatalf("% x, %v\nwant % x", out, err, in)
			}
		})
	})
}

func TestStructuresMayGrow(t *testing.T) {
	eachStruct(t, func(t *testing.T, c codec) {
		rapid.Check(t, func(t *rapid.T) {
			in := rapid.SliceOfN(rapid.Byte(), 0, c.size).Draw(t, "bytes")
			want := append(append([]byte(nil), in...), make([]byte, c.size-len(in))...)
			tail := rapid.IntRange(0, 40).Draw(t, "zeros behind")
			for _, b := range [][]byte{in, append(append([]byte(nil), want...), make([]byte, tail)...)} {
				if out, err := c.again(b); err != nil || !bytes.Equal(out, want) {
					t.Fatalf("%d bytes: % x, %v\nwant % x", len(b), out, err, want)
				}
			}
			long := append(append([]byte(nil), want...), make([]byte, tail+1)...)
			long[c.size+rapid.IntRange(0, tail).Draw(t, "where")] = rapid.ByteRange(1, 255).Draw(t, "content")
			if _, err := c.again(long); !errors.Is(err, ErrTooBig) {
				t.Fatalf("content behind the structure: %v", err)
			}
		})
	})
}

func TestDecodeLeavesItsInputAlone(t *testing.T) {
	b := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	if _, err := Decode[Range](b[:4]); err != nil || b[4] != 5 {
		t.Errorf("%v, % x", err, b)
	}
}

func TestWordsAreLittleEndian(t *testing.T) {
	want := []byte{1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff}
	if got := Encode(&Cmd{Op: 1, Result: -2}); !bytes.Equal(got[:8], want) {
		t.Errorf("% x, want % x", got[:8], want)
	}
}

func TestOpcodesAreASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ops := rapid.SliceOfN(rapid.Uint8(), 0, 20).Draw(t, "opcodes")
		o := OpcodesOf(ops...)
		for op := range 256 {
			if o.Has(uint8(op)) != slices.Contains(ops, uint8(op)) {
				t.Fatalf("%v has %d: %v", ops, op, o.Has(uint8(op)))
			}
			if in := o[op/8]>>(op%8)&1 == 1; in != o.Has(uint8(op)) {
				t.Fatalf("bit %d of the bitmap is %v", op, in)
			}
		}
		slices.Sort(ops)
		ops = slices.Compact(ops)
		if got := o.List(); !slices.Equal(got, ops) || o.Empty() != (len(ops) == 0) {
			t.Fatalf("%v, empty: %v, want %v", got, o.Empty(), ops)
		}
		p := OpcodesOf(rapid.SliceOfN(rapid.Uint8(), 0, 20).Draw(t, "others")...)
		sub := true
		for _, op := range ops {
			sub = sub && p.Has(op)
		}
		if o.SubsetOf(&p) != sub || !o.SubsetOf(&o) {
			t.Fatalf("%v is in %v: %v", o.List(), p.List(), o.SubsetOf(&p))
		}
	})
}

func TestTextFitsAndEndsInNUL(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := strings.ReplaceAll(rapid.String().Draw(t, "text"), "\x00", "")
		b := bytes.Repeat([]byte{0xff}, rapid.IntRange(1, 16).Draw(t, "room"))
		Text(b, s)
		got := TextOf(b)
		if !strings.HasPrefix(s, got) || !utf8.ValidString(got) || b[len(b)-1] != 0 || !bytes.Equal(b[len(got):], make([]byte, len(b)-len(got))) {
			t.Fatalf("%q in %d bytes is % x", s, len(b), b)
		}
		// No more is cut than has to be: not a whole character less.
		if got != s {
			_, n := utf8.DecodeRuneInString(s[len(got):])
			if len(got)+n < len(b) {
				t.Fatalf("%q in %d bytes is %q", s, len(b), got)
			}
		}
	})
	if got := TextOf([]byte("full")); got != "full" {
		t.Errorf("%q", got)
	}
}

func TestBackendsHaveTheirNames(t *testing.T) {
	for b, want := range map[Backend]string{BackendRelay: "relay", BackendPassthrough: "passthrough", BackendIsolated: "isolated", 0: "unknown backend"} {
		if b.String() != want {
			t.Errorf("backend %d is %q, want %q", uint32(b), b, want)
		}
	}
}
