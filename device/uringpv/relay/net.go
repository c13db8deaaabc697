// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/hostring"
)

// Flags of send(2) and recv(2) that a guest may use. The others ask for more than
// bytes (MSG_ERRQUEUE, MSG_CMSG_CLOEXEC), pass by the route that the host has set
// (MSG_DONTROUTE), connect (MSG_FASTOPEN), or keep guest RAM in use behind the CQE
// (MSG_ZEROCOPY).
const (
	allowedSend = unix.MSG_OOB | unix.MSG_DONTWAIT | unix.MSG_EOR | unix.MSG_WAITALL | unix.MSG_CONFIRM | unix.MSG_NOSIGNAL | unix.MSG_MORE
	allowedRecv = unix.MSG_OOB | unix.MSG_PEEK | unix.MSG_TRUNC | unix.MSG_DONTWAIT | unix.MSG_WAITALL | unix.MSG_NOSIGNAL
)

// sends says whether the opcode sends.
func sends(op uint8) bool { return op == hostring.OpSend || op == hostring.OpSendmsg }

// socketFlags checks ioprio and msg_flags of the four that send and receive. A
// multishot receive needs provided buffers, which there are not.
func socketFlags(w *words, q *slot) fault {
	allowed := uint32(allowedRecv)
	q.class = classRead
	if sends(w.opcode()) {
		allowed = allowedSend
		q.class = classWrite
	}
	if w.ioprio()&^recvSendPollFirst != 0 || w.opFlags()&^allowed != 0 || w.bufIndex() != 0 {
		return atPrep(unix.EINVAL)
	}
	q.odd = true
	q.flags |= slotStream
	if w.opFlags()&unix.MSG_WAITALL != 0 {
		q.flags |= slotWaitAll
	}
	return 0
}

// sendRecv translates SEND and RECV.
func (r *Ring) sendRecv(w *words, dst *hostring.SQE, q *slot) fault {
	if no := socketFlags(w, q); no != 0 {
		return no
	}
	op := w.opcode()
	if op == hostring.OpRecv && (w.off() != 0 || w.spliceFDIn() != 0) {
		return atPrep(unix.EINVAL)
	}
	if w.spliceFDIn()>>16 != 0 {
		return atPrep(unix.EINVAL)
	}
	to, toLen := uint64(0), uint32(0)
	f, none := r.fileOf(w, q)
	if op == hostring.OpSend && w.off() != 0 {
		toLen = w.spliceFDIn() & 0xffff
		if no := r.newBlock(q, 0); no != 0 {
			return no
		}
		no := fault(0)
		if to, toLen, no = r.address(w, w.off(), toLen, f, q); no != 0 {
			return no
		}
	}
	if none != 0 {
		return none
	}
	addr, length := w.addr(), uint64(w.len())
	if length == 0 {
		addr = 0
	} else if !r.covers(addr, length) {
		return atIssue(unix.EFAULT)
	}
	q.asked = w.len()
	*dst = hostring.SQE{
		Opcode: op, Flags: w.full(), IOPrio: w.ioprio(), FD: int32(q.file),
		Off: to, Addr: addr, Len: w.len(), OpFlags: w.opFlags(), SpliceFDIn: int32(toLen),
	}
	return 0
}

// address copies a guest's sockaddr and returns the address and the length of the
// one to use, in q's block: f's peer, in the host's own words, as nobody else may be
// named; or the copy, if the host lets f's messages go to anybody. f may be nil.
func (r *Ring) address(w *words, addr uint64, n uint32, f *file, q *slot) (uint64, uint32, fault) {
	if n > sockaddrSize {
		return 0, 0, atPrep(unix.EINVAL)
	}
	var guest [sockaddrSize]byte
	if !r.fetch(guest[:n], addr) {
		return 0, 0, atPrep(unix.EFAULT)
	}
	switch {
	case f == nil || !f.present:
		return 0, 0, atIssue(unix.EBADF)
	case !f.socket:
		return 0, 0, atIssue(unix.ENOTSOCK)
	case f.anyPeer && w.opcode() != hostring.OpConnect:
		copy(r.arena.at(q.block, blockName, sockaddrSize), guest[:n])
		return r.arena.addr(q.block, blockName), n, 0
	case len(f.peer) == 0 || !samePeer(guest[:n], f.peer):
		return 0, 0, atPrep(unix.EACCES)
	}
	copy(r.arena.at(q.block, blockName, sockaddrSize), f.peer)
	return r.arena.addr(q.block, blockName), uint32(len(f.peer)), 0
}

// message translates SENDMSG and RECVMSG. The kernel gets a msghdr, iovecs and a
// name in the arena.
func (r *Ring) message(w *words, dst *hostring.SQE, q *slot) fault {
	if no := socketFlags(w, q); no != 0 {
		return no
	}
	if w.off() != 0 || w.spliceFDIn() != 0 {
		return atPrep(unix.EINVAL)
	}
	var m [msghdrSize]byte
	if !r.fetch(m[:], w.addr()) {
		return atPrep(unix.EFAULT)
	}
	le := binary.LittleEndian
	name, nameLen := le.Uint64(m[msgName:]), le.Uint32(m[msgNameLen:])
	n := le.Uint64(m[msgIovLen:])
	if name == 0 {
		nameLen = 0
	}
	switch {
	case n > maxIovecs:
		return atPrep(unix.EMSGSIZE)
	case int32(nameLen) < 0, le.Uint64(m[msgControlLen:]) != 0:
		return atPrep(unix.EINVAL) // control messages pass descriptors and credentials
	}
	nameLen = min(nameLen, sockaddrSize)
	if no := r.newBlock(q, uint32(n)); no != 0 {
		return no
	}
	b := q.block
	clear(r.arena.at(b, blockMsg, msghdrSize))
	f, none := r.fileOf(w, q)
	if sends(w.opcode()) {
		if nameLen > 0 {
			at, length, no := r.address(w, name, nameLen, f, q)
			if no != 0 {
				return no
			}
			r.arena.put(b, blockMsg+msgName, at)
			r.arena.putHalf(b, blockMsg+msgNameLen, length)
		}
	} else {
		q.nameTo = w.addr()
		if name != 0 {
			q.name, q.flags = name, q.flags|slotName
			r.arena.put(b, blockMsg+msgName, r.arena.addr(b, blockName))
			r.arena.putHalf(b, blockMsg+msgNameLen, nameLen)
			q.rename = uint64(nameLen)
		}
	}
	total, late, no := r.iovecs(b, le.Uint64(m[msgIov:]), n)
	if no != 0 {
		return no
	}
	if none != 0 {
		return none
	}
	if late != 0 {
		return late
	}
	r.arena.put(b, blockMsg+msgIov, r.arena.addr(b, blockIovecs))
	r.arena.put(b, blockMsg+msgIovLen, n)
	q.asked = uint32(total)
	*dst = hostring.SQE{
		Opcode: w.opcode(), Flags: w.full(), IOPrio: w.ioprio(), FD: int32(q.file),
		Addr: r.arena.addr(b, blockMsg), Len: 1, OpFlags: w.opFlags(),
	}
	return 0
}

// received gives the guest what RECVMSG has put into the msghdr, from the private
// copy. A msghdr that the guest has taken from the ring's buffers gets nothing.
func (r *Ring) received(s *slot) {
	b := s.block
	if s.flags&slotName != 0 {
		n := r.arena.half(b, blockMsg+msgNameLen)
		r.store(s.name, r.arena.at(b, blockName, min(n, uint32(s.rename), sockaddrSize)))
		r.store(s.nameTo+msgNameLen, r.arena.at(b, blockMsg+msgNameLen, socklenSize))
	}
	r.store(s.nameTo+msgControlLen, r.arena.at(b, blockMsg+msgControlLen, 8))
	r.store(s.nameTo+msgFlags, r.arena.at(b, blockMsg+msgFlags, 4))
}

// connect translates CONNECT, which may name the file's peer only.
func (r *Ring) connect(w *words, dst *hostring.SQE, q *slot) fault {
	if w.len() != 0 || w.bufIndex() != 0 || w.opFlags() != 0 || w.spliceFDIn() != 0 {
		return atPrep(unix.EINVAL)
	}
	f, _ := r.fileOf(w, q) // address says what is wrong
	if w.off() > sockaddrSize {
		return atPrep(unix.EINVAL)
	}
	if no := r.newBlock(q, 0); no != 0 {
		return no
	}
	at, n, no := r.address(w, w.addr(), uint32(w.off()), f, q)
	if no != 0 {
		return no
	}
	if !f.unconnected {
		return atPrep(unix.EACCES)
	}
	*dst = hostring.SQE{Opcode: hostring.OpConnect, Flags: w.full(), FD: int32(q.file), Off: uint64(n), Addr: at}
	return 0
}

// shutdown translates SHUTDOWN.
func (r *Ring) shutdown(w *words, dst *hostring.SQE, q *slot) fault {
	if w.off() != 0 || w.addr() != 0 || w.opFlags() != 0 || w.bufIndex() != 0 || w.spliceFDIn() != 0 {
		return atPrep(unix.EINVAL)
	}
	f, no := r.fileOf(w, q)
	if no != 0 {
		return no
	}
	if f.listens && r.backend.keep {
		return atIssue(unix.EACCES)
	}
	*dst = hostring.SQE{Opcode: hostring.OpShutdown, Flags: w.full(), FD: int32(q.file), Len: w.len()}
	return 0
}

// accept translates ACCEPT, whose socket goes into an entry of the file table: the
// one that the SQE names, or the first that is empty. Multishot, it takes one
// connection after the other, each into an entry that is empty then.
func (r *Ring) accept(w *words, dst *hostring.SQE, q *slot) fault {
	multi := w.ioprio()&acceptMultishot != 0
	if w.len() != 0 || w.bufIndex() != 0 || w.ioprio()&^(acceptMultishot|acceptDontWait|acceptPollFirst) != 0 {
		return atPrep(unix.EINVAL)
	}
	if w.opFlags()&^unix.SOCK_NONBLOCK != 0 {
		return atPrep(unix.EINVAL)
	}
	index := w.spliceFDIn()
	switch {
	case index == 0:
		return atPrep(unix.EACCES) // a descriptor of this process
	case multi && (index != fileIndexAlloc || !r.multishot):
		return atPrep(unix.EINVAL)
	}
	f, no := r.fileOf(w, q)
	if no != 0 {
		return no
	}
	q.deny = f.deny
	*dst = hostring.SQE{Opcode: hostring.OpAccept, Flags: w.full(), IOPrio: w.ioprio(), FD: int32(q.file), OpFlags: w.opFlags()}
	if w.addr() != 0 {
		if no := r.acceptName(w, dst, q); no != 0 {
			return no
		}
	}
	if multi {
		q.odd, q.flags, q.target = true, q.flags|slotMulti, noFile
		dst.SpliceFDIn = -1
		return 0
	}
	return r.acceptInto(index, dst, q)
}

// acceptName prepares for the address of who connects, which the kernel writes into
// q's block. What is wrong with the guest's addresses it finds out in its time.
func (r *Ring) acceptName(w *words, dst *hostring.SQE, q *slot) fault {
	if no := r.newBlock(q, 0); no != 0 {
		return no
	}
	dst.Addr, dst.Off = badAddr, badAddr
	n := r.arena.at(q.block, blockLen, socklenSize)
	if !r.fetch(n, w.off()) || int32(r.arena.half(q.block, blockLen)) < 0 {
		return 0
	}
	size := min(r.arena.half(q.block, blockLen), sockaddrSize)
	r.arena.putHalf(q.block, blockLen, size)
	if r.covers(w.addr(), uint64(size)) {
		dst.Addr, dst.Off = r.arena.addr(q.block, blockName), r.arena.addr(q.block, blockLen)
		q.flags |= slotName
		q.name, q.nameTo, q.rename = w.addr(), w.off(), uint64(size)
	}
	return 0
}

// acceptInto finds the entry for the one socket of an ACCEPT.
func (r *Ring) acceptInto(index uint32, dst *hostring.SQE, q *slot) fault {
	entry := index - 1
	if index == fileIndexAlloc {
		first, ok := r.empty()
		if !ok {
			return atIssue(unix.ENFILE)
		}
		entry = uint32(first)
	}
	if entry >= uint32(len(r.files)) {
		return atIssue(unix.EINVAL)
	}
	target, ok := r.place(entry)
	if !ok {
		return atIssue(unix.ENFILE)
	}
	q.odd, q.target, q.entry = true, target, uint16(entry)
	if index == fileIndexAlloc {
		q.flags |= slotAlloc
		r.files[entry].reserved = true
	}
	if !r.files[entry].present {
		r.bind(uint16(entry), file{host: target, reserved: r.files[entry].reserved, deny: q.deny})
	} else if target != r.files[entry].host {
		r.moved, r.movedTo, r.movedDeny = uint16(entry), target, q.deny
	}
	dst.SpliceFDIn = int32(target) + 1
	return 0
}

// accepted notes the end of an ACCEPT and returns the guest's result.
func (r *Ring) accepted(s *slot, res int32) int32 {
	if s.flags&slotMulti != 0 {
		if res >= 0 {
			res = r.into(s, res)
		}
		return res
	}
	f := &r.files[s.entry]
	if s.flags&slotAlloc != 0 {
		f.reserved = false
	}
	if res < 0 {
		return res
	}
	r.bind(s.entry, file{host: s.target, present: true, socket: true, reserved: f.reserved, deny: s.deny})
	r.named(s)
	if s.flags&slotAlloc != 0 {
		return int32(s.entry)
	}
	return res
}

// another is a socket of the multishot ACCEPT x, which goes on. If the guest's table
// has no room for it, that is the end: the guest hears so, and the host's kernel is
// to cancel the rest.
func (r *Ring) another(x ref, s *slot, c *hostring.CQE) {
	res := r.into(s, c.Res)
	switch {
	case res >= 0:
		r.post(s.userData, res, c.Flags)
		return
	case s.flags&slotOver == 0:
		if r.shows(s, res) {
			r.post(s.userData, res, c.Flags&^cqeMore)
		}
		s.flags |= slotInternal | slotOver
	}
	if s.flags&slotAsked == 0 { // also if it was cancelled already, in vain
		s.flags |= slotAsked
		r.over = append(r.over, x)
	}
}

// into puts the socket that the kernel has put into entry host of the pool into the
// guest's table, and returns its entry there, or ENFILE. A kernel that has chosen another
// entry, which New found out about, costs the ring and not the device.
func (r *Ring) into(s *slot, host int32) int32 {
	if host < int32(r.pool) || host >= int32(r.void) || r.hosts[host].filled {
		r.fail(&uringpv.GuestError{Errno: unix.EIO, Reason: fmt.Sprintf("multishot ACCEPT into entry %d of the host ring's file table: must be %d to %d, and empty", host, r.pool, r.void-1)})
		return -int32(unix.EIO)
	}
	p := uint16(host)
	entry, ok := r.empty()
	if !ok || s.flags&slotOver != 0 {
		r.drop(p)
		return -int32(unix.ENFILE)
	}
	r.bind(entry, file{host: p, present: true, socket: true, deny: s.deny})
	r.named(s)
	return int32(entry)
}

// named gives the guest the address of who has connected, from the private copy.
func (r *Ring) named(s *slot) {
	if s.flags&slotName == 0 {
		return
	}
	n := r.arena.half(s.block, blockLen)
	r.store(s.name, r.arena.at(s.block, blockName, min(n, uint32(s.rename))))
	r.store(s.nameTo, r.arena.at(s.block, blockLen, socklenSize))
}

// closeSlot translates CLOSE of an entry of the file table.
func (r *Ring) closeSlot(w *words, dst *hostring.SQE, q *slot) fault {
	if w.off() != 0 || w.addr() != 0 || w.len() != 0 || w.opFlags() != 0 || w.bufIndex() != 0 {
		return atPrep(unix.EINVAL)
	}
	index := w.spliceFDIn()
	if index == 0 {
		return atPrep(unix.EACCES) // a descriptor of this process
	}
	if w.fd() != 0 {
		return atPrep(unix.EINVAL)
	}
	entry := index - 1
	if entry >= uint32(len(r.files)) {
		return atIssue(unix.EINVAL)
	}
	host := r.files[entry].host
	if r.moved == uint16(entry) {
		host = r.movedTo
	}
	q.odd, q.file, q.entry = true, host, uint16(entry)
	*dst = hostring.SQE{Opcode: hostring.OpClose, Flags: w.bare(), SpliceFDIn: int32(host) + 1}
	if host >= r.pool && host != r.void {
		// The relay closes it, when this has its turn.
		*dst = hostring.SQE{Opcode: hostring.OpNop, Flags: w.bare()}
		r.moved, r.movedTo, r.movedDeny = uint16(entry), r.void, nil
	}
	return 0
}

// closed notes the end of a CLOSE and returns the guest's result.
func (r *Ring) closed(s *slot, res int32) int32 {
	f := &r.files[s.entry]
	switch {
	case res < 0:
	case s.file < r.pool:
		r.hosts[s.file].filled = false
		if f.host == s.file {
			*f = file{host: f.host, reserved: f.reserved}
		}
	case f.host == s.file:
		r.bind(s.entry, file{host: r.void, reserved: f.reserved})
	default:
		res = -int32(unix.EBADF) // another was before it
	}
	return res
}

// peerBytes is a as a sockaddr.
func peerBytes(a unix.Sockaddr) ([]byte, error) {
	be := binary.BigEndian
	switch a := a.(type) {
	case nil:
		return nil, nil
	case *unix.SockaddrInet4:
		b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
		b = append(be.AppendUint16(b, uint16(a.Port)), a.Addr[:]...)
		return append(b, make([]byte, 8)...), nil
	case *unix.SockaddrInet6:
		b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET6)
		b = append(be.AppendUint16(b, uint16(a.Port)), 0, 0, 0, 0)
		b = append(b, a.Addr[:]...)
		return binary.NativeEndian.AppendUint32(b, a.ZoneId), nil
	case *unix.SockaddrUnix:
		b := binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX)
		if len(a.Name) == 0 || len(a.Name) > 107 {
			return nil, fmt.Errorf("peer %q: must be 1 to 107 bytes: %w", a.Name, unix.EINVAL)
		}
		if a.Name[0] == '@' { // abstract, and counted
			return append(append(b, 0), a.Name[1:]...), nil
		}
		return append(append(b, a.Name...), 0), nil
	}
	return nil, fmt.Errorf("peer of type %T: must be an IPv4, an IPv6 or a Unix address: %w", a, unix.EINVAL)
}

// samePeer says whether a guest's sockaddr means peer, whatever its padding.
func samePeer(guest, peer []byte) bool {
	if len(guest) < 2 || !bytes.Equal(guest[:2], peer[:2]) {
		return false
	}
	switch binary.NativeEndian.Uint16(peer) {
	case unix.AF_INET:
		return len(guest) >= 16 && bytes.Equal(guest[:8], peer[:8])
	case unix.AF_INET6: // without flow label; the scope only where both have it
		return len(guest) >= 24 && bytes.Equal(guest[2:4], peer[2:4]) && bytes.Equal(guest[8:24], peer[8:24]) &&
			(len(guest) < 28 || bytes.Equal(guest[24:28], peer[24:28]))
	case unix.AF_UNIX:
		if peer[2] == 0 {
			return bytes.Equal(guest, peer)
		}
		path, _, _ := bytes.Cut(guest[2:], []byte{0})
		return bytes.Equal(path, peer[2:len(peer)-1])
	}
	return false
}
