// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/internal/buffers"
	"github.com/uringpv/uringpv/device/uringpv/internal/growth"
	"github.com/uringpv/uringpv/device/uringpv/internal/quiesce"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/memmap"
)

// features are the IORING_FEAT_* that the relay's rings have.
const features = hostring.FeatSingleMmap | hostring.FeatNodrop | hostring.FeatSubmitStable |
	hostring.FeatFastPoll | hostring.FeatPoll32Bits | hostring.FeatCQESkip

// setupFlags are the IORING_SETUP_* that the relay can honour; IORING_SETUP_IOPOLL
// comes on top where the host's kernel is up to it.
const setupFlags = hostring.SetupSQPoll | hostring.SetupCQSize | hostring.SetupClamp | hostring.SetupNoSQArray

// pollingSince is a feature of kernels with an IORING_SETUP_IOPOLL that works. Linux 6.1's
// was seen to lose a write, and its ring then never ends; 6.12's was not.
const pollingSince = hostring.FeatureNoMmap

// Limits of a ring. The host ring's CQ ring has as many entries as the guest's,
// and the kernel's limit for that is 65536.
const (
	maxEntries = maxHostEntries / 2 // openHost wants twice as many
	maxBuffers = 1024
)

// lingering is how long Close waits for the kernel to free rings that have no
// requests any more. It takes milliseconds; more would be a fault of the host's.
const lingering = 5 * time.Second

// Config says for which device the backend is.
type Config struct {
	Memory *memmap.Memory // guest RAM; must outlive the Backend
	Files  []uringpv.File // every file of the device

	// Unpinned says that rings move little data: guest RAM is not pinned for them.
	Unpinned bool

	// KeepListening says that SHUTDOWN of a socket that listens is refused. It makes of
	// it one that a message may connect to any address (MSG_FASTOPEN), and other rings
	// of the device are another backend's, which looks at no message.
	KeepListening bool

	Logger *slog.Logger // slog.Default() if nil
}

// Backend makes relay rings for one device.
type Backend struct {
	caps     uringpv.Capabilities
	memory   *memmap.Memory
	log      *slog.Logger
	inline   bool // the ring's goroutine enters the host ring, also for guests with SQPOLL
	unpinned bool // Config.Unpinned
	keep     bool // Config.KeepListening
	holds    []*growth.Hold
	noted    sync.Once // that there are no registered buffers

	// What the host's kernel can do.
	synchronous bool // cancel by a call
	multishot   bool // ACCEPT several connections into the entries it was told, and no others

	ram *buffers.All // what rings share; nil if unpinned

	mu   sync.Mutex          // guards what follows
	ends []*quiesce.Sentinel // of host rings that the kernel may not have freed yet
}

// New makes the backend. It asks the host's kernel which opcodes it knows, and begins
// to pin guest RAM.
//
// The error wraps growth.ErrConflict's *growth.ConflictError if a writable
// regular file is larger than the bound of files that this process passes
// through: the kernel would cut the relay's writes as well.
func New(c Config) (*Backend, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	b := &Backend{inline: runtime.NumCPU() < pollers, unpinned: c.Unpinned, keep: c.KeepListening, memory: c.Memory, log: c.Logger}
	b.synchronous, b.multishot = knows(hostring.FeatureSyncCancel), knows(hostring.FeatureAllocRange)
	ops, err := knownOpcodes()
	if err != nil {
		return nil, err
	}
	b.caps = uringpv.Capabilities{
		Policy: uringpv.Policy{
			Opcodes:          ops,
			SQEFlags:         allowedSQEFlags,
			SQEFlagsRequired: hostring.SQEFixedFile,
			SetupFlags:       setupFlags,
		},
		FilePolicy: true,
		Features:   features,
		MaxEntries: maxEntries,
		MaxFiles:   uringpv.ReservedFile,
		MaxBuffers: maxBuffers,
		Stats: abi.StatSQEs | abi.StatCQEs | abi.StatErrors | abi.StatBytes | abi.StatDoorbells |
			abi.StatInterrupts | abi.StatOverflows,
	}
	if knows(pollingSince) {
		b.caps.SetupFlags |= hostring.SetupIOPoll
	}
	for i := range c.Files {
		if err := b.need(&c.Files[i]); err != nil {
			_ = b.Close()
			return nil, err
		}
	}
	if !b.unpinned {
		if b.ram, err = buffers.PinAll(b.memory); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	return b, nil
}

// need announces a file that this process writes to.
func (b *Backend) need(f *uringpv.File) error {
	if f.ReadOnly || f.BlockDevice || f.Size == nil {
		return nil
	}
	n, err := f.Size()
	if err != nil {
		return fmt.Errorf("size of disk %q: %w", f.Name, err)
	}
	h, err := growth.Need(uint64(max(n, 0)))
	if err != nil {
		return fmt.Errorf("disk %q: %w", f.Name, err)
	}
	b.holds = append(b.holds, h)
	return nil
}

// pollers is how many threads poll when a guest does: its vCPU, the ring's thread
// and the host ring's SQ thread. With fewer CPUs they would wait for each other's
// time slices, so the ring's thread enters the host ring by itself.
const pollers = 3

// knownOpcodes is which of the relay's opcodes the host's kernel has.
func knownOpcodes() (abi.Opcodes, error) {
	r, err := hostring.New(hostring.Config{Entries: 1})
	if errors.Is(err, unix.ENOMEM) {
		return abi.Opcodes{}, fmt.Errorf("the host's io_uring: %w; RLIMIT_MEMLOCK (ulimit -l) may be used up by the user's other rings", err)
	}
	if err != nil {
		return abi.Opcodes{}, fmt.Errorf("the host's io_uring: %w", err)
	}
	defer r.Close()
	has, err := r.Probe()
	if err != nil {
		return abi.Opcodes{}, err
	}
	var ops []uint8
	for _, op := range opcodes {
		if has[op] {
			ops = append(ops, op)
		}
	}
	return abi.OpcodesOf(ops...), nil
}

// knows says whether the host's kernel has a feature.
func knows(name string) bool {
	f, _ := hostring.ProbeFeature(name)
	return f.Result == hostring.Yes
}

// Kind is abi.BackendRelay.
func (b *Backend) Kind() abi.Backend { return abi.BackendRelay }

// Interrupt ends the wait of a ring that is being made for guest RAM to be pinned.
func (b *Backend) Interrupt() {
	if b.ram != nil {
		b.ram.Interrupt()
	}
}

// Capabilities is what New found out.
func (b *Backend) Capabilities() uringpv.Capabilities { return b.caps }

// Close releases the registered buffers, and waits until the kernel has let go
// of the files of all rings: somebody may want to lock them next.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all *multierror.Error
	collect := func(err error) {
		if err != nil {
			all = multierror.Append(all, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), lingering)
	defer cancel()
	for _, e := range b.ends {
		collect(e.Wait(ctx))
	}
	b.ends = nil
	if b.ram != nil {
		collect(b.ram.Close())
	}
	for _, h := range b.holds {
		collect(h.Release())
	}
	b.holds = nil
	return all.ErrorOrNil()
}

// linger keeps the sentinel of a host ring that has no requests any more.
func (b *Backend) linger(s *quiesce.Sentinel) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ends = append(slices.DeleteFunc(b.ends, (*quiesce.Sentinel).Gone), s)
}

// register gives host the buffers of a ring as fixed buffers and says whether it
// could. Without them the relay reads and writes at the same addresses, which it
// has checked; it is slower by the pinning of each request's pages.
func (b *Backend) register(host *hostring.Ring, ranges []memmap.Range) (bool, error) {
	if b.unpinned {
		return false, nil
	}
	err := error(unix.EINVAL)
	if slices.Equal(ranges, b.memory.Layout().Buffers()) {
		if err = b.ram.Share(host); err == nil {
			return true, nil
		}
	}
	if hostring.Errno(err) == unix.EINVAL { // other ranges, or a kernel before 6.12
		if err = buffers.Pin(host, b.memory, ranges); err == nil {
			return true, nil
		}
	}
	if hostring.Errno(err) != unix.ENOMEM {
		return false, err
	}
	b.noted.Do(func() {
		b.log.Warn("relay works without registered buffers, which is slower: RLIMIT_MEMLOCK is below the guest's RAM (ulimit -l) and there is no CAP_IPC_LOCK", "ram", b.memory.Layout().Size())
	})
	return false, nil
}
