// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sourceSum identifies a module's source.
func sourceSum(source map[string][]byte) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(source)) {
		fmt.Fprintf(h, "%s %d\n", name, len(source[name]))
		h.Write(source[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// BuildModule builds the module name.ko from source, files by their names, for
// the kernel that GetKernel knows as kernelName, with every warning an error.
func (c *Cache) BuildModule(ctx context.Context, kernelName, name string, source map[string][]byte) (Module, error) {
	k, err := c.kbuild(ctx, kernelName)
	if err != nil {
		return Module{}, err
	}
	dir, err := c.Made(ctx, name+"-"+kernelName, k.sum+k.compiler+sourceSum(source)+k.flags(""), func(dir string) error {
		fmt.Fprintf(c.report, "building %s.ko for Linux %s\n", name, k.release)
		if out, err := k.make(ctx, dir, source, "modules", "W=1", "KCFLAGS="+k.flags(dir)); err != nil {
			return fmt.Errorf("build %s.ko for Linux %s: %w\n%s", name, k.release, err, out)
		}
		return nil
	})
	if err != nil {
		return Module{}, err
	}
	data, err := os.ReadFile(filepath.Join(dir, name+".ko"))
	return Module{Name: moduleName(name), Data: data, Compiler: k.compiler}, err
}

// CheckModule runs sparse over a module's source and returns what it says of it,
// line by line; what it says of the kernel's own headers is left out.
func (c *Cache) CheckModule(ctx context.Context, kernelName string, source map[string][]byte) ([]string, error) {
	k, err := c.kbuild(ctx, kernelName)
	if err != nil {
		return nil, err
	}
	sparse, err := k.sparse(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "sparse-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out, err := k.make(ctx, dir, source, append([]string{"modules"}, sparse...)...)
	if err != nil {
		return nil, fmt.Errorf("check by sparse for Linux %s: %w\n%s", k.release, err, out)
	}
	var said []string
	checked := false
	for line := range strings.Lines(string(out)) {
		checked = checked || strings.Contains(line, " CHECK ")
		file, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		isWarning := strings.Contains(rest, " warning:") || strings.Contains(rest, " error:")
		if _, ours := source[filepath.Base(file)]; ours && isWarning {
			said = append(said, filepath.Base(file)+":"+rest)
		}
	}
	if !checked {
		return nil, fmt.Errorf("check by sparse for Linux %s: it was not run\n%s", k.release, out)
	}
	return said, nil
}
