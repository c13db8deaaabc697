// SPDX-License-Identifier: Apache-2.0

package uring

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
)

// Directions of an ioctl: the driver writes, reads, does both.
const (
	dirRead, dirWrite = 2, 1
)

var (
	iocSetup    = request(dirRead|dirWrite, 1, unsafe.Sizeof(userSetup{}))
	iocEnter    = request(dirWrite, 2, unsafe.Sizeof(userEnter{}))
	iocRegister = request(dirWrite, 3, unsafe.Sizeof(userRegister{}))
	iocChunk    = request(dirRead|dirWrite, 4, unsafe.Sizeof(userChunk{}))
	iocFile     = request(dirRead, 16, abi.FileSize)
)

// ioctl is ioctl(2) with a structure, which the driver has done with when the
// call returns. What the structure points at by number is the caller's to keep.
func ioctl[T any](fd int, req uintptr, arg *T) (int, unix.Errno) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(arg)))
	return int(n), errno
}

// pin is where the elements of s are, for a structure that is given to the driver
// before p.Unpin.
func pin[T any](p *runtime.Pinner, s []T) uint64 {
	if len(s) == 0 {
		return 0
	}
	p.Pin(unsafe.SliceData(s))
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(s))))
}

// Addr is the address of b for SQEs and iovecs of a mediated ring. b must stay
// where it is until the request's CQE has come: memory of mmap(2), or Go memory
// that a runtime.Pinner holds.
func Addr(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// sqeAt is the i-th SQE in b, which belongs to this process alone until the tail
// passes it: plain stores are enough, the tail's store publishes them.
func sqeAt(b []byte, i uint32) *SQE {
	off := uintptr(i) * sqeSize
	_ = b[off+sqeSize-1]
	return (*SQE)(unsafe.Pointer(&b[off]))
}

// ring rings a mapped doorbell. It must be one plain 4-byte store: an atomic one
// would be a locked read and write, which the machine has to emulate.
func ring(doorbell []byte) {
	_ = doorbell[3]
	*(*uint32)(unsafe.Pointer(&doorbell[0])) = 1
}

// fileInfo is URINGPV_IOC_FILE.
func fileInfo(f *os.File) (abi.File, error) {
	var b [abi.FileSize]byte
	var errno unix.Errno
	c, err := f.SyscallConn()
	if err != nil {
		return abi.File{}, err
	}
	if err := c.Control(func(fd uintptr) { _, errno = ioctl(int(fd), iocFile, &b) }); err != nil {
		return abi.File{}, err
	}
	if errno != 0 {
		return abi.File{}, &Error{Call: "URINGPV_IOC_FILE", Errno: errno}
	}
	return abi.Decode[abi.File](b[:])
}
