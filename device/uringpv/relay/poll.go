// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
)

// pollAdd translates POLL_ADD. Events are numbers; the kernel checks them.
func (r *Ring) pollAdd(w *words, dst *hostring.SQE, q *slot) fault {
	if w.bufIndex() != 0 || w.off() != 0 || w.addr() != 0 || w.len()&^(pollAddMulti|pollAddLevel) != 0 {
		return atPrep(unix.EINVAL)
	}
	if w.len()&pollAddMulti != 0 && w.flags()&hostring.SQECQESkipSuccess != 0 {
		return atPrep(unix.EINVAL)
	}
	if _, no := r.fileOf(w, q); no != 0 {
		return no
	}
	*dst = hostring.SQE{
		Opcode: hostring.OpPollAdd, Flags: w.full(), FD: int32(q.file), Len: w.len(), OpFlags: w.opFlags(),
	}
	return 0
}

// pollRemove translates POLL_REMOVE, which also changes polls: their events, and
// their user_data, which is the relay's to change.
func (r *Ring) pollRemove(w *words, dst *hostring.SQE, q *slot) fault {
	flags := w.len()
	if w.bufIndex() != 0 || w.spliceFDIn() != 0 ||
		flags&^(pollUpdateEvents|pollUpdateUserData|pollAddMulti) != 0 || flags == pollAddMulti {
		return atPrep(unix.EINVAL)
	}
	if flags&pollUpdateUserData == 0 && w.off() != 0 || flags&pollUpdateEvents == 0 && w.opFlags() != 0 {
		return atPrep(unix.EINVAL)
	}
	*dst = hostring.SQE{Opcode: hostring.OpPollRemove, Flags: w.bare(), Len: flags, OpFlags: w.opFlags()}
	r.search(dst, q, search{userData: w.addr(), polls: true})
	if flags&pollUpdateUserData != 0 {
		q.flags |= slotRename
		q.odd, q.rename = true, w.off()
		dst.Off = dst.Addr // on the host's ring it keeps its name
	}
	return 0
}
