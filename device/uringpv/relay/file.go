// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
)

// refresh is the least time between two looks at a file's size. It keeps a
// guest that writes past the end from making a system call for each attempt.
const refresh = time.Millisecond

// file is one of a ring's files, with its size as it was last seen. It belongs
// to the ring's goroutine.
type file struct {
	present     bool // false: the entry is empty, as far as the relay knows
	reserved    bool // the entry is empty, and an ACCEPT will fill it
	readOnly    bool
	writeOnly   bool
	unconnected bool
	socket      bool
	listens     bool
	block       bool
	sized       bool   // it has an end, which writes must not pass
	host        uint16 // its entry in the host ring's file table
	fd          int32
	anyPeer     bool         // messages may name any address
	peer        []byte       // the sockaddr that requests may name, nil for none
	deny        *abi.Opcodes // what requests may not do with it, or with the socket that an ACCEPT puts there; nil for nothing
	look        func() (int64, error)
	size        uint64
	looked      time.Time
	calls       *uint64 // system calls of the ring
}

// unknown is what is known of an entry that is empty, or that an ACCEPT may have
// filled before a request gets there: nothing that is to be checked. The relay never
// puts a file with a size where requests that were not checked may find it.
var unknown file

// newFile is what the relay has to know of in. It looks at the size.
func newFile(in *uringpv.File, calls *uint64) (file, error) {
	f := file{
		present: true, readOnly: in.ReadOnly, writeOnly: in.WriteOnly, unconnected: in.Unconnected, anyPeer: in.AnyPeer,
		listens: in.Kind == abi.FileListener, block: in.BlockDevice, sized: in.Size != nil, look: in.Size, fd: int32(in.FD), calls: calls,
	}
	if deny := in.Deny; !deny.Empty() {
		f.deny = &deny
	}
	var err error
	if f.peer, err = peerBytes(in.Peer); err != nil {
		return f, err
	}
	*calls++
	if !f.sized {
		var st unix.Stat_t
		if err := unix.Fstat(in.FD, &st); err != nil {
			return f, fmt.Errorf("fstat of %q: %w", in.Name, err)
		}
		kind := st.Mode & unix.S_IFMT
		if f.socket = kind == unix.S_IFSOCK; in.Seekable() || kind == unix.S_IFREG || kind == unix.S_IFBLK {
			return f, fmt.Errorf("file %q: has an end that it must not grow beyond, and no Size to tell it: %w", in.Name, unix.EINVAL)
		}
		return f, nil
	}
	n, err := f.look()
	if err != nil {
		return f, fmt.Errorf("size of %q: %w", in.Name, err)
	}
	f.size = uint64(max(n, 0))
	return f, nil
}

// within says whether [off, off+n) lies in the file; off+n does not overflow. It
// looks at the size again only if it does not.
func (f *file) within(off, n uint64) bool {
	return off+n <= f.size || f.again() && off+n <= f.size
}

// room is how many of the n bytes to be written at off lie inside the file. At
// and past the end it is io_uring's error: EFBIG as under RLIMIT_FSIZE, ENOSPC
// as from a block device.
func (f *file) room(off, n uint64) (uint64, unix.Errno) {
	switch {
	case f.within(off, n):
		return n, 0
	case off < f.size:
		return f.size - off, 0
	case f.block:
		return 0, unix.ENOSPC
	}
	return 0, unix.EFBIG
}

// again looks at the size, unless it did a moment ago. The file may have grown
// at the hands of its owner.
func (f *file) again() bool {
	now := time.Now()
	if now.Sub(f.looked) < refresh {
		return false
	}
	f.looked = now
	*f.calls++
	n, err := f.look()
	if err != nil || n < 0 {
		return false // the size seen last still bounds
	}
	f.size = uint64(n)
	return true
}

// hostFile is an entry of the host ring's file table.
type hostFile struct {
	refs   uint32 // requests in flight that name it
	bound  bool   // an entry of the guest's table means it
	filled bool   // there may be a file in it
}

// The host ring's table has these entries, for a guest's table of n:
//
//	0 to 2n-1   the guest's, and as many for files that were replaced while requests
//	            name them
//	pool        for the sockets of multishot ACCEPTs; the kernel chooses one. 2n, or
//	            none if the guest may not accept
//	void        always empty: what entries of the guest's mean whose socket was in
//	            the pool and was closed
//	the last    the sentinel's
//
// Only the kernel puts something into the pool, and only sockets: a guest's entry
// means an entry of the pool from the CQE on until its socket is closed or replaced.
// Only the relay empties an entry of the pool, when no request names it any more: the
// kernel may fill it again at once.
//
// A file with a size only goes where no request in flight looks: what a request
// may do was checked against the file that was there when it was taken, and the
// kernel looks a fixed file up only when it issues the request.

// spare is an entry of the host ring's table that nobody uses.
func (r *Ring) spare() (uint16, bool) {
	for i := range r.pool {
		if h := &r.hosts[i]; !h.bound && h.refs == 0 {
			return uint16(i), true
		}
	}
	return 0, false
}

// place is where a socket for the guest's entry may go. Where files are denied
// opcodes of their own it is not where a file is: SQEs that come next are checked
// against that one.
func (r *Ring) place(entry uint32) (uint16, bool) {
	f := &r.files[entry]
	if f.host < r.pool && r.hosts[f.host].refs == 0 && !(r.choosy && f.present) {
		return f.host, true
	}
	return r.spare()
}

// empty is the first entry of the guest's table that a socket may go into that does
// not care; there may be none.
func (r *Ring) empty() (uint16, bool) {
	for i := range r.files {
		if f := &r.files[i]; !f.present && !f.reserved {
			return uint16(i), true
		}
	}
	return 0, false
}

// bind makes f what the guest's entry means.
func (r *Ring) bind(entry uint16, f file) {
	old := r.files[entry].host
	r.files[entry] = f
	if old != f.host {
		r.hosts[old].bound = false
		r.sweep(old)
	}
	h := &r.hosts[f.host]
	h.bound, h.filled = true, h.filled || f.present
}

// release is the end of a request that named the entry.
func (r *Ring) release(i uint16) {
	if i == noFile {
		return
	}
	h := &r.hosts[i]
	if h.refs--; h.refs == 0 && !h.bound {
		r.sweep(i)
	}
}

// sweep empties an entry that nobody uses any more.
func (r *Ring) sweep(i uint16) {
	h := &r.hosts[i]
	if h.refs > 0 || h.bound || !h.filled {
		return
	}
	h.filled = false
	r.drop(i)
}

// drop closes the file in an entry of the host ring's table.
func (r *Ring) drop(i uint16) {
	r.calls++
	if err := r.host.UpdateFiles(uint32(i), []int32{-1}); err != nil {
		r.fail(fmt.Errorf("empty entry %d of the host ring's file table: %w", i, err))
	}
}
