// SPDX-License-Identifier: Apache-2.0

package uringpv_test

import (
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/devicetest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// Opcodes of io_uring_register(2), as the wire has them.
const (
	regBuffers       = uint32(hostring.RegisterBuffers)
	unregBuffers     = uint32(hostring.UnregisterBuffers)
	unregFiles       = uint32(hostring.UnregisterFiles)
	regEventfd       = uint32(hostring.RegisterEventfd)
	unregEventfd     = uint32(hostring.UnregisterEventfd)
	regFilesUpdate   = uint32(hostring.RegisterFilesUpdate)
	regProbe         = uint32(hostring.RegisterProbe)
	regBuffersUpdate = uint32(hostring.RegisterBuffersUpdate)
)

// register executes RING_REGISTER.
func register(g *devicetest.Guest, index uint32, r abi.Register) unix.Errno {
	errno, _ := g.Do(abi.CmdRingRegister, index, abi.Encode(&r))
	return errno
}

// pokeFiles puts a list of file indices at a.
func pokeFiles(g *devicetest.Guest, a memmap.Addr, files ...uint32) {
	var b []byte
	for _, f := range files {
		b = binary.LittleEndian.AppendUint32(b, f)
	}
	g.Poke(a, b)
}

// pokeRanges puts a list of buffers at a.
func pokeRanges(g *devicetest.Guest, a memmap.Addr, ranges ...abi.Range) {
	var b []byte
	for i := range ranges {
		b = append(b, abi.Encode(&ranges[i])...)
	}
	g.Poke(a, b)
}

// ringWith sets up ring 1 with files 2 and 0 of the device in a table of slots,
// two buffers and vector 3.
func ringWith(t *testing.T, g *devicetest.Guest, slots uint32) {
	t.Helper()
	s, _ := devicetest.RingAt(0x20000, 8)
	pokeFiles(g, lists, 2, 0)
	pokeRanges(g, lists+64, abi.Range{Addr: 0x40000, Len: 0x1000}, abi.Range{Addr: 0x50000, Len: 0x2000})
	s.FilesAddr, s.NrFiles, s.NrSlots = lists, 2, slots
	s.BuffersAddr, s.NrBuffers = lists+64, 2
	s.Vector = 3
	if _, errno := g.Setup(1, s); errno != 0 {
		t.Fatalf("RING_SETUP: %v", errno)
	}
}

func TestSetupGivesAFileTableOfTheSizeAskedFor(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	for _, tt := range []struct {
		slots uint32
		want  unix.Errno
		have  int
	}{
		{0, 0, 2}, {2, 0, 2}, {3, 0, 3}, {8, 0, 8},
		{1, unix.EINVAL, 0}, {9, unix.EINVAL, 0}, {0xffffffff, unix.EINVAL, 0}, {1 << 31, unix.EINVAL, 0},
	} {
		s, _ := devicetest.RingAt(0x20000, 8)
		pokeFiles(g, lists, 2, 0)
		s.FilesAddr, s.NrFiles, s.NrSlots = lists, 2, tt.slots
		out, errno := g.Setup(1, s)
		if errno != tt.want {
			t.Errorf("%d slots: %v, want %v", tt.slots, errno, tt.want)
		}
		if errno != 0 {
			continue
		}
		if got := f.ring(1).spec.Slots; got != tt.have || out.NrSlots != tt.slots {
			t.Errorf("%d slots asked for: the ring has %d, the guest is told %d", tt.slots, got, out.NrSlots)
		}
		if errno := g.Destroy(1); errno != 0 {
			t.Fatal(errno)
		}
	}
	s, _ := devicetest.RingAt(0x20000, 8)
	s.Resv0 = 1
	if _, errno := g.Setup(1, s); errno != unix.EINVAL {
		t.Errorf("resv0: %v", errno)
	}
}

func TestRegisterRefuses(t *testing.T) {
	const ram = 4*gib + 1<<20
	g, f := newGuest(t, ram)
	ringWith(t, g, 5)
	pokeFiles(g, lists, 0, 1, 2, abi.SlotKeep, abi.SlotEmpty, 3, abi.SlotKeep-1)
	const files, buffers = lists, lists + 0x100
	for _, tt := range []struct {
		name  string
		index uint32
		reg   abi.Register
		want  unix.Errno
		list  []abi.Range // at buffers
	}{
		{"no ring", 0, abi.Register{Opcode: regFilesUpdate, NrArgs: 1, Addr: files}, unix.ENXIO, nil},
		{"no such index", 4, abi.Register{Opcode: unregFiles}, unix.ENXIO, nil},
		{"unknown opcode", 1, abi.Register{Opcode: 99}, unix.EINVAL, nil},
		{"REGISTER_FILES", 1, abi.Register{Opcode: 2, NrArgs: 1, Addr: files}, unix.EINVAL, nil},
		{"ENABLE_RINGS", 1, abi.Register{Opcode: 12}, unix.EINVAL, nil},
		{"RESTRICTIONS", 1, abi.Register{Opcode: 11, NrArgs: 1, Addr: files}, unix.EINVAL, nil},
		{"REGISTER_RING_FDS", 1, abi.Register{Opcode: 20, NrArgs: 1, Addr: files}, unix.EINVAL, nil},
		{"use of a registered ring", 1, abi.Register{Opcode: unregFiles | 1<<31}, unix.EINVAL, nil},
		{"resv", 1, abi.Register{Opcode: unregFiles, Resv: 1}, unix.EINVAL, nil},

		{"no files", 1, abi.Register{Opcode: regFilesUpdate, Addr: files}, unix.EINVAL, nil},
		{"more files than slots", 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 6, Addr: files}, unix.EINVAL, nil},
		{"files behind the table", 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 1, Offset: 5, Addr: files}, unix.EINVAL, nil},
		{"files across the table's end", 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 3, Offset: 3, Addr: files}, unix.EINVAL, nil},
		{"files' end wraps around", 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 2, Offset: 0xffffffff, Addr: files}, unix.EINVAL, nil},
		{"files' number wraps around", 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 0xffffffff, Offset: 2, Addr: files}, unix.EINVAL, nil},
		{"reserved slot", 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 1, Offset: uringpv.ReservedFile, Addr: files}, unix.EINVAL, nil},
		{"list of files unaligned", 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 1, Addr: files + 2}, unix.EINVAL, nil},
		{"list of files not in RAM", 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 2, Addr: uint64(memmap.HoleStart) - 4}, unix.EFAULT, nil},
		{"list of files beyond everything", 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 1, Addr: ^uint64(3)}, unix.EFAULT, nil},
		{"list of files at a host address", 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 1, Addr: uint64(g.Memory.Base())}, unix.EFAULT, nil},
		{"no such file", 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 2, Addr: files + 16}, unix.EBADF, nil},
		{"almost KEEP", 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 1, Addr: files + 24}, unix.EBADF, nil},
		{"UNREGISTER_FILES with an address", 1, abi.Register{Opcode: unregFiles, Addr: files}, unix.EINVAL, nil},
		{"UNREGISTER_FILES with a number", 1, abi.Register{Opcode: unregFiles, NrArgs: 1}, unix.EINVAL, nil},
		{"UNREGISTER_FILES with an offset", 1, abi.Register{Opcode: unregFiles, Offset: 1}, unix.EINVAL, nil},

		{"buffers where there are some", 1, abi.Register{Opcode: regBuffers, NrArgs: 1, Addr: buffers}, unix.EBUSY, []abi.Range{{Addr: 0x1000, Len: 0x1000}}},
		{"REGISTER_BUFFERS with an offset", 1, abi.Register{Opcode: regBuffers, NrArgs: 1, Offset: 1, Addr: buffers}, unix.EINVAL, nil},
		{"no buffers", 1, abi.Register{Opcode: regBuffersUpdate, Addr: buffers}, unix.EINVAL, nil},
		{"buffers across the table's end", 1, abi.Register{Opcode: regBuffersUpdate, NrArgs: 2, Offset: 1, Addr: buffers}, unix.EINVAL, nil},
		{"buffers' end wraps around", 1, abi.Register{Opcode: regBuffersUpdate, NrArgs: 2, Offset: 0xffffffff, Addr: buffers}, unix.EINVAL, nil},
		{"list of buffers unaligned", 1, abi.Register{Opcode: regBuffersUpdate, NrArgs: 1, Addr: buffers + 4}, unix.EINVAL, nil},
		{"list of buffers not in RAM", 1, abi.Register{Opcode: regBuffersUpdate, NrArgs: 2, Addr: uint64(memmap.HoleStart) - 16}, unix.EFAULT, nil},
		{"buffer of no length at an address", 1, abi.Register{Opcode: regBuffersUpdate, NrArgs: 1, Addr: buffers}, unix.EINVAL, []abi.Range{{Addr: 0x1000}}},
		{"second buffer unaligned", 1, abi.Register{Opcode: regBuffersUpdate, NrArgs: 2, Addr: buffers}, unix.EINVAL, []abi.Range{{Addr: 0x1000, Len: 0x1000}, {Addr: 0x1200, Len: 0x1000}}},
		{"buffer's length odd", 1, abi.Register{Opcode: regBuffersUpdate, NrArgs: 1, Addr: buffers}, unix.EINVAL, []abi.Range{{Addr: 0x1000, Len: 0x1001}}},
		{"buffer too long", 1, abi.Register{Opcode: regBuffersUpdate, NrArgs: 1, Addr: buffers}, unix.EINVAL, []abi.Range{{Len: gib + 4096}}},
		{"buffer in the hole", 1, abi.Register{Opcode: regBuffersUpdate, NrArgs: 1, Addr: buffers}, unix.EFAULT, []abi.Range{{Addr: uint64(memmap.HoleStart), Len: 4096}}},
		{"buffer across two table entries", 1, abi.Register{Opcode: regBuffersUpdate, NrArgs: 1, Addr: buffers}, unix.EINVAL, []abi.Range{{Addr: gib - 4096, Len: 8192}}},
		{"buffer's end wraps around", 1, abi.Register{Opcode: regBuffersUpdate, NrArgs: 1, Addr: buffers}, unix.EFAULT, []abi.Range{{Addr: ^uint64(4095), Len: 8192}}},
		{"UNREGISTER_BUFFERS with a number", 1, abi.Register{Opcode: unregBuffers, NrArgs: 2}, unix.EINVAL, nil},

		{"vector where there is one", 1, abi.Register{Opcode: regEventfd, NrArgs: 1, Addr: 2}, unix.EBUSY, nil},
		{"no such vector", 1, abi.Register{Opcode: regEventfd, NrArgs: 1, Addr: 4}, unix.EINVAL, nil},
		{"vector far beyond", 1, abi.Register{Opcode: regEventfd, NrArgs: 1, Addr: 1 << 32}, unix.EINVAL, nil},
		{"NO_VECTOR", 1, abi.Register{Opcode: regEventfd, NrArgs: 1, Addr: abi.NoVector}, unix.EINVAL, nil},
		{"no vector named", 1, abi.Register{Opcode: regEventfd, Addr: 1}, unix.EINVAL, nil},
		{"two vectors", 1, abi.Register{Opcode: regEventfd, NrArgs: 2, Addr: 1}, unix.EINVAL, nil},
		{"EVENTFD_ASYNC", 1, abi.Register{Opcode: 7, NrArgs: 1, Addr: 1}, unix.EINVAL, nil},
		{"UNREGISTER_EVENTFD with an address", 1, abi.Register{Opcode: unregEventfd, Addr: 1}, unix.EINVAL, nil},
	} {
		pokeRanges(g, buffers, tt.list...)
		if got := register(g, tt.index, tt.reg); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	r := f.ring(1)
	if !slices.Equal(r.files, []string{"c", "a", "", "", ""}) || r.vector != g.Device.VectorFD(3) ||
		!slices.Equal(r.buffers, []memmap.Range{{Start: 0x40000, Length: 0x1000}, {Start: 0x50000, Length: 0x2000}}) {
		t.Errorf("refused, but files are %q, buffers %v, the vector %d", r.files, r.buffers, r.vector)
	}
}

func TestFilesChange(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	ringWith(t, g, 5)
	do := func(offset uint32, files ...uint32) {
		t.Helper()
		pokeFiles(g, lists, files...)
		if errno := register(g, 1, abi.Register{Opcode: regFilesUpdate, Offset: offset, NrArgs: uint32(len(files)), Addr: lists}); errno != 0 {
			t.Fatalf("files %v from %d: %v", files, offset, errno)
		}
	}
	want := func(files ...string) {
		t.Helper()
		if got := f.ring(1).files; !slices.Equal(got, files) {
			t.Errorf("the table is %q, want %q", got, files)
		}
	}
	want("c", "a", "", "", "")
	do(1, 1, abi.SlotKeep, 2)
	want("c", "b", "", "c", "")
	do(0, abi.SlotEmpty, abi.SlotKeep, abi.SlotKeep, abi.SlotKeep, 0)
	want("", "b", "", "c", "a")
	do(0, 0, 0, 0, 0, 0)
	want("a", "a", "a", "a", "a")
	for range 2 { // the table stays, so it can be emptied again
		if errno := register(g, 1, abi.Register{Opcode: unregFiles}); errno != 0 {
			t.Fatal(errno)
		}
		want("", "", "", "", "")
	}
	do(4, 2)
	want("", "", "", "", "c")
}

func TestARingOfADeviceWithoutFilesHasNoTable(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM, func(c *uringpv.Config, _ *fake) { c.Files = nil })
	setUp(t, g, 1)
	if errno := register(g, 1, abi.Register{Opcode: unregFiles}); errno != unix.ENXIO {
		t.Errorf("UNREGISTER_FILES: %v, want ENXIO", errno)
	}
	pokeFiles(g, lists, abi.SlotEmpty)
	if errno := register(g, 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 1, Addr: lists}); errno != unix.EINVAL {
		t.Errorf("FILES_UPDATE: %v, want EINVAL", errno)
	}
}

func TestBuffersChange(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	ringWith(t, g, 0)
	const a, b = 0x40000, 0x50000
	do := func(want unix.Errno, opcode, offset uint32, list ...abi.Range) {
		t.Helper()
		r := abi.Register{Opcode: opcode, Offset: offset, NrArgs: uint32(len(list))}
		if len(list) > 0 {
			pokeRanges(g, lists, list...)
			r.Addr = lists
		}
		if errno := register(g, 1, r); errno != want {
			t.Fatalf("register opcode %d with %v: %v, want %v", opcode, list, errno, want)
		}
	}
	table := func(want ...memmap.Range) {
		t.Helper()
		if got := f.ring(1).buffers; !slices.Equal(got, want) {
			t.Errorf("the table is %v, want %v", got, want)
		}
	}
	none := memmap.Range{}
	do(0, regBuffersUpdate, 1, abi.Range{Addr: a, Len: 0x3000})
	table(memmap.Range{Start: a, Length: 0x1000}, memmap.Range{Start: a, Length: 0x3000})
	do(0, regBuffersUpdate, 0, abi.Range{}, abi.Range{Addr: b, Len: 0x1000})
	table(none, memmap.Range{Start: b, Length: 0x1000})
	do(unix.EBUSY, regBuffers, 0, abi.Range{Addr: a, Len: 0x1000})
	do(0, unregBuffers, 0)
	table(none, none)
	do(unix.ENXIO, unregBuffers, 0)
	do(0, regBuffers, 0, abi.Range{Addr: a, Len: 0x1000}) // the second stays empty
	table(memmap.Range{Start: a, Length: 0x1000}, none)
	do(0, regBuffersUpdate, 0, abi.Range{}) // the last one goes
	do(unix.ENXIO, unregBuffers, 0)
	do(0, regBuffers, 0, abi.Range{}, abi.Range{}) // two entries that hold none
	do(0, regBuffers, 0, abi.Range{Addr: a, Len: 0x1000}, abi.Range{Addr: b, Len: 0x1000})
	table(memmap.Range{Start: a, Length: 0x1000}, memmap.Range{Start: b, Length: 0x1000})
}

func TestBuffersAreTogetherNeverLongerThanRAM(t *testing.T) {
	g, _ := newGuest(t, memmap.MinRAM)
	ringWith(t, g, 0) // 3 pages
	const all = memmap.MinRAM
	do := func(want unix.Errno, offset uint32, list ...abi.Range) {
		t.Helper()
		pokeRanges(g, lists, list...)
		if errno := register(g, 1, abi.Register{Opcode: regBuffersUpdate, Offset: offset, NrArgs: uint32(len(list)), Addr: lists}); errno != want {
			t.Fatalf("%v from %d: %v, want %v", list, offset, errno, want)
		}
	}
	do(unix.ENOMEM, 1, abi.Range{Len: all})          // beside the page of the first
	do(0, 1, abi.Range{Addr: 4096, Len: all - 4096}) // exactly
	do(unix.ENOMEM, 0, abi.Range{Len: 8192})
	do(0, 0, abi.Range{Len: 4096})
	do(unix.ENOMEM, 0, abi.Range{Len: all}, abi.Range{Len: 4096})
	do(0, 0, abi.Range{Len: all}, abi.Range{}) // both are replaced
	do(unix.ENOMEM, 1, abi.Range{Len: 4096})
}

func TestVectorChanges(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	ringWith(t, g, 0)
	setUp(t, g, 0) // without a vector
	for _, tt := range []struct {
		ring   uint32
		opcode uint32
		nr     uint32
		addr   uint64
		want   unix.Errno
		vector int // then
	}{
		{1, unregEventfd, 0, 0, 0, -1},
		{1, unregEventfd, 0, 0, unix.ENXIO, -1},
		{1, regEventfd, 1, 0, 0, 0},
		{1, regEventfd, 1, 1, unix.EBUSY, 0},
		{1, unregEventfd, 0, 0, 0, -1},
		{1, regEventfd, 1, 3, 0, 3},
		{0, unregEventfd, 0, 0, unix.ENXIO, -1},
		{0, regEventfd, 1, 3, 0, 3}, // two rings may share one
	} {
		if got := register(g, tt.ring, abi.Register{Opcode: tt.opcode, NrArgs: tt.nr, Addr: tt.addr}); got != tt.want {
			t.Fatalf("%+v: %v", tt, got)
		}
		want := -1
		if tt.vector >= 0 {
			want = g.Device.VectorFD(tt.vector)
		}
		if got := f.ring(int(tt.ring)).vector; got != want {
			t.Fatalf("%+v: the ring signals %d, want %d", tt, got, want)
		}
	}
}

// Half of what was asked for may be there after a failure of the host's. The
// guest is told, and can put things right; the bounds hold whatever is there.
func TestTheNotesAreRightAfterAHostFailure(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	ringWith(t, g, 4)
	fail := true
	f.register = func(string) error {
		if fail {
			return errFlames
		}
		return nil
	}
	do := func(fails bool, want unix.Errno, r abi.Register) {
		t.Helper()
		fail = fails
		if errno := register(g, 1, r); errno != want {
			t.Fatalf("%+v: %v, want %v", r, errno, want)
		}
	}
	buffers := func(fails bool, want unix.Errno, opcode, offset uint32, list ...abi.Range) {
		t.Helper()
		pokeRanges(g, lists, list...)
		do(fails, want, abi.Register{Opcode: opcode, Offset: offset, NrArgs: uint32(len(list)), Addr: lists})
	}
	const half = memmap.MinRAM / 2

	// The first entry is changed on the host, the second is not; as far as the
	// device can know either may be.
	buffers(true, unix.EIO, regBuffersUpdate, 0, abi.Range{Len: half}, abi.Range{Len: half})
	buffers(false, unix.ENOMEM, regBuffersUpdate, 0, abi.Range{Len: half + 4096})
	buffers(false, 0, regBuffersUpdate, 0, abi.Range{Len: half})
	// Emptied on the host or not: there may be some still.
	do(true, unix.EIO, abi.Register{Opcode: unregBuffers})
	buffers(false, unix.EBUSY, regBuffers, 0, abi.Range{Len: 4096})
	do(false, 0, abi.Register{Opcode: unregBuffers})
	buffers(true, unix.EIO, regBuffers, 0, abi.Range{Len: 4096}, abi.Range{Len: 4096})
	do(false, 0, abi.Register{Opcode: unregBuffers})
	buffers(false, 0, regBuffers, 0, abi.Range{Len: half}, abi.Range{Len: half})
	f.check(t)

	do(true, unix.EIO, abi.Register{Opcode: unregEventfd})
	do(false, 0, abi.Register{Opcode: unregEventfd}) // it was there still
	do(true, unix.EIO, abi.Register{Opcode: regEventfd, NrArgs: 1, Addr: 1})
	do(false, unix.ENXIO, abi.Register{Opcode: unregEventfd}) // it had not come
	do(false, 0, abi.Register{Opcode: regEventfd, NrArgs: 1, Addr: 1})

	do(true, unix.EIO, abi.Register{Opcode: unregFiles})
	do(false, 0, abi.Register{Opcode: unregFiles})

	f.register = func(string) error { return unix.ENOMEM } // the host's errno is the guest's
	do(false, unix.ENOMEM, abi.Register{Opcode: unregFiles})
	if got := g.Read32(abi.RegStatus); got != abi.StatusReady {
		t.Errorf("STATUS %#x: a command that failed is no reason to stop the device", got)
	}
}

// TestNotesOfMoreThanThereIs: after failures of the host what the entries may hold
// can be more than guest RAM; then nothing passes but what empties some.
func TestNotesOfMoreThanThereIs(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	s, _ := devicetest.RingAt(0x20000, 8)
	pokeRanges(g, lists, abi.Range{Len: memmap.MinRAM - 3*4096}, abi.Range{Len: 4096}, abi.Range{Len: 4096}, abi.Range{Len: 4096})
	s.BuffersAddr, s.NrBuffers = lists, 4
	if _, errno := g.Setup(1, s); errno != 0 {
		t.Fatalf("RING_SETUP: %v", errno)
	}
	var host error
	f.register = func(string) error { return host }
	update := func(want unix.Errno, offset uint32, lengths ...uint64) {
		t.Helper()
		var list []abi.Range
		for _, n := range lengths {
			list = append(list, abi.Range{Len: n})
		}
		pokeRanges(g, lists, list...)
		r := abi.Register{Opcode: regBuffersUpdate, Offset: offset, NrArgs: uint32(len(list)), Addr: lists}
		if errno := register(g, 1, r); errno != want {
			t.Errorf("entries from %d on of %v bytes: %v, want %v", offset, lengths, errno, want)
		}
	}
	host = errFlames
	update(unix.EIO, 0, 4096, memmap.MinRAM-3*4096)
	host = nil
	update(unix.ENOMEM, 2, 4096)
	update(unix.ENOMEM, 2, memmap.MinRAM, memmap.MinRAM)
	update(0, 0, 0)
	update(0, 2, 4096)
	update(unix.ENOMEM, 2, 2*4096, 2*4096)
}

func TestAStoppedRingRegistersNothing(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	ringWith(t, g, 0)
	f.ring(1).spec.Stopped(&uringpv.GuestError{Errno: unix.EINVAL, Reason: "scribbled"})
	for _, op := range []uint32{regBuffers, unregBuffers, unregFiles, regEventfd, unregEventfd, regFilesUpdate, regProbe, regBuffersUpdate} {
		if errno := register(g, 1, abi.Register{Opcode: op, NrArgs: 1, Addr: lists}); errno != unix.ENXIO {
			t.Errorf("register opcode %d: %v, want ENXIO", op, errno)
		}
	}
}

// The list is read once: what a guest changes while the host works does not count.
func TestRegisterWorksOnAPrivateCopy(t *testing.T) {
	g, f := newGuest(t, memmap.MinRAM)
	ringWith(t, g, 3)
	f.register = func(string) error {
		pokeFiles(g, lists, 0xfffffff0, 0xfffffff0, 0xfffffff0, 0xfffffff0)
		return nil
	}
	pokeFiles(g, lists, 1, 1, 1)
	if errno := register(g, 1, abi.Register{Opcode: regFilesUpdate, NrArgs: 3, Addr: lists}); errno != 0 || !slices.Equal(f.ring(1).files, []string{"b", "b", "b"}) {
		t.Errorf("%v, files %q", errno, f.ring(1).files)
	}
	pokeRanges(g, lists, abi.Range{Addr: 0x1000, Len: 0x1000}, abi.Range{Addr: 0x3000, Len: 0x1000})
	if errno := register(g, 1, abi.Register{Opcode: regBuffersUpdate, NrArgs: 2, Addr: lists}); errno != 0 || f.ring(1).buffers[0] != (memmap.Range{Start: 0x1000, Length: 0x1000}) {
		t.Errorf("%v, buffers %v", errno, f.ring(1).buffers)
	}
}

// registerModel is what a ring's tables should be, told in the words of
// docs/protocol.md and with nothing of the device's code.
type registerModel struct {
	files   []string
	buffers []memmap.Range
	vector  int // -1: none
}

func (m *registerModel) sum(except, n int) (sum uint64) {
	for i, b := range m.buffers {
		if i < except || i >= except+n {
			sum += b.Length
		}
	}
	return sum
}

// apply says what the device has to answer to r, with the lists that lie in RAM,
// and changes the model.
func (m *registerModel) apply(r abi.Register, files []uint32, ranges []abi.Range) unix.Errno {
	empty := m.sum(0, 0) == 0
	argless := r.Addr == 0 && r.NrArgs == 0
	if r.Resv != 0 || r.Offset != 0 && r.Opcode != regFilesUpdate && r.Opcode != regBuffersUpdate {
		return unix.EINVAL
	}
	switch r.Opcode {
	case unregFiles:
		if !argless {
			return unix.EINVAL
		}
		clear(m.files)
	case regFilesUpdate:
		if r.NrArgs == 0 || uint64(r.Offset)+uint64(r.NrArgs) > uint64(len(m.files)) || r.Addr%4 != 0 {
			return unix.EINVAL
		}
		next := slices.Clone(m.files)
		for i, f := range files[:r.NrArgs] {
			switch {
			case f == abi.SlotKeep:
			case f == abi.SlotEmpty:
				next[int(r.Offset)+i] = ""
			case f < 3:
				next[int(r.Offset)+i] = []string{"a", "b", "c"}[f]
			default:
				return unix.EBADF
			}
		}
		m.files = next
	case unregBuffers:
		switch {
		case !argless:
			return unix.EINVAL
		case empty:
			return unix.ENXIO
		}
		clear(m.buffers)
	case regBuffers, regBuffersUpdate:
		switch {
		case r.Opcode == regBuffers && !empty:
			return unix.EBUSY
		case r.NrArgs == 0 || uint64(r.Offset)+uint64(r.NrArgs) > uint64(len(m.buffers)) || r.Addr%8 != 0:
			return unix.EINVAL
		}
		next := slices.Clone(m.buffers)
		sum := m.sum(int(r.Offset), int(r.NrArgs))
		for i, b := range ranges[:r.NrArgs] {
			switch {
			case b == abi.Range{}:
			case b.Len == 0 || b.Len > gib || b.Len%4096 != 0 || b.Addr%4096 != 0:
				return unix.EINVAL
			case b.Addr >= memmap.MinRAM || b.Len > memmap.MinRAM-b.Addr:
				return unix.EFAULT
			}
			if sum += b.Len; sum > memmap.MinRAM {
				return unix.ENOMEM
			}
			next[int(r.Offset)+i] = memmap.Range{Start: memmap.Addr(b.Addr), Length: b.Len}
		}
		m.buffers = next
	case regEventfd:
		switch {
		case r.NrArgs != 1 || r.Addr > 3:
			return unix.EINVAL
		case m.vector >= 0:
			return unix.EBUSY
		}
		m.vector = int(r.Addr)
	case unregEventfd:
		switch {
		case !argless:
			return unix.EINVAL
		case m.vector < 0:
			return unix.ENXIO
		}
		m.vector = -1
	default:
		return unix.EINVAL
	}
	return 0
}

// Any sequence of RING_REGISTER is answered as the model answers it, and the
// backend's tables are the model's.
func TestAnySequenceOfRegistersIsTheModels(t *testing.T) {
	mem := devicetest.Memory(t, memmap.MinRAM)
	results := map[uint32]map[unix.Errno]int{}
	rapid.Check(t, func(rt *rapid.T) {
		f := newFake(mem)
		d, err := uringpv.New(uringpv.Config{Name: "r", Rings: 4, MaxEntries: 8, Memory: mem, Backend: f, SQThreadCPU: -1,
			Files: []uringpv.File{testFile("a", 1), testFile("b", 2), testFile("c", 3)}})
		if err != nil {
			rt.Fatal(err)
		}
		defer func() {
			if err := d.Close(); err != nil {
				rt.Error(err)
			}
		}()
		g := &devicetest.Guest{T: t, Device: d, Memory: mem}
		ringWith(t, g, 6)
		model := registerModel{
			files:   []string{"c", "a", "", "", "", ""},
			buffers: []memmap.Range{{Start: 0x40000, Length: 0x1000}, {Start: 0x50000, Length: 0x2000}},
			vector:  3,
		}
		for range rapid.IntRange(1, 25).Draw(rt, "commands") {
			files := rapid.SliceOfN(rapid.SampledFrom([]uint32{0, 1, 2, 0, 1, 2, abi.SlotEmpty, abi.SlotKeep, abi.SlotEmpty, abi.SlotKeep, 3, 0xfffffffd}), 8, 8).Draw(rt, "files")
			ranges := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) abi.Range {
				if rapid.IntRange(0, 5).Draw(t, "empty") == 0 {
					return abi.Range{}
				}
				r := abi.Range{Addr: 4096 * rapid.Uint64Range(0, 3).Draw(t, "page"), Len: 4096 * rapid.SampledFrom([]uint64{1, 1, 2, memmap.MinRAM/4096 - 3, memmap.MinRAM / 4096}).Draw(t, "pages")}
				if rapid.IntRange(0, 15).Draw(t, "wild") == 0 {
					r = abi.Range{Addr: words(t, "addr"), Len: words(t, "len")}
				}
				return r
			}), 4, 4).Draw(rt, "ranges")
			r := abi.Register{Opcode: rapid.SampledFrom([]uint32{regBuffers, regBuffersUpdate, regBuffersUpdate, unregBuffers, unregFiles, regFilesUpdate, regFilesUpdate, regEventfd, unregEventfd, 2, 12, 31}).Draw(rt, "opcode")}
			switch r.Opcode {
			case regFilesUpdate:
				r.Addr, r.NrArgs, r.Offset = lists, rapid.Uint32Range(0, 7).Draw(rt, "nr"), rapid.Uint32Range(0, 7).Draw(rt, "offset")
				pokeFiles(g, lists, files...)
			case regBuffers, regBuffersUpdate:
				r.Addr, r.NrArgs = lists, rapid.Uint32Range(0, 3).Draw(rt, "nr")
				if r.Opcode == regBuffersUpdate {
					r.Offset = rapid.Uint32Range(0, 2).Draw(rt, "offset")
				}
				pokeRanges(g, lists, ranges...)
			case regEventfd:
				r.Addr, r.NrArgs = rapid.Uint64Range(0, 4).Draw(rt, "vector"), 1
			}
			if rapid.IntRange(0, 12).Draw(rt, "spoil") == 0 {
				switch rapid.IntRange(0, 3).Draw(rt, "field") {
				case 0:
					r.Offset = rapid.Uint32().Draw(rt, "offset")
				case 1:
					r.NrArgs = rapid.Uint32Range(4, ^uint32(0)).Draw(rt, "nr")
				case 2:
					r.Resv = 1
				case 3:
					r.Addr += 2
				}
			}
			if r.Opcode == regFilesUpdate && r.NrArgs > 6 || r.Opcode == regBuffers && r.NrArgs > 2 || r.Opcode == regBuffersUpdate && r.NrArgs > 2 {
				files, ranges = nil, nil // the model does not come to read them
			}
			want := model.apply(r, files, ranges)
			got := register(g, 1, r)
			if got != want {
				rt.Fatalf("%+v, files %v, ranges %v: %v, want %v", r, files, ranges, got, want)
			}
			if results[r.Opcode] == nil {
				results[r.Opcode] = map[unix.Errno]int{}
			}
			results[r.Opcode][got]++
			f.check(rt)
			ring := f.ring(1)
			vector := -1
			if model.vector >= 0 {
				vector = d.VectorFD(model.vector)
			}
			if !slices.Equal(ring.files, model.files) || !slices.Equal(ring.buffers, model.buffers) || ring.vector != vector {
				rt.Fatalf("after %+v the ring has files %q, buffers %v, vector %d; want %+v", r, ring.files, ring.buffers, ring.vector, model)
			}
		}
	})
	if t.Failed() {
		return
	}
	for _, op := range []uint32{regBuffers, regBuffersUpdate, unregBuffers, unregFiles, regFilesUpdate, regEventfd, unregEventfd} {
		if results[op][0] == 0 || len(results[op]) < 2 {
			t.Errorf("register opcode %d ended with %v: want successes and refusals", op, maps.Clone(results[op]))
		}
	}
}
