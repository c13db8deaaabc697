// SPDX-License-Identifier: Apache-2.0

package signal

import (
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSignalsAddUpAndNeverWait(t *testing.T) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	var buf [8]byte
	if n := Take(fd, &buf); n != 0 {
		t.Errorf("a fresh eventfd is signalled %d times", n)
	}
	for range 3 {
		if err := Raise(fd); err != nil {
			t.Fatal(err)
		}
	}
	if n := Take(fd, &buf); n != 3 {
		t.Errorf("%d signals, want 3", n)
	}
	full := binary.NativeEndian.AppendUint64(nil, math.MaxUint64-1)
	if _, err := unix.Write(fd, full); err != nil {
		t.Fatal(err)
	}
	if err := Raise(fd); err != nil {
		t.Errorf("a full counter: %v; it is signalled", err)
	}
	if n := Take(fd, &buf); n != math.MaxUint64-1 {
		t.Errorf("%d signals", n)
	}
	if n := testing.AllocsPerRun(100, func() { Raise(fd); Take(fd, &buf) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	if err := Raise(fd); !errors.Is(err, unix.EBADF) {
		t.Errorf("a closed one: %v, want EBADF", err)
	}
	if n := Take(fd, &buf); n != 0 {
		t.Errorf("a closed one is signalled %d times", n)
	}
}
