// SPDX-License-Identifier: Apache-2.0

package relay

// What linux/io_uring.h and linux/socket.h call these, for single opcodes.
const (
	pollAddMulti       uint32 = 1 << 0 // IORING_POLL_ADD_MULTI
	pollUpdateEvents   uint32 = 1 << 1 // IORING_POLL_UPDATE_EVENTS
	pollUpdateUserData uint32 = 1 << 2 // IORING_POLL_UPDATE_USER_DATA
	pollAddLevel       uint32 = 1 << 3 // IORING_POLL_ADD_LEVEL

	timeoutAbs          uint32 = 1 << 0 // IORING_TIMEOUT_ABS
	timeoutUpdate       uint32 = 1 << 1 // IORING_TIMEOUT_UPDATE
	timeoutBoottime     uint32 = 1 << 2 // IORING_TIMEOUT_BOOTTIME
	timeoutRealtime     uint32 = 1 << 3 // IORING_TIMEOUT_REALTIME
	linkTimeoutUpdate   uint32 = 1 << 4 // IORING_LINK_TIMEOUT_UPDATE
	timeoutETimeSuccess uint32 = 1 << 5 // IORING_TIMEOUT_ETIME_SUCCESS
	timeoutMultishot    uint32 = 1 << 6 // IORING_TIMEOUT_MULTISHOT

	cancelAll      uint32 = 1 << 0 // IORING_ASYNC_CANCEL_ALL
	cancelFD       uint32 = 1 << 1 // IORING_ASYNC_CANCEL_FD
	cancelAny      uint32 = 1 << 2 // IORING_ASYNC_CANCEL_ANY
	cancelFDFixed  uint32 = 1 << 3 // IORING_ASYNC_CANCEL_FD_FIXED
	cancelUserData uint32 = 1 << 4 // IORING_ASYNC_CANCEL_USERDATA
	cancelOp       uint32 = 1 << 5 // IORING_ASYNC_CANCEL_OP

	recvSendPollFirst uint16 = 1 << 0 // IORING_RECVSEND_POLL_FIRST

	acceptMultishot uint16 = 1 << 0 // IORING_ACCEPT_MULTISHOT
	acceptDontWait  uint16 = 1 << 1 // IORING_ACCEPT_DONTWAIT
	acceptPollFirst uint16 = 1 << 2 // IORING_ACCEPT_POLL_FIRST

	fileIndexAlloc = ^uint32(0) // IORING_FILE_INDEX_ALLOC

	cqeMore uint32 = 1 << 1 // IORING_CQE_F_MORE
)

// Sizes in bytes of what SQEs point at, and where the fields of a struct
// user_msghdr are.
const (
	timespecSize = 16  // struct __kernel_timespec
	iovecSize    = 16  // struct iovec
	sockaddrSize = 128 // struct sockaddr_storage
	socklenSize  = 4   // socklen_t
	msghdrSize   = 56  // struct user_msghdr

	msgName       = 0
	msgNameLen    = 8
	msgIov        = 16
	msgIovLen     = 24
	msgControl    = 32
	msgControlLen = 40
	msgFlags      = 48
)

// maxIovecs is UIO_MAXIOV of linux/uio.h.
const maxIovecs = 1024

// badAddr is an address that is nobody's memory on x86-64: it is no canonical
// one. The kernel says EFAULT to it, at the moment that is right for the opcode.
const badAddr uint64 = 1 << 63
