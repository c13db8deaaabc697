// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/shm"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

const (
	benchSlots = 16 // entries of the file table
	benchData  = 1 << 20
	late       = 5 * time.Second // what takes longer never comes
)

// bench is a ring at which a case works: one of the relay's with the test as its
// guest, or the host's io_uring itself. What the case writes into its log has to be
// the same on all of them.
type bench struct {
	testing.TB
	native bool
	data   []byte // memory that SQEs may name
	addr   func(off uint64) uint64
	submit func([]hostring.SQE)
	reap   func() (hostring.CQE, bool)
	ring   uringpv.Ring // nil on the host's
	files  []uringpv.File
	counts []int // of CQEs that there were natively, where that cannot be told before
	log    []string
}

// slotted is a backend whose rings have room for more files than they begin with.
type slotted struct{ *Backend }

func (b slotted) NewRing(s uringpv.RingSpec) (uringpv.Ring, error) {
	s.Slots = max(benchSlots, len(s.Files))
	return b.Backend.NewRing(s)
}

// newSlotted is newBackend with such rings.
func newSlotted(t testing.TB, m *memmap.Memory, files []uringpv.File) uringpv.Backend {
	return slotted{newBackend(t, m, files).(*Backend)}
}

// same runs the case on the host's ring and on the relay's, and compares the logs.
// It gets its files anew for each.
func same(t *testing.T, files func(testing.TB) []uringpv.File, run func(*bench)) {
	t.Helper()
	testutil.NeedIOUring(t)
	var want []string
	var counts []int
	t.Run("native", func(t *testing.T) {
		b := nativeBench(t, files(t))
		run(b)
		want, counts = b.log, b.counts
	})
	if want == nil {
		t.Fatal("the case logs nothing on the host's ring")
	}
	for _, m := range modes {
		t.Run(m, func(t *testing.T) {
			testutil.NoLeaks(t)
			b := relayBench(t, m, files(t))
			b.counts = counts
			run(b)
			if !slices.Equal(b.log, want) {
				t.Errorf("relay:\n  %s\nthe host's io_uring:\n  %s", strings.Join(b.log, "\n  "), strings.Join(want, "\n  "))
			}
		})
	}
}

// nativeBench is a ring of the host's with the same tables.
func nativeBench(t testing.TB, files []uringpv.File) *bench {
	r, err := hostring.New(hostring.Config{Entries: 256, Flags: hostring.SetupSubmitAll | hostring.SetupCQSize, CQEntries: 1024})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	mem, err := unix.Mmap(-1, 0, benchData, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(mem) })
	v, err := shm.Of(mem)
	if err != nil {
		t.Fatal(err)
	}
	fds := slices.Repeat([]int32{-1}, benchSlots)
	for i := range files {
		fds[i] = int32(files[i].FD)
	}
	if err := r.RegisterFiles(fds); err != nil {
		t.Fatal(err)
	}
	if err := r.RegisterBuffers([]hostring.Buffer{{Addr: v.Addr(), Length: benchData}}); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // requests are the submitting thread's
	t.Cleanup(runtime.UnlockOSThread)
	b := &bench{TB: t, native: true, files: files, data: mem, addr: func(off uint64) uint64 { return uint64(v.Addr()) + off }}
	b.submit = func(sqes []hostring.SQE) {
		for i := range sqes {
			s, ok := r.SQE()
			if !ok {
				t.Fatal("the host's SQ ring is full")
			}
			*s = sqes[i]
			switch s.Opcode {
			case hostring.OpTimeoutRemove, hostring.OpClose: // they refuse the flag, which guests must set
				s.Flags &^= hostring.SQEFixedFile
			}
		}
		if _, err := r.Submit(); err != nil {
			t.Fatal(err)
		}
	}
	b.reap = func() (hostring.CQE, bool) {
		var c [1]hostring.CQE
		if r.Reap(c[:]) == 1 {
			return c[0], true
		}
		if _, err := r.Enter(0, 0, hostring.EnterGetevents); err != nil {
			t.Fatal(err)
		}
		return c[0], r.Reap(c[:]) == 1
	}
	return b
}

// modes are the kinds of the relay's rings: which thread submits, and whether the
// host's kernel knows the buffers.
var modes = []string{"polling", "thread", "doorbell", "unregistered"}

// relayBench is a ring of the relay's.
func relayBench(t testing.TB, mode string, files []uringpv.File) *bench {
	g := ringtest.NewRig(t, newSlotted, files...)
	flags := uint32(0)
	if mode == "polling" || mode == "thread" {
		flags = hostring.SetupSQPoll
	}
	g.Backend.(slotted).inline = mode != "thread"
	g.Backend.(slotted).unpinned = mode == "unregistered"
	d := g.Setup(t, ringtest.Config{SQ: 256, CQ: 1024, Flags: flags, Idle: 5 * time.Millisecond})
	b := &bench{TB: t, files: files, data: g.Data[:benchData], addr: g.Addr, ring: d.Ring}
	b.submit = func(sqes []hostring.SQE) {
		for i := range sqes {
			d.MustPut(t, &sqes[i])
		}
		d.Submit()
	}
	b.reap = d.Reap
	return b
}

// wait takes one CQE.
func (b *bench) wait() hostring.CQE {
	b.Helper()
	for deadline := time.Now().Add(late); ; time.Sleep(20 * time.Microsecond) {
		if c, ok := b.reap(); ok {
			return c
		}
		if time.Now().After(deadline) {
			b.Fatalf("no completion within %v; so far:\n%s", late, strings.Join(b.log, "\n"))
		}
	}
}

// none fails the case if a CQE comes within a moment.
func (b *bench) none() {
	b.Helper()
	time.Sleep(10 * time.Millisecond)
	if c, ok := b.reap(); ok {
		b.Fatalf("a completion that must not be: %+v; so far:\n%s", c, strings.Join(b.log, "\n"))
	}
	b.note("nothing more")
}

// note adds a line to the log.
func (b *bench) note(format string, args ...any) { b.log = append(b.log, fmt.Sprintf(format, args...)) }

// text is what of a CQE has to agree.
func text(c hostring.CQE) string {
	more := ""
	if c.Flags&cqeMore != 0 {
		more = " MORE"
	}
	if c.Res < 0 {
		return fmt.Sprintf("%d: %v%s", c.UserData, unix.ErrnoName(unix.Errno(-c.Res)), more)
	}
	return fmt.Sprintf("%d: %d%s", c.UserData, c.Res, more)
}

// do submits SQEs all at once and logs n CQEs, by user_data: among requests that do
// not depend on each other there is no order.
func (b *bench) do(n int, sqes ...hostring.SQE) {
	b.Helper()
	b.submit(sqes)
	b.take(n)
}

// take logs n CQEs by user_data.
func (b *bench) take(n int) {
	b.Helper()
	lines := make([]string, n)
	for i := range lines {
		lines[i] = text(b.wait())
	}
	slices.Sort(lines)
	b.log = append(b.log, lines...)
}

// inOrder is do where the order counts.
func (b *bench) inOrder(n int, sqes ...hostring.SQE) {
	b.Helper()
	b.submit(sqes)
	for range n {
		b.note("%s", text(b.wait()))
	}
}

// Flags of SQEs, short.
const (
	fixed = hostring.SQEFixedFile
	link  = hostring.SQEFixedFile | hostring.SQEIOLink
	hard  = hostring.SQEFixedFile | hostring.SQEIOHardlink
	drain = hostring.SQEFixedFile | hostring.SQEIODrain
	skip  = hostring.SQEFixedFile | hostring.SQECQESkipSuccess
)

// sqe is an SQE with what all have.
func sqe(op, flags uint8, user uint64) hostring.SQE {
	return hostring.SQE{Opcode: op, Flags: flags, UserData: user}
}

// rw is a read or a write.
func (b *bench) rw(op, flags uint8, user uint64, fd int32, off uint64, at uint64, n uint32) hostring.SQE {
	s := sqe(op, flags, user)
	s.FD, s.Off, s.Addr, s.Len = fd, off, b.addr(at), n
	return s
}

// vec writes iovecs at at; each is an offset in data and a length. The result is the
// array's address.
func (b *bench) vec(at uint64, parts ...[2]uint64) uint64 {
	for i, p := range parts {
		binary.LittleEndian.PutUint64(b.data[at+16*uint64(i):], b.addr(p[0]))
		binary.LittleEndian.PutUint64(b.data[at+16*uint64(i)+8:], p[1])
	}
	return b.addr(at)
}

// msg writes a msghdr at at, and returns its address. name 0: none.
func (b *bench) msg(at, name uint64, nameLen uint32, iov uint64, n uint64) uint64 {
	m := b.data[at : at+msghdrSize]
	clear(m)
	if name != 0 {
		binary.LittleEndian.PutUint64(m[msgName:], b.addr(name))
	}
	binary.LittleEndian.PutUint32(m[msgNameLen:], nameLen)
	binary.LittleEndian.PutUint64(m[msgIov:], iov)
	binary.LittleEndian.PutUint64(m[msgIovLen:], n)
	return b.addr(at)
}

// timespec writes a time at at, and returns its address.
func (b *bench) timespec(at uint64, d time.Duration) uint64 {
	binary.LittleEndian.PutUint64(b.data[at:], uint64(d/time.Second))
	binary.LittleEndian.PutUint64(b.data[at+8:], uint64(d%time.Second))
	return b.addr(at)
}

// peer is file i's descriptor, for the test's own use.
func (b *bench) peer(i int) int { return b.files[i].FD }

// fill makes n bytes at at c.
func (b *bench) fill(at, n uint64, c byte) {
	copy(b.data[at:at+n], bytes.Repeat([]byte{c}, int(n)))
}

// bytesAt logs bytes of the memory.
func (b *bench) bytesAt(at, n uint64) { b.note("%d bytes at %d: %q", n, at, b.data[at:at+n]) }

// disks is files that are disks of this size.
func disks(sizes ...int64) func(testing.TB) []uringpv.File {
	return func(t testing.TB) []uringpv.File {
		var f []uringpv.File
		for _, n := range sizes {
			f = append(f, ringtest.Disk(t, n, false))
		}
		return f
	}
}

// end is a descriptor as a file of that kind.
func end(t testing.TB, fd int, kind abi.FileKind) uringpv.File {
	t.Cleanup(func() { unix.Close(fd) })
	return uringpv.File{FD: fd, Kind: kind, Name: "end", BlockSize: 1, DIOMemAlign: 1, DIOOffsetAlign: 1}
}

// pipe is a pipe, its reading end first.
func pipe(t testing.TB) []uringpv.File {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r, w := end(t, p[0], abi.FilePipe), end(t, p[1], abi.FilePipe)
	r.ReadOnly, w.WriteOnly = true, true
	return []uringpv.File{r, w}
}

// pair is two connected sockets.
func pair(typ int, kind abi.FileKind) func(testing.TB) []uringpv.File {
	return func(t testing.TB) []uringpv.File {
		p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return []uringpv.File{end(t, p[0], kind), end(t, p[1], kind)}
	}
}

// eventfd is an eventfd.
func eventfd(t testing.TB) []uringpv.File {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return []uringpv.File{end(t, fd, abi.FileEventfd)}
}

// files puts lists together.
func files(lists ...func(testing.TB) []uringpv.File) func(testing.TB) []uringpv.File {
	return func(t testing.TB) []uringpv.File {
		var all []uringpv.File
		for _, l := range lists {
			all = append(all, l(t)...)
		}
		return all
	}
}

// settle is how long the host's io_uring gets to come up with a CQE that there may
// not be.
const settle = 20 * time.Millisecond

// drop takes the CQEs that are late, until there has been none for a second.
func (b *bench) drop() {
	for last := time.Now(); time.Since(last) < time.Second; time.Sleep(time.Millisecond) {
		if _, ok := b.reap(); ok {
			last = time.Now()
		}
	}
}

// all submits SQEs, some of which may have no CQE, and returns the CQEs there are. On
// the host's ring it waits for a while in vain and counts them, on the relay's it
// waits for as many, and a moment for more.
func (b *bench) all(sqes []hostring.SQE) []hostring.CQE {
	b.Helper()
	b.submit(sqes)
	var got []hostring.CQE
	want, quiet := 0, settle
	if !b.native {
		want, b.counts, quiet = b.counts[0], b.counts[1:], settle/10
	}
	for last := time.Now(); ; {
		if c, ok := b.reap(); ok {
			got, last = append(got, c), time.Now()
			continue
		}
		if since := time.Since(last); since > late || since > quiet && len(got) >= want {
			break
		}
		time.Sleep(10 * time.Microsecond)
	}
	if b.native {
		b.counts = append(b.counts, len(got))
	}
	return got
}
