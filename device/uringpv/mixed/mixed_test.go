// SPDX-License-Identifier: Apache-2.0

package mixed_test

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/mixed"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/shm"
)

// one is a backend that says which rings it was asked for.
type one struct {
	kind   abi.Backend
	caps   uringpv.Capabilities
	specs  []uringpv.RingSpec
	closed int
	err    error
	no     error // of NewRing
}

func (o *one) Kind() abi.Backend                  { return o.kind }
func (o *one) Capabilities() uringpv.Capabilities { return o.caps }
func (o *one) Close() error                       { o.closed++; return o.err }
func (o *one) NewRing(s uringpv.RingSpec) (uringpv.Ring, error) {
	o.specs = append(o.specs, s)
	return nil, o.no
}

func two() (fast, second *one) {
	fast = &one{kind: abi.BackendPassthrough, caps: uringpv.Capabilities{
		Policy: uringpv.Policy{
			Opcodes: abi.OpcodesOf(hostring.OpNop, hostring.OpReadFixed), SQEFlagsRequired: hostring.SQEFixedFile,
			SQEFlags: hostring.SQEFixedFile | hostring.SQEIOLink, SetupFlags: hostring.SetupSQPoll | hostring.SetupClamp | hostring.SetupIOPoll,
		},
		MaxEntries: 64, MaxFiles: 255, MaxBuffers: 4096, Stats: abi.StatSQEs,
	}}
	second = &one{kind: abi.BackendRelay, caps: uringpv.Capabilities{
		Policy: uringpv.Policy{
			Opcodes: abi.OpcodesOf(hostring.OpNop, hostring.OpFallocate), SQEFlagsRequired: hostring.SQEFixedFile,
			SQEFlags: hostring.SQEFixedFile | hostring.SQEAsync, SetupFlags: hostring.SetupSQPoll | hostring.SetupNoSQArray | hostring.SetupIOPoll,
		},
		MaxEntries: 32768, MaxFiles: 255, MaxBuffers: 1024, Stats: abi.StatSQEs | abi.StatBytes,
	}}
	return fast, second
}

func TestOffersWhatBothHaveAndTheRestAsExtra(t *testing.T) {
	fast, second := two()
	b := mixed.New(fast, second)
	c := b.Capabilities()
	if b.Kind() != abi.BackendPassthrough || c.Opcodes != fast.caps.Opcodes || c.SQEFlags != fast.caps.SQEFlags {
		t.Errorf("%v, %+v: not the fast one's", b.Kind(), c)
	}
	if c.Extra != abi.OpcodesOf(hostring.OpFallocate) {
		t.Errorf("extra opcodes %v", c.Extra.List())
	}
	if c.SetupFlags != hostring.SetupSQPoll|hostring.SetupIOPoll || c.MaxEntries != 64 || c.MaxBuffers != 1024 || c.Stats != abi.StatSQEs {
		t.Errorf("%+v: not what both can do", c)
	}
}

func TestEachRingGoesWhereItsOpcodesAre(t *testing.T) {
	for name, tt := range map[string]struct {
		ops    abi.Opcodes
		second bool
	}{
		"all of the fast one's": {abi.OpcodesOf(hostring.OpNop, hostring.OpReadFixed), false},
		"one that both have":    {abi.OpcodesOf(hostring.OpNop), false},
		"one extra":             {abi.OpcodesOf(hostring.OpFallocate), true},
		"extra and common":      {abi.OpcodesOf(hostring.OpNop, hostring.OpFallocate), true},
	} {
		fast, second := two()
		b := mixed.New(fast, second)
		policy, ok := b.Capabilities().Policy.Narrow(tt.ops, b.Capabilities().Extra)
		if !ok {
			t.Fatalf("%s: refused", name)
		}
		if _, err := b.NewRing(uringpv.RingSpec{Index: 3, Policy: policy}); err != nil {
			t.Fatal(err)
		}
		if (len(second.specs) == 1) != tt.second || (len(fast.specs) == 1) == tt.second {
			t.Errorf("%s: %d rings of the fast backend, %d of the second", name, len(fast.specs), len(second.specs))
		}
		for _, s := range second.specs {
			if s.Policy.SQEFlags != hostring.SQEFixedFile {
				t.Errorf("%s: the second backend is to allow SQE flags %#x", name, s.Policy.SQEFlags)
			}
		}
	}
}

func TestCloseClosesBothAndSaysAllThatFailed(t *testing.T) {
	fast, second := two()
	fast.err, second.err = errors.New("first"), errors.New("second")
	err := mixed.New(fast, second).Close()
	if fast.closed != 1 || second.closed != 1 {
		t.Errorf("closed %d and %d times", fast.closed, second.closed)
	}
	if !errors.Is(err, fast.err) || !errors.Is(err, second.err) {
		t.Errorf("error %v", err)
	}
}

func TestSecondBackendGetsNoFlagThatItDoesNotHonour(t *testing.T) {
	fast, second := two()
	b := mixed.New(fast, second)
	policy, _ := b.Capabilities().Policy.Narrow(abi.OpcodesOf(hostring.OpFallocate), b.Capabilities().Extra)
	_, err := b.NewRing(uringpv.RingSpec{Policy: policy, Flags: hostring.SetupSQPoll | hostring.SetupIOPoll})
	if !errors.Is(err, unix.EINVAL) || len(second.specs) != 0 {
		t.Errorf("%v, %d rings", err, len(second.specs))
	}
}

func TestRingThatTheFastOneCannotServe(t *testing.T) {
	elsewhere := fmt.Errorf("files of two sizes: %w: %w", uringpv.ErrElsewhere, unix.EINVAL)
	for name, tt := range map[string]struct {
		ops       abi.Opcodes
		fast, alt error
		second    int
		want      error
	}{
		"another may":                      {abi.OpcodesOf(hostring.OpNop), elsewhere, nil, 1, nil},
		"another may, and cannot":          {abi.OpcodesOf(hostring.OpNop), elsewhere, unix.ENOMEM, 1, unix.ENOMEM},
		"another may, but has less":        {abi.OpcodesOf(hostring.OpNop, hostring.OpReadFixed), elsewhere, nil, 0, unix.EINVAL},
		"the host's fault, whoever serves": {abi.OpcodesOf(hostring.OpNop), unix.ENOSPC, nil, 0, unix.ENOSPC},
	} {
		fast, second := two()
		fast.no, second.no = tt.fast, tt.alt
		b := mixed.New(fast, second)
		policy, _ := b.Capabilities().Policy.Narrow(tt.ops, abi.Opcodes{})
		area, err := shm.Of(make([]byte, 4096))
		if err != nil {
			t.Fatal(err)
		}
		w, _ := area.Uint32(8)
		w.Store(7) // as if the fast one had begun
		_, err = b.NewRing(uringpv.RingSpec{Policy: policy, Rings: area, SQEs: area})
		if !errors.Is(err, tt.want) || len(second.specs) != tt.second {
			t.Errorf("%s: %v, %d rings of the second backend; want %v, %d", name, err, len(second.specs), tt.want, tt.second)
		}
		if tt.second > 0 && w.Load() != 0 {
			t.Errorf("%s: the second backend was given areas that are not zeroed", name)
		}
	}
}
