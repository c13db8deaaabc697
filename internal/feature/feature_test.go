// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKindOfKVMComesFromItsModule(t *testing.T) {
	for _, tt := range []struct {
		modules []string
		want    string
	}{
		{nil, KVMUnknown},
		{[]string{"kvm"}, KVMUnknown},
		{[]string{"kvm", "kvm_intel"}, KVMIntel},
		{[]string{"kvm", "kvm_amd"}, KVMAMD},
		{[]string{"kvm", "kvm_pvm"}, KVMPVM},
		{[]string{"kvm", "kvm_intel", "kvm_pvm"}, KVMPVM},
	} {
		dir := t.TempDir()
		for _, m := range tt.modules {
			if err := os.Mkdir(filepath.Join(dir, m), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if got := kvmKind(dir); got != tt.want {
			t.Errorf("with %v: %s, want %s", tt.modules, got, tt.want)
		}
	}
}

func TestUnusableKVMSaysWhatWouldBeRight(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "kvm")
	for _, tt := range []struct {
		name  string
		err   error
		errno unix.Errno
		says  string
	}{
		{"missing", checkKVM(missing), unix.ENOENT, "load kvm-intel"},
		{"not a KVM", checkKVM("/dev/null"), unix.ENOTTY, "not a KVM device"},
		{"forbidden", kvmOpenError("/dev/null", &os.PathError{Op: "open", Path: "/dev/null", Err: unix.EACCES}), unix.EACCES, "run as root or as a member of group"},
		{"no module", kvmOpenError(missing, unix.ENODEV), unix.ENODEV, "not loaded"},
		{"taken", kvmOpenError(missing, unix.EBUSY), unix.EBUSY, "another hypervisor"},
		{"other", kvmOpenError(missing, unix.EMFILE), unix.EMFILE, "too many open files"},
	} {
		switch {
		case !errors.Is(tt.err, tt.errno):
			t.Errorf("%s: %v does not wrap %v", tt.name, tt.err, tt.errno)
		case !strings.Contains(tt.err.Error(), tt.says) || strings.Contains(tt.err.Error(), "\n"):
			t.Errorf("%s: %q; want one line that says %q", tt.name, tt.err, tt.says)
		}
	}
}

func TestProbeKVMAgreesWithTheDevice(t *testing.T) {
	kvm := ProbeKVM()
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	if err != nil {
		if kvm.Kind != KVMNone || kvm.Err == nil {
			t.Errorf("/dev/kvm does not open (%v), but the probe says %+v", err, kvm)
		}
		return
	}
	f.Close()
	if kvm.Kind == KVMNone || kvm.Err != nil {
		t.Errorf("/dev/kvm opens, but the probe says %+v", kvm)
	}
}

func TestParseVersion(t *testing.T) {
	for _, tt := range []struct {
		release string
		want    Version
		ok      bool
	}{
		{"6.12.41+deb13-cloud-amd64", Version{6, 12}, true},
		{"6.1", Version{6, 1}, true},
		{"7.2-rc3", Version{7, 2}, true},
		{"10.0.1", Version{10, 0}, true},
		{"", Version{}, false},
		{"6", Version{}, false},
		{"6.", Version{}, false},
		{"six.12", Version{}, false},
		{"6.x", Version{}, false},
		{"-6.1", Version{}, false},
		{"99999.1", Version{}, false},
	} {
		got, err := ParseVersion(tt.release)
		if (err == nil) != tt.ok || got != tt.want {
			t.Errorf("ParseVersion(%q) = %v, %v; want %v, ok = %v", tt.release, got, err, tt.want, tt.ok)
		}
	}
	release, err := KernelRelease()
	if err != nil {
		t.Fatal(err)
	}
	if v, err := ParseVersion(release); err != nil || v.Before(Version{2, 6}) {
		t.Errorf("this kernel's release %q: %v, %v", release, v, err)
	}
}

func TestVersionsAreOrdered(t *testing.T) {
	ordered := []Version{{5, 1}, {5, 19}, {6, 1}, {6, 10}, {6, 12}, {7, 0}}
	for i, v := range ordered {
		for j, w := range ordered {
			if v.Before(w) != (i < j) {
				t.Errorf("%v before %v: %v", v, w, v.Before(w))
			}
		}
	}
}

func TestMemlockHolds(t *testing.T) {
	for _, tt := range []struct {
		m     Memlock
		bytes uint64
		want  bool
	}{
		{Memlock{Limit: Limit{Soft: 8 << 20}}, 8 << 20, true},
		{Memlock{Limit: Limit{Soft: 8 << 20}}, 8<<20 + 1, false},
		{Memlock{Limit: Limit{Soft: 8 << 20, Hard: Unlimited}}, 1 << 30, false},
		{Memlock{Limit: Limit{Soft: 0}, Exempt: true}, 1 << 40, true},
		{Memlock{Limit: Limit{Soft: Unlimited}}, 1 << 40, true},
	} {
		if got := tt.m.Holds(tt.bytes); got != tt.want {
			t.Errorf("%+v holds %d: %v", tt.m, tt.bytes, got)
		}
	}
	if _, err := ProbeMemlock(); err != nil {
		t.Error(err)
	}
}

func TestUserNamespaceIsToldByItsMap(t *testing.T) {
	for text, want := range map[string]bool{
		"         0          0 4294967295\n":                 true,
		"         0       1000          1\n":                 false,
		"0 100000 65536\n":                                   false,
		"         0          0 4294967294\n4294967294 0 1\n": false,
		"": false,
	} {
		path := filepath.Join(t.TempDir(), "uid_map")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := inInitialUserNamespace(path); got != want {
			t.Errorf("map %q: initial = %v, want %v", text, got, want)
		}
	}
	if !inInitialUserNamespace(filepath.Join(t.TempDir(), "missing")) {
		t.Error("a kernel without user namespaces has only the initial one")
	}
}

func TestCapabilitiesAreReadFromStatus(t *testing.T) {
	caps, err := parseCapabilities("status", []byte("Name:\tx\nCapPrm:\t0\nCapEff:\t0000000000004001\n"))
	if err != nil || !caps.Has(unix.CAP_IPC_LOCK) || !caps.Has(unix.CAP_CHOWN) || caps.Has(unix.CAP_SYS_ADMIN) {
		t.Errorf("capabilities %#x, %v; want CAP_CHOWN and CAP_IPC_LOCK", caps, err)
	}
	for _, bad := range []string{"", "CapEff:\tzz\n", "CapPrm:\t1\n"} {
		if _, err := parseCapabilities("status", []byte(bad)); err == nil || !strings.Contains(err.Error(), "status") {
			t.Errorf("%q: %v; want an error that names the file", bad, err)
		}
	}
	if _, err := EffectiveCapabilities(); err != nil {
		t.Error(err)
	}
}

func TestLimitsAreReadable(t *testing.T) {
	files, err := ProbeOpenFiles()
	if err != nil || files.Soft == 0 || files.Soft > files.Hard {
		t.Errorf("RLIMIT_NOFILE %+v, %v", files, err)
	}
	size, err := ProbeFileSize()
	if err != nil || size.Soft > size.Hard {
		t.Errorf("RLIMIT_FSIZE %+v, %v", size, err)
	}
	if v, ok := IOUringDisabled(); ok && (v < 0 || v > 2) {
		t.Errorf("kernel.io_uring_disabled = %d, want 0, 1 or 2", v)
	}
}
