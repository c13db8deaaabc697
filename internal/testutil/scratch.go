// SPDX-License-Identifier: Apache-2.0

package testutil

import (
	"os"
	"path/filepath"
	"testing"
)

// ScratchFile makes an empty sparse file of size bytes that goes with the test,
// and returns its path.
func ScratchFile(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "scratch.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}
