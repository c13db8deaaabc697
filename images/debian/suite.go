// SPDX-License-Identifier: Apache-2.0

package debian

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// indexLife is how long a package index is taken for new.
const indexLife = 12 * time.Hour

// Suite is a Debian release, as the mirrors have it now: its packages, or its
// source packages.
type Suite struct {
	name   string
	source bool
	dir    string
	report io.Writer
}

// Options say where a suite comes from and goes to.
type Options struct {
	Cache  string    // a directory, made if it is not there; processes may share it
	Source bool      // the suite's source packages, with an index of their own
	Report io.Writer // progress, line by line; nil: nowhere
	Mirrors
}

// Mirrors are the URIs of Debian's archive and of its security updates. One that is
// empty is the one that the host's apt uses; if that has no security updates, theirs
// is Debian's own.
type Mirrors struct{ Main, Security string }

// officialSecurity is where Debian has its security updates.
const officialSecurity = "http://security.debian.org/debian-security"

// Open makes the suite name ("bookworm", "sid") ready for use, and gets its
// index if there is none or if it is older than half a day. With an old index
// and no network it goes on and says so.
func Open(ctx context.Context, name string, o Options) (_ *Suite, err error) {
	tools := []string{"apt-get", "apt-cache", "apt-config", "dpkg-deb"}
	if o.Source {
		tools = append(tools, "dpkg-source") // of dpkg-dev, as build-essential needs it
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is not installed: images are made from Debian's packages, on Debian and what derives from it", tool)
		}
	}
	s := &Suite{name: name, source: o.Source, dir: filepath.Join(o.Cache, name), report: o.Report}
	if s.source {
		s.dir += "-source"
	}
	if s.report == nil {
		s.report = io.Discard
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "sources.list.d"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	mirrors, err := o.Mirrors.orHosts(ctx)
	if err != nil {
		return nil, err
	}
	network, err := hostNetwork(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.configure(s.sources(mirrors), network); err != nil {
		return nil, err
	}
	return s, s.update(ctx)
}

// sources is the suite's source list.
func (s *Suite) sources(m Mirrors) string {
	// An unpacked index is all that is wanted: no translations, no icons.
	kind := "deb [arch=amd64 target=Packages"
	if s.source {
		kind = "deb-src [target=Sources"
	}
	var b strings.Builder
	line := func(uri, suite string) {
		fmt.Fprintf(&b, "%s%s] %s %s main\n", kind, signedBy(), uri, suite)
	}
	line(m.Main, s.name)
	if s.name != "sid" && s.name != "unstable" {
		line(m.Main, s.name+"-updates")
		line(m.Security, s.name+"-security")
	}
	return b.String()
}

// keyring is where the package debian-archive-keyring has the archive's keys.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

func signedBy() string {
	if _, err := os.Stat(keyring); err != nil {
		return "" // apt's own trusted keys have to do
	}
	return " signed-by=" + keyring
}

// orHosts is m with what it lacks taken from the host's apt.
func (m Mirrors) orHosts(ctx context.Context) (Mirrors, error) {
	if m.Main != "" && m.Security != "" {
		return m, nil
	}
	// What says that it is Debian's is; where apt does not know yet, the URI has to do.
	for _, only := range [][]string{{"Origin: Debian"}, nil} {
		out, err := hostApt(ctx, slices.Concat([]string{"apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages"}, only)...)
		if err != nil {
			return Mirrors{}, err
		}
		host := parseTargets(out)
		m.Main, m.Security = cmp.Or(m.Main, host.Main), cmp.Or(m.Security, host.Security)
	}
	if m.Main == "" {
		return Mirrors{}, errors.New("this host's apt has no Debian archive (a URI that ends in /debian) among its sources: name one by --mirror")
	}
	m.Security = cmp.Or(m.Security, officialSecurity)
	return m, nil
}

// parseTargets is the first archive of each kind in lines of "URI COMPONENT".
func parseTargets(out []byte) (m Mirrors) {
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 2 || f[1] != "main" {
			continue
		}
		uri := strings.TrimSuffix(f[0], "/")
		switch {
		case strings.HasSuffix(uri, "/debian-security") && m.Security == "":
			m.Security = uri
		case strings.HasSuffix(uri, "/debian") && m.Main == "":
			m.Main = uri
		}
	}
	return m
}

// hostNetwork is what the host's apt is told of how to reach archives, and of how old
// their indices may be: apt.conf(5), in that form.
func hostNetwork(ctx context.Context) (string, error) {
	out, err := hostApt(ctx, "apt-config", "dump", "Acquire::http", "Acquire::https",
		"Acquire::ForceIPv4", "Acquire::ForceIPv6", "Acquire::Check-Date", "Acquire::Check-Valid-Until")
	return string(out), err
}

// hostApt runs one of apt's commands with the host's own configuration.
func hostApt(ctx context.Context, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Env = environment("")
	out, err := c.Output()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, command(args[0]+" "+args[1], err)
	}
	return out, nil
}

// configure writes apt's configuration, which is the only one: a host's pinning, its
// hooks, and its leave to do without signatures do not count here. The package status
// is empty: nothing counts as installed.
func (s *Suite) configure(sources, network string) error {
	path := func(p string) string { return filepath.Join(s.dir, p) }
	conf := network + fmt.Sprintf(`Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::State %q;
Dir::State::status %q;
Dir::Cache %q;
Dir::Etc::sourcelist %q;
Dir::Etc::sourceparts %q;
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts %q;
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::ForceHash "sha256";
Acquire::Retries "3";
Debug::NoLocking "true";
`, path("state"), path("status"), path("cache"), path("sources.list"), path("sources.list.d"), path("sources.list.d"))
	for name, text := range map[string]string{"apt.conf": conf, "sources.list": sources, "status": ""} {
		old, err := os.ReadFile(path(name))
		if err == nil && string(old) == text {
			continue
		}
		if err := os.WriteFile(path(name), []byte(text), 0o644); err != nil {
			return err
		}
		if name == "sources.list" { // what the index was made from
			_ = os.Remove(path("updated"))
		}
	}
	return nil
}

// update gets the index.
func (s *Suite) update(ctx context.Context) error {
	stamp := filepath.Join(s.dir, "updated")
	info, err := os.Stat(stamp)
	if err == nil && time.Since(info.ModTime()) < indexLife {
		return nil
	}
	have := !errors.Is(err, fs.ErrNotExist)
	fmt.Fprintf(s.report, "getting the %spackage index of %s\n", map[bool]string{true: "source "}[s.source], s.name)
	if _, err := s.apt(ctx, "apt-get", "--quiet", "--error-on=any", "update"); err != nil {
		if ctx.Err() != nil {
			return err
		}
		if !have {
			return fmt.Errorf("%w (--mirror and --security-mirror name other archives)", err)
		}
		fmt.Fprintf(s.report, "the index of %s is from %s, and a newer one cannot be had: %v\n", s.name, info.ModTime().Format(time.DateTime), err)
		return nil
	}
	return os.WriteFile(stamp, nil, 0o644)
}

// archives is where package files go.
func (s *Suite) archives() string { return filepath.Join(s.dir, "cache", "archives") }

// apt runs one of apt's commands on the suite and returns what it says on
// stdout.
func (s *Suite) apt(ctx context.Context, args ...string) ([]byte, error) {
	return s.aptIn(ctx, s.archives(), args...)
}

// aptIn is apt with dir as its current directory, where `apt-get download` puts
// files.
func (s *Suite) aptIn(ctx context.Context, dir string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Env = environment(filepath.Join(s.dir, "apt.conf"))
	c.Dir = dir
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w: %s", strings.Join(args[:min(len(args), 4)], " "), s.name, err, lastLines(stderr.Bytes()))
	}
	return out, nil
}

// environment is the process's own, in English, with apt's configuration.
func environment(conf string) []string {
	env := append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	if conf != "" {
		env = append(env, "APT_CONFIG="+conf)
	}
	return env
}

// command adds what a failed command said.
func command(what string, err error) error {
	var e *exec.ExitError
	if errors.As(err, &e) && len(e.Stderr) > 0 {
		return fmt.Errorf("%s: %w: %s", what, err, lastLines(e.Stderr))
	}
	return fmt.Errorf("%s: %w", what, err)
}

// lastLines is the end of what a command said, in one line.
func lastLines(b []byte) string {
	var lines []string
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		if t := strings.TrimSpace(sc.Text()); t != "" {
			lines = append(lines, t)
		}
	}
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}
