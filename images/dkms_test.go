// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/uringpv/uringpv/guest"
)

// dkmsSettings are the settings of guest/kmod/dkms.conf (dkms(8)).
func dkmsSettings(t *testing.T) map[string]string {
	t.Helper()
	settings := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^(\w+(?:\[0\])?)="([^"]*)"$`).FindAllStringSubmatch(string(guest.DriverSource()["dkms.conf"]), -1) {
		settings[m[1]] = m[2]
	}
	return settings
}

// TestDKMSKnowsTheDriver: its name and its version are the module's.
func TestDKMSKnowsTheDriver(t *testing.T) {
	s := dkmsSettings(t)
	version := regexp.MustCompile(`MODULE_VERSION\("([^"]*)"\)`).FindSubmatch(guest.DriverSource()["main.c"])
	if version == nil || s["PACKAGE_VERSION"] != string(version[1]) {
		t.Errorf("dkms.conf has PACKAGE_VERSION %q, main.c %q", s["PACKAGE_VERSION"], version)
	}
	if s["PACKAGE_NAME"] != guest.DriverName || s["BUILT_MODULE_NAME[0]"] != guest.DriverName {
		t.Errorf("dkms.conf has the names %q and %q, want %q", s["PACKAGE_NAME"], s["BUILT_MODULE_NAME[0]"], guest.DriverName)
	}
}

// TestDKMSBuildsTheDriver: by the commands of dkms.conf, in the directory that dkms has,
// with all sources side by side.
func TestDKMSBuildsTheDriver(t *testing.T) {
	cache := os.Getenv("URINGPV_TEST_CACHE")
	if cache == "" || os.Getenv("URINGPV_TEST_FULL") == "" {
		t.Skip("the whole matrix builds it (make test-nested-full)")
	}
	c, err := OpenCache(CacheOptions{Dir: cache, Report: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	for _, kernel := range []string{"6.1", "6.12"} {
		k, err := c.kbuild(context.Background(), kernel)
		if err != nil {
			t.Fatal(err)
		}
		if k.root != "" {
			t.Logf("NOT TESTED: this host's compiler cannot build for %s", kernel)
			continue
		}
		s, dir := dkmsSettings(t), t.TempDir()
		source := guest.DriverSource()
		for name, data := range source {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		do := func(command string) {
			cmd := exec.Command("sh", "-c", command)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=", "kernel_source_dir="+k.headers)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s for %s: %v\n%s", command, kernel, err, out)
			}
		}
		do(s["MAKE[0]"])
		module, err := os.ReadFile(filepath.Join(dir, s["BUILT_MODULE_NAME[0]"]+".ko"))
		if err != nil {
			t.Fatal(err)
		}
		if magic, err := ModuleInfo(module, "vermagic"); err != nil || !strings.HasPrefix(magic, k.release+" ") {
			t.Errorf("version magic %q (%v), want that of %s", magic, err, k.release)
		}
		if v, err := ModuleInfo(module, "version"); err != nil || v != s["PACKAGE_VERSION"] {
			t.Errorf("the module's version is %q (%v), the package's %q", v, err, s["PACKAGE_VERSION"])
		}
		do(s["CLEAN"])
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) != len(source) {
			t.Errorf("%v is left of %v after %s", left, slices.Sorted(maps.Keys(source)), s["CLEAN"])
		}
	}
}
