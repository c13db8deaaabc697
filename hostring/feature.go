// SPDX-License-Identifier: Apache-2.0

package hostring

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uringpv/uringpv/internal/shm"
)

// Result is the outcome of a probe.
type Result int

// A probe that fails for a reason that says nothing of the feature (no memory,
// no descriptors) is Inconclusive.
const (
	Inconclusive Result = iota
	No
	Yes
)

func (r Result) String() string {
	return [...]string{"unknown", "no", "yes"}[r]
}

// Feature is one thing that the host's io_uring can or cannot do.
type Feature struct {
	Name   string
	Since  string // the Linux version that has it
	Result Result
	Why    error // for No and Inconclusive
}

// Names of the features that other packages ask for.
const (
	FeatureSQPoll       = "SQPOLL"
	FeatureNoMmap       = "NO_MMAP, rings of several pages"
	FeatureRestrictions = "restrictions"
	FeatureBuffers      = "registered buffers"
	FeatureSparseFiles  = "sparse file table"
	FeatureClone        = "cloned buffers"
	FeatureSyncCancel   = "synchronous cancel"
	FeatureAllocRange   = "file allocation range that holds"
)

// probes are done in this order. Each does what it names, on a ring of its own.
var probes = []struct {
	name, since string
	do          func() error
}{
	{"setup", "5.1", func() error { return try(Config{Entries: 1}, nil) }},
	{"one mapping for both rings (FEAT_SINGLE_MMAP)", "5.4", func() error { return tryFeature(FeatSingleMmap) }},
	{"no dropped completions (FEAT_NODROP)", "5.5", func() error { return tryFeature(FeatNodrop) }},
	{"CQSIZE", "5.5", func() error { return try(Config{Entries: 1, CQEntries: 8, Flags: SetupCQSize}, nil) }},
	{FeatureSQPoll, "5.11", func() error { return try(Config{Entries: 1, Flags: SetupSQPoll, SQThreadIdle: time.Millisecond}, nil) }},
	{"SQ_AFF", "5.1", func() error {
		return try(Config{Entries: 1, Flags: SetupSQPoll | SetupSQAff, SQThreadIdle: time.Millisecond}, nil)
	}},
	{"IOPOLL", "5.1", func() error { return try(Config{Entries: 1, Flags: SetupIOPoll}, nil) }},
	{FeatureRestrictions, "5.10", func() error {
		return try(Config{Entries: 1, Flags: SetupRDisabled}, func(r *Ring) error {
			if err := r.RegisterRestrictions(Restrictions{RegisterOps: []uint8{RegisterProbe}, SQEOps: []uint8{OpNop}, SQEFlagsAllowed: SQEFixedFile, SQEFlagsRequired: SQEFixedFile}); err != nil {
				return err
			}
			return r.Enable()
		})
	}},
	{FeatureBuffers, "5.1", probeBuffers},
	{"registered eventfd", "5.2", func() error {
		return try(Config{Entries: 1}, func(r *Ring) error {
			fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return r.RegisterEventfd(fd)
		})
	}},
	{FeatureSparseFiles, "5.19", func() error {
		return try(Config{Entries: 1}, func(r *Ring) error { return r.RegisterFilesSparse(8) })
	}},
	{"worker limits (IOWQ_MAX_WORKERS)", "5.15", func() error {
		return try(Config{Entries: 1}, func(r *Ring) error { return r.RegisterIOWQMaxWorkers(4, 4) })
	}},
	{FeatureSyncCancel, "6.0", func() error {
		return try(Config{Entries: 1}, func(r *Ring) error { return r.SyncCancelAll(time.Second) })
	}},
	{FeatureAllocRange, "7.0", probeAllocRange},
	{"NO_MMAP, rings of one page", "6.5", func() error { return probeNoMmap(8) }},
	{"NO_SQARRAY", "6.6", func() error { return try(Config{Entries: 1, Flags: SetupNoSQArray}, nil) }},
	{FeatureNoMmap, "6.10", func() error { return probeNoMmap(1024) }},
	{FeatureClone, "6.12", func() error {
		return try(Config{Entries: 1}, func(dst *Ring) error {
			return withBuffer(func(src *Ring) error { return dst.CloneBuffers(src) })
		})
	}},
}

// features caches the conclusive results of this process.
var features struct {
	mu   sync.Mutex // guards done
	done map[string]Feature
}

// ProbeFeatures finds out by doing what the host's io_uring offers.
func ProbeFeatures() []Feature {
	out := make([]Feature, 0, len(probes))
	for _, p := range probes {
		f, _ := ProbeFeature(p.name)
		out = append(out, f)
	}
	return out
}

// ProbeFeature finds out about one feature, by its name. It says false if there
// is none of that name.
func ProbeFeature(name string) (Feature, bool) {
	features.mu.Lock()
	defer features.mu.Unlock()
	if f, ok := features.done[name]; ok {
		return f, true
	}
	for _, p := range probes {
		if p.name != name {
			continue
		}
		f := Feature{Name: p.name, Since: p.since, Result: Yes, Why: p.do()}
		if f.Why != nil {
			f.Result = No
			switch Errno(f.Why) {
			case unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.EAGAIN, unix.EINTR:
				f.Result = Inconclusive
			}
		}
		if f.Result != Inconclusive {
			if features.done == nil {
				features.done = map[string]Feature{}
			}
			features.done[name] = f
		}
		return f, true
	}
	return Feature{}, false
}

// try makes a ring, does what do does, and closes it.
func try(c Config, do func(*Ring) error) error {
	r, err := New(c)
	if err != nil {
		return err
	}
	defer r.Close()
	if do == nil {
		return nil
	}
	return do(r)
}

// tryFeature asks for a bit of Params.Features.
func tryFeature(bit uint32) error {
	return try(Config{Entries: 1}, func(r *Ring) error {
		if r.params.Features&bit == 0 {
			return fmt.Errorf("the kernel does not report it: %w", unix.EOPNOTSUPP)
		}
		return nil
	})
}

// withMemory gives do n bytes of a shared memfd: what guest RAM is made of.
func withMemory(n int, do func([]byte) error) error {
	fd, err := unix.MemfdCreate("io_uring-probe", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(n)); err != nil {
		return err
	}
	b, err := unix.Mmap(fd, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	return errors.Join(do(b), unix.Munmap(b))
}

// withBuffer gives do a ring with one registered buffer of shared memory.
func withBuffer(do func(*Ring) error) error {
	return withMemory(4096, func(b []byte) error {
		v, err := shm.Of(b)
		if err != nil {
			return err
		}
		return try(Config{Entries: 1}, func(r *Ring) error {
			if err := r.RegisterBuffers([]Buffer{{v.Addr(), v.Len()}}); err != nil {
				return err
			}
			return do(r)
		})
	})
}

// probeBuffers registers shared memory.
func probeBuffers() error { return withBuffer(func(*Ring) error { return nil }) }

// fileIndexAlloc is IORING_FILE_INDEX_ALLOC.
const fileIndexAlloc = ^uint32(0)

// probeAllocRange has the kernel choose an entry of the file table after one outside of
// the range it may choose from was updated. Kernels from 6.0 on know the range, and many
// of them look from the entry on that was updated last, wherever that is.
func probeAllocRange() error {
	const first, n = 2, 2
	return withMemory(4096, func(b []byte) error {
		v, err := shm.Of(b)
		if err != nil {
			return err
		}
		list, _ := v.Uint32(0)
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return try(Config{Entries: 1}, func(r *Ring) error {
			if err := r.RegisterFilesSparse(first + n); err != nil {
				return err
			}
			if err := r.RegisterFileAllocRange(first, n); err != nil {
				return err
			}
			if err := r.UpdateFiles(0, []int32{int32(fd)}); err != nil {
				return err
			}
			list.Store(uint32(fd))
			sqe, ok := r.SQE()
			if !ok {
				return unix.EAGAIN // not reached: the ring is new
			}
			*sqe = SQE{Opcode: OpFilesUpdate, Off: uint64(fileIndexAlloc), Addr: uint64(v.Addr()), Len: 1}
			if _, err := r.Submit(); err != nil {
				return err
			}
			if err := r.WaitCQE(); err != nil {
				return err
			}
			var c [1]CQE
			if r.Reap(c[:]); c[0].Res < 0 {
				return unix.Errno(-c[0].Res)
			}
			if i := list.Load(); i < first || i >= first+n {
				return fmt.Errorf("the kernel chose entry %d of %d to %d: %w", i, first, first+n-1, unix.EOPNOTSUPP)
			}
			return nil
		})
	})
}

// probeNoMmap makes a ring of that many entries in shared memory.
func probeNoMmap(entries uint32) error {
	const page = 4096
	rings := (384 + int(entries)*36 + page - 1) &^ (page - 1)
	sqes := (int(entries)*SQESize + page - 1) &^ (page - 1)
	return withMemory(rings+sqes, func(b []byte) error {
		v, err := shm.Of(b)
		if err != nil {
			return err
		}
		r, _ := v.Slice(0, uint64(rings))
		s, _ := v.Slice(uint64(rings), uint64(sqes))
		return try(Config{Entries: entries, Flags: SetupNoMmap, Rings: r, SQEs: s}, nil)
	})
}
