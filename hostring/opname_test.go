// SPDX-License-Identifier: Apache-2.0

package hostring

import "testing"

func TestOpcodesAndNamesAreOneToOne(t *testing.T) {
	for op := range 256 {
		name := OpName(uint8(op))
		back, ok := OpNamed(name)
		switch {
		case name == "":
			t.Errorf("opcode %d has no name", op)
		case op <= int(OpPipe) && (!ok || back != uint8(op)):
			t.Errorf("opcode %d is %q, which is opcode %d, %v", op, name, back, ok)
		case op > int(OpPipe) && ok:
			t.Errorf("opcode %d, which there is not, is %q, opcode %d", op, name, back)
		}
	}
	for name, want := range map[string]uint8{"nop": 0, "read_fixed": 4, "accept": 13, "close": 19, "send": 26, "socket": 45, "pipe": 62} {
		if got, ok := OpNamed(name); got != want || !ok {
			t.Errorf("%s is opcode %d, %v; want %d", name, got, ok, want)
		}
	}
	for _, name := range []string{"", "NOP", "IORING_OP_NOP", "nop ", "63"} {
		if op, ok := OpNamed(name); ok {
			t.Errorf("%q is opcode %d", name, op)
		}
	}
}
