// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/uringpv/uringpv/images/debian"
)

// Cache is where Debian's packages and what was unpacked of them stay between
// runs. Processes may share it; anything in it may be removed while none runs.
type Cache struct {
	dir     string
	mirrors debian.Mirrors
	report  io.Writer

	mu      sync.Mutex // of what follows
	suites  map[suiteKey]*debian.Suite
	kernels map[string]*resolved // by KernelNames

	reading   sync.Mutex           // of what follows, and held while packages are read; see readOnce
	userlands map[string]*Userland // by the sums of their packages
	systems   map[string]*Tree     // root disks without modules, likewise
}

// suiteKey names a suite's packages, or its source packages.
type suiteKey struct {
	name   string
	source bool
}

// CacheOptions say where a cache is.
type CacheOptions struct {
	Dir     string // empty: uringpv below the user's cache directory
	Mirrors debian.Mirrors
	Report  io.Writer // progress, line by line; nil: nowhere
}

// OpenCache makes a cache ready for use.
func OpenCache(o CacheOptions) (*Cache, error) {
	if o.Dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("no cache directory: %w; name one by --cache", err)
		}
		o.Dir = filepath.Join(user, "uringpv")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	if o.Report == nil {
		o.Report = io.Discard
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return &Cache{dir: dir, mirrors: o.Mirrors, report: o.Report, suites: map[suiteKey]*debian.Suite{}, kernels: map[string]*resolved{}, userlands: map[string]*Userland{}, systems: map[string]*Tree{}}, nil
}

// Dir is the cache's directory.
func (c *Cache) Dir() string { return c.dir }

// Suite is a Debian suite, opened once.
func (c *Cache) Suite(ctx context.Context, name string) (*debian.Suite, error) {
	return c.suite(ctx, suiteKey{name, false})
}

func (c *Cache) suite(ctx context.Context, k suiteKey) (*debian.Suite, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.suites[k]; s != nil {
		return s, nil
	}
	s, err := debian.Open(ctx, k.name, debian.Options{Cache: filepath.Join(c.dir, "debian"), Mirrors: c.mirrors, Source: k.source, Report: c.report})
	if err != nil {
		return nil, err
	}
	c.suites[k] = s
	return s, nil
}

// Source gets a source package of a suite's.
func (c *Cache) Source(ctx context.Context, suite, name string) (debian.Source, error) {
	s, err := c.suite(ctx, suiteKey{suite, true})
	if err != nil {
		return debian.Source{}, err
	}
	return s.FetchSource(ctx, name)
}

// Unpacked is a directory with the files of packages, made once for each set of
// packages.
func (c *Cache) Unpacked(ctx context.Context, name string, packages []debian.Package) (string, error) {
	return c.Made(ctx, name, sums(packages), func(dir string) error {
		fmt.Fprintf(c.report, "unpacking %s\n", name)
		for _, p := range packages {
			if err := p.Unpack(ctx, dir); err != nil {
				return err
			}
		}
		return nil
	})
}

// sums is what identifies packages.
func sums(packages []debian.Package) string {
	var b strings.Builder
	for _, p := range packages {
		b.WriteString(p.SHA256)
	}
	return b.String()
}

// readOnce returns what is in kept for packages, a map of the cache's, or what read
// makes of them. Who comes while they are read waits: it may want the same.
func readOnce[T any](c *Cache, kept map[string]*T, packages []debian.Package, read func() (*T, error)) (*T, error) {
	key := sums(packages)
	c.reading.Lock()
	defer c.reading.Unlock()
	if t := kept[key]; t != nil {
		return t, nil
	}
	t, err := read()
	if err == nil {
		kept[key] = t
	}
	return t, err
}

// Made returns a directory of the cache that build has filled for these inputs,
// now or in an earlier run. It appears whole or not at all.
func (c *Cache) Made(ctx context.Context, name, inputs string, build func(dir string) error) (string, error) {
	sum := sha256.Sum256([]byte(inputs))
	dir := filepath.Join(c.dir, "made", name+"-"+hex.EncodeToString(sum[:8]))
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	if err := used(dir); err != nil { // first: who is about to remove it looks at that
		return "", err
	}
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := sweep(filepath.Dir(dir), time.Now()); err != nil {
		fmt.Fprintf(c.report, "what is old in the cache stays: %v\n", err)
	}
	parent, err := os.MkdirTemp(filepath.Dir(dir), partPrefix)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(parent)
	part := filepath.Join(parent, name)
	if err := os.Mkdir(part, 0o755); err != nil {
		return "", err
	}
	if err := build(part); err != nil {
		return "", err
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err := os.Chmod(part, 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(part, dir); err != nil {
		if _, there := os.Stat(dir); there == nil {
			return dir, nil // another process was faster
		}
		return "", err
	}
	return dir, nil
}

// How long what nobody uses stays: directories that were begun and left, as by a build
// that was killed, and whole ones.
const (
	partLife = 24 * time.Hour
	madeLife = 30 * 24 * time.Hour
)

const (
	partPrefix = "part-" // of the name of a directory in which one is being made
	usedSuffix = ".used" // of the file whose time is when a directory was used last: its own is its content's
)

// used notes that the directory of made things dir is used now, or will be.
func used(dir string) error {
	return os.WriteFile(dir+usedSuffix, nil, 0o644)
}

// isOlder says whether the file path is there and has been left for more than life at
// the time now.
func isOlder(path string, life time.Duration, now time.Time) bool {
	info, err := os.Stat(path)
	return err == nil && now.Sub(info.ModTime()) > life
}

// sweep removes from dir what has not been used for so long at the time now. Another
// process may do the same.
func sweep(dir string, now time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch mark := path + usedSuffix; {
		case strings.HasPrefix(e.Name(), partPrefix):
			if isOlder(path, partLife, now) {
				err = os.RemoveAll(path)
			}
		case !e.IsDir():
			made, ok := strings.CutSuffix(path, usedSuffix)
			if _, e := os.Stat(made); ok && errors.Is(e, fs.ErrNotExist) && isOlder(path, madeLife, now) {
				err = os.Remove(path) // it was never made
			}
		case isOlder(mark, madeLife, now):
			// The whole of it goes at once: nobody finds a part.
			part, e := os.MkdirTemp(dir, partPrefix)
			if e == nil {
				e = os.Rename(path, filepath.Join(part, filepath.Base(path)))
			}
			err = errors.Join(e, os.Remove(mark), os.RemoveAll(part))
		default:
			if _, e := os.Stat(mark); errors.Is(e, fs.ErrNotExist) {
				err = used(path) // from here on it is known
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
