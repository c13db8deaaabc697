// SPDX-License-Identifier: Apache-2.0

package debian

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Source is a source package in the cache.
type Source struct {
	Name    string
	Version string // without an epoch, as in names of files
	SHA256  string // hexadecimal, of the file Path
	Path    string // NAME_VERSION.dsc (dsc(5)), with what it names beside it
}

// FetchSource gets the newest version of the source package name. The suite has
// been opened for source packages.
func (s *Suite) FetchSource(ctx context.Context, name string) (Source, error) {
	if !s.source {
		return Source{}, fmt.Errorf("source package %s: %s is open for its other packages", name, s.name)
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return Source{}, err
	}
	defer unlock()
	args := []string{"apt-get", "source", "--quiet", "--only-source", "--download-only", name}
	files, err := s.list(ctx, args)
	if err != nil {
		return Source{}, err
	}
	if err := s.download(ctx, "source file", files, args); err != nil {
		return Source{}, err
	}
	return sourceOf(files)
}

// sourceOf is the source package that files belong to.
func sourceOf(files []file) (Source, error) {
	for _, f := range files {
		base, ok := strings.CutSuffix(filepath.Base(f.Path), ".dsc")
		name, version, ok2 := strings.Cut(base, "_")
		if ok && ok2 {
			return Source{name, version, f.SHA256, f.Path}, nil
		}
	}
	return Source{}, fmt.Errorf("a source package of %d files without NAME_VERSION.dsc", len(files))
}

// Unpack puts the source, with Debian's changes, into the directory dir, which is
// made. That the files are the archive's is known: the caller's keyring is not asked.
func (p Source) Unpack(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "dpkg-source", "--no-check", "--no-copy", "--extract", p.Path, dir)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("dpkg-source --extract %s: %w: %s", p.Path, err, lastLines(out))
	}
	return nil
}
