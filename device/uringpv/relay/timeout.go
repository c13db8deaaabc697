// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
)

// timeout translates TIMEOUT and LINK_TIMEOUT.
func (r *Ring) timeout(w *words, dst *hostring.SQE, q *slot) fault {
	const clocks = timeoutBoottime | timeoutRealtime
	flags := w.opFlags()
	if w.bufIndex() != 0 || w.len() != 1 || w.spliceFDIn() != 0 ||
		flags&^(timeoutAbs|clocks|timeoutETimeSuccess|timeoutMultishot) != 0 {
		return atPrep(unix.EINVAL)
	}
	if flags&timeoutETimeSuccess != 0 {
		q.flags |= slotETimeOK
		q.odd = true
	}
	if flags&clocks == clocks || flags&(timeoutMultishot|timeoutAbs) == timeoutMultishot|timeoutAbs ||
		w.opcode() == hostring.OpLinkTimeout && uint32(w.off()) != 0 {
		return atPrep(unix.EINVAL)
	}
	at, no := r.timespec(w.addr(), q)
	if no != 0 {
		return no
	}
	if w.opcode() == hostring.OpLinkTimeout && (r.link.head == nobody || r.link.op == hostring.OpLinkTimeout) {
		return atPrep(unix.EINVAL) // of nothing, or of another
	}
	*dst = hostring.SQE{Opcode: w.opcode(), Flags: w.bare(), Off: w.off(), Addr: at, Len: 1, OpFlags: flags}
	return 0
}

// timespec copies the timespec at addr and returns where the kernel finds the copy.
func (r *Ring) timespec(addr uint64, q *slot) (uint64, fault) {
	if no := r.newBlock(q, 0); no != 0 {
		return 0, no
	}
	if !r.fetch(r.arena.at(q.block, blockTime, timespecSize), addr) {
		return 0, atPrep(unix.EFAULT)
	}
	if r.arena.word(q.block, blockTime) > maxOffset || r.arena.word(q.block, blockTime+8) > maxOffset {
		return 0, atPrep(unix.EINVAL) // before the beginning
	}
	return r.arena.addr(q.block, blockTime), 0
}

// timeoutRemove translates TIMEOUT_REMOVE, which also changes timeouts.
func (r *Ring) timeoutRemove(w *words, dst *hostring.SQE, q *slot) fault {
	const updates = timeoutUpdate | linkTimeoutUpdate
	flags := w.opFlags()
	if w.bufIndex() != 0 || w.len() != 0 || w.spliceFDIn() != 0 ||
		flags&^(updates|timeoutAbs|timeoutBoottime|timeoutRealtime) != 0 || flags&updates == 0 && flags != 0 {
		return atPrep(unix.EINVAL)
	}
	*dst = hostring.SQE{Opcode: hostring.OpTimeoutRemove, Flags: w.bare(), OpFlags: flags}
	if flags&updates != 0 {
		at, no := r.timespec(w.off(), q)
		if no != 0 {
			return no
		}
		dst.Off = at
	}
	r.search(dst, q, search{userData: w.addr(), timeouts: flags&linkTimeoutUpdate == 0, timers: flags&linkTimeoutUpdate != 0})
	return 0
}
