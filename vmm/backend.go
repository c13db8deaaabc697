// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/isolated"
	"github.com/uringpv/uringpv/device/uringpv/mixed"
	"github.com/uringpv/uringpv/device/uringpv/passthrough"
	"github.com/uringpv/uringpv/device/uringpv/relay"
	"github.com/uringpv/uringpv/memmap"
)

// Chosen is the backend that a device got, and why.
type Chosen struct {
	Device   string
	Backend  string
	Why      string
	Fallback bool // with ChooseAuto: a faster one was tried, and cannot serve the device here
}

// backends are the ways, fastest first, in which a device may be served.
var backends = []struct {
	choice Choice
	make   func(*DeviceConfig, *memmap.Memory, *slog.Logger) (uringpv.Backend, error)
}{
	{ChoosePassthrough, func(c *DeviceConfig, m *memmap.Memory, log *slog.Logger) (uringpv.Backend, error) {
		b, err := passthrough.New(passthrough.Config{Memory: m, Files: c.Files, Logger: log})
		if err != nil {
			return nil, err
		}
		return withRelay(b, c, m, log), nil
	}},
	{ChooseIsolated, func(c *DeviceConfig, m *memmap.Memory, log *slog.Logger) (uringpv.Backend, error) {
		b, err := isolated.New(isolated.Config{Memory: m, Files: c.Files, Logger: log})
		if err != nil {
			return nil, err
		}
		return withRelay(b, c, m, log), nil
	}},
	{ChooseRelay, func(c *DeviceConfig, m *memmap.Memory, log *slog.Logger) (uringpv.Backend, error) {
		b, err := relay.New(relay.Config{Memory: m, Files: c.Files, Logger: log})
		if err != nil {
			return nil, err
		}
		return b, nil
	}},
}

// choice is the backend of a device, and why that.
type choice struct {
	backend uringpv.Backend
	why     Chosen
	err     error // then there is no backend
}

// chooseBackends makes the backends of devices beside what the caller does, and gives
// them in the devices' order; if one fails, that failure alone. drop takes those that
// nobody has received.
//
// The device with the largest file chooses first: passthrough bounds all writing of the
// process at the size of what it serves, and what is larger could not be served at all.
func chooseBackends(devices []DeviceConfig, m *memmap.Memory, log *slog.Logger) <-chan choice {
	out := make(chan choice, len(devices))
	order := make([]int, len(devices))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, k int) int {
		return cmp.Compare(largest(devices[k].Files), largest(devices[i].Files))
	})
	go func() {
		defer close(out)
		made := make([]choice, len(devices))
		for _, i := range order {
			b, why, err := chooseBackend(&devices[i], m, log.With("device", devices[i].Name))
			if err != nil {
				for _, c := range made {
					if c.backend != nil {
						err = errors.Join(err, c.backend.Close())
					}
				}
				out <- choice{why: why, err: err}
				return
			}
			made[i] = choice{backend: b, why: why}
		}
		for _, c := range made {
			out <- c
		}
	}()
	return out
}

// largest is the size in bytes of the largest of files that a guest may write and that
// could grow, 0 if there is none.
func largest(files []uringpv.File) int64 {
	most := int64(0)
	for i := range files {
		f := &files[i]
		if f.ReadOnly || f.BlockDevice || f.Size == nil {
			continue
		}
		if n, err := f.Size(); err == nil { // else the backend will say so
			most = max(most, n)
		}
	}
	return most
}

// drop closes what is still to be received, and returns when no more is made.
func drop(choices <-chan choice) error {
	if choices == nil {
		return nil
	}
	var all []error
	for c := range choices {
		if c.backend != nil {
			all = append(all, c.backend.Close())
		}
	}
	return errors.Join(all...)
}

// chooseBackend makes the backend that c asks for. With ChooseAuto it is the
// fastest that can carry what the device exports: passthrough has no opcode with
// a pointer, which sockets, pipes and the like want, and one bound for the growth
// of all the process's files.
func chooseBackend(c *DeviceConfig, m *memmap.Memory, log *slog.Logger) (uringpv.Backend, Chosen, error) {
	got := Chosen{Device: c.Name}
	auto := c.Backend == ChooseAuto
	var not []string // why others cannot serve the device
	var last error
	for _, b := range backends {
		if !auto && b.choice != c.Backend {
			continue
		}
		if auto && b.choice == ChoosePassthrough && !onlyDisks(c.Files) {
			not = append(not, "the device has more than disks, for which passthrough has no opcodes")
			continue
		}
		if auto && b.choice != ChooseRelay && denied(c.Files) {
			if len(not) == 0 || not[len(not)-1] != filePolicy {
				not = append(not, filePolicy)
			}
			continue
		}
		made, err := b.make(c, m, log)
		if err == nil {
			got.Backend, got.Why = string(b.choice), "asked for"
			if auto {
				got.Why = "the fastest, and this host and these files permit it"
			}
			if len(not) > 0 {
				got.Why = strings.Join(not, "; ")
			}
			return made, got, nil
		}
		last = fmt.Errorf("device %s: backend %s: %w", c.Name, b.choice, err)
		if !auto || !anotherMayServe(err) {
			return nil, got, last
		}
		not, got.Fallback = append(not, err.Error()), true
	}
	if last == nil {
		last = fmt.Errorf("device %s: backend %q: must be auto, relay, passthrough or isolated", c.Name, c.Backend)
	}
	return nil, got, last
}

// filePolicy is why no backend but relay serves a device.
const filePolicy = "only relay looks at each request, as denied opcodes of single files want"

// denied says whether a file has denied opcodes of its own.
func denied(files []uringpv.File) bool {
	return slices.ContainsFunc(files, func(f uringpv.File) bool { return !f.Deny.Empty() })
}

// onlyDisks says whether there is nothing but disks.
func onlyDisks(files []uringpv.File) bool {
	for i := range files {
		if files[i].Kind != abi.FileDisk {
			return false
		}
	}
	return true
}

// withRelay puts the relay behind a faster backend, for what only it can offer.
// Without it the device offers fewer opcodes.
func withRelay(fast uringpv.Backend, c *DeviceConfig, m *memmap.Memory, log *slog.Logger) uringpv.Backend {
	r, err := relay.New(behind(fast.Kind(), c, m, log))
	if err != nil {
		log.Warn("no relay behind the faster backend: guests have fewer opcodes and cannot discard", "backend", fast.Kind(), "device", c.Name, "error", err)
		return fast
	}
	return mixed.New(fast, r)
}

// behind is the relay's configuration behind a faster backend.
func behind(fast abi.Backend, c *DeviceConfig, m *memmap.Memory, log *slog.Logger) relay.Config {
	return relay.Config{
		Memory: m, Files: c.Files, Unpinned: true, Logger: log,
		KeepListening: fast == abi.BackendIsolated, // whose messages nobody looks at
	}
}

// anotherMayServe says whether what keeps a backend from working does not concern
// the next one.
func anotherMayServe(err error) bool {
	for _, reason := range []error{
		passthrough.ErrUnsupported, passthrough.ErrGrowth, passthrough.ErrMemlock, passthrough.ErrIntegrity,
		isolated.ErrUnsupported, isolated.ErrMemlock, isolated.ErrPeer,
	} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}
