// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/vmm"
)

// Words for the choice of a backend.
const (
	backendAuto        = "auto"
	backendRelay       = "relay"
	backendPassthrough = "passthrough"
	backendIsolated    = "isolated"
)

// Who polls the rings of a disk on passthrough.
const (
	threadAuto   = "auto" // shared if there are many machines in the process
	threadOwn    = "own"
	threadShared = "shared"
)

// Bounds of a disk's keys.
const (
	maxRings = 64
	// maxEntries is half of IORING_MAX_ENTRIES of the kernel's io_uring: the relay's
	// ring on the host has twice as many as the guest's.
	maxEntries    = 16384
	maxCPU        = 8191
	maxSQPollIdle = time.Hour
	maxIDLength   = 31 // a file's serial number, with its NUL
)

// diskSpec is one --disk: a file or block device for the guest, and how the
// device that carries it is made.
type diskSpec struct {
	Path         string
	ID           string // empty: disk0, disk1, ... in the order given
	ReadOnly     bool
	Direct       bool   // O_DIRECT
	Backend      string // one of the words above
	Rings        int    // 0: as many as the guest wants
	Entries      int    // of each ring, at most; a power of two
	SQPoll       bool
	SQPollIdle   time.Duration // 0: the backend's default
	SQPollCPU    int           // -1: any
	SQPollThread string        // one of the words below

	Shown string // what reports call the path; empty: the path itself
}

// shown is what reports call the disk's path.
func (d diskSpec) shown() string {
	if d.Shown != "" {
		return d.Shown
	}
	return d.Path
}

func defaultDisk() diskSpec {
	return diskSpec{Backend: backendAuto, Entries: 1024, SQPoll: true, SQPollCPU: -1, SQPollThread: threadAuto}
}

// defaultRings is how many rings a built-in guest's device has.
const defaultRings = 4

// device is the device that carries the disk's files.
func (d diskSpec) device(files []uringpv.File, backend vmm.Choice) vmm.DeviceConfig {
	rings := d.Rings
	if rings == 0 {
		rings = defaultRings
	}
	return vmm.DeviceConfig{
		Name: d.ID, Files: files, Backend: backend, Rings: rings, MaxEntries: uint32(d.Entries),
		SQPoll: d.SQPoll, SQThreadIdle: d.SQPollIdle, SQThreadCPU: d.SQPollCPU, SQThreadShared: d.SQPollThread == threadShared,
	}
}

// checkCPU says what is wrong with sqpoll-cpu on this host.
func (d diskSpec) checkCPU() error {
	if d.SQPollCPU >= runtime.NumCPU() && !cpuExists(d.SQPollCPU) {
		return usagef("--disk %s: sqpoll-cpu=%d: this host has the CPUs %s", d.Path, d.SQPollCPU, onlineCPUs())
	}
	return nil
}

// diskKey is one key of --disk.
type diskKey struct {
	hint string // the form of its value, for help
	doc  string
	set  func(d *diskSpec, value string) error
	get  func(d diskSpec) string
}

var diskKeys = map[string]diskKey{
	"id": {
		hint: "NAME", doc: "the disk's name in the guest and in reports (default disk0, disk1, ...)",
		set: func(d *diskSpec, v string) error {
			for _, r := range v {
				if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r) {
					return errors.New("must be letters, digits, '.', '_' and '-'")
				}
			}
			if len(v) < 1 || len(v) > maxIDLength {
				return fmt.Errorf("must be 1 to %d characters", maxIDLength)
			}
			d.ID = v
			return nil
		},
		get: func(d diskSpec) string { return d.ID },
	},
	"readonly": onOff("open the file for reading only (default off)", func(d *diskSpec) *bool { return &d.ReadOnly }),
	"direct":   onOff("bypass the host's page cache, O_DIRECT (default off)", func(d *diskSpec) *bool { return &d.Direct }),
	"backend": {
		hint: "auto|relay|passthrough|isolated", doc: "how requests reach the host's kernel (default auto)",
		set: func(d *diskSpec, v string) error {
			c := choice{of: []string{backendAuto, backendRelay, backendPassthrough, backendIsolated}}
			if err := c.Set(v); err != nil {
				return err
			}
			d.Backend = v
			return nil
		},
		get: func(d diskSpec) string { return d.Backend },
	},
	"rings": {
		hint: "N", doc: "rings that the guest may set up (default 4; with --kernel one more than CPUs)",
		set: func(d *diskSpec, v string) (err error) {
			d.Rings, err = parseCount(v, 1, maxRings)
			return err
		},
		get: func(d diskSpec) string { return strconv.Itoa(d.Rings) },
	},
	"entries": {
		hint: "N", doc: "entries of a ring, at most; a power of two (default 1024)",
		set: func(d *diskSpec, v string) error {
			n, err := parseCount(v, 1, maxEntries)
			if err != nil || n&(n-1) != 0 {
				return fmt.Errorf("must be a power of two from 1 to %d", maxEntries)
			}
			d.Entries = n
			return nil
		},
		get: func(d diskSpec) string { return strconv.Itoa(d.Entries) },
	},
	"sqpoll": onOff("let a host thread poll the rings; off: each doorbell is a system call (default on)", func(d *diskSpec) *bool { return &d.SQPoll }),
	"sqpoll-idle": {
		hint: "DURATION", doc: "how long it polls without work before it sleeps, whole milliseconds (default 1s)",
		set: func(d *diskSpec, v string) error {
			t, err := time.ParseDuration(v)
			if err != nil || t < time.Millisecond || t > maxSQPollIdle || t%time.Millisecond != 0 {
				return errors.New("must be a time of whole milliseconds from 1ms to 1h, such as 50ms")
			}
			d.SQPollIdle = t
			return nil
		},
		get: func(d diskSpec) string { return d.SQPollIdle.String() },
	},
	"sqpoll-thread": {
		hint: "auto|own|shared", doc: "passthrough rings have a thread each, or one for all; auto: one for all if more rings are in use at a time than half of the CPUs (default auto)",
		set: func(d *diskSpec, v string) error {
			c := choice{of: []string{threadAuto, threadOwn, threadShared}}
			if err := c.Set(v); err != nil {
				return err
			}
			d.SQPollThread = v
			return nil
		},
		get: func(d diskSpec) string { return d.SQPollThread },
	},
	"sqpoll-cpu": {
		hint: "N", doc: "the host CPU that it is bound to",
		set: func(d *diskSpec, v string) (err error) {
			d.SQPollCPU, err = parseCount(v, 0, maxCPU)
			return err
		},
		get: func(d diskSpec) string { return strconv.Itoa(d.SQPollCPU) },
	},
}

// diskKeyOrder is the order in which help and String show the keys.
var diskKeyOrder = []string{"id", "readonly", "direct", "backend", "rings", "entries", "sqpoll", "sqpoll-idle", "sqpoll-cpu", "sqpoll-thread"}

func onOff(doc string, field func(d *diskSpec) *bool) diskKey {
	return diskKey{
		hint: "on|off", doc: doc,
		set: func(d *diskSpec, v string) error {
			switch v {
			case "on":
				*field(d) = true
			case "off":
				*field(d) = false
			default:
				return errors.New("must be on or off")
			}
			return nil
		},
		get: func(d diskSpec) string {
			if *field(&d) {
				return "on"
			}
			return "off"
		},
	}
}

// parseDisk reads PATH[,key=value...]. A comma in the path is written twice.
func parseDisk(s string) (diskSpec, error) {
	d := defaultDisk()
	fields := splitCommas(s)
	d.Path = fields[0]
	if d.Path == "" {
		return diskSpec{}, errors.New("the path comes first: PATH[,key=value...]")
	}
	if strings.ContainsRune(d.Path, 0) {
		return diskSpec{}, errors.New("a path has no NUL character")
	}
	if key, _, ok := strings.Cut(d.Path, "="); ok {
		if _, known := diskKeys[key]; known {
			return diskSpec{}, fmt.Errorf("the path comes first: PATH,%s (a file of that name is ./%s)", d.Path, d.Path)
		}
	}
	given := map[string]bool{}
	for _, field := range fields[1:] {
		key, value, ok := strings.Cut(field, "=")
		k, known := diskKeys[key]
		switch {
		case !known:
			return diskSpec{}, fmt.Errorf("unknown key %q; there are %s", key, strings.Join(diskKeyOrder, ", "))
		case !ok:
			return diskSpec{}, fmt.Errorf("key %s has no value; write %s=%s", key, key, k.hint)
		case given[key]:
			return diskSpec{}, fmt.Errorf("key %s is given twice", key)
		}
		given[key] = true
		if err := k.set(&d, value); err != nil {
			return diskSpec{}, fmt.Errorf("%s=%s: %w", key, value, err)
		}
	}
	if !d.SQPoll {
		for _, key := range []string{"sqpoll-idle", "sqpoll-cpu", "sqpoll-thread"} {
			if given[key] {
				return diskSpec{}, fmt.Errorf("%s has no meaning with sqpoll=off; leave one of them out", key)
			}
		}
	}
	if d.SQPollThread == threadShared && (d.Backend == backendRelay || d.Backend == backendIsolated) {
		return diskSpec{}, fmt.Errorf("sqpoll-thread=shared has no meaning with backend=%s; leave one of them out", d.Backend)
	}
	return d, nil
}

// splitCommas splits s at single commas; two commas stand for one.
func splitCommas(s string) []string {
	var fields []string
	var field strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != ',':
			field.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == ',':
			field.WriteByte(',')
			i++
		default:
			fields = append(fields, field.String())
			field.Reset()
		}
	}
	return append(fields, field.String())
}

// String writes d so that parseDisk reads the same again.
func (d diskSpec) String() string {
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(d.Path, ",", ",,"))
	def := defaultDisk()
	for _, key := range diskKeyOrder {
		k := diskKeys[key]
		if v := k.get(d); v != k.get(def) {
			fmt.Fprintf(&b, ",%s=%s", key, v)
		}
	}
	return b.String()
}

// diskList is the value of the repeatable flag --disk.
type diskList struct{ disks []diskSpec }

func (l *diskList) String() string {
	var all []string
	for _, d := range l.disks {
		all = append(all, d.String())
	}
	return strings.Join(all, " ")
}

func (l *diskList) Set(s string) error {
	d, err := parseDisk(s)
	if err != nil {
		return err
	}
	l.disks = append(l.disks, d)
	return nil
}

func (*diskList) Type() string { return "PATH[,KEY=VALUE...]" }

// shareThreads lets disks whose owner leaves it to us share an SQ thread.
func shareThreads(disks []diskSpec) {
	for i := range disks {
		if d := &disks[i]; d.SQPollThread == threadAuto {
			d.SQPollThread = threadShared
		}
	}
}

// named returns the disks, each with an id, no two the same.
func (l *diskList) named() ([]diskSpec, error) {
	disks := slices.Clone(l.disks)
	taken := map[string]bool{}
	for _, d := range disks {
		if d.ID == "" {
			continue
		}
		if taken[d.ID] {
			return nil, usagef("--disk: two disks have id=%s; each needs its own", d.ID)
		}
		taken[d.ID] = true
	}
	next := 0
	for i := range disks {
		for disks[i].ID == "" {
			if id := "disk" + strconv.Itoa(next); !taken[id] {
				disks[i].ID, taken[id] = id, true
			}
			next++
		}
	}
	return disks, nil
}

// completeDisk offers what may follow toComplete after a comma.
func completeDisk(toComplete string) []string {
	fields := splitCommas(toComplete)
	if len(fields) < 2 {
		return nil
	}
	head := toComplete[:len(toComplete)-len(fields[len(fields)-1])]
	given := map[string]bool{}
	for _, f := range fields[1 : len(fields)-1] {
		key, _, _ := strings.Cut(f, "=")
		given[key] = true
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(diskKeys)) {
		if given[key] {
			continue
		}
		values := []string{""}
		if hint := diskKeys[key].hint; strings.Contains(hint, "|") {
			values = strings.Split(hint, "|")
		}
		for _, v := range values {
			out = append(out, head+key+"="+v)
		}
	}
	return out
}

// diskHelp is the table of keys for `uringpv run --help`.
func diskHelp() string {
	var b strings.Builder
	for _, key := range diskKeyOrder {
		k := diskKeys[key]
		fmt.Fprintf(&b, "  %-41s %s\n", key+"="+k.hint, k.doc)
	}
	return b.String()
}
