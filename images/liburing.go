// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// liburingSuite is the suite whose liburing is built. Its version stays.
const liburingSuite = "trixie"

// LiburingVersionFile is in BuildLiburing's directory: the version of the source.
const LiburingVersionFile = "version"

// BuildLiburing builds programs on liburing by a port's build.sh, from Debian's source
// package, with the host's compiler. A program is named as build.sh names it, those of
// the port without a directory. It returns a directory of the cache in which all are,
// each by its base name (without ".c").
func (c *Cache) BuildLiburing(ctx context.Context, port map[string][]byte, programs []string) (string, error) {
	source, err := c.Source(ctx, liburingSuite, "liburing")
	if err != nil {
		return "", err
	}
	gcc, err := hostCompiler(ctx)
	if err != nil {
		return "", err
	}
	inputs := strings.Join([]string{source.SHA256, sourceSum(port), gcc, strings.Join(programs, " ")}, "\n")
	return c.Made(ctx, "liburing", inputs, func(dir string) error {
		fmt.Fprintf(c.report, "building programs on liburing %s\n", source.Version)
		tmp, err := os.MkdirTemp("", "liburing-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		from := filepath.Join(tmp, "source")
		if err := source.Unpack(ctx, from); err != nil {
			return err
		}
		for name, data := range port {
			if err := os.WriteFile(filepath.Join(tmp, name), data, 0o644); err != nil {
				return err
			}
		}
		args := []string{filepath.Join(tmp, "build.sh"), from}
		var built []string
		for _, p := range programs {
			if name, ok := strings.CutSuffix(p, ".c"); ok {
				args, built = append(args, filepath.Join(tmp, p)), append(built, filepath.Join(tmp, name))
			} else {
				args, built = append(args, p), append(built, filepath.Join(from, p))
			}
		}
		make := exec.CommandContext(ctx, "sh", args...)
		make.Env = append(hostEnvironment(), "MAKEFLAGS=-j2")
		if out, err := make.CombinedOutput(); err != nil {
			return fmt.Errorf("build.sh of liburing's port: %w: %s", err, out[max(0, len(out)-4096):])
		}
		for _, p := range built {
			to := filepath.Join(dir, filepath.Base(p))
			if err := copyFile(to, p); err != nil {
				return err
			}
			if err := os.Chmod(to, 0o755); err != nil {
				return err
			}
		}
		return os.WriteFile(filepath.Join(dir, LiburingVersionFile), []byte(source.Version+"\n"), 0o644)
	})
}
