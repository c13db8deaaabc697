// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/hostring"
)

func TestUnsupportedNamesTheFeatureAndItsKernel(t *testing.T) {
	if err := lacking(hostring.Feature{Name: "NO_MMAP", Since: "6.5", Result: hostring.No, Why: unix.EINVAL}); !errors.Is(err, ErrUnsupported) ||
		!strings.Contains(err.Error(), "NO_MMAP") || !strings.Contains(err.Error(), "6.5") {
		t.Errorf("a missing feature: %v", err)
	}
	if err := lacking(hostring.Feature{Name: "NO_MMAP", Result: hostring.Inconclusive, Why: unix.ENOMEM}); err == nil || errors.Is(err, ErrUnsupported) {
		t.Errorf("an inconclusive probe: %v, want no verdict", err)
	}
	if err := lacking(hostring.Feature{Result: hostring.Yes}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{featureOnePage, FeatureIOPoll, FeatureNoSQArray} {
		if _, ok := hostring.ProbeFeature(name); !ok {
			t.Errorf("nothing probes %q", name)
		}
	}
}
