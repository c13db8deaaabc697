// SPDX-License-Identifier: Apache-2.0

package memmap

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/testutil"
)

// What a process has at a slot's addresses already is never mapped over.
func TestNewNeverMapsOverSomethingElse(t *testing.T) {
	testutil.NoLeaks(t)
	at := slotBase(0) + 0x1234_5000 // anywhere in it
	if err := reserve(at, PageSize); err != nil {
		t.Fatal(err)
	}
	l, err := NewLayout(MinRAM)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(l, Options{}); !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "something else") {
		t.Errorf("with a page in the way: %v", err)
	}
	if err := release(at, PageSize); err != nil {
		t.Fatal(err)
	}
	// The slot was given back.
	m, err := New(l, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if m.slot != 0 {
		t.Errorf("in slot %d", m.slot)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
