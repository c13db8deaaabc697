// SPDX-License-Identifier: Apache-2.0

package ringtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

// diskSize is no multiple of a page, nor of a sector.
const diskSize = 4<<20 + 777

// Run is the suite.
func Run(t *testing.T, make Make) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Make)
	}{
		{"NOPStorm", nopStorm},
		{"StampedBlocksAtEveryDepth", stampedBlocks},
		{"AnySequenceGivesTheBytesOfPreadAndPwrite", sameAsPread},
		{"Refusals", refusals},
		{"HostFileNeverGrows", neverGrows},
		{"Fsync", fsync},
		{"NarrowedRing", narrowed},
		{"SleepingRingIsWokenByTheDoorbell", sleepAndDoorbell},
		{"OverflowIsKeptAndRecovered", overflow},
		{"DroppedIndexIsCounted", dropped},
		{"EnterTakesWhatItSays", enter},
		{"InterruptsAndSuppression", interrupts},
		{"SeveralRingsAtOnce", severalRings},
		{"DestroyWithRequestsInFlight", destroyInFlight},
		{"CloseMayTimeOutAndBeRepeated", closeTwice},
		{"SetUpAndDestroyAgain", setupDestroy},
		{"FailedSetUpLeavesNothing", failedSetup},
		{"StatsAreExact", stats},
		{"ScribbledRingHarmsOnlyItself", scribbled},
		{"HotPathAllocatesNothing", allocates},
	} {
		t.Run(c.name, func(t *testing.T) {
			testutil.NoLeaks(t)
			c.test(t, make)
		})
	}
}

// eachMode runs test on a ring of every kind.
func eachMode(t *testing.T, test func(*testing.T, uint32)) {
	for _, m := range Modes {
		t.Run(m.Name, func(t *testing.T) { test(t, m.Flags) })
	}
}

func nopStorm(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	eachMode(t, func(t *testing.T, flags uint32) {
		for _, entries := range []uint32{1, 8, 256} {
			d := g.Setup(t, Config{SQ: entries, Flags: flags, Idle: 5 * time.Millisecond})
			const total = 20000
			n := uint64(total)
			if flags&hostring.SetupSQPoll == 0 {
				n /= 10 // a doorbell each
			}
			storm(t, d, n)
			d.Destroy(t)
		}
	})
}

// storm executes n NOPs, as many at a time as the CQ ring has room for.
func storm(t testing.TB, d *Guest, n uint64) {
	t.Helper()
	seen := map[uint64]bool{}
	for put := uint64(0); uint64(len(seen)) < n; {
		for put < n && put-uint64(len(seen)) < uint64(d.Params.CQEntries) {
			s := NOP(put)
			if put == uint64(len(seen)) {
				d.MustPut(t, &s) // nothing else is on its way
			} else if !d.Put(&s) {
				break
			}
			put++
		}
		d.Submit()
		c := d.Wait(t)
		if c.Res != 0 || c.Flags != 0 || seen[c.UserData] || c.UserData >= put {
			t.Fatalf("a completion %+v, seen before: %v", c, seen[c.UserData])
		}
		seen[c.UserData] = true
	}
}

// blockSize is the unit of stampedBlocks.
const blockSize = 4096

// stamp fills b with what only block n of that generation holds.
func stamp(b []byte, n, generation uint64) {
	for i := 0; i+16 <= len(b); i += 16 {
		binary.LittleEndian.PutUint64(b[i:], n)
		binary.LittleEndian.PutUint64(b[i+8:], generation<<32|uint64(i))
	}
}

func stampedBlocks(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	const blocks = diskSize / blockSize
	eachMode(t, func(t *testing.T, flags uint32) {
		for _, depth := range []int{1, 2, 3, 16, 128} {
			d := g.Setup(t, Config{SQ: 128, CQ: 256, Flags: flags, Idle: 5 * time.Millisecond})
			generations := [blocks]uint64{}
			busy := [blocks]bool{}
			type request struct {
				block uint64
				write bool
			}
			requests, free := slotsOf[request](depth)
			want := [blockSize]byte{}
			rng := rand.New(rand.NewPCG(uint64(depth), uint64(flags)))
			for done, put := 0, 0; done < 1500; {
				for len(free) > 0 && put < 1500 {
					n := rng.Uint64N(blocks)
					if busy[n] {
						break
					}
					slot := free[len(free)-1]
					free = free[:len(free)-1]
					busy[n] = true
					q := request{block: n, write: generations[n] == 0 || rng.IntN(2) == 0}
					at := uint64(slot) * blockSize
					s := g.rw(hostring.OpReadFixed, n*blockSize, at, blockSize, uint64(slot))
					if q.write {
						generations[n]++
						stamp(g.Data[at:at+blockSize], n, generations[n])
						s.Opcode = hostring.OpWriteFixed
					} else {
						clear(g.Data[at : at+blockSize])
					}
					if rng.IntN(8) == 0 {
						s.Flags |= hostring.SQEAsync
					}
					requests[slot] = q
					d.MustPut(t, &s)
					put++
				}
				d.Submit()
				c := d.Wait(t)
				q := requests[c.UserData]
				if c.Res != blockSize {
					t.Fatalf("block %d: result %d", q.block, c.Res)
				}
				if !q.write {
					stamp(want[:], q.block, generations[q.block])
					at := c.UserData * blockSize
					if !bytes.Equal(g.Data[at:at+blockSize], want[:]) {
						t.Fatalf("block %d is not of generation %d", q.block, generations[q.block])
					}
				}
				busy[q.block] = false
				free = append(free, int(c.UserData))
				done++
			}
			d.Destroy(t)
		}
	})
}

// slotsOf is n requests and the list of those that are free.
func slotsOf[T any](n int) ([]T, []int) {
	free := make([]int, n)
	for i := range free {
		free[i] = i
	}
	return make([]T, n), free
}

// sameAsPread holds the ring against a model file in memory.
func sameAsPread(t *testing.T, make Make) {
	const size = 64<<10 + 123
	g := NewRig(t, make, Disk(t, size, false))
	ops := g.Backend.Capabilities().Opcodes
	reads, writes := []uint8{hostring.OpReadFixed}, []uint8{hostring.OpWriteFixed}
	if ops.Has(hostring.OpRead) {
		reads, writes = append(reads, hostring.OpRead), append(writes, hostring.OpWrite)
	}
	for _, m := range Modes[:3] {
		t.Run(m.Name, func(t *testing.T) {
			d := g.Setup(t, Config{SQ: 8, Flags: m.Flags, Idle: 5 * time.Millisecond})
			rapid.Check(t, func(rt *rapid.T) {
				model := readFile(t, g.Files[0].FD)
				for range rapid.IntRange(1, 20).Draw(rt, "steps") {
					off := rapid.Uint64Range(0, size+5000).Draw(rt, "off")
					n := rapid.Uint32Range(0, 9000).Draw(rt, "len")
					at := rapid.Uint64Range(0, 5000).Draw(rt, "addr")
					buf := g.Data[at : at+uint64(n)]
					inside := uint32(min(uint64(n), size-min(off, size))) // bytes of it that the file has
					switch rapid.SampledFrom([]string{"read", "write", "fsync", "punch"}).Draw(rt, "op") {
					case "read":
						fill(buf, 0xee)
						op := rapid.SampledFrom(reads).Draw(rt, "read")
						moved, errno := d.Move(t, g.rw(op, off, at, n, 1))
						if moved != inside || errno != 0 {
							rt.Fatalf("read of %d at %d: %d bytes, errno %v; want %d", n, off, moved, errno, inside)
						}
						if !bytes.Equal(buf[:moved], model[min(off, size):min(off, size)+uint64(moved)]) {
							rt.Fatalf("read of %d at %d: wrong bytes", n, off)
						}
						if i := bytes.IndexFunc(buf[moved:], func(r rune) bool { return r != 0xfffd }); i >= 0 {
							rt.Fatalf("read of %d at %d wrote past its result", n, off)
						}
					case "write":
						fill(buf, byte(rapid.IntRange(0, 255).Draw(rt, "byte")))
						op := rapid.SampledFrom(writes).Draw(rt, "write")
						moved, errno := d.Move(t, g.rw(op, off, at, n, 1))
						want := unix.Errno(0)
						if inside < n {
							want = unix.EFBIG
						}
						if moved != inside || errno != want {
							rt.Fatalf("write of %d at %d: %d bytes, errno %v; want %d, %v", n, off, moved, errno, inside, want)
						}
						copy(model[min(off, size):], buf[:moved])
					case "fsync":
						if res := d.Do(t, hostring.SQE{Opcode: hostring.OpFsync, Flags: hostring.SQEFixedFile}); res != 0 {
							rt.Fatalf("fsync: %d", res)
						}
					case "punch":
						if !ops.Has(hostring.OpFallocate) || n == 0 {
							continue
						}
						res := d.Do(t, hostring.SQE{
							Opcode: hostring.OpFallocate, Flags: hostring.SQEFixedFile, Off: off, Addr: uint64(n),
							Len: unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
						})
						if inside < n {
							if res != -int32(unix.EFBIG) {
								rt.Fatalf("punch %d at %d: %d, want -EFBIG", n, off, res)
							}
							continue
						}
						if res != 0 {
							rt.Fatalf("punch %d at %d: %d", n, off, res)
						}
						clear(model[off : off+uint64(n)])
					}
				}
				if !bytes.Equal(model, readFile(t, g.Files[0].FD)) {
					rt.Fatal("the file is not what the model is")
				}
			})
		})
	}
}

// fill makes every byte of b c.
func fill(b []byte, c byte) {
	for i := range b {
		b[i] = c
	}
}

// readFile is all of a file, by pread.
func readFile(t testing.TB, fd int) []byte {
	t.Helper()
	b := make([]byte, fileSize(t, fd))
	for off := 0; off < len(b); {
		n, err := unix.Pread(fd, b[off:], int64(off))
		if err != nil || n == 0 {
			t.Fatalf("pread at %d: %d, %v", off, n, err)
		}
		off += n
	}
	return b
}

// fileSize is a file's size in bytes.
func fileSize(t testing.TB, fd int) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Size
}

// Refusal is an SQE that the device must not execute, and the results that are
// right for it.
type Refusal struct {
	Name string
	SQE  hostring.SQE
	Want []unix.Errno
}

func refusals(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false), Disk(t, 1<<20, true))
	caps := g.Backend.Capabilities()
	// Host memory that no guest may reach; its address is the attack.
	secret, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(secret)
	fill(secret, 0x5a)

	read, write := hostring.OpReadFixed, hostring.OpWriteFixed
	with := func(s hostring.SQE, change func(*hostring.SQE)) hostring.SQE {
		change(&s)
		return s
	}
	fixed := g.rw(read, 0, 0, 4096, 7)
	put := g.rw(write, 0, 0, 4096, 7)
	end := uint64(g.Memory.Base()) + ram
	list := []Refusal{
		{"unknown file", with(fixed, func(s *hostring.SQE) { s.FD = 2 }), []unix.Errno{unix.EBADF}},
		{"file 254", with(fixed, func(s *hostring.SQE) { s.FD = 254 }), []unix.Errno{unix.EBADF}},
		{"file 256", with(fixed, func(s *hostring.SQE) { s.FD = 256 }), []unix.Errno{unix.EBADF}},
		{"file -1", with(fixed, func(s *hostring.SQE) { s.FD = -1 }), []unix.Errno{unix.EBADF}},
		{"write to the reserved file", with(put, func(s *hostring.SQE) { s.FD = uringpv.ReservedFile }), []unix.Errno{unix.EBADF}},
		{"fsync of an unknown file", hostring.SQE{Opcode: hostring.OpFsync, Flags: hostring.SQEFixedFile, FD: 77}, []unix.Errno{unix.EBADF}},
		{"unknown buffer", with(fixed, func(s *hostring.SQE) { s.BufIndex = 1 }), []unix.Errno{unix.EFAULT}},
		{"buffer 65535", with(fixed, func(s *hostring.SQE) { s.BufIndex = 65535 }), []unix.Errno{unix.EFAULT}},
		{"address 0", with(fixed, func(s *hostring.SQE) { s.Addr = 0 }), []unix.Errno{unix.EFAULT}},
		{"bare GPA", with(fixed, func(s *hostring.SQE) { s.Addr = uint64(dataBase) }), []unix.Errno{unix.EFAULT}},
		{"host memory, read", with(fixed, func(s *hostring.SQE) { s.Addr = addrOf(secret) }), []unix.Errno{unix.EFAULT}},
		{"host memory, write", with(put, func(s *hostring.SQE) { s.Addr = addrOf(secret) }), []unix.Errno{unix.EFAULT}},
		{"below RAM", with(fixed, func(s *hostring.SQE) { s.Addr = uint64(g.Memory.Base()) - 1 }), []unix.Errno{unix.EFAULT}},
		{"across the end of RAM", with(fixed, func(s *hostring.SQE) { s.Addr = end - 4095 }), []unix.Errno{unix.EFAULT}},
		{"past RAM", with(fixed, func(s *hostring.SQE) { s.Addr = end }), []unix.Errno{unix.EFAULT}},
		{"address overflow", with(fixed, func(s *hostring.SQE) { s.Addr = ^uint64(0) - 100 }), []unix.Errno{unix.EFAULT}},
		{"length 2^32-1", with(fixed, func(s *hostring.SQE) { s.Len = ^uint32(0) }), []unix.Errno{unix.EFAULT}},
		{"write to a read-only file", with(put, func(s *hostring.SQE) { s.FD = 1 }), []unix.Errno{unix.EBADF}},
		{"without FIXED_FILE", with(fixed, func(s *hostring.SQE) { s.Flags = 0 }), []unix.Errno{unix.EACCES}},
		{"NOP without FIXED_FILE", hostring.SQE{Opcode: hostring.OpNop}, []unix.Errno{unix.EACCES}},
		{"flag that io_uring does not know", with(fixed, func(s *hostring.SQE) { s.Flags |= 0x80 }), []unix.Errno{unix.EINVAL}},
		{"personality", with(fixed, func(s *hostring.SQE) { s.Personality = 1 }), []unix.Errno{unix.EINVAL}},
		{"real-time I/O class", with(fixed, func(s *hostring.SQE) { s.IOPrio = 1 << 13 }), []unix.Errno{unix.EPERM, unix.EINVAL}},
		{"unknown rw_flags", with(fixed, func(s *hostring.SQE) { s.OpFlags = 1 << 30 }), []unix.Errno{unix.EOPNOTSUPP}},
		{"HIPRI on a ring without IOPOLL", with(fixed, func(s *hostring.SQE) { s.OpFlags = unix.RWF_HIPRI }), []unix.Errno{unix.EINVAL, unix.EOPNOTSUPP}},
		{"APPEND", with(put, func(s *hostring.SQE) { s.OpFlags = unix.RWF_APPEND }), []unix.Errno{unix.EFBIG, unix.EOPNOTSUPP}},
		{"offset below 0", with(fixed, func(s *hostring.SQE) { s.Off = 1 << 63 }), []unix.Errno{unix.EINVAL}},
		{"offset overflow", with(fixed, func(s *hostring.SQE) { s.Off = 1<<63 - 2 }), []unix.Errno{unix.EINVAL}},
		{"write past the end", with(put, func(s *hostring.SQE) { s.Off = diskSize }), []unix.Errno{unix.EFBIG}},
		{"write at 1 TiB", with(put, func(s *hostring.SQE) { s.Off = 1 << 40 }), []unix.Errno{unix.EFBIG}},
		{"fsync with an address", hostring.SQE{Opcode: hostring.OpFsync, Flags: hostring.SQEFixedFile, Addr: 1}, []unix.Errno{unix.EINVAL}},
		{"fsync with a buffer", hostring.SQE{Opcode: hostring.OpFsync, Flags: hostring.SQEFixedFile, BufIndex: 1}, []unix.Errno{unix.EINVAL}},
		{"unknown fsync_flags", hostring.SQE{Opcode: hostring.OpFsync, Flags: hostring.SQEFixedFile, OpFlags: 2}, []unix.Errno{unix.EINVAL}},
		// A raw pointer in addr3 (Linux 6.14; before, the fields meant nothing).
		{"protection information", with(fixed, func(s *hostring.SQE) { s.Addr3, s.Pad2 = addrOf(secret), 1 }), []unix.Errno{unix.EINVAL, unix.EFAULT, 0}},
	}
	for _, f := range []struct {
		name string
		flag uint8
		want []unix.Errno
	}{
		{"IO_DRAIN", hostring.SQEIODrain, []unix.Errno{unix.EACCES}},
		{"IO_LINK", hostring.SQEIOLink, []unix.Errno{unix.EACCES}},
		{"IO_HARDLINK", hostring.SQEIOHardlink, []unix.Errno{unix.EACCES}},
		{"BUFFER_SELECT", hostring.SQEBufferSelect, []unix.Errno{unix.EACCES, unix.EOPNOTSUPP}},
		{"CQE_SKIP_SUCCESS", hostring.SQECQESkipSuccess, []unix.Errno{unix.EACCES}},
	} {
		if caps.SQEFlags&f.flag == 0 {
			list = append(list, Refusal{f.name, with(fixed, func(s *hostring.SQE) { s.Flags |= f.flag }), f.want})
		}
	}
	for op := range 256 {
		if !caps.Opcodes.Has(uint8(op)) {
			list = append(list, Refusal{name("opcode ", op), with(fixed, func(s *hostring.SQE) { s.Opcode = uint8(op) }), []unix.Errno{unix.EACCES, unix.EINVAL}})
		}
	}
	// The host's kernel looks at raw addresses later than the relay: what is in RAM
	// is moved. And it looks at fewer fields.
	kernels := func(e unix.Errno) []unix.Errno {
		if g.Backend.Kind() == abi.BackendIsolated {
			return []unix.Errno{e, 0}
		}
		return []unix.Errno{e}
	}
	if caps.Opcodes.Has(hostring.OpRead) {
		raw, rawPut := g.rw(hostring.OpRead, 0, 0, 4096, 7), g.rw(hostring.OpWrite, 0, 0, 4096, 7)
		list = append(list,
			Refusal{"READ of host memory", with(raw, func(s *hostring.SQE) { s.Addr = addrOf(secret) }), []unix.Errno{unix.EFAULT}},
			Refusal{"WRITE of host memory", with(rawPut, func(s *hostring.SQE) { s.Addr = addrOf(secret) }), []unix.Errno{unix.EFAULT}},
			Refusal{"READ across the end of RAM", with(raw, func(s *hostring.SQE) { s.Addr = end - 1 }), kernels(unix.EFAULT)},
			Refusal{"READ with a buffer index", with(raw, func(s *hostring.SQE) { s.BufIndex = 1 }), kernels(unix.EINVAL)},
		)
	}
	if caps.Opcodes.Has(hostring.OpFallocate) {
		fallocate := hostring.SQE{Opcode: hostring.OpFallocate, Flags: hostring.SQEFixedFile, Addr: 4096, Len: unix.FALLOC_FL_ZERO_RANGE}
		for _, c := range []struct {
			name   string
			change func(*hostring.SQE)
			want   unix.Errno
		}{
			{"past the end", func(s *hostring.SQE) { s.Off = diskSize }, unix.EFBIG},
			{"across the end", func(s *hostring.SQE) { s.Off = diskSize - 4095 }, unix.EFBIG},
			{"mode 0 across the end", func(s *hostring.SQE) { s.Off, s.Len = diskSize-4095, 0 }, unix.EFBIG},
			{"of everything", func(s *hostring.SQE) { s.Addr = 1<<63 - 1 }, unix.EFBIG},
			{"of 2^64-1 bytes", func(s *hostring.SQE) { s.Addr = ^uint64(0) }, unix.EINVAL},
			{"of nothing", func(s *hostring.SQE) { s.Addr = 0 }, unix.EINVAL},
			{"below 0", func(s *hostring.SQE) { s.Off = 1 << 63 }, unix.EINVAL},
			{"COLLAPSE_RANGE", func(s *hostring.SQE) { s.Len = unix.FALLOC_FL_COLLAPSE_RANGE }, unix.EOPNOTSUPP},
			{"INSERT_RANGE", func(s *hostring.SQE) { s.Len = unix.FALLOC_FL_INSERT_RANGE }, unix.EOPNOTSUPP},
			{"KEEP_SIZE alone", func(s *hostring.SQE) { s.Len = unix.FALLOC_FL_KEEP_SIZE }, unix.EOPNOTSUPP},
			{"UNSHARE_RANGE", func(s *hostring.SQE) { s.Len = unix.FALLOC_FL_UNSHARE_RANGE }, unix.EOPNOTSUPP},
			{"read-only file", func(s *hostring.SQE) { s.FD = 1 }, unix.EBADF},
			{"unknown file", func(s *hostring.SQE) { s.FD = 9 }, unix.EBADF},
			{"with rw_flags", func(s *hostring.SQE) { s.OpFlags = 1 }, unix.EINVAL},
		} {
			list = append(list, Refusal{"fallocate " + c.name, with(fallocate, c.change), []unix.Errno{c.want}})
		}
	}
	before := readFile(t, g.Files[0].FD)
	fill(g.Data[:8192], 0xc3)
	for _, m := range Modes[:3] {
		d := g.Setup(t, Config{SQ: 8, Flags: m.Flags, Idle: 5 * time.Millisecond})
		for _, c := range list {
			t.Run(m.Name+"/"+c.Name, func(t *testing.T) {
				res := d.Do(t, c.SQE)
				ok := false
				for _, e := range c.Want {
					ok = ok || res == -int32(e) || e == 0 && res >= 0
				}
				if !ok {
					t.Errorf("result %d, want one of %v", res, c.Want)
				}
				d.answers(t)
			})
		}
		d.Destroy(t)
	}
	if !bytes.Equal(before, readFile(t, g.Files[0].FD)) {
		t.Error("a refused request has changed the disk")
	}
	for i, c := range secret {
		if c != 0x5a {
			t.Fatalf("byte %d of the host's memory has changed", i)
		}
	}
}

func neverGrows(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	fd := g.Files[0].FD
	eachMode(t, func(t *testing.T, flags uint32) {
		d := g.Setup(t, Config{SQ: 64, Flags: flags, Idle: 5 * time.Millisecond})
		rng := rand.New(rand.NewPCG(1, uint64(flags)))
		for i := range 200 {
			off := diskSize - 4096 + rng.Uint64N(16384)
			if i%3 == 0 {
				off = rng.Uint64() >> rng.IntN(40)
			}
			s := g.rw(hostring.OpWriteFixed, off, 0, 8192, uint64(i))
			if i%5 == 0 {
				s.OpFlags = uint32(rng.IntN(256)) // any RWF_*, APPEND among them
			}
			if i%7 == 0 {
				s.Flags |= hostring.SQEAsync
			}
			if i%11 == 0 {
				s.Off = ^uint64(0) // the file's own position
			}
			d.Do(t, s)
			if n := fileSize(t, fd); n != diskSize {
				t.Fatalf("the file has %d bytes after %+v, want %d", n, s, diskSize)
			}
		}
		// Across the end: what fits is written, what does not is refused.
		fill(g.Data[:4096], 0x77)
		moved, errno := d.Move(t, g.rw(hostring.OpWriteFixed, diskSize-1000, 0, 4096, 1))
		if moved != 1000 || errno != unix.EFBIG {
			t.Errorf("a write across the end moved %d bytes, errno %v; want 1000, EFBIG", moved, errno)
		}
		if res := d.Do(t, g.rw(hostring.OpWriteFixed, diskSize+1, 0, 0, 1)); res != 0 {
			t.Errorf("a write of nothing past the end: %d, want 0", res)
		}
	})
}

func fsync(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false), Disk(t, 4096, true))
	eachMode(t, func(t *testing.T, flags uint32) {
		d := g.Setup(t, Config{SQ: 8, Flags: flags})
		for _, s := range []hostring.SQE{
			{},
			{OpFlags: hostring.FsyncDatasync},
			{Off: 4096, Len: 8192},
			{Off: 4096, Len: 8192, OpFlags: hostring.FsyncDatasync},
			{Off: diskSize + 1, Len: 1},
			{FD: 1},
		} {
			s.Opcode, s.Flags, s.UserData = hostring.OpFsync, hostring.SQEFixedFile, 3
			if res := d.Do(t, g.rw(hostring.OpWriteFixed, 0, 0, 4096, 1)); res != 4096 {
				t.Fatalf("write: %d", res)
			}
			if res := d.Do(t, s); res != 0 {
				t.Errorf("fsync %+v: %d", s, res)
			}
		}
	})
}

// narrowed gives a ring less than the device has.
func narrowed(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, 8192, false), Disk(t, 4096, true))
	for i := range 2 {
		if _, err := unix.Pwrite(g.Files[0].FD, []byte{0xb0}, int64(i)*4096); err != nil {
			t.Fatal(err)
		}
	}
	d := g.Setup(t, Config{
		SQ:      8,
		Flags:   hostring.SetupSQPoll,
		Opcodes: []uint8{hostring.OpNop, hostring.OpReadFixed},
		Files:   g.Files[1:],
		Buffers: []memmap.Range{{Start: dataBase + 8192, Length: 4096}, {Start: dataBase, Length: 8192}},
	})
	read := g.rw(hostring.OpReadFixed, 0, 0, 4096, 1)
	read.BufIndex = 1
	if res := d.Do(t, read); res != 4096 || g.Data[0] != 0 {
		t.Errorf("a read of file 0, the device's file 1: %d, first byte %#x", res, g.Data[0])
	}
	for _, c := range []struct {
		name   string
		change func(*hostring.SQE)
		want   unix.Errno
	}{
		{"a file that the device has and the ring has not", func(s *hostring.SQE) { s.FD = 1 }, unix.EBADF},
		{"an opcode that the device has and the ring has not", func(s *hostring.SQE) { s.Opcode = hostring.OpWriteFixed }, unix.EACCES},
		{"FSYNC", func(s *hostring.SQE) { *s = hostring.SQE{Opcode: hostring.OpFsync, Flags: hostring.SQEFixedFile} }, unix.EACCES},
		{"RAM in no buffer", func(s *hostring.SQE) { s.Addr = g.Addr(16384) }, unix.EFAULT},
		{"the other buffer's index", func(s *hostring.SQE) { s.BufIndex = 0 }, unix.EFAULT},
		{"from one buffer into the next", func(s *hostring.SQE) { s.Addr = g.Addr(8000) }, unix.EFAULT},
		{"a buffer that there is not", func(s *hostring.SQE) { s.BufIndex = 2 }, unix.EFAULT},
	} {
		s := read
		c.change(&s)
		if res := d.Do(t, s); res != -int32(c.want) {
			t.Errorf("%s: %d, want %d", c.name, res, -int32(c.want))
		}
	}
	d.answers(t)
	// The whole device beside it.
	all := g.Setup(t, Config{SQ: 8})
	if res := all.Do(t, g.rw(hostring.OpReadFixed, 4096, 0, 4096, 1)); res != 4096 || g.Data[0] != 0xb0 {
		t.Errorf("a read of the device's file 0: %d, first byte %#x", res, g.Data[0])
	}
}

func sleepAndDoorbell(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	const idle = 2 * time.Millisecond
	d := g.Setup(t, Config{SQ: 8, Flags: hostring.SetupSQPoll, Idle: idle})
	asleep := func() bool { return d.sqFlags.Load()&hostring.SQNeedWakeup != 0 }
	for i := range 20 {
		within(t, patience, "the ring sleeps", asleep)
		rung := d.rung
		s := NOP(uint64(i))
		d.Put(&s)
		d.Submit()
		if d.rung != rung+1 {
			t.Fatal("the doorbell of a sleeping ring was not rung")
		}
		if c := d.Wait(t); c.UserData != uint64(i) || c.Res != 0 {
			t.Fatalf("a completion %+v", c)
		}
	}
	// Whatever the moment, no SQE is forgotten.
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 300 {
		time.Sleep(idle/2 + time.Duration(rng.Int64N(int64(idle))))
		if res := d.Do(t, NOP(uint64(i))); res != 0 {
			t.Fatal(res)
		}
	}
	within(t, patience, "the ring sleeps", asleep)
	before := d.Ring.SystemCalls()
	if res := d.Do(t, g.rw(hostring.OpReadFixed, 0, 0, 4096, 1)); res != 4096 {
		t.Error(res)
	}
	if d.Ring.SystemCalls() == before {
		t.Error("no system call counted for a wake-up")
	}
}

func overflow(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	eachMode(t, func(t *testing.T, flags uint32) {
		d := g.Setup(t, Config{SQ: 8, CQ: 16, Flags: flags, Idle: 2 * time.Millisecond})
		for round := range 3 {
			const total = 32 // twice the CQ ring
			for i := range uint64(total) {
				s := NOP(uint64(round)<<32 | i)
				for !d.Put(&s) {
					d.Submit()
					within(t, patience, "the ring takes SQEs", func() bool { return d.room() > 0 })
				}
			}
			d.Submit()
			within(t, patience, "the overflow is flagged", func() bool { return d.sqFlags.Load()&hostring.SQCQOverflow != 0 })
			within(t, patience, "all SQEs are consumed", func() bool { return d.room() == d.Params.SQEntries })
			if n := d.cqTail.Load() - d.head; n != 16 {
				t.Fatalf("%d CQEs in a ring of 16", n)
			}
			for i := range uint64(total) {
				c := d.Wait(t)
				if c.UserData != uint64(round)<<32|i {
					t.Fatalf("completion %d is %#x: CQEs held back have lost their order", i, c.UserData)
				}
			}
			within(t, patience, "the flag goes", func() bool { return d.sqFlags.Load()&hostring.SQCQOverflow == 0 })
			if c, ok := d.Reap(); ok {
				t.Fatalf("a completion too many: %+v", c)
			}
		}
		storm(t, d, 200)
		// Not all 16 of a round: the last may complete when the driver makes room.
		if caps := g.Backend.Capabilities(); caps.Stats&abi.StatOverflows != 0 && d.Ring.Stats().Overflows < 3 {
			t.Errorf("%d overflows counted, want one a round at least", d.Ring.Stats().Overflows)
		}
	})
}

func dropped(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	for _, flags := range []uint32{hostring.SetupSQPoll, 0} {
		d := g.Setup(t, Config{SQ: 8, Flags: flags})
		for i := range 8 {
			s := NOP(uint64(i))
			at := d.tail & 7
			d.Put(&s)
			if i%2 == 0 {
				w, _ := d.array.Uint32(4 * uint64(at))
				w.Store([]uint32{8, 9, 1 << 31, ^uint32(0)}[i/2])
			}
		}
		d.Submit()
		for _, want := range []uint64{1, 3, 5, 7} {
			if c := d.Wait(t); c.UserData != want {
				t.Errorf("a completion of SQE %d, want %d", c.UserData, want)
			}
		}
		within(t, patience, "the bad indices are counted", func() bool { return d.dropped.Load() == 4 })
		if c, ok := d.Reap(); ok {
			t.Errorf("a completion of a dropped SQE: %+v", c)
		}
		d.answers(t)
	}
}

func enter(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	d := g.Setup(t, Config{SQ: 8, CQ: 8})
	for i := range uint64(5) {
		s := NOP(i)
		d.Put(&s)
	}
	d.sqTail.Store(d.tail)
	if err := d.Ring.Enter(2, 0); err != nil {
		t.Fatal(err)
	}
	for want := range uint64(2) {
		if c := d.Wait(t); c.UserData != want {
			t.Errorf("a completion of %d, want %d", c.UserData, want)
		}
	}
	// On isolated a thread of the host's polls every ring: it takes all there is.
	if g.Backend.Kind() != abi.BackendIsolated {
		time.Sleep(5 * time.Millisecond)
		if c, ok := d.Reap(); ok {
			t.Errorf("ENTER of 2 SQEs took another: %+v", c)
		}
	}
	if err := d.Ring.Enter(100, 0); err != nil {
		t.Fatal(err)
	}
	for want := range uint64(3) {
		if c := d.Wait(t); c.UserData != want+2 {
			t.Errorf("a completion of %d, want %d", c.UserData, want+2)
		}
	}
	// Commands add up, however late the ring's thread comes to it.
	for round := range 200 {
		for i := range uint64(5) {
			s := NOP(i)
			d.MustPut(t, &s)
		}
		d.sqTail.Store(d.tail)
		for _, n := range []uint32{3, 2, 0} {
			if err := d.Ring.Enter(n, 0); err != nil {
				t.Fatal(err)
			}
		}
		for range 5 {
			if _, ok := d.wait(patience); !ok {
				t.Fatalf("round %d: ENTER of 3, 2 and 0 SQEs took %d of 5", round, d.sqHead.Load()-(d.tail-5))
			}
		}
	}
	// GETEVENTS moves what was held back, without taking SQEs.
	for i := range uint64(16) {
		s := NOP(i)
		d.Put(&s)
		if i == 7 {
			d.Submit()
			within(t, patience, "8 SQEs are consumed", func() bool { return d.room() == 8 })
		}
	}
	d.Submit()
	within(t, patience, "16 SQEs are consumed", func() bool { return d.room() == 8 })
	for range 8 {
		if _, ok := d.Reap(); !ok {
			t.Fatal("the CQ ring is not full")
		}
	}
	if _, ok := d.Reap(); ok {
		t.Fatal("a CQE more than the CQ ring has")
	}
	if err := d.Ring.Enter(0, hostring.EnterGetevents); err != nil {
		t.Fatal(err)
	}
	within(t, patience, "the CQEs held back come", func() bool { return d.cqTail.Load()-d.head == 8 })

	// A sleeping ring with SQPOLL, by SQ_WAKEUP.
	p := g.Setup(t, Config{SQ: 8, Flags: hostring.SetupSQPoll, Idle: time.Millisecond})
	within(t, patience, "the ring sleeps", func() bool { return p.sqFlags.Load()&hostring.SQNeedWakeup != 0 })
	s := NOP(1)
	p.Put(&s)
	p.sqTail.Store(p.tail)
	if err := p.Ring.Enter(0, hostring.EnterSQWakeup); err != nil {
		t.Fatal(err)
	}
	p.Wait(t)
	p.Destroy(t)
	if err := p.Ring.Enter(0, hostring.EnterSQWakeup); !errors.Is(err, unix.ENXIO) {
		t.Errorf("ENTER of a destroyed ring: %v, want ENXIO", err)
	}
}

func interrupts(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	eachMode(t, func(t *testing.T, flags uint32) {
		d := g.Setup(t, Config{SQ: 64, Flags: flags, Idle: 2 * time.Millisecond, Vector: true})
		for i := range uint64(50) {
			s := NOP(i)
			if i%4 == 1 {
				s = g.rw(hostring.OpReadFixed, i*4096, 0, 4096, i)
				s.Flags |= hostring.SQEAsync
			}
			d.Put(&s)
			d.Submit()
			d.waitSignal(t)
			if c := d.Wait(t); c.UserData != i || c.Res < 0 {
				t.Fatalf("a completion %+v", c)
			}
		}
		// Masked: completions come, signals do not.
		d.cqFlags.Store(hostring.CQEventfdDisabled)
		d.signals()
		for i := range uint64(50) {
			if res := d.Do(t, NOP(i)); res != 0 {
				t.Fatal(res)
			}
		}
		time.Sleep(2 * time.Millisecond)
		if n := d.signals(); n != 0 {
			t.Errorf("%d interrupts while masked", n)
		}
		// The unmask race: submit masked, unmask, look once more, then sleep.
		for i := range uint64(300) {
			d.cqFlags.Store(hostring.CQEventfdDisabled)
			s := NOP(i)
			d.Put(&s)
			d.Submit()
			for range i % 50 {
				runtime.Gosched()
			}
			d.cqFlags.Swap(0) // a full barrier, also under the race detector
			if d.cqTail.Load() == d.head {
				d.waitSignal(t)
			}
			if c := d.Wait(t); c.UserData != i {
				t.Fatalf("a completion %+v", c)
			}
			d.signals()
		}
		if caps := g.Backend.Capabilities(); caps.Stats&abi.StatInterrupts != 0 {
			if n := d.Ring.Stats().Interrupts; n < 50 || n > 350 {
				t.Errorf("%d interrupts counted, want 50 to 350", n)
			}
		}
	})
}

func severalRings(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	rings := 4
	done := results(rings)
	for i := range rings {
		d := g.Setup(t, Config{SQ: 32, Flags: Modes[i%len(Modes)].Flags, Idle: 2 * time.Millisecond, Vector: true})
		go func() {
			done <- func() error {
				at := uint64(i) * 64 << 10
				for n := range uint64(300) {
					block := uint64(i) + uint64(rings)*(n%200)
					for _, op := range []uint8{hostring.OpWriteFixed, hostring.OpReadFixed} {
						buf := g.Data[at : at+4096]
						if op == hostring.OpWriteFixed {
							stamp(buf, block, n)
						} else {
							clear(buf)
						}
						s := g.rw(op, block*4096, at, 4096, n)
						for !d.Put(&s) {
							runtime.Gosched()
						}
						d.Submit()
						c, ok := d.wait(patience)
						if !ok {
							return errors.New("a completion is missing")
						}
						if c.UserData != n || c.Res != 4096 {
							return errors.New(name("a completion ", c))
						}
						if op == hostring.OpReadFixed && binary.LittleEndian.Uint64(buf) != block {
							return errors.New(name("block ", block, " of ring ", i, " is another's"))
						}
					}
				}
				return nil
			}()
		}()
	}
	for range rings {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// results is where n goroutines report; the suite's parameter hides the builtin.
func results(n int) chan error { return make(chan error, n) }

func destroyInFlight(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false), Pipe(t))
	eachMode(t, func(t *testing.T, flags uint32) {
		for _, async := range []uint8{0, hostring.SQEAsync} {
			d := g.Setup(t, Config{SQ: 64, Flags: flags, Idle: 2 * time.Millisecond})
			for i := range uint64(60) {
				s := g.rw(hostring.OpReadFixed, 0, i*4096, 4096, i)
				s.Flags |= async
				if i%2 == 0 {
					s.FD = 1 // waits until it is cancelled
				}
				d.Put(&s)
			}
			d.Submit()
			within(t, patience, "all SQEs are consumed", func() bool { return d.room() == 64 })
			d.Destroy(t)
			// The memory is ours again: nothing may write there any more.
			fill(g.Data[:60*4096], 0xa5)
			time.Sleep(2 * time.Millisecond)
			if i := bytes.IndexFunc(g.Data[:60*4096], func(r rune) bool { return r != 0xfffd }); i >= 0 {
				t.Fatalf("byte %d was written after the ring's end", i)
			}
		}
		// SQEs that nobody has taken yet do no harm either.
		d := g.Setup(t, Config{SQ: 64, Flags: flags})
		for i := range uint64(64) {
			s := g.rw(hostring.OpReadFixed, 0, 0, 4096, i)
			d.Put(&s)
		}
		d.sqTail.Store(d.tail)
		d.Destroy(t)
	})
}

func closeTwice(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false), Pipe(t))
	eachMode(t, func(t *testing.T, flags uint32) {
		d := g.Setup(t, Config{SQ: 8, Flags: flags})
		s := g.rw(hostring.OpReadFixed, 0, 0, 4096, 1)
		s.FD = 1
		d.Put(&s)
		d.Submit()
		within(t, patience, "the SQE is consumed", func() bool { return d.room() == 8 })
		over, cancel := context.WithCancel(context.Background())
		cancel()
		if err := d.Ring.Close(over); err != nil && !errors.Is(err, unix.ETIMEDOUT) {
			t.Errorf("Close without time: %v, want ETIMEDOUT", err)
		}
		d.Destroy(t) // with time
		if err := d.Ring.Close(over); err != nil {
			t.Errorf("Close of a closed ring: %v", err)
		}
	})
}

func setupDestroy(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	for i := range 100 {
		d := g.Setup(t, Config{SQ: 1 << (i % 8), Flags: Modes[i%len(Modes)].Flags, Vector: i%3 == 0})
		g.Data[0] = 1
		if res := d.Do(t, g.rw(hostring.OpReadFixed, 0, 0, 512, uint64(i))); res != 512 || g.Data[0] != 0 {
			t.Fatalf("round %d: a read gives %d", i, res)
		}
		d.Destroy(t)
	}
}

func failedSetup(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	for _, flags := range []uint32{hostring.SetupSQPoll, 0} {
		bad := g.Files[0]
		bad.FD = 1 << 20 // no such descriptor
		d, err := g.TrySetup(t, Config{SQ: 8, Flags: flags, Files: []uringpv.File{g.Files[0], bad}})
		if !errors.Is(err, unix.EBADF) || errors.Is(err, unix.ETIMEDOUT) {
			t.Errorf("set up with a bad descriptor: %v, want EBADF", err)
			if err == nil {
				d.Destroy(t)
			}
		}
		// Not a file but a range: the ring is further along.
		d, err = g.TrySetup(t, Config{SQ: 8, Flags: flags, Buffers: []memmap.Range{{Start: dataBase, Length: 2 * memmap.MaxBuffer}}})
		if err == nil {
			t.Error("set up with a range outside RAM succeeded")
			d.Destroy(t)
		}
		d = g.Setup(t, Config{SQ: 8, Flags: flags})
		d.answers(t)
		d.Destroy(t)
	}
}

func stats(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	valid := g.Backend.Capabilities().Stats
	eachMode(t, func(t *testing.T, flags uint32) {
		d := g.Setup(t, Config{SQ: 8, Flags: flags, Idle: time.Millisecond})
		for i := range uint64(40) {
			d.Do(t, NOP(i))
			d.Do(t, g.rw(hostring.OpWriteFixed, diskSize-100, 0, 512, i))
			d.Do(t, g.rw(hostring.OpReadFixed, 4096, 0, 1024, i))
			d.Do(t, g.rw(hostring.OpWriteFixed, diskSize, 0, 512, i))
			d.Do(t, hostring.SQE{Opcode: hostring.OpNop})
		}
		d.Doorbell()
		want := uringpv.RingStats{SQEs: 200, CQEs: 200, Errors: 80, BytesRead: 40 * 1024, BytesWritten: 40 * 100, Doorbells: d.rung}
		check := func(when string) {
			t.Helper()
			have := d.Ring.Stats()
			for _, c := range []struct {
				name       string
				bit        uint64
				have, want uint64
			}{
				{"SQEs", abi.StatSQEs, have.SQEs, want.SQEs},
				{"CQEs", abi.StatCQEs, have.CQEs, want.CQEs},
				{"errors", abi.StatErrors, have.Errors, want.Errors},
				{"bytes read", abi.StatBytes, have.BytesRead, want.BytesRead},
				{"bytes written", abi.StatBytes, have.BytesWritten, want.BytesWritten},
				{"overflows", abi.StatOverflows, have.Overflows, 0},
			} {
				if valid&c.bit == 0 {
					c.want = 0
				}
				if c.have != c.want {
					t.Errorf("%s: %d %s, want %d", when, c.have, c.name, c.want)
				}
			}
		}
		check("while it runs")
		within(t, patience, "every doorbell is counted", func() bool { return d.Ring.Stats().Doorbells == want.Doorbells })
		d.Destroy(t)
		check("after its end")
	})
}

// scribbled lets an adversary write any words into one ring's areas while its
// driver and another ring are at work.
func scribbled(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	eachMode(t, func(t *testing.T, flags uint32) {
		good := g.Setup(t, Config{SQ: 16, Flags: hostring.SetupSQPoll})
		bad := g.Setup(t, Config{SQ: 16, Flags: flags})
		rng := rand.New(rand.NewPCG(9, uint64(flags)))
		stop := time.Now().Add(300 * time.Millisecond)
		for time.Now().Before(stop) {
			for range 50 {
				bad.scribble(rng.Uint64(), rng.Uint64()>>rng.IntN(64))
			}
			bad.Doorbell()
			if res := good.Do(t, g.rw(hostring.OpReadFixed, 0, 0, 4096, 5)); res != 4096 {
				t.Fatalf("another ring's read gives %d", res)
			}
		}
		bad.Destroy(t)
		good.answers(t)
		if n := fileSize(t, g.Files[0].FD); n != diskSize {
			t.Errorf("the file has %d bytes, want %d", n, diskSize)
		}
	})
}

// scribble writes a word somewhere into the ring's areas: into the words of its
// heads, tails and flags more often than elsewhere.
func (d *Guest) scribble(where, what uint64) {
	switch where % 4 {
	case 0:
		w, _ := d.sqes.Uint64(where / 4 % (d.sqes.Len() / 8) * 8)
		w.Store(what)
	case 1:
		w, _ := d.rings.Uint32(where / 4 % (d.rings.Len() / 4) * 4)
		w.Store(uint32(what))
	default:
		words := []interface{ Store(uint32) }{d.sqHead, d.sqTail, d.sqFlags, d.dropped, d.cqHead, d.cqTail, d.cqFlags}
		words[where/4%uint64(len(words))].Store(uint32(what))
	}
}

func allocates(t *testing.T, make Make) {
	g := NewRig(t, make, Disk(t, diskSize, false))
	eachMode(t, func(t *testing.T, flags uint32) {
		d := g.Setup(t, Config{SQ: 8, Flags: flags, Idle: time.Millisecond, Vector: true})
		i := uint64(0)
		each := func() {
			i++
			s := g.rw(hostring.OpReadFixed, i%64*4096, 0, 4096, i)
			if i%3 == 0 {
				s.Opcode = hostring.OpWriteFixed
			}
			if i%7 == 0 {
				s.FD = 99 // refused
			}
			d.MustPut(t, &s)
			d.Submit()
			if _, ok := d.wait(patience); !ok {
				panic("a completion is missing")
			}
		}
		each()
		// The ring's goroutine is counted as well.
		if n := testing.AllocsPerRun(2000, each); n != 0 {
			t.Errorf("%v allocations for each I/O, want 0", n)
		}
	})
}
