// SPDX-License-Identifier: Apache-2.0

package debian

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Package is a package file in the cache.
type Package struct {
	Name    string
	Version string
	SHA256  string // hexadecimal
	Path    string
}

// Fetch gets the packages names, and with closure all that they depend on, and
// returns them in the order of their names.
func (s *Suite) Fetch(ctx context.Context, closure bool, names ...string) ([]Package, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	args := []string{"apt-get", "download", "--quiet"}
	if closure {
		args = []string{"apt-get", "install", "--quiet", "--yes", "--no-install-recommends", "--download-only"}
	}
	args = slices.Concat(args, names)
	wanted, err := s.list(ctx, args)
	if err != nil {
		return nil, err
	}
	if err := s.download(ctx, "package", wanted, args); err != nil {
		return nil, err
	}
	var packages []Package
	for _, f := range wanted {
		packages = append(packages, f.Package)
	}
	slices.SortFunc(packages, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return packages, nil
}

// download has the command args get those of wanted that are not in the cache.
func (s *Suite) download(ctx context.Context, what string, wanted []file, args []string) error {
	var lacking []file
	total := int64(0)
	for _, f := range wanted {
		if !f.whole() {
			lacking = append(lacking, f)
			total += f.size
			_ = os.Remove(f.Path)
		}
	}
	if len(lacking) > 0 {
		fmt.Fprintf(s.report, "downloading %s of %s, %.1f MB\n", count(len(lacking), what), s.name, float64(total)/1e6)
		stop := s.progress(lacking, total)
		_, err := s.apt(ctx, args...)
		stop()
		if err != nil {
			return err
		}
	}
	for _, f := range wanted {
		if !f.whole() {
			return fmt.Errorf("%s: the file that was downloaded has not the SHA-256 of the index, %s", f.Path, f.SHA256)
		}
	}
	return nil
}

// list is what the command args would get with an empty cache: apt leaves out
// what it sees there.
func (s *Suite) list(ctx context.Context, args []string) ([]file, error) {
	empty := filepath.Join(s.dir, "empty")
	if err := os.MkdirAll(filepath.Join(empty, "partial"), 0o755); err != nil {
		return nil, err
	}
	out, err := s.aptIn(ctx, empty, slices.Concat(args, []string{"--print-uris", "--quiet=2", "-o", "Dir::Cache::archives=" + empty})...)
	if err != nil {
		return nil, err
	}
	return parseURIs(out, s.archives(), s.source)
}

// file is a package, or a file of a source package, that may or may not be in the
// cache.
type file struct {
	Package
	size int64
}

// uriLine is a line of --print-uris: 'URI' file size hash.
var uriLine = regexp.MustCompile(`^'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})$`)

// parseURIs reads the output of --print-uris; the files go to dir. Files of a source
// package have neither name nor version of their own.
func parseURIs(out []byte, dir string, source bool) ([]file, error) {
	var files []file
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() {
		if !strings.HasPrefix(sc.Text(), "'") {
			continue
		}
		m := uriLine.FindStringSubmatch(sc.Text())
		if m == nil {
			return nil, fmt.Errorf("apt-get --print-uris: no URI, file, size and SHA-256 in %q", sc.Text())
		}
		size, err := strconv.ParseInt(m[3], 10, 64)
		if err != nil {
			return nil, err
		}
		f := file{Package{SHA256: m[4], Path: filepath.Join(dir, m[2])}, size}
		if !source {
			// NAME_VERSION_ARCH.deb, the colon of an epoch as %3a.
			part := strings.Split(m[2], "_")
			if len(part) != 3 {
				return nil, fmt.Errorf("apt-get --print-uris: file %q is not NAME_VERSION_ARCH.deb", m[2])
			}
			f.Name, f.Version = part[0], strings.ReplaceAll(part[1], "%3a", ":")
		}
		files = append(files, f)
	}
	return files, sc.Err()
}

// whole says whether the file is there and is what the index says.
func (f *file) whole() bool {
	r, err := os.Open(f.Path)
	if err != nil {
		return false
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, r)
	return err == nil && n == f.size && hex.EncodeToString(h.Sum(nil)) == f.SHA256
}

// progress reports every few seconds how much of files has come.
func (s *Suite) progress(files []file, total int64) (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(3 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			have := int64(0)
			for _, f := range files {
				for _, p := range []string{f.Path, filepath.Join(filepath.Dir(f.Path), "partial", filepath.Base(f.Path))} {
					if info, err := os.Stat(p); err == nil {
						have += info.Size()
						break
					}
				}
			}
			fmt.Fprintf(s.report, "  %.1f of %.1f MB\n", float64(have)/1e6, float64(total)/1e6)
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// Depends lists what the newest version of a package depends on, names only; of
// alternatives the first.
func (s *Suite) Depends(ctx context.Context, name string) ([]string, error) {
	unlock, err := s.lock(ctx) // not while another process gets a new index
	if err != nil {
		return nil, err
	}
	defer unlock()
	out, err := s.apt(ctx, "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		rest, ok := strings.CutPrefix(line, "Depends:")
		if !ok {
			continue
		}
		for d := range strings.SplitSeq(rest, ",") {
			if f := strings.Fields(d); len(f) > 0 {
				names = append(names, strings.TrimSuffix(f[0], ":any"))
			}
		}
		break
	}
	return names, nil
}

// count is n things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
