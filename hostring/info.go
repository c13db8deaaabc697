// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Info is the kernel's own account of a ring. Unlike the words in the ring it
// cannot be forged by whoever shares the ring's memory.
type Info struct {
	CachedSQHead uint32 // SQEs consumed, modulo 2^32
	CachedCQTail uint32 // CQEs posted into the ring, modulo 2^32
	SQThread     int    // thread id, -1 if it is not known; the maker's until the thread has begun
}

// infoHead is how much of the account is read, in bytes. The counters come first;
// lists of SQEs and CQEs follow, and the SQ thread is behind them.
const infoHead = 4096

// Info reads the ring's account from /proc/self/fdinfo (proc_pid_fdinfo(5)). It is
// one system call but for the first time. The kernel tells nothing while somebody,
// such as a busy SQ thread, has the ring's lock: that is an error, and the next
// try may succeed. The SQ thread of a ring that is full may be left out. Info must
// not be called at the same time as itself or Close.
func (r *Ring) Info() (Info, error) {
	// The file stays open: the kernel grows its buffer for a long account by a try
	// each time, and a new file would begin with a small one again.
	if r.info == nil {
		f, err := os.Open(fmt.Sprintf("/proc/self/fdinfo/%d", r.fd))
		if err != nil {
			return Info{}, err
		}
		r.info, r.infoText = f, make([]byte, infoHead)
	}
	n, err := r.info.ReadAt(r.infoText, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Info{}, err
	}
	return parseInfo(bytes.NewReader(r.infoText[:n]))
}

// parseInfo reads the counters, which come before the lists of SQEs and CQEs,
// and no further than it must.
func parseInfo(in io.Reader) (Info, error) {
	info := Info{SQThread: -1}
	want := map[string]func(uint64){
		"CachedSqHead:": func(v uint64) { info.CachedSQHead = uint32(v) },
		"CachedCqTail:": func(v uint64) { info.CachedCQTail = uint32(v) },
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 2 {
			continue
		}
		if f[0] == "SqThread:" {
			if tid, err := strconv.Atoi(f[1]); err == nil {
				info.SQThread = tid
			}
			break // behind the counters
		}
		set, ok := want[f[0]]
		if !ok {
			continue
		}
		v, err := strconv.ParseUint(f[1], 0, 32)
		if err != nil {
			return Info{}, fmt.Errorf("fdinfo of a ring: %s %q is no 32-bit number", f[0], f[1])
		}
		set(v)
		delete(want, f[0])
	}
	if err := lines.Err(); err != nil {
		return Info{}, fmt.Errorf("fdinfo of a ring: %w", err)
	}
	for missing := range want {
		return Info{}, fmt.Errorf("fdinfo of a ring: this kernel prints no %s line", strings.TrimSuffix(missing, ":"))
	}
	return info, nil
}

// Held counts what the kernel's account of the ring lists of requests that wait
// for a file to become ready, and of CQEs that found the CQ ring full. It stops
// counting at most. Like Info it may fail while somebody has the ring's lock, and
// must not be called at the same time as that or Close.
func (r *Ring) Held(most int) (int, error) {
	if r.info == nil {
		if _, err := r.Info(); err != nil {
			return 0, err
		}
	}
	if r.heldText == nil {
		r.heldText = make([]byte, heldChunk)
	}
	var c heldCounter
	for off := int64(0); ; {
		n, err := r.info.ReadAt(r.heldText, off)
		c.add(r.heldText[:n])
		if c.n >= most {
			return c.n, nil
		}
		off += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			if !c.listed || c.noThread && r.params.Flags&SetupSQPoll != 0 {
				return 0, errNoLists
			}
			return c.n, nil
		case err != nil:
			return 0, err
		}
	}
}

// heldChunk is how much of an account is read at a time, in bytes.
const heldChunk = 32 << 10

// errNoLists says that the account lacks the lists that Held counts, or a part of
// them: kernels that print them without the ring's lock name no SQ thread then.
var errNoLists = errors.New("fdinfo of a ring: no whole PollList and CqOverflowList")

// heldCounter counts the lines below the headings "PollList:" and
// "CqOverflowList:", which are indented. Other lists, such as those of SQEs and
// CQEs, have other headings.
type heldCounter struct {
	n        int  // lines counted
	listed   bool // the last heading was seen
	noThread bool // it says that there is no SQ thread
	list     bool // the lines are ones to count

	line [20]byte // how the line in hand begins
	len  int      // of what line holds
}

// add goes on with the text b.
func (c *heldCounter) add(b []byte) {
	for _, x := range b {
		if x != '\n' {
			if c.len < len(c.line) {
				c.line[c.len] = x
				c.len++
			}
			continue
		}
		switch line := c.line[:c.len]; {
		case len(line) > 0 && line[0] == ' ':
			if c.list {
				c.n++
			}
		case bytes.HasPrefix(line, []byte("PollList:")):
			c.list = true
		case bytes.HasPrefix(line, []byte("CqOverflowList:")):
			c.list, c.listed = true, true
		default:
			c.list = false
			c.noThread = c.noThread || bytes.Equal(line, []byte("SqThread:\t-1"))
		}
		c.len = 0
	}
}
