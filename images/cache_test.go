// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What is made is there whole or not at all, once, and goes when nobody has used it for
// long.
func TestWhatIsMadeStaysWhileItIsUsed(t *testing.T) {
	c, err := OpenCache(CacheOptions{Dir: t.TempDir(), Report: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(c.Dir(), "made")
	old := time.Now().Add(-madeLife - time.Hour)
	age := func(path string) {
		t.Helper()
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	builds := 0
	get := func(name string) string {
		t.Helper()
		dir, err := c.Made(t.Context(), name, "inputs", func(dir string) error {
			builds++
			if err := os.WriteFile(filepath.Join(dir, "file"), []byte(name), 0o600); err != nil {
				return err
			}
			return os.Chtimes(dir, old, old) // as an archive's directory has the archive's time
		})
		if b, e := os.ReadFile(filepath.Join(dir, "file")); err != nil || e != nil || string(b) != name {
			t.Fatalf("%s: %q, %v, %v", dir, b, err, e)
		}
		return dir
	}
	a, b := get("a"), get("b")
	if get("a"); builds != 2 {
		t.Errorf("%d builds of two", builds)
	}
	if _, err := c.Made(t.Context(), "bad", "inputs", func(string) error { return errors.New("bad") }); err == nil {
		t.Error("a build has failed without an error")
	}
	age(strings.Replace(b, "b-", "bad-", 1) + usedSuffix)
	unknown := filepath.Join(made, "unknown") // as of an earlier version
	if err := os.Mkdir(unknown, 0o755); err != nil {
		t.Fatal(err)
	}
	age(unknown)

	age(a + usedSuffix)
	age(b + usedSuffix)
	get("b") // now it is in use again
	left := filepath.Join(made, partPrefix+"left")
	if err := os.MkdirAll(filepath.Join(left, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	age(left)
	now := filepath.Join(made, partPrefix+"now")
	if err := os.Mkdir(now, 0o755); err != nil {
		t.Fatal(err)
	}
	get("c")
	entries, err := os.ReadDir(made)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, e := range entries {
		have = append(have, e.Name())
	}
	b, cc := filepath.Base(b), filepath.Base(get("c"))
	if want := []string{b, b + usedSuffix, cc, cc + usedSuffix, filepath.Base(now), "unknown", "unknown" + usedSuffix}; !slices.Equal(have, want) {
		t.Errorf("there are %v, want %v", have, want)
	}
	if get("a"); builds != 4 {
		t.Errorf("%d builds, want 4", builds)
	}
}
