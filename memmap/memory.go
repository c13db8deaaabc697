// SPDX-License-Identifier: Apache-2.0

package memmap

import (
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/shm"
)

// ErrNotRAM says that a range of guest-physical addresses is not wholly RAM.
var ErrNotRAM = errors.New("not in guest RAM")

// ErrClosed says that the memory is gone.
var ErrClosed = errors.New("guest memory is closed")

// Error is an access that was refused. It is the guest's fault when the range
// came from a guest.
type Error struct {
	Op    string // what was tried: "read", "write", "view"
	Range Range
	Err   error // ErrNotRAM, ErrClosed or shm.ErrUnaligned
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Range, e.Err) }

// Unwrap is the reason.
func (e *Error) Unwrap() error { return e.Err }

// Options say how guest RAM is made.
type Options struct {
	Name      string // of the memfd, as /proc shows it; "guest-ram" if empty
	HugePages bool   // 2 MiB pages from the host's pool; RAM is then a multiple of 2 MiB
}

// hugePage is the size of a huge page in bytes.
const hugePage = 2 << 20

// Memory is guest RAM: a sealed memfd, mapped shared and writable at
// Base() + GPA. Its methods may be called from any goroutine; Close may not run
// at the same time as another.
type Memory struct {
	layout Layout
	slot   int
	fd     int
	views  []shm.View // one a region; empty after Close
	ram    [][]byte   // likewise, for loaders before the guest runs

	population population

	once sync.Once
	err  error // of Close
}

// New makes guest RAM of a layout that NewLayout made. The pages are zero; small
// ones take no host memory until somebody touches them, huge ones are set aside
// at once.
func New(l Layout, o Options) (_ *Memory, err error) {
	if l.Size() == 0 {
		return nil, errors.New("guest RAM without a layout: NewLayout makes one")
	}
	if o.Name == "" {
		o.Name = "guest-ram"
	}
	if o.HugePages && l.Size()%hugePage != 0 {
		return nil, fmt.Errorf("guest RAM of %d bytes: with huge pages it must be a multiple of %d", l.Size(), hugePage)
	}
	slot, err := takeSlot()
	if err != nil {
		return nil, err
	}
	if err := reserve(slotBase(slot), SlotSize); err != nil {
		giveSlot(slot)
		hint := ""
		switch {
		case errors.Is(err, unix.ENOMEM):
			hint = ": the limit on address space (ulimit -v) must allow it"
		case errors.Is(err, unix.EEXIST):
			hint = ": this process has something else there"
		}
		return nil, fmt.Errorf("reserve %d GiB of address space at %#x for guest RAM: %w%s", SlotSize>>30, slotBase(slot), err, hint)
	}
	m := &Memory{layout: l, slot: slot, fd: -1}
	defer func() {
		if err != nil {
			_ = m.Close()
		}
	}()

	if m.fd, err = createFile(o); err != nil {
		return nil, err
	}
	if err := unix.Ftruncate(m.fd, int64(l.Size())); err != nil {
		hint := ""
		if errors.Is(err, unix.EFBIG) {
			hint = ": RLIMIT_FSIZE is below that: raise it (ulimit -f), or let the disk of this process to which passthrough has bound it go through backend=isolated"
		}
		return nil, fmt.Errorf("size guest RAM to %d bytes: %w%s", l.Size(), err, hint)
	}
	// Nobody, not even who inherits the descriptor, can pull pages from under us.
	if _, err := unix.FcntlInt(uintptr(m.fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return nil, fmt.Errorf("seal guest RAM: %w", err)
	}
	for _, r := range l.regions {
		b, err := mapFixed(slotBase(slot)+uintptr(r.Start), r.Length, m.fd, r.FileOffset)
		if errors.Is(err, unix.ENOMEM) && o.HugePages {
			return nil, fmt.Errorf("map %d MiB of huge pages: %w: raise /proc/sys/vm/nr_hugepages or run without huge pages", r.Length>>20, err)
		}
		if err != nil {
			return nil, fmt.Errorf("map guest RAM: %w", err)
		}
		v, err := shm.Of(b)
		if err != nil {
			return nil, err
		}
		m.ram = append(m.ram, b)
		m.views = append(m.views, v)
	}
	return m, nil
}

// createFile makes the memfd. Nobody shall execute it: hosts with
// vm.memfd_noexec=2 insist on hearing that, kernels before 6.3 do not know it.
func createFile(o Options) (int, error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	if o.HugePages {
		flags |= unix.MFD_HUGETLB | unix.MFD_HUGE_2MB
	}
	fd, err := unix.MemfdCreate(o.Name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(o.Name, flags)
	}
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.EINVAL):
		return -1, fmt.Errorf("memfd_create for guest RAM, named %q: %w: the name must be at most 249 bytes, without NUL", o.Name, err)
	case o.HugePages:
		return -1, fmt.Errorf("memfd_create for guest RAM: %w: does this host have 2 MiB pages? run without huge pages if not", err)
	}
	return -1, fmt.Errorf("memfd_create for guest RAM: %w", err)
}

// Layout says which addresses are RAM.
func (m *Memory) Layout() Layout { return m.layout }

// FD is the memfd, -1 after Close. It stays the Memory's.
func (m *Memory) FD() int { return m.fd }

// Base is the host address of GPA 0, the guest's ADDR_BASE.
func (m *Memory) Base() uintptr { return slotBase(m.slot) }

// find is the region of r and r's offset in it.
func (m *Memory) find(op string, r Range) (int, uint64, error) {
	i, ok := m.layout.region(r)
	if !ok {
		return 0, 0, &Error{op, r, ErrNotRAM}
	}
	if i >= len(m.views) {
		return 0, 0, &Error{op, r, ErrClosed}
	}
	return i, uint64(r.Start - m.layout.regions[i].Start), nil
}

// ReadAt copies guest memory at a into p. Each word is read once; the guest may
// write meanwhile. The error is an *Error, with p untouched, if the range is
// not wholly inside one region.
func (m *Memory) ReadAt(p []byte, a Addr) error {
	i, off, err := m.find("read", Range{a, uint64(len(p))})
	if err != nil {
		return err
	}
	m.views[i].CopyOut(p, off)
	return nil
}

// WriteAt copies p to guest memory at a. The error is an *Error, with nothing
// written, if the range is not wholly inside one region.
func (m *Memory) WriteAt(p []byte, a Addr) error {
	i, off, err := m.find("write", Range{a, uint64(len(p))})
	if err != nil {
		return err
	}
	m.views[i].CopyIn(off, p)
	return nil
}

// View is a window on r, which lies inside one region and begins at a multiple
// of eight. It is valid until Close.
func (m *Memory) View(r Range) (shm.View, error) {
	i, off, err := m.find("view", r)
	if err != nil {
		return shm.View{}, err
	}
	v, ok := m.views[i].Slice(off, r.Length)
	if !ok {
		return shm.View{}, &Error{"view", r, shm.ErrUnaligned}
	}
	return v, nil
}

// Bytes is r, which lies inside one region, as a slice: for loaders, before the
// guest runs, and to name memory to the kernel. It is valid until Close.
func (m *Memory) Bytes(r Range) ([]byte, error) {
	i, off, err := m.find("bytes", r)
	if err != nil {
		return nil, err
	}
	return m.ram[i][off : off+r.Length : off+r.Length], nil
}

// HostAddr is the host's address of r, which lies inside one region.
func (m *Memory) HostAddr(r Range) (uintptr, error) {
	if _, _, err := m.find("address", r); err != nil {
		return 0, err
	}
	return m.Base() + uintptr(r.Start), nil
}

// FromUser turns an address in the guest's form, ADDR_BASE + GPA, and a length
// into the range of RAM that it names. It says false unless that lies inside
// one region. Both words may be anything. A length of 0 names no byte, and is
// taken where RAM begins, goes on or has just ended.
func (m *Memory) FromUser(addr, length uint64) (Range, bool) {
	base := uint64(m.Base())
	if addr < base {
		return Range{}, false
	}
	r := Range{Addr(addr - base), length}
	if !m.layout.Contains(r) {
		return Range{}, false
	}
	return r, true
}

// Close unmaps the RAM and gives its host memory back. Further calls do nothing
// and return the same error.
func (m *Memory) Close() error {
	m.once.Do(func() {
		m.population.end()
		m.views, m.ram = nil, nil
		var all *multierror.Error
		if err := release(slotBase(m.slot), SlotSize); err != nil {
			all = multierror.Append(all, fmt.Errorf("unmap guest RAM: %w", err))
		} else {
			giveSlot(m.slot)
		}
		if m.fd >= 0 {
			if err := unix.Close(m.fd); err != nil {
				all = multierror.Append(all, fmt.Errorf("close guest RAM: %w", err))
			}
			m.fd = -1
		}
		m.err = all.ErrorOrNil()
	})
	return m.err
}
