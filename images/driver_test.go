// SPDX-License-Identifier: Apache-2.0

package images_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/uringpv/uringpv/guest"
	"github.com/uringpv/uringpv/images"
)

// openCache opens the cache of Debian's packages that tests may fill.
func openCache(t *testing.T) *images.Cache {
	t.Helper()
	dir := os.Getenv("URINGPV_TEST_CACHE")
	if dir == "" {
		t.Skip("URINGPV_TEST_CACHE names no directory for Debian's packages (make test-nested sets it)")
	}
	c, err := images.OpenCache(images.CacheOptions{Dir: dir, Report: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// driverKernels are the kernels that the driver is built for.
func driverKernels() []string {
	if os.Getenv("URINGPV_TEST_FULL") != "" {
		return []string{"6.1", "6.1-generic", "6.12", "6.12-generic", "newest", "newest-generic"}
	}
	return []string{"6.1", "6.12", "newest"}
}

func TestDriverBuildsWithoutWarnings(t *testing.T) {
	c := openCache(t)
	for _, kernel := range driverKernels() {
		t.Run(kernel, func(t *testing.T) {
			m, err := c.BuildModule(context.Background(), kernel, guest.DriverName, guest.DriverSource())
			if err != nil {
				t.Fatal(err)
			}
			k, err := c.GetKernel(context.Background(), kernel)
			if err != nil {
				t.Fatal(err)
			}
			magic, err := images.ModuleInfo(m.Data, "vermagic")
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(magic, k.Release+" ") {
				t.Errorf("version magic %q, want that of %s", magic, k.Release)
			}
		})
	}
}

func TestDriverWithAFaultDoesNotBuild(t *testing.T) {
	c := openCache(t)
	source := guest.DriverSource()
	source["sysfs.c"] = append(source["sysfs.c"], "\nstatic int unused_function(void) { return 0; }\n"...)
	_, err := c.BuildModule(context.Background(), "6.12", guest.DriverName, source)
	if err == nil || !strings.Contains(err.Error(), "unused_function") {
		t.Errorf("a warning is to be an error that shows it, not %v", err)
	}
}

// sparseKernels are the kernels that the driver is checked for by sparse. The newest has
// its own way to it.
func sparseKernels() []string {
	if os.Getenv("URINGPV_TEST_FULL") != "" {
		return []string{"6.1", "6.12", "newest"}
	}
	return []string{"6.12"}
}

func TestSparseFindsNothingInTheDriver(t *testing.T) {
	c := openCache(t)
	for _, kernel := range sparseKernels() {
		t.Run(kernel, func(t *testing.T) {
			said, err := c.CheckModule(context.Background(), kernel, guest.DriverSource())
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range said {
				t.Error(line)
			}
		})
	}
}

func TestSparseFindsAFault(t *testing.T) {
	c := openCache(t)
	source := map[string][]byte{
		"Kbuild": []byte("obj-m := fault.o\n"),
		"fault.c": []byte("#include <linux/module.h>\nMODULE_DESCRIPTION(\"a fault\");\nMODULE_LICENSE(\"GPL\");\n" +
			"static const __be32 upv_wrong = 1;\nu32 upv_exposed(void);\nu32 upv_exposed(void) { return upv_wrong; }\n"),
	}
	for _, kernel := range sparseKernels() {
		said, err := c.CheckModule(context.Background(), kernel, source)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(said, func(s string) bool {
			return strings.HasPrefix(s, "fault.c:") && strings.Contains(s, "different base types")
		}) {
			t.Errorf("Linux %s: sparse said %q", kernel, said)
		}
	}
}
