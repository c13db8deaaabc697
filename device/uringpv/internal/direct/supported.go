// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/buffers"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/feature"
	"github.com/uringpv/uringpv/memmap"
)

// ErrUnsupported says that this host cannot do what a backend needs.
var ErrUnsupported = errors.New("the host cannot share a ring of its io_uring with a guest")

// ErrMemlock says that guest RAM cannot be pinned.
var ErrMemlock = errors.New("guest RAM cannot be locked into memory")

// featureOnePage is the least that a shared ring needs of IORING_SETUP_NO_MMAP.
// Kernels before 6.10 want a ring's memory contiguous, which only one page is
// for certain.
const featureOnePage = "NO_MMAP, rings of one page"

// FeatureIOPoll and FeatureNoSQArray are offered to guests where the host has
// them.
const (
	FeatureIOPoll    = "IOPOLL"
	FeatureNoSQArray = "NO_SQARRAY"
)

// onePage is the most entries of an SQ ring whose two areas take a page each, the
// CQ ring having twice as many.
const onePage = 64

// kernelEntries is the kernel's limit for an SQ ring, IORING_MAX_ENTRIES.
const kernelEntries = 32768

// Limits is the largest SQ ring that the host can put into guest RAM. The error
// wraps ErrUnsupported and names what is missing and the kernel that has it, or
// wraps what kept the probe from an answer.
func Limits() (maxEntries uint32, err error) {
	if err := hostring.Available(); err != nil {
		return 0, err
	}
	for _, name := range []string{
		hostring.FeatureSQPoll, hostring.FeatureRestrictions, hostring.FeatureBuffers,
		featureOnePage,
	} {
		if err := Has(name); err != nil {
			return 0, err
		}
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return 0, fmt.Errorf("getrlimit(RLIMIT_NOFILE): %w", err)
	}
	if files.Cur < TableSize {
		return 0, fmt.Errorf("%w: RLIMIT_NOFILE is %d and a ring's file table has %d entries: raise it (ulimit -n)", ErrUnsupported, files.Cur, TableSize)
	}
	if Has(hostring.FeatureNoMmap) != nil {
		return onePage, nil
	}
	return kernelEntries, nil
}

// Has is nil if the host has the feature.
func Has(name string) error {
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

// SetupFlags are the IORING_SETUP_* that guests may use, on this host.
func SetupFlags() uint32 {
	flags := hostring.SetupSQPoll | hostring.SetupCQSize | hostring.SetupClamp
	if Has(FeatureIOPoll) == nil {
		flags |= hostring.SetupIOPoll // the SQ thread polls for completions
	}
	if Has(FeatureNoSQArray) == nil {
		flags |= hostring.SetupNoSQArray
	}
	return flags
}

// Known is which of the opcodes the kernel of r has.
func Known(r *hostring.Ring, opcodes []uint8) (abi.Opcodes, error) {
	knows, err := r.Probe()
	if err != nil {
		return abi.Opcodes{}, err
	}
	var ops []uint8
	for _, op := range opcodes {
		if knows[op] {
			ops = append(ops, op)
		}
	}
	return abi.OpcodesOf(ops...), nil
}

// Pin lets begin, which is buffers.PinAll or buffers.FaultIn, pin m. Where the memory
// that may be locked is limited it waits for the end: the error then wraps ErrMemlock,
// and says what would help, if RAM is more than that. Without a limit RAM is pinned
// while the guest boots.
func Pin(m *memmap.Memory, begin func(*memmap.Memory) (*buffers.All, error)) (*buffers.All, error) {
	all, err := begin(m)
	if err != nil {
		return nil, err
	}
	if limit, err := feature.ProbeMemlock(); err == nil && limit.Holds(math.MaxUint64) {
		return all, nil
	}
	if err = all.Wait(); err == nil {
		return all, nil
	}
	if hostring.Errno(err) == unix.ENOMEM {
		err = fmt.Errorf("%w: RLIMIT_MEMLOCK must be at least the guest's RAM, %d KiB (ulimit -l), or the process needs CAP_IPC_LOCK; backend=relay does without: %w",
			ErrMemlock, m.Layout().Size()>>10, err)
	}
	return nil, errors.Join(err, all.Close())
}
