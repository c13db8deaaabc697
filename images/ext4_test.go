// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A disk that is too small is an error that says how much is enough, and so it is.
func TestADiskTooSmallForItsFiles(t *testing.T) {
	dir := os.Getenv("URINGPV_TEST_CACHE")
	if dir == "" {
		t.Skip("URINGPV_TEST_CACHE names no directory for Debian's packages (make test-nested sets it)")
	}
	c, err := OpenCache(CacheOptions{Dir: dir, Report: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	few, many := NewTree(), NewTree()
	few.File("large", 0o644, bytes.Repeat([]byte("not a hole"), 4<<20))
	for i := range 10000 {
		many.File(fmt.Sprintf("small/%d/%d", i/100, i), 0o644, []byte{1})
	}
	for _, tree := range []*Tree{few, many} {
		path := filepath.Join(t.TempDir(), RootFile)
		const size = 32 << 20
		var small *TooSmallError
		if err := c.makeExt4(t.Context(), path, size, tree); !errors.As(err, &small) || small.Size != size || small.Need <= size {
			t.Fatalf("%v, want a TooSmallError of %d bytes", err, size)
		}
		if err := c.makeExt4(t.Context(), path, small.Need, tree); err != nil {
			t.Errorf("%d bytes were said to be enough: %v", small.Need, err)
		}
	}
}
