// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/ringtest"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// result is the result of one SQE.
func (b *bench) result(s hostring.SQE) int32 {
	b.Helper()
	b.submit([]hostring.SQE{s})
	return b.wait().Res
}

// want fails the test unless the SQE's result is res.
func (b *bench) want(what string, s hostring.SQE, res int32) {
	b.Helper()
	if have := b.result(s); have != res {
		b.Errorf("%s: %d, want %d", what, have, res)
	}
}

func TestUpdateFiles(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			b := relayBench(t, mode, disks(8192)(t))
			second := ringtest.Disk(t, 4096, true)
			p := pipe(t)
			write := func(fd int32) hostring.SQE { return b.rw(hostring.OpWriteFixed, fixed, 1, fd, 4096, 0, 8) }
			b.want("a write of the first", write(0), 8)
			b.want("a write of an empty entry", write(3), -int32(unix.EBADF))
			if err := b.ring.UpdateFiles(2, []*uringpv.File{&second, nil, &b.files[0], &p[0]}); err != nil {
				t.Fatal(err)
			}
			b.want("a read of the second", b.rw(hostring.OpReadFixed, fixed, 1, 2, 0, 0, 8), 8)
			b.want("a write of the second", write(2), -int32(unix.EBADF))
			b.want("a write of the entry that was kept", write(3), -int32(unix.EBADF))
			b.want("a write of the first, by another index", write(4), 8)
			// A read of the pipe waits. The pipe goes, the read goes on.
			b.submit([]hostring.SQE{b.rw(hostring.OpRead, fixed, 9, 5, 0, 100, 8)})
			b.none()
			if err := b.ring.UpdateFiles(4, []*uringpv.File{uringpv.NoFile, &second}); err != nil {
				t.Fatal(err)
			}
			b.want("a write of an entry that was emptied", write(4), -int32(unix.EBADF))
			b.want("a read where the pipe was", b.rw(hostring.OpRead, fixed, 1, 5, 0, 0, 8), 8)
			if _, err := unix.Write(p[1].FD, []byte("piped")); err != nil {
				t.Fatal(err)
			}
			if c := b.wait(); c.UserData != 9 || c.Res != 5 {
				t.Errorf("the read in flight: %s", text(c))
			}
			for range 500 { // entries of the host's table come back
				if err := b.ring.UpdateFiles(0, []*uringpv.File{&second, uringpv.NoFile, &b.files[0]}); err != nil {
					t.Fatal(err)
				}
			}
			b.want("a write of the first, now the third", write(2), 8)
			b.want("a write of the first, now the second", write(0), -int32(unix.EBADF))
			bad := uringpv.File{FD: 1 << 20, Name: "bad", Size: second.Size}
			if err := b.ring.UpdateFiles(0, []*uringpv.File{&b.files[0], &bad}); !errors.Is(err, unix.EBADF) {
				t.Errorf("a bad descriptor: %v, want EBADF", err)
			}
			b.want("the first entry after an update that failed", write(0), -int32(unix.EBADF))
			endless := uringpv.File{FD: second.FD, Kind: abi.FileRegular, Name: "endless"}
			if err := b.ring.UpdateFiles(0, []*uringpv.File{&endless}); !errors.Is(err, unix.EINVAL) {
				t.Errorf("a regular file without a size: %v, want EINVAL", err)
			}
		})
	}
}

// TestWriteWaitsWhileItsFileIsReplaced: it was checked against a large file and must
// not get at a small one, which it would make grow.
func TestWriteThatWaitsKeepsItsFile(t *testing.T) {
	for _, mode := range modes {
		b := relayBench(t, mode, files(disks(1<<20), pipe)(t))
		small := ringtest.Disk(t, 4096, false)
		b.submit([]hostring.SQE{
			b.rw(hostring.OpRead, link, 1, 1, 0, 100, 4), b.rw(hostring.OpWriteFixed, link, 2, 0, 1<<19, 0, 8),
			b.rw(hostring.OpReadFixed, fixed, 3, 0, 0, 0, 8),
		})
		b.none()
		for range 40 {
			if err := b.ring.UpdateFiles(0, []*uringpv.File{&small}); err != nil {
				t.Fatal(err)
			}
		}
		b.want("a write of the new file", b.rw(hostring.OpWriteFixed, fixed, 4, 0, 1<<19, 0, 8), -int32(unix.EFBIG))
		if _, err := unix.Write(b.peer(2), []byte("go on")); err != nil {
			t.Fatal(err)
		}
		for _, want := range []int32{4, 8, 8} {
			if c := b.wait(); c.Res != want {
				t.Errorf("%s: %s, want %d", mode, text(c), want)
			}
		}
		if n, err := small.Size(); n != 4096 || err != nil {
			t.Errorf("%s: the small file has %d bytes, %v", mode, n, err)
		}
	}
}

// TestFilesInUseAreNotReplacedWithoutBound: the host's table has an end.
func TestFilesInUseAreNotReplacedWithoutBound(t *testing.T) {
	b := relayBench(t, "polling", disks(4096)(t))
	var err error
	n := 0
	for ; n < 3*benchSlots && err == nil; n++ {
		p := pipe(t)
		if err = b.ring.UpdateFiles(1, []*uringpv.File{&p[0]}); err == nil {
			b.submit([]hostring.SQE{b.rw(hostring.OpRead, fixed, 1, 1, 0, 100, 4)})
			b.none()
		}
	}
	if !errors.Is(err, unix.EBUSY) || n < benchSlots/2 {
		t.Fatalf("after %d replacements: %v, want EBUSY", n, err)
	}
	c := sqe(hostring.OpAsyncCancel, fixed, 2)
	c.OpFlags = cancelAny
	b.submit([]hostring.SQE{c})
	for range n {
		b.wait()
	}
	if err := b.ring.UpdateFiles(1, []*uringpv.File{&b.files[0]}); err != nil {
		t.Errorf("after the reads have ended: %v", err)
	}
}

// TestReplacedBuffersAreNotKeptWithoutBound: a request that waits keeps its buffer, and one
// waits for each that is replaced. From a bound on the host's kernel gets no more.
func TestReplacedBuffersAreNotKeptWithoutBound(t *testing.T) {
	for _, op := range []uint8{hostring.OpNop, hostring.OpReadFixed, hostring.OpPollAdd} {
		waits := op != hostring.OpNop
		g := ringtest.NewRig(t, newSlotted, slices.Concat(disks(1<<20)(t), pipe(t))...)
		d := g.Setup(t, ringtest.Config{SQ: 8, CQ: 512, Flags: hostring.SetupSQPoll})
		r := d.Ring.(*Ring)
		all := g.Memory.Layout().Buffers()
		const updates = 10 * replacedMost
		for i := range updates {
			if waits {
				s := hostring.SQE{Opcode: op, Flags: fixed, FD: 1, Addr: g.Addr(4096), Len: 8, UserData: 7}
				if op == hostring.OpPollAdd { // to kernels before 6.13 it keeps them as well
					s.Addr, s.Len, s.OpFlags = 0, 0, unix.POLLIN
				}
				d.MustPut(t, &s)
				d.Submit()
			}
			if res := d.Do(t, hostring.SQE{Opcode: hostring.OpReadFixed, Flags: fixed, Addr: g.Addr(0), Len: 512}); res != 512 {
				t.Fatalf("a read after %d updates: %d", i, res)
			}
			if err := d.Ring.UpdateBuffers(0, all); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.inLoop(func() error {
			if r.registered == waits {
				t.Errorf("after %d updates, with requests of opcode %d that wait: %v, the host's kernel has the buffers: %v", updates, op, waits, r.registered)
			}
			if most := (replacedMost + 1) * g.Memory.Layout().Size(); r.replaced > most {
				t.Errorf("%d bytes were replaced, %d at most", r.replaced, most)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		d.Destroy(t)
	}
}

// TestUpdateOfBuffersComesAfterWhatWasTaken: the host's kernel has not seen the read yet.
func TestUpdateOfBuffersComesAfterWhatWasTaken(t *testing.T) {
	for _, mode := range modes {
		b := relayBench(t, mode, disks(8192)(t))
		r := b.ring.(*Ring)
		for _, op := range []uint8{hostring.OpReadFixed, hostring.OpRead} {
			w := words{uint64(op) | uint64(fixed)<<8, 0, b.addr(0), 512, 9}
			if err := r.inLoop(func() error {
				r.put(&w, false)
				return r.updateBuffers(0, []hostring.Buffer{{}})
			}); err != nil {
				t.Fatal(err)
			}
			if c := b.wait(); c.Res != 512 {
				t.Errorf("%s, opcode %d: %s, want 512", mode, op, text(c))
			}
			b.want("a read after the update", b.rw(hostring.OpReadFixed, fixed, 1, 0, 0, 0, 512), -int32(unix.EFAULT))
			if err := r.UpdateBuffers(0, r.spec.Buffers[:1]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestReadThatWaitsForItsTurnSurvivesItsBuffer: a READ names no buffer, and that it was in
// one when it was taken does not bind it to that.
func TestReadThatWaitsForItsTurnSurvivesItsBuffer(t *testing.T) {
	for _, mode := range modes {
		b := relayBench(t, mode, files(disks(8192), eventfd, pipe)(t))
		read := func(flags uint8, user uint64) hostring.SQE { return b.rw(hostring.OpRead, flags, user, 0, 0, 0, 512) }
		for i, batch := range [][]hostring.SQE{
			{b.rw(hostring.OpRead, link, 1, 2, 0, 4096, 5), read(link, 2), read(fixed, 3)},
			{b.rw(hostring.OpRead, fixed, 1, 2, 0, 4096, 5), read(drain, 2), read(fixed, 3)},
		} {
			b.submit(batch)
			b.none()
			all := b.ring.(*Ring).spec.Buffers[:1]
			if err := b.ring.UpdateBuffers(0, []memmap.Range{{}}); err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Write(b.peer(3), []byte("hello")); err != nil {
				t.Fatal(err)
			}
			for range batch {
				if c := b.wait(); c.Res != 512 && c.UserData != 1 || c.Res != 5 && c.UserData == 1 {
					t.Errorf("%s, batch %d: %s", mode, i, text(c))
				}
			}
			if err := b.ring.UpdateBuffers(0, all); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestUpdateBuffers(t *testing.T) {
	for _, mode := range modes {
		for _, whole := range []bool{true, false} {
			g := ringtest.NewRig(t, newSlotted, disks(1<<20)(t)...)
			g.Backend.(slotted).inline = mode != "thread"
			g.Backend.(slotted).unpinned = mode == "unregistered"
			flags := uint32(hostring.SetupSQPoll)
			if mode == "doorbell" {
				flags = 0
			}
			base := memmap.Addr(g.Addr(0) - uint64(g.Memory.Base()))
			c := ringtest.Config{SQ: 8, Flags: flags}
			if !whole {
				c.Buffers = []memmap.Range{{Start: base, Length: 8192}, {Start: base + 16384, Length: 4096}}
			}
			d := g.Setup(t, c)
			do := func(what string, op uint8, buf uint16, at uint64, n uint32, want int32) {
				t.Helper()
				s := hostring.SQE{Opcode: op, Flags: fixed, BufIndex: buf, Addr: g.Addr(at), Len: n}
				if res := d.Do(t, s); res != want {
					t.Errorf("%s, whole RAM %v: %s: %d, want %d", mode, whole, what, res, want)
				}
			}
			const efault = -int32(unix.EFAULT)
			if whole {
				do("in RAM", hostring.OpReadFixed, 0, 65536, 8, 8)
				if err := d.Ring.UpdateBuffers(0, []memmap.Range{{Start: base + 4096, Length: 4096}}); err != nil {
					t.Fatal(err)
				}
				do("in the new buffer", hostring.OpReadFixed, 0, 4096, 4096, 4096)
				do("behind it", hostring.OpReadFixed, 0, 65536, 8, efault)
				do("behind it, by address", hostring.OpRead, 0, 65536, 8, efault)
				do("before it", hostring.OpWriteFixed, 0, 4095, 8, efault)
				d.Destroy(t)
				continue
			}
			do("first", hostring.OpReadFixed, 0, 0, 8192, 8192)
			do("second", hostring.OpReadFixed, 1, 16384, 4096, 4096)
			do("first by the second's index", hostring.OpReadFixed, 1, 0, 8, efault)
			if err := d.Ring.UpdateBuffers(1, []memmap.Range{{Start: base + 8192, Length: 8192}}); err != nil {
				t.Fatal(err)
			}
			do("second after the update", hostring.OpReadFixed, 1, 8192, 8192, 8192)
			do("second where it was", hostring.OpReadFixed, 1, 16384, 8, efault)
			do("READ across two that adjoin", hostring.OpRead, 0, 4096, 8192, 8192)
			do("READ_FIXED across two that adjoin", hostring.OpReadFixed, 0, 4096, 8192, efault)
			if err := d.Ring.UpdateBuffers(0, []memmap.Range{{}, {}}); err != nil {
				t.Fatal(err)
			}
			do("none", hostring.OpReadFixed, 0, 0, 8, efault)
			do("none", hostring.OpReadFixed, 1, 8192, 0, efault)
			do("none, by address", hostring.OpRead, 0, 8192, 8, efault)
			if err := d.Ring.UpdateBuffers(1, []memmap.Range{{Start: base, Length: 4096}}); err != nil {
				t.Fatal(err)
			}
			do("again", hostring.OpReadFixed, 1, 0, 4096, 4096)
			d.Destroy(t)
			if err := d.Ring.UpdateBuffers(1, []memmap.Range{{}}); !errors.Is(err, unix.ENXIO) {
				t.Errorf("update of a ring that has ended: %v, want ENXIO", err)
			}
		}
	}
}

func TestSetVector(t *testing.T) {
	b := relayBench(t, "polling", disks(4096)(t))
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var count [8]byte
	signalled := func() bool {
		b.want("a NOP", sqe(hostring.OpNop, fixed, 1), 0)
		b.none() // and time for the signal
		_, err := unix.Read(fd, count[:])
		return err == nil
	}
	if signalled() {
		t.Error("a signal without a vector")
	}
	if err := b.ring.SetVector(fd); err != nil {
		t.Fatal(err)
	}
	if !signalled() {
		t.Error("no signal with a vector")
	}
	if err := b.ring.SetVector(-1); err != nil {
		t.Fatal(err)
	}
	if signalled() {
		t.Error("a signal after the vector was taken away")
	}
}

// TestUpdatesWhileRequestsRun is for the race detector.
func TestUpdatesWhileRequestsRun(t *testing.T) {
	for _, mode := range modes {
		b := relayBench(t, mode, disks(8192, 8192)(t))
		buffers := b.ring.(*Ring).spec.Buffers
		var all sync.WaitGroup
		all.Go(func() {
			for i := range 200 {
				if err := b.ring.UpdateFiles(0, []*uringpv.File{&b.files[i%2], &b.files[(i+1)%2]}); err != nil {
					t.Error(err)
				}
				if err := b.ring.UpdateBuffers(0, buffers[:1]); err != nil {
					t.Error(err)
				}
			}
		})
		for i := range uint64(2000) {
			b.submit([]hostring.SQE{b.rw(hostring.OpWriteFixed, link, i, int32(i%2), 4096, 0, 512), b.rw(hostring.OpRead, fixed, i, 0, 0, 0, 512)})
			for range 2 {
				if c := b.wait(); c.Res != 512 {
					t.Fatalf("%s: %s", mode, text(c))
				}
			}
		}
		all.Wait()
	}
}
