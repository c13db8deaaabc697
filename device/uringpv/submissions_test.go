// SPDX-License-Identifier: Apache-2.0

package uringpv

import (
	"math"
	"sync"
	"testing"
)

func TestSubmissionsAddUp(t *testing.T) {
	var s Submissions
	for _, tt := range []struct {
		add  []uint32
		want uint32
	}{
		{nil, 0}, {[]uint32{3, 2}, 5}, {[]uint32{3, 0}, 3}, {[]uint32{0}, 0}, {[]uint32{7, 7, 7}, 8},
		{[]uint32{math.MaxUint32, math.MaxUint32}, 8}, {[]uint32{1, math.MaxUint32}, 8},
	} {
		for _, n := range tt.add {
			s.Add(n, 8)
		}
		if got := s.Take(); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.add, got, tt.want)
		}
	}
	// None is lost between threads.
	const each, most = 1000, 1 << 20
	var all sync.WaitGroup
	sum := uint32(0)
	for range 2 {
		all.Go(func() {
			for range each {
				s.Add(1, most)
			}
		})
	}
	for range each {
		sum += s.Take()
	}
	all.Wait()
	if sum += s.Take(); sum != 2*each {
		t.Errorf("%d of %d", sum, 2*each)
	}
}
