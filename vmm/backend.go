// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/mixed"
	"github.com/uringpv/uringpv/device/uringpv/passthrough"
	"github.com/uringpv/uringpv/device/uringpv/relay"
	"github.com/uringpv/uringpv/memmap"
)

// Chosen is the backend that a device got, and why.
type Chosen struct {
	Device  string
	Backend string
	Why     string
}

// chooseBackend makes the backend that c asks for.
func chooseBackend(c *DeviceConfig, m *memmap.Memory, log *slog.Logger) (uringpv.Backend, Chosen, error) {
	got := Chosen{Device: c.Name}
	switch c.Backend {
	case ChooseAuto, ChooseRelay, ChoosePassthrough:
	default:
		return nil, got, fmt.Errorf("device %s: backend %q: must be auto, relay or passthrough", c.Name, c.Backend)
	}
	if c.Backend != ChooseRelay {
		b, err := passthrough.New(passthrough.Config{Memory: m, Files: c.Files, Logger: log})
		if err == nil {
			got.Backend, got.Why = string(ChoosePassthrough), "asked for"
			if c.Backend == ChooseAuto {
				got.Why = "the fastest, and this host and these disks permit it"
			}
			return withRelay(b, c, m, log), got, nil
		}
		if c.Backend == ChoosePassthrough || !relayMayServe(err) {
			return nil, got, fmt.Errorf("device %s: backend passthrough: %w", c.Name, err)
		}
		got.Why = err.Error()
	}
	b, err := relay.New(relay.Config{Memory: m, Files: c.Files, Logger: log})
	if err != nil {
		return nil, got, fmt.Errorf("device %s: backend relay: %w", c.Name, err)
	}
	got.Backend = string(ChooseRelay)
	if c.Backend == ChooseRelay {
		got.Why = "asked for"
	}
	return b, got, nil
}

// withRelay puts the relay behind passthrough, for opcodes that only it can offer.
// Without it the device offers fewer opcodes.
func withRelay(fast uringpv.Backend, c *DeviceConfig, m *memmap.Memory, log *slog.Logger) uringpv.Backend {
	r, err := relay.New(relay.Config{Memory: m, Files: c.Files, Unpinned: true, Logger: log})
	if err != nil {
		log.Warn("no relay behind passthrough: guests cannot discard", "device", c.Name, "error", err)
		return fast
	}
	return mixed.New(fast, r)
}

// relayMayServe says whether what keeps passthrough from working does not
// concern the relay.
func relayMayServe(err error) bool {
	for _, reason := range []error{passthrough.ErrUnsupported, passthrough.ErrGrowth, passthrough.ErrMemlock, passthrough.ErrIntegrity} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}
