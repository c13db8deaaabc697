// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
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

func header(t *testing.T) string {
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
	h := header(t)
	checked := 0
	for _, m := range regexp.MustCompile(`URINGPV_SIZE\((\w+), (\d+)\);`).FindAllStringSubmatch(h, -1) {
		want, _ := strconv.Atoi(m[2])
		v, ok := structures[m[1]]
		if !ok {
			t.Errorf("struct %s has no twin", m[1])
			continue
		}
		if got := binary.Size(v); got != want || sizes[m[1]] != want {
			t.Errorf("%s: %d bytes on the wire, constant %d; the header says %d", m[1], got, sizes[m[1]], want)
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
		"OPCODE_BYTES": OpcodeBytes, "FILE_DISK": FileDisk, "FILE_READONLY": FileReadonly, "FILE_DIRECT": FileDirect, "FILE_BLOCKDEV": FileBlockdev,
		"NO_VECTOR": NoVector,
		"STAT_SQES": StatSQEs, "STAT_CQES": StatCQEs, "STAT_ERRORS": StatErrors, "STAT_BYTES": StatBytes, "STAT_DOORBELLS": StatDoorbells,
		"STAT_INTERRUPTS": StatInterrupts, "STAT_OVERFLOWS": StatOverflows,
	}
	found := 0
	for _, m := range regexp.MustCompile(`(?m)^#define URINGPV_(\w+) (0x[0-9a-f]+|\d+)u?\b`).FindAllStringSubmatch(header(t), -1) {
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

func TestDecodeUndoesEncode(t *testing.T) {
	in := RingSetup{RingsAddr: 0x1000, Vector: NoVector, Opcodes: OpcodesOf(0, 4, 255)}
	in.Params.SQEntries, in.Params.CQOff.CQEs = 64, 320
	out, err := Decode[RingSetup](Encode(&in))
	if err != nil || in != out {
		t.Errorf("got %+v, want %+v", out, in)
	}
	if got := in.Opcodes.List(); !reflect.DeepEqual(got, []uint8{0, 4, 255}) {
		t.Errorf("opcodes %v", got)
	}
}
