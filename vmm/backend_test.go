// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/isolated"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/testutil"
	"github.com/uringpv/uringpv/memmap"
)

// leastMemory is the smallest guest RAM. It goes with the test, before what looks for leaks.
func leastMemory(t *testing.T) *memmap.Memory {
	t.Helper()
	l, err := memmap.NewLayout(memmap.MinRAM)
	if err != nil {
		t.Fatal(err)
	}
	m, err := memmap.New(l, memmap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// emptyDisk is a disk without blocks that goes with the test.
func emptyDisk(t *testing.T, size int64) uringpv.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return uringpv.File{
		FD: int(f.Fd()), Kind: abi.FileDisk, Name: "disk", BlockSize: 512, DIOMemAlign: 1, DIOOffsetAlign: 1,
		Size: func() (int64, error) { return size, nil },
	}
}

// TestListenersStayBehindIsolated: its rings send messages that nobody looks at.
func TestListenersStayBehindIsolated(t *testing.T) {
	for _, kind := range []abi.Backend{abi.BackendPassthrough, abi.BackendIsolated} {
		if c := behind(kind, &DeviceConfig{}, nil, nil); c.KeepListening != (kind == abi.BackendIsolated) || !c.Unpinned {
			t.Errorf("behind %v: %+v", kind, c)
		}
	}
}

// TestLargestChoosesFirst: passthrough bounds all writing of the process at the size of
// what it serves. The order of the devices is not the order of their choices.
func TestLargestChoosesFirst(t *testing.T) {
	testutil.NeedIOUring(t)
	testutil.NoLeaks(t)
	if err := isolated.Supported(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: this host has not all backends: %v", err)
	}
	m := leastMemory(t)
	device := func(name string, size int64, c Choice) DeviceConfig {
		return DeviceConfig{Name: name, Backend: c, Files: []uringpv.File{emptyDisk(t, size)}}
	}
	devices := []DeviceConfig{device("small", 1<<20, ChooseAuto), device("large", 1<<22, ChooseAuto), device("other", 1<<21, ChooseRelay)}
	var got []string
	choices := chooseBackends(devices, m, slog.New(slog.DiscardHandler))
	for c := range choices {
		if c.err != nil {
			t.Fatal(c.err)
		}
		got = append(got, c.why.Device+" "+c.why.Backend)
		if err := c.backend.Close(); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"small isolated", "large passthrough", "other relay"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}

	// A failure is all there is, whoever has one by then.
	devices[0].Backend = ChoosePassthrough
	choices = chooseBackends(devices, m, slog.New(slog.DiscardHandler))
	if c := <-choices; c.err == nil || c.backend != nil || !strings.Contains(c.err.Error(), "device small") {
		t.Errorf("%+v", c)
	}
	if err := drop(choices); err != nil {
		t.Error(err)
	}
}

// TestChoiceOfABackend: the fastest that can carry what is exported.
func TestChoiceOfABackend(t *testing.T) {
	testutil.NeedIOUring(t)
	testutil.NoLeaks(t)
	if err := isolated.Supported(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: this host has not all backends: %v", err)
	}
	m := leastMemory(t)
	disk := func(size int64) uringpv.File { return emptyDisk(t, size) }
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(event)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	eventfd := uringpv.File{FD: event, Kind: abi.FileEventfd, Name: "event", BlockSize: 1, DIOMemAlign: 1, DIOOffsetAlign: 1}
	dgram := uringpv.File{FD: pair[0], Kind: abi.FileDgram, Name: "dgram", BlockSize: 1, DIOMemAlign: 1, DIOOffsetAlign: 1}
	anybody := dgram
	anybody.AnyPeer = true
	unwritten := eventfd
	unwritten.Deny = abi.OpcodesOf(hostring.OpWrite)

	for _, tt := range []struct {
		name   string
		choice Choice
		files  []uringpv.File
		want   Choice
		why    string
	}{
		{"a disk", ChooseAuto, []uringpv.File{disk(1 << 20)}, ChoosePassthrough, "fastest"},
		{"disks of two sizes", ChooseAuto, []uringpv.File{disk(1 << 20), disk(1 << 21)}, ChooseIsolated, "RLIMIT_FSIZE"},
		{"a disk and an eventfd", ChooseAuto, []uringpv.File{disk(1 << 20), eventfd}, ChooseIsolated, "more than disks"},
		{"a datagram socket", ChooseAuto, []uringpv.File{dgram}, ChooseRelay, "any address"},
		{"one that may send to anybody", ChooseAuto, []uringpv.File{anybody}, ChooseIsolated, "more than disks"},
		{"a file with a policy of its own", ChooseAuto, []uringpv.File{disk(1 << 20), unwritten}, ChooseRelay, "looks at each request"},
		{"isolated, asked for", ChooseIsolated, []uringpv.File{disk(1 << 20)}, ChooseIsolated, "asked for"},
		{"passthrough, asked for", ChoosePassthrough, []uringpv.File{disk(1 << 20)}, ChoosePassthrough, "asked for"},
		{"relay, asked for", ChooseRelay, []uringpv.File{disk(1 << 20), disk(1 << 21)}, ChooseRelay, "asked for"},
		{"isolated, for a datagram socket", ChooseIsolated, []uringpv.File{dgram}, "", "peer=any"},
		{"passthrough, for disks of two sizes", ChoosePassthrough, []uringpv.File{disk(1 << 20), disk(1 << 21)}, "", "RLIMIT_FSIZE"},
		{"none that there is", "fast", []uringpv.File{disk(1 << 20)}, "", "relay, passthrough or isolated"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, got, err := chooseBackend(&DeviceConfig{Name: "d", Backend: tt.choice, Files: tt.files}, m, slog.New(slog.DiscardHandler))
			if tt.want == "" {
				if err == nil || !strings.Contains(err.Error(), tt.why) {
					t.Fatalf("%v, %v; want an error with %q", got, err, tt.why)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			caps := b.Capabilities()
			if got.Backend != string(tt.want) || b.Kind().String() != string(tt.want) || !strings.Contains(got.Why, tt.why) {
				t.Errorf("%s, because %s; want %s, %q", got.Backend, got.Why, tt.want, tt.why)
			}
			if tried := tt.why == "RLIMIT_FSIZE" || tt.why == "any address"; got.Fallback != tried {
				t.Errorf("a faster backend was tried: %v, want %v", got.Fallback, tried)
			}
			if has := caps.Opcodes.Has(hostring.OpReadv); has != (tt.want == ChooseIsolated) && tt.want != ChooseRelay {
				t.Errorf("%s has pointers: %v", tt.want, has)
			}
			if tt.want != ChooseRelay && !caps.Extra.Has(hostring.OpFallocate) {
				t.Errorf("%s has no FALLOCATE as an extra opcode", tt.want)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
