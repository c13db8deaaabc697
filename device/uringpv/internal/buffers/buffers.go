// SPDX-License-Identifier: Apache-2.0

package buffers

import (
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// Of is ranges of m as buffers of a host ring. A range of no length is an empty entry.
// The error is memmap's, for a range that is not in guest RAM.
func Of(m *memmap.Memory, ranges []memmap.Range) ([]hostring.Buffer, error) {
	v := make([]hostring.Buffer, len(ranges))
	for i, g := range ranges {
		if g.Length == 0 {
			continue
		}
		addr, err := m.HostAddr(g)
		if err != nil {
			return nil, err
		}
		v[i] = hostring.Buffer{Addr: addr, Length: g.Length}
	}
	return v, nil
}

// Pin registers ranges of m with r, which has no buffers yet.
func Pin(r *hostring.Ring, m *memmap.Memory, ranges []memmap.Range) error {
	v, err := Of(m, ranges)
	if err != nil {
		return err
	}
	return r.RegisterBuffers(v)
}
