// SPDX-License-Identifier: Apache-2.0

package debian

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheListOfURIsIsRead(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	files, err := parseURIs([]byte("Reading package lists...\n"+
		"'http://m/pool/b/busybox-static_1%3a1.35.0-4%2bdeb12u1_amd64.deb' busybox-static_1%3a1.35.0-4+deb12u1_amd64.deb 928188 SHA256:"+sum+"\n"), "/c", false)
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	want := file{Package{"busybox-static", "1:1.35.0-4+deb12u1", sum, "/c/busybox-static_1%3a1.35.0-4+deb12u1_amd64.deb"}, 928188}
	if files[0] != want {
		t.Errorf("got %+v, want %+v", files[0], want)
	}
	for _, bad := range []string{
		"'http://m/a_1_amd64.deb' a_1_amd64.deb 12 MD5Sum:00",
		"'http://m/a.deb' a.deb 12 SHA256:" + sum,
		"'http://m/a_1_amd64.deb' a_1_amd64.deb",
	} {
		if files, err := parseURIs([]byte(bad), "/c", false); err == nil {
			t.Errorf("%q gave %v", bad, files)
		}
	}
}

func TestASourcePackageIsItsDsc(t *testing.T) {
	dsc, tarball := strings.Repeat("0b", 32), strings.Repeat("0c", 32)
	files, err := parseURIs([]byte("'http://m/l/liburing_2.9.orig.tar.gz' liburing_2.9.orig.tar.gz 407142 SHA256:"+tarball+"\n"+
		"'http://m/l/liburing_2.9-1.dsc' liburing_2.9-1.dsc 2381 SHA256:"+dsc+"\n"), "/c", true)
	if err != nil || len(files) != 2 || files[0].size != 407142 || files[0].Path != "/c/liburing_2.9.orig.tar.gz" {
		t.Fatalf("%+v, %v", files, err)
	}
	if got, err := sourceOf(files); err != nil || got != (Source{"liburing", "2.9-1", dsc, "/c/liburing_2.9-1.dsc"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := sourceOf(files[:1]); err == nil {
		t.Errorf("without a .dsc: %+v", got)
	}
}

func TestAFileIsWholeOnlyWithItsHash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p")
	f := file{Package{Path: path, SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}, 3}
	for content, want := range map[string]bool{"abc": true, "abd": false, "ab": false, "": false} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if f.whole() != want {
			t.Errorf("%q: whole is %t", content, !want)
		}
	}
	f.Path += ".gone"
	if f.whole() {
		t.Error("a file that is not there is whole")
	}
}

// Names of a package's files stay inside the directory that they are put into.
func TestNamesAreCleaned(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "./", Typeflag: tar.TypeDir},
		{Name: "./usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./usr/bin/x", Typeflag: tar.TypeReg, Size: 2},
		{Name: "../../etc/y", Typeflag: tar.TypeLink, Linkname: "./usr/bin/x"},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			_, _ = w.Write([]byte("ab"))
		}
	}
	_ = w.Close()
	var got []string
	err := entries(tar.NewReader(&b), func(e Entry) error {
		c, err := io.ReadAll(e.Content)
		got = append(got, e.Name+" "+e.Linkname+" "+string(c))
		return err
	})
	if want := "usr/bin  |usr/bin/x  ab|etc/y usr/bin/x "; err != nil || strings.Join(got, "|") != want {
		t.Errorf("got %q, want %q; %v", strings.Join(got, "|"), want, err)
	}
}

// With a host's apt and its mirrors: get a small package twice, the second time
// from the cache, and find a spoilt file out.
func TestAPackageIsFetchedOnceAndChecked(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads a package index")
	}
	cache := os.Getenv("URINGPV_TEST_CACHE")
	if cache == "" {
		t.Skip("URINGPV_TEST_CACHE names no directory for Debian's packages (make test-nested sets it)")
	}
	var report bytes.Buffer
	s, err := Open(t.Context(), "bookworm", Options{Cache: cache, Report: &report})
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Fetch(t.Context(), false, "hostname")
	if err != nil || len(p) != 1 || p[0].Name != "hostname" {
		t.Fatalf("%v, %v", p, err)
	}
	if err := os.Truncate(p[0].Path, 100); err != nil {
		t.Fatal(err)
	}
	report.Reset()
	if p, err = s.Fetch(t.Context(), false, "hostname"); err != nil || !strings.Contains(report.String(), "downloading 1 package") {
		t.Fatalf("after the file was cut: %v, %v, report %q", p, err, &report)
	}
	report.Reset()
	if p, err = s.Fetch(t.Context(), false, "hostname"); err != nil || report.Len() != 0 {
		t.Fatalf("from the cache: %v, %v, report %q", p, err, &report)
	}
	found := false
	if err := p[0].Each(t.Context(), func(e Entry) error {
		found = found || e.Name == "bin/hostname" && e.Typeflag == tar.TypeReg
		return nil
	}); err != nil || !found {
		t.Errorf("bin/hostname found: %t, %v", found, err)
	}
	if _, err := s.Fetch(t.Context(), false, "no-such-package-at-all"); err == nil || !strings.Contains(err.Error(), "no-such-package-at-all") {
		t.Errorf("a package that is not there: %v", err)
	}
	deps, err := s.Depends(t.Context(), "linux-image-cloud-amd64")
	if err != nil || len(deps) != 1 || !strings.HasPrefix(deps[0], "linux-image-6.1.0-") {
		t.Errorf("linux-image-cloud-amd64 depends on %v, %v", deps, err)
	}
}

// Likewise a source package; its files are the ones that the index names.
func TestASourcePackageIsFetchedOnceAndUnpacked(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads a package index")
	}
	cache := os.Getenv("URINGPV_TEST_CACHE")
	if cache == "" {
		t.Skip("URINGPV_TEST_CACHE names no directory for Debian's packages (make test-nested sets it)")
	}
	var report bytes.Buffer
	s, err := Open(t.Context(), "trixie", Options{Cache: cache, Source: true, Report: &report})
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.FetchSource(t.Context(), "hostname")
	if err != nil || p.Name != "hostname" || p.Version == "" {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := os.Truncate(p.Path, 10); err != nil {
		t.Fatal(err)
	}
	report.Reset()
	if p, err = s.FetchSource(t.Context(), "hostname"); err != nil || !strings.Contains(report.String(), "downloading 1 source file of") {
		t.Fatalf("after a file was cut: %v, report %q", err, &report)
	}
	report.Reset()
	if p, err = s.FetchSource(t.Context(), "hostname"); err != nil || report.Len() != 0 {
		t.Fatalf("from the cache: %v, report %q", err, &report)
	}
	dir := filepath.Join(t.TempDir(), "hostname")
	if err := p.Unpack(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "hostname.c")); err != nil {
		t.Error(err)
	}
	if _, err := s.FetchSource(t.Context(), "no-such-package-at-all"); err == nil || !strings.Contains(err.Error(), "no-such-package-at-all") {
		t.Errorf("a source package that is not there: %v", err)
	}
	if _, err := s.Fetch(t.Context(), false, "hostname"); err == nil {
		t.Error("a suite of source packages has given a package")
	}
}

// Of a host's sources the first archive of each kind counts, and of it the component main.
func TestAHostsArchivesAreFound(t *testing.T) {
	got := parseTargets([]byte("http://a/debian/ contrib\nhttp://b/debian/ main\nhttp://c/debian main\nhttp://d/debian-security/ main\nhttp://e/other/ main\n"))
	if want := (Mirrors{"http://b/debian", "http://d/debian-security"}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A suite has no configuration but its own, but for how the host reaches archives; its
// source list names both mirrors.
func TestAHostsConfigurationDoesNotCount(t *testing.T) {
	s := &Suite{name: "bookworm", dir: t.TempDir()}
	m, err := Mirrors{"http://a/debian", "http://b/security"}.orHosts(t.Context())
	if err != nil || m.Main != "http://a/debian" || m.Security != "http://b/security" {
		t.Fatalf("%v, %v", m, err)
	}
	if err := s.configure(s.sources(m), "Acquire::http::Proxy \"http://proxy\";\n"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.archives(), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := s.apt(t.Context(), "apt-config", "dump", "Acquire::http::Proxy", "Dir::Etc::main", "Dir::Etc::parts", "APT::Default-Release")
	if want := "Acquire::http::Proxy \"http://proxy\";\nDir::Etc::main \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\n"; err != nil || string(out) != want {
		t.Errorf("apt's configuration is %q, %v; want %q", out, err, want)
	}
	list, err := os.ReadFile(filepath.Join(s.dir, "sources.list"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"] http://a/debian bookworm main\n", "] http://a/debian bookworm-updates main\n", "] http://b/security bookworm-security main\n"} {
		if !strings.Contains(string(list), want) {
			t.Errorf("no line %q in\n%s", want, list)
		}
	}
}
