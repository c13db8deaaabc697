// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"slices"
	"strconv"
)

// opNames are the opcodes' names in linux/io_uring.h, in lower case and without
// IORING_OP_.
var opNames = [...]string{
	OpNop: "nop", OpReadv: "readv", OpWritev: "writev", OpFsync: "fsync", OpReadFixed: "read_fixed", OpWriteFixed: "write_fixed",
	OpPollAdd: "poll_add", OpPollRemove: "poll_remove", OpSyncFileRange: "sync_file_range", OpSendmsg: "sendmsg", OpRecvmsg: "recvmsg",
	OpTimeout: "timeout", OpTimeoutRemove: "timeout_remove", OpAccept: "accept", OpAsyncCancel: "async_cancel", OpLinkTimeout: "link_timeout",
	OpConnect: "connect", OpFallocate: "fallocate", OpOpenat: "openat", OpClose: "close", OpFilesUpdate: "files_update", OpStatx: "statx",
	OpRead: "read", OpWrite: "write", OpFadvise: "fadvise", OpMadvise: "madvise", OpSend: "send", OpRecv: "recv", OpOpenat2: "openat2",
	OpEpollCtl: "epoll_ctl", OpSplice: "splice", OpProvideBuffers: "provide_buffers", OpRemoveBuffers: "remove_buffers", OpTee: "tee",
	OpShutdown: "shutdown", OpRenameat: "renameat", OpUnlinkat: "unlinkat", OpMkdirat: "mkdirat", OpSymlinkat: "symlinkat", OpLinkat: "linkat",
	OpMsgRing: "msg_ring", OpFsetxattr: "fsetxattr", OpSetxattr: "setxattr", OpFgetxattr: "fgetxattr", OpGetxattr: "getxattr",
	OpSocket: "socket", OpUringCmd: "uring_cmd", OpSendZC: "send_zc", OpSendmsgZC: "sendmsg_zc", OpReadMultishot: "read_multishot",
	OpWaitid: "waitid", OpFutexWait: "futex_wait", OpFutexWake: "futex_wake", OpFutexWaitv: "futex_waitv", OpFixedFdInstall: "fixed_fd_install",
	OpFtruncate: "ftruncate", OpBind: "bind", OpListen: "listen", OpRecvZC: "recv_zc", OpEpollWait: "epoll_wait", OpReadvFixed: "readv_fixed",
	OpWritevFixed: "writev_fixed", OpPipe: "pipe",
}

// OpName is an opcode's name, such as "read_fixed"; its number, if it is newer
// than this program.
func OpName(op uint8) string {
	if int(op) < len(opNames) {
		return opNames[op]
	}
	return strconv.Itoa(int(op))
}

// OpNamed is the opcode of that name.
func OpNamed(name string) (op uint8, ok bool) {
	i := slices.Index(opNames[:], name)
	return uint8(max(i, 0)), i >= 0
}
