// SPDX-License-Identifier: Apache-2.0

package ringtest

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/hostring"
)

// canary is host memory beside the guest's, and files, that no SQE and no ring
// word may change.
type canary struct {
	memory   []byte
	writable int // descriptor of a disk of diskSize bytes
	readOnly int // descriptor of a disk of zeros
}

const readOnlySize = 64 << 10

// newCanary makes the canary and the disks to make a rig with.
func newCanary(t testing.TB) (*canary, []uringpv.File) {
	t.Helper()
	files := []uringpv.File{Disk(t, diskSize, false), Disk(t, readOnlySize, true)}
	mem, err := unix.Mmap(-1, 0, 4*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(mem) })
	fill(mem, 0x5a)
	return &canary{mem, files[0].FD, files[1].FD}, files
}

// check fails the test if the guest got out.
func (c *canary) check(t testing.TB) {
	t.Helper()
	for i, b := range c.memory {
		if b != 0x5a {
			t.Fatalf("byte %d of host memory has changed to %#x", i, b)
		}
	}
	if n := fileSize(t, c.writable); n != diskSize {
		t.Fatalf("the writable file has %d bytes, want %d", n, diskSize)
	}
	if n := fileSize(t, c.readOnly); n != readOnlySize {
		t.Fatalf("the read-only file has %d bytes, want %d", n, readOnlySize)
	}
	for _, b := range readFile(t, c.readOnly) {
		if b != 0 {
			t.Fatal("the read-only file has changed")
		}
	}
}

// keeper is a testing.TB whose cleanups wait: what the first call of a fuzz
// function makes serves all calls. It cannot be made before, as the fuzzing
// engine's own files are larger than the growth bound that a backend may set.
type keeper struct {
	testing.TB
	cleanups []func()
}

// Cleanup keeps what is to be done.
func (k *keeper) Cleanup(f func()) { k.cleanups = append(k.cleanups, f) }

// keep returns a keeper that ends with f.
func keep(f *testing.F) *keeper {
	k := &keeper{}
	f.Cleanup(func() {
		k.TB = f // the test that made things has ended
		for i := range k.cleanups {
			k.cleanups[len(k.cleanups)-1-i]()
		}
	})
	return k
}

// A record of FuzzSQE's input: an SQE, and which of its fields to replace by
// what gets further than chance would.
const (
	patchFlags   = 1 << iota // FIXED_FILE, and no other flag but ASYNC
	patchFD                  // a file of the ring, or one more
	patchRAM                 // addr in guest RAM
	patchHost                // addr in the canary
	patchOpcode              // an opcode that the ring allows
	patchOff                 // off about the disk
	patchPad                 // no attributes
	patchPointer             // addr3 in the canary

	recordSize = hostring.SQESize + 1
)

// barrier marks the user_data of the suite's own NOPs.
const barrier = 1 << 63

// FuzzSQE pushes any SQEs at a ring: nothing outside guest RAM and the disks'
// bytes may change, and the ring must still answer.
func FuzzSQE(f *testing.F, make Make) {
	seed := func(patches ...byte) {
		var in []byte
		for i, p := range patches {
			r := [recordSize]byte{0: byte(i), 1: hostring.SQEFixedFile, 25: 0x10}
			p |= patchOpcode
			r[recordSize-1] = p
			in = append(in, r[:]...)
		}
		f.Add(in)
	}
	seed(patchFlags|patchRAM|patchOff, patchFlags|patchRAM|patchOff, patchFlags|patchRAM|patchOff, patchFlags)
	seed(patchFlags|patchHost, patchFlags|patchHost, patchFlags|patchHost)
	seed(0, 0, patchPointer|patchRAM, patchPointer|patchFlags|patchRAM)

	k := keep(f)
	var (
		c     *canary
		g     *Rig
		ops   []uint8
		d     *Guest
		uses  int
		waits bool // the ring has a request that may never end
	)
	f.Fuzz(func(t *testing.T, in []byte) {
		if g == nil {
			k.TB = t
			var files []uringpv.File
			c, files = newCanary(k)
			g = NewRig(k, make, files...)
			ops = g.Backend.Capabilities().Opcodes.List()
			k.Cleanup(func() {
				if d != nil {
					d.Destroy(k)
				}
			})
		}
		if d == nil || uses >= 200 {
			if d != nil {
				d.Destroy(t)
			}
			var err error
			if d, err = g.TrySetup(t, Config{SQ: 32, CQ: 256, Flags: hostring.SetupSQPoll, Idle: 20 * time.Millisecond}); err != nil {
				t.Fatal(err)
			}
			uses, waits = 0, false
		}
		uses++
		n := 0
		for ; len(in) >= recordSize && n < 24; n, in = n+1, in[recordSize:] {
			s := sqeOf(in)
			p := in[recordSize-1]
			if p&patchFlags != 0 {
				s.Flags = hostring.SQEFixedFile | s.Flags&hostring.SQEAsync
			}
			if p&patchFD != 0 {
				s.FD %= 3
			}
			if p&patchRAM != 0 {
				s.Addr = g.Addr(s.Addr % (dataSize + 4096))
				s.Len %= 3 << 16
				s.BufIndex %= 2
			}
			if p&patchHost != 0 {
				s.Addr = addrOf(c.memory) + s.Addr%uint64(len(c.memory))
			}
			if p&patchOpcode != 0 {
				s.Opcode = ops[int(s.Opcode)%len(ops)]
			}
			if p&patchOff != 0 {
				s.Off %= 2 * diskSize
			}
			if p&patchPad != 0 {
				s.Pad2 = 0
			}
			if p&patchPointer != 0 {
				s.Addr3, s.Pad2 = addrOf(c.memory), 1
			}
			switch s.Opcode {
			case hostring.OpTimeout, hostring.OpLinkTimeout, hostring.OpPollAdd, hostring.OpAccept, hostring.OpRecv, hostring.OpRecvmsg:
				waits = true // another may be behind it
			}
			if s.FD == uringpv.ReservedFile {
				waits = true // it may never end
				uses += 20   // not too many of them
			}
			s.UserData &^= barrier
			d.MustPut(t, &s)
		}
		d.Submit()
		// The first may be cancelled as the end of a chain that the SQEs began, and
		// without a CQE if that is what their flags asked for: on passthrough the
		// kernel looks at these before it refuses them.
		d.barrier(t, barrier, 20*time.Millisecond)
		switch q, ok := d.barrier(t, barrier+1, patience); {
		case !ok && waits:
			// A request that never ends, and a flag that makes others wait for it:
			// the guest has its own ring to blame.
			d.Destroy(t)
			d = nil
		case !ok:
			t.Fatal("the ring does not answer any more")
		case q.Res != 0:
			t.Fatalf("a NOP after all that gives %d", q.Res)
		}
		c.check(t)
	})
}

// barrier executes a NOP and takes all CQEs up to the NOP's. It says false if that
// does not come in time.
func (d *Guest) barrier(t testing.TB, user uint64, patience time.Duration) (hostring.CQE, bool) {
	t.Helper()
	s := NOP(user)
	d.MustPut(t, &s)
	d.Submit()
	for {
		q, ok := d.wait(patience)
		if !ok || q.UserData == user {
			return q, ok
		}
		if q.UserData&barrier != 0 && q.UserData != barrier {
			t.Fatalf("a completion that nobody waits for: %+v", q)
		}
	}
}

// sqeOf is the SQE that 64 bytes are.
func sqeOf(b []byte) hostring.SQE {
	le := binary.LittleEndian
	return hostring.SQE{
		Opcode: b[0], Flags: b[1], IOPrio: le.Uint16(b[2:]), FD: int32(le.Uint32(b[4:])),
		Off: le.Uint64(b[8:]), Addr: le.Uint64(b[16:]), Len: le.Uint32(b[24:]), OpFlags: le.Uint32(b[28:]),
		UserData: le.Uint64(b[32:]), BufIndex: le.Uint16(b[40:]), Personality: le.Uint16(b[42:]),
		SpliceFDIn: int32(le.Uint32(b[44:])), Addr3: le.Uint64(b[48:]), Pad2: le.Uint64(b[56:]),
	}
}

// FuzzRingWords writes any words into the areas of a ring at work. Another ring
// must go on, nothing outside guest RAM and the disks' bytes may change, and the
// ring must come to its end.
func FuzzRingWords(f *testing.F, make Make) {
	const record = 13 // where, what, and what to do then
	word := func(where uint64, what uint32, then byte) []byte {
		b := binary.LittleEndian.AppendUint64(nil, where)
		return append(binary.LittleEndian.AppendUint32(b, what), then)
	}
	for i := range uint64(7) {
		f.Add(byte(i), append(word(2+4*i, ^uint32(0), 3), word(2+4*i, 1<<31, 1)...))
	}
	f.Add(byte(0), append(word(1, 17, 1), word(0, 0xffff, 3)...))
	k := keep(f)
	var (
		c    *canary
		g    *Rig
		good *Guest
	)
	f.Fuzz(func(t *testing.T, mode byte, in []byte) {
		if g == nil {
			k.TB = t
			var files []uringpv.File
			c, files = newCanary(k)
			g = NewRig(k, make, files...)
			good = g.Setup(k, Config{SQ: 8, Flags: hostring.SetupSQPoll, Idle: 100 * time.Millisecond})
		}
		m := Modes[int(mode)%len(Modes)]
		bad, err := g.TrySetup(t, Config{SQ: 8, CQ: 16, Flags: m.Flags, Vector: mode&0x80 != 0, Idle: 2 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; len(in) >= record && n < 64; n, in = n+1, in[record:] {
			s := NOP(uint64(n))
			if n%2 == 0 {
				s = g.rw(hostring.OpWriteFixed, uint64(n)*4096, 0, 4096, uint64(n))
			}
			bad.Put(&s)
			bad.sqTail.Store(bad.tail)
			bad.scribble(binary.LittleEndian.Uint64(in), uint64(binary.LittleEndian.Uint32(in[8:])))
			then := in[12]
			if then&1 != 0 {
				bad.Doorbell()
			}
			if then&2 != 0 {
				bad.Reap()
			}
			if then&4 != 0 {
				// ENXIO: the ring has stopped, as it may.
				if err := bad.Ring.Enter(uint32(then>>4), hostring.EnterGetevents); err != nil && hostring.Errno(err) != unix.ENXIO {
					t.Errorf("ENTER: %v", err)
				}
			}
			if then&8 != 0 {
				bad.Ring.Stats()
			}
		}
		good.answers(t)
		bad.Destroy(t)
		good.answers(t)
		c.check(t)
	})
}
