// SPDX-License-Identifier: Apache-2.0

package pci

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Vector is where an MSI-X vector's events come from. The calls come one at a
// time, and must not call the function back.
type Vector interface {
	// Route makes events, and those that are pending, send data to addr.
	Route(addr uint64, data uint32) error
	// Unroute keeps events back: they become pending.
	Unroute() error
	// Pending says whether events are kept back.
	Pending() bool
}

// The MSI-X capability and table.
const (
	capMSIX     = 0x11
	msixCapAt   = 0x40
	msixEnable  = 0x8000
	msixMaskAll = 0x4000

	entrySize    = 16
	entryAddr    = 0
	entryAddrHi  = 4
	entryData    = 8
	entryControl = 12
	entryMasked  = 1

	// MaxVectors is the most that the capability can say.
	MaxVectors = 2048
)

// msix is a function's MSI-X state. The function's mutex guards it.
type msix struct {
	f       *Function
	cap     int
	vectors []Vector
	table   []byte
	pba     uint64 // offset of the pending bits in the BAR
	enabled bool   // and not masked as a whole, and the function is bus master
	routed  []bool
	failing []bool // the host refused the last change, and fail has heard of it
	fail    func(error)
}

// MSIXSize is the size in bytes of a BAR that holds n vectors.
func MSIXSize(n int) uint64 {
	size := uint64(2 * minBAR)
	for size < pbaOffset(n)+minBAR {
		size *= 2
	}
	return size
}

// pbaOffset is where the pending bits of n vectors begin: behind the table, on
// a page of their own.
func pbaOffset(n int) uint64 { return (uint64(n)*entrySize + minBAR - 1) &^ (minBAR - 1) }

// SetMSIX gives the function MSI-X vectors, with table and pending bits in BAR
// bar. All begin masked. fail hears of a vector that the host refuses to route
// or unroute, once until it works again: a guest can try as often as it likes.
// It comes before Host.Add.
func (f *Function) SetMSIX(bar int, vectors []Vector, fail func(error)) error {
	n := len(vectors)
	if n < 1 || n > MaxVectors || f.msix != nil {
		return fmt.Errorf("MSI-X with %d vectors: must be set once, with 1 to %d", n, MaxVectors)
	}
	m := &msix{f: f, cap: msixCapAt, vectors: vectors, table: make([]byte, n*entrySize), pba: pbaOffset(n), routed: make([]bool, n), failing: make([]bool, n), fail: fail}
	for i := range vectors {
		m.table[i*entrySize+entryControl] = entryMasked
	}
	if err := f.SetBAR(bar, BAR{Size: MSIXSize(n), Handler: m}); err != nil {
		return err
	}
	var c [10]byte
	binary.LittleEndian.PutUint16(c[0:], uint16(n-1))
	binary.LittleEndian.PutUint32(c[2:], uint32(bar))
	binary.LittleEndian.PutUint32(c[6:], uint32(m.pba)|uint32(bar))
	f.addCapability(m.cap, capMSIX, c[:])
	binary.LittleEndian.PutUint16(f.wmask[m.cap+2:], msixEnable|msixMaskAll)
	f.msix = m
	return nil
}

// control takes over the capability's message control word.
func (m *msix) control(word uint16, master bool) {
	m.enabled = word&msixEnable != 0 && word&msixMaskAll == 0 && master
	for i := range m.vectors {
		m.update(i, false)
	}
}

// update routes or unroutes vector i as its entry says; again if the entry
// changed.
func (m *msix) update(i int, changed bool) {
	e := m.table[i*entrySize:][:entrySize]
	le := binary.LittleEndian
	want := m.enabled && le.Uint32(e[entryControl:])&entryMasked == 0
	var err error
	switch v := m.vectors[i]; {
	case want && (!m.routed[i] || changed):
		m.routed[i] = true
		err = v.Route(uint64(le.Uint32(e[entryAddr:]))|uint64(le.Uint32(e[entryAddrHi:]))<<32, le.Uint32(e[entryData:]))
		if err != nil { // the entry's old content must not go on either
			unrouted := v.Unroute()
			m.routed[i] = unrouted != nil
			err = errors.Join(err, unrouted)
		}
	case !want && m.routed[i]:
		err = v.Unroute()
		m.routed[i] = err != nil
	default:
		return
	}
	if err != nil && !m.failing[i] {
		m.fail(fmt.Errorf("MSI-X vector %d: %w", i, err))
	}
	m.failing[i] = err != nil
}

// Read is a guest's read of the table or the pending bits.
func (m *msix) Read(off uint64, p []byte) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	clear(p)
	switch {
	case off < uint64(len(m.table)):
		copy(p, m.table[off:])
	case off >= m.pba:
		for i := range p {
			p[i] = m.pending(off - m.pba + uint64(i))
		}
	}
}

// pending is byte n of the pending bits.
func (m *msix) pending(n uint64) (b byte) {
	for bit := range uint64(8) {
		i := n*8 + bit
		if i < uint64(len(m.vectors)) && !m.routed[i] && m.vectors[i].Pending() {
			b |= 1 << bit
		}
	}
	return b
}

// Write is a guest's write. Only aligned words of four or eight bytes in the
// table count.
func (m *msix) Write(off uint64, p []byte) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	n := uint64(len(p))
	if n != 4 && n != 8 || off%n != 0 || off+n > uint64(len(m.table)) {
		return
	}
	i := int(off / entrySize)
	e := m.table[i*entrySize:][:entrySize]
	old := [entrySize]byte(e)
	copy(m.table[off:], p)
	// Bits 31 to 1 of the control word are reserved.
	e[entryControl] &= entryMasked
	clear(e[entryControl+1:])
	// A route depends on address and data; the mask decides whether there is one.
	m.update(i, !bytes.Equal(old[:entryControl], e[:entryControl]))
}

// Close takes all BARs off the bus and unroutes all vectors. The guest no longer
// runs.
func (f *Function) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.config[regCommand : regCommand+2])
	f.remap()
	if f.msix == nil {
		return nil
	}
	var errs []error
	for i, v := range f.msix.vectors {
		if !f.msix.routed[i] {
			continue
		}
		err := v.Unroute()
		f.msix.routed[i] = err != nil
		if err != nil {
			errs = append(errs, fmt.Errorf("MSI-X vector %d: %w", i, err))
		}
	}
	return errors.Join(errs...)
}
