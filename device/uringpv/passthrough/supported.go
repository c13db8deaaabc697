// SPDX-License-Identifier: Apache-2.0

package passthrough

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/hostring"
)

// ErrUnsupported says that this host cannot do passthrough.
var ErrUnsupported = errors.New("the host cannot pass io_uring through")

// featureOnePage is the least that passthrough needs of IORING_SETUP_NO_MMAP.
// Kernels before 6.10 want a ring's memory contiguous, which only one page is
// for certain.
const featureOnePage = "NO_MMAP, rings of one page"

// featureIOPoll is offered to guests where the host has it.
const featureIOPoll = "IOPOLL"

// featureNoSQArray is offered to guests where the host has it.
const featureNoSQArray = "NO_SQARRAY"

// onePage is the most entries of an SQ ring whose two areas take a page each, the
// CQ ring having twice as many.
const onePage = 64

// kernelEntries is the kernel's limit for an SQ ring, IORING_MAX_ENTRIES.
const kernelEntries = 32768

// tableSize is the number of entries in a ring's file table: the guest's, and
// the reserved one at the end.
const tableSize = uringpv.ReservedFile + 1

// Supported is nil if this host can do passthrough; it finds out by doing. The
// error wraps ErrUnsupported and names what is missing and the kernel that has
// it, or wraps what kept the probe from an answer.
func Supported() error {
	_, err := limits()
	return err
}

// limits is the largest SQ ring that the host can put into guest RAM.
func limits() (maxEntries uint32, err error) {
	if err := hostring.Available(); err != nil {
		return 0, err
	}
	for _, name := range []string{
		hostring.FeatureSQPoll, hostring.FeatureRestrictions, hostring.FeatureBuffers,
		featureOnePage,
	} {
		if err := has(name); err != nil {
			return 0, err
		}
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return 0, fmt.Errorf("getrlimit(RLIMIT_NOFILE): %w", err)
	}
	if files.Cur < tableSize {
		return 0, fmt.Errorf("%w: RLIMIT_NOFILE is %d and a ring's file table has %d entries: raise it (ulimit -n)", ErrUnsupported, files.Cur, tableSize)
	}
	if has(hostring.FeatureNoMmap) != nil {
		return onePage, nil
	}
	return kernelEntries, nil
}

// has is nil if the host has the feature.
func has(name string) error {
	f, ok := hostring.ProbeFeature(name)
	if !ok {
		return fmt.Errorf("io_uring feature %q: nothing probes it", name)
	}
	return lacking(f)
}

// lacking is what to say of a probed feature, nil if the host has it.
func lacking(f hostring.Feature) error {
	switch f.Result {
	case hostring.Yes:
		return nil
	case hostring.No:
		return fmt.Errorf("%w: its io_uring has no %s, which Linux %s has: %w; backend=relay does without", ErrUnsupported, f.Name, f.Since, f.Why)
	}
	if errors.Is(f.Why, unix.ENOMEM) {
		// The limit is the user's, not the process's: other rings count too, also
		// those that the kernel has not ended yet.
		return fmt.Errorf("%w: RLIMIT_MEMLOCK (ulimit -l) is used up before the first page; backend=relay does without: probe of %s: %w", ErrMemlock, f.Name, f.Why)
	}
	return fmt.Errorf("find out about io_uring's %s: %w", f.Name, f.Why)
}
