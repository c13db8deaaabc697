// SPDX-License-Identifier: Apache-2.0

package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
)

// Entry is a file of a package.
type Entry struct {
	*tar.Header           // Name without a leading "./" or "/", and without a trailing "/"
	Content     io.Reader // of a regular file
}

// Each calls f for every file of the package, in the archive's order. An error of
// f's ends it.
func (p Package) Each(ctx context.Context, f func(Entry) error) error {
	return p.each(ctx, "--fsys-tarfile", f)
}

// EachControl does that for the package's control files: "control" (deb-control(5))
// and the scripts and lists beside it.
func (p Package) EachControl(ctx context.Context, f func(Entry) error) error {
	return p.each(ctx, "--ctrl-tarfile", f)
}

// each is Each for the archive that dpkg-deb gives with option.
func (p Package) each(ctx context.Context, option string, f func(Entry) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := exec.CommandContext(ctx, "dpkg-deb", option, p.Path)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	err = entries(tar.NewReader(out), f)
	if err != nil {
		cancel()
		_ = c.Wait()
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	_, _ = io.Copy(io.Discard, out) // the archive's padding
	if err := c.Wait(); err != nil {
		return fmt.Errorf("dpkg-deb %s %s: %w: %s", option, p.Path, err, lastLines(stderr.Bytes()))
	}
	return nil
}

// entries calls f for every file of an archive.
func entries(r *tar.Reader, f func(Entry) error) error {
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		h.Name = strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if h.Name == "" {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
		}
		if err := f(Entry{h, r}); err != nil {
			return err
		}
	}
}

// Unpack puts the package's files into dir, owned by the caller.
func (p Package) Unpack(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "dpkg-deb", "--extract", p.Path, dir).CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("dpkg-deb --extract %s: %w: %s", p.Path, err, lastLines(out))
	}
	return nil
}
