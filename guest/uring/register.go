// SPDX-License-Identifier: Apache-2.0

package uring

import (
	"os"
	"runtime"
	"structs"
)

// register is io_uring_register(2).
func (r *Ring) register(op uint32, arg uint64, n uint32) (int, error) {
	u := userRegister{Opcode: op, NrArgs: n, Arg: arg}
	res, errno := ioctl(r.fd, iocRegister, &u)
	if errno != 0 {
		return 0, &Error{Call: "URINGPV_IOC_REGISTER", Errno: errno}
	}
	return res, nil
}

// registerSlice is register with the elements of s, which the driver has done with
// when the call returns.
func registerSlice[T any](r *Ring, op uint32, s []T) (int, error) {
	var p runtime.Pinner
	defer p.Unpin()
	return r.register(op, pin(&p, s), uint32(len(s)))
}

// iovec is struct iovec.
type iovec struct {
	_         structs.HostLayout
	Base, Len uint64
}

// RegisterBuffers pins memory for READ_FIXED and WRITE_FIXED, where SQEs name it
// by its place in the list. What the buffers point at stays pinned until
// UnregisterBuffers or Close, and must not be moved: memory of mmap(2).
func (r *Ring) RegisterBuffers(buffers [][]byte) error {
	_, err := registerSlice(r, registerBuffers, iovecs(buffers))
	return err
}

// iovecs are buffers as the driver wants them; an empty one is an empty place.
func iovecs(buffers [][]byte) []iovec {
	v := make([]iovec, len(buffers))
	for i, b := range buffers {
		if len(b) > 0 {
			v[i] = iovec{Base: Addr(b), Len: uint64(len(b))}
		}
	}
	return v
}

// rsrcRegister is struct io_uring_rsrc_register, rsrcSparse the flag for a table in
// which there is nothing yet.
type rsrcRegister struct {
	_          structs.HostLayout
	Nr, Flags  uint32
	Resv2      uint64
	Data, Tags uint64
}

const (
	rsrcSparse = 1
	rsrcSize   = 32 // bytes, also of struct io_uring_rsrc_update2
)

// sparse makes an empty table of n places.
func (r *Ring) sparse(op, n uint32) error {
	var p runtime.Pinner
	defer p.Unpin()
	u := []rsrcRegister{{Nr: n, Flags: rsrcSparse}}
	_, err := r.register(op, pin(&p, u), rsrcSize)
	return err
}

// RegisterBuffersSparse makes a table of n buffers, all places empty, for
// UpdateBuffers to fill.
func (r *Ring) RegisterBuffersSparse(n uint32) error { return r.sparse(registerBuffers2, n) }

// rsrcUpdate2 is struct io_uring_rsrc_update2.
type rsrcUpdate2 struct {
	_            structs.HostLayout
	Offset, Resv uint32
	Data, Tags   uint64
	Nr, Resv2    uint32
}

// UpdateBuffers replaces places of the table of buffers from off on; an empty
// buffer empties one. It returns how many it replaced. Requests in flight keep the
// buffer that they began with.
func (r *Ring) UpdateBuffers(off uint32, buffers [][]byte) (int, error) {
	var p runtime.Pinner
	defer p.Unpin()
	u := []rsrcUpdate2{{Offset: off, Data: pin(&p, iovecs(buffers)), Nr: uint32(len(buffers))}}
	return r.register(registerBuffersUpd, pin(&p, u), rsrcSize)
}

// UnregisterBuffers forgets the buffers; requests in flight keep theirs.
func (r *Ring) UnregisterBuffers() error {
	_, err := r.register(unregisterBuffers, 0, 0)
	return err
}

// fds are the descriptors of files, -1 for nil. The caller keeps files alive.
func fds(files []*os.File) []int32 {
	list := make([]int32, len(files))
	for i, f := range files {
		list[i] = -1
		if f != nil {
			list[i] = int32(f.Fd())
		}
	}
	return list
}

// RegisterFiles makes a table of files, which SQEs with SQEFixedFile name by
// their place in it; nil is an empty place.
func (r *Ring) RegisterFiles(files []*os.File) error {
	_, err := registerSlice(r, registerFiles, fds(files))
	return err
}

// RegisterFilesSparse makes a table of n files, all places empty, for UpdateFiles
// and ACCEPT to fill.
func (r *Ring) RegisterFilesSparse(n uint32) error { return r.sparse(registerFiles2, n) }

// filesUpdate is struct io_uring_files_update.
type filesUpdate struct {
	_            structs.HostLayout
	Offset, Resv uint32
	FDs          uint64
}

// UpdateFiles replaces places of the table from off on; nil empties one. It
// returns how many it replaced.
func (r *Ring) UpdateFiles(off uint32, files []*os.File) (int, error) {
	var p runtime.Pinner
	defer p.Unpin()
	list := fds(files)
	u := []filesUpdate{{Offset: off, FDs: pin(&p, list)}}
	return r.register(registerFilesUpdate, pin(&p, u), uint32(len(list)))
}

// UnregisterFiles forgets the table; requests in flight keep their files.
func (r *Ring) UnregisterFiles() error {
	_, err := r.register(unregisterFiles, 0, 0)
	return err
}

// RegisterEventfd has completions signal the eventfd fd.
func (r *Ring) RegisterEventfd(fd int) error {
	_, err := registerSlice(r, registerEventfd, []int32{int32(fd)})
	return err
}

// UnregisterEventfd ends that.
func (r *Ring) UnregisterEventfd() error {
	_, err := r.register(unregisterEventfd, 0, 0)
	return err
}

// EnableRings starts a ring that was made with SetupRDisabled.
func (r *Ring) EnableRings() error {
	_, err := r.register(registerEnableRings, 0, 0)
	return err
}

// Probe says which opcodes the ring has.
func (r *Ring) Probe() (map[uint8]bool, error) {
	const header, entry, supported, most = 16, 8, 1, 256
	b := make([]byte, header+most*entry)
	var p runtime.Pinner
	defer p.Unpin()
	if _, err := r.register(registerProbe, pin(&p, b), most); err != nil {
		return nil, err
	}
	ops := map[uint8]bool{}
	for i := range int(b[1]) {
		if e := b[header+i*entry:]; e[2]&supported != 0 {
			ops[e[0]] = true
		}
	}
	return ops, nil
}
