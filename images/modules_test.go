// SPDX-License-Identifier: Apache-2.0

package images

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSoftDependenciesAreThoseToLoadBefore(t *testing.T) {
	for text, want := range map[string][]string{
		"":                              nil,
		"pre: crc32c":                   {"crc32c"},
		"post: a b":                     nil,
		"pre: a b post: c pre: d":       {"a", "b", "d"},
		"crc32c":                        nil,
		"platform: x86 pre:  crc32-pcl": {"crc32-pcl"},
	} {
		if diff := cmp.Diff(want, softDepends(text)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}
