// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/export"
	"github.com/uringpv/uringpv/hostring"
)

func TestParseExport(t *testing.T) {
	for _, tt := range []struct {
		flag, in string
		want     exportSpec
	}{
		{"file", "name=data,path=/x/y", exportSpec{Name: "data", Path: "/x/y"}},
		{"file", "path=a,,b,name=d-1,readonly=on,direct=on", exportSpec{Name: "d-1", Path: "a,b", ReadOnly: true, Direct: true}},
		{"file", "name=d,path=a=b,readonly=off", exportSpec{Name: "d", Path: "a=b"}},
		{"socket", "name=s,unix=/run/s", exportSpec{Name: "s", Network: export.Unix, Address: "/run/s"}},
		{"socket", "name=s,unix=@s,type=dgram,peer=any", exportSpec{Name: "s", Network: export.Unix, Address: "@s", Dgram: true, AnyPeer: true}},
		{"socket", "name=s,unix=s,type=stream,listen=on", exportSpec{Name: "s", Network: export.Unix, Address: "s", Listen: true}},
		{"socket", "tcp=127.0.0.1:80,name=s,connect=guest", exportSpec{Name: "s", Network: export.TCP, Address: "127.0.0.1:80", GuestConnect: true}},
		{"socket", "tcp=0.0.0.0:0,name=s,listen=on", exportSpec{Name: "s", Network: export.TCP, Address: "0.0.0.0:0", Listen: true}},
		{"socket", "udp=[::1]:53,name=s", exportSpec{Name: "s", Network: export.UDP, Address: "[::1]:53", Dgram: true}},
		{"socket", "udp=host.example:53,name=s,type=dgram,connect=start,peer=one", exportSpec{Name: "s", Network: export.UDP, Address: "host.example:53", Dgram: true}},
		{"pipe", "name=p", exportSpec{Name: "p"}},
		{"pipe", "name=p,path=f,mode=read", exportSpec{Name: "p", Path: "f"}},
		{"pipe", "mode=write,name=p,path=f", exportSpec{Name: "p", Path: "f", WriteEnd: true}},
		{"eventfd", "name=e", exportSpec{Name: "e"}},
		{"tap", "tap0", exportSpec{Name: "tap0", Interface: "tap0"}},
		{"tap", "name=net,ifname=tap0", exportSpec{Name: "net", Interface: "tap0"}},
		{"tap", "ifname=tap0", exportSpec{Name: "tap0", Interface: "tap0"}},
	} {
		tt.want.Flag = tt.flag
		got, err := exportFlagNamed(tt.flag).parse(tt.in)
		if err != nil {
			t.Errorf("--%s %s: %v", tt.flag, tt.in, err)
		} else if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("--%s %s (-want +got):\n%s", tt.flag, tt.in, diff)
		}
	}
}

func TestParseExportSaysWhatWouldBeRight(t *testing.T) {
	for _, tt := range []struct{ flag, in, says string }{
		{"file", "", `unknown key ""; there are name, path, readonly, direct`},
		{"file", "/x", `unknown key "/x"; there are name,`},
		{"file", "name=x", "path= is missing"},
		{"file", "path=x", "name= is missing"},
		{"file", "name=x,path=", "path=: must not be empty"},
		{"file", "name=x,path=a\x00b", "no NUL"},
		{"file", "name=,path=x", "name=: a name has 1 to 31 characters"},
		{"file", "name=.,path=x", "begins with a letter or a digit"},
		{"file", "name=a/b,path=x", "name=a/b: a name is letters"},
		{"file", "name=" + strings.Repeat("x", 32) + ",path=x", "1 to 31 characters"},
		{"file", "name=x,path=y,readonly=yes", "readonly=yes: must be on or off"},
		{"file", "name=x,path=y,readonly", "write readonly=on|off"},
		{"file", "name=x,path=y,path=z", "key path is given twice"},
		{"file", "name=x,path=y,unix=z", `unknown key "unix"`},
		{"socket", "name=x", "the address is missing: unix=PATH, udp=HOST:PORT or tcp=HOST:PORT"},
		{"socket", "name=x,unix=a,tcp=b:1", "a socket has one address, and unix=a is given"},
		{"socket", "name=x,tcp=b", "tcp=b: must be HOST:PORT"},
		{"socket", "name=x,tcp=b:0", "from 1 to 65535"},
		{"socket", "name=x,udp=:1", "the host is missing"},
		{"socket", "name=x,unix=", "has a path"},
		{"socket", "name=x,unix=a,type=raw", "type=raw: must be dgram or stream"},
		{"socket", "name=x,udp=b:1,type=stream", "type= is for UNIX sockets: udp has no choice"},
		{"socket", "name=x,tcp=b:1,type=dgram", "type= is for UNIX sockets: tcp has no choice"},
		{"socket", "name=x,unix=a,listen=on,connect=guest", "a socket listens or is connected"},
		{"socket", "name=x,unix=a,peer=any", "peer=any is for datagrams"},
		{"pipe", "path=x,mode=read", "name= is missing"},
		{"pipe", "name=x,path=y", "path=FIFO and mode=read|write go together"},
		{"pipe", "name=x,mode=read", "go together; leave out both for a fresh pipe"},
		{"pipe", "name=x,path=y,mode=rw", "mode=rw: must be read or write"},
		{"eventfd", "e", `unknown key "e"; there are name`},
		{"tap", "", "ifname=: a network interface's name has 1 to 15 characters"},
		{"tap", "name=x", "ifname= is missing"},
		{"tap", "a b", "no space"},
		{"tap", "averyveryverylongname", "1 to 15 characters"},
		{"tap", "tap0,mode=tun", `unknown key "mode"; there are name, ifname`},
	} {
		if _, err := exportFlagNamed(tt.flag).parse(tt.in); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("--%s %s: %v; want an error that says %q", tt.flag, tt.in, err, tt.says)
		}
	}
}

// drawExport is one that a command line can name.
func drawExport(t *rapid.T) exportSpec {
	e := exportSpec{
		Flag: rapid.SampledFrom([]string{"file", "socket", "pipe", "eventfd", "tap"}).Draw(t, "flag"),
		Name: rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9._-]{0,30}`).Draw(t, "name"),
	}
	path := rapid.StringMatching(`[a-z/., =-]{1,20}`)
	switch e.Flag {
	case "file":
		e.Path, e.ReadOnly, e.Direct = path.Draw(t, "path"), rapid.Bool().Draw(t, "readonly"), rapid.Bool().Draw(t, "direct")
	case "socket":
		e.Network = rapid.SampledFrom([]export.Network{export.Unix, export.UDP, export.TCP}).Draw(t, "network")
		e.Dgram = e.Network == export.UDP
		e.Address = rapid.SampledFrom([]string{"127.0.0.1:80", "[::1]:65535", "a.example:1"}).Draw(t, "address")
		if e.Network == export.Unix {
			e.Address, e.Dgram = path.Draw(t, "path"), rapid.Bool().Draw(t, "dgram")
		}
		switch rapid.IntRange(0, 2).Draw(t, "how") {
		case 1:
			e.Listen = true
		case 2:
			e.GuestConnect = true
		}
		e.AnyPeer = e.Dgram && rapid.Bool().Draw(t, "any peer")
	case "pipe":
		if rapid.Bool().Draw(t, "named") {
			e.Path, e.WriteEnd = path.Draw(t, "path"), rapid.Bool().Draw(t, "write")
		}
	case "tap":
		e.Interface = rapid.StringMatching(`[a-z][a-z0-9,=.-]{0,14}`).Draw(t, "ifname")
	}
	return e
}

func TestExportsReadBackAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawExport(t)
		got, err := exportFlagNamed(want.Flag).parse(want.String())
		if err != nil {
			t.Fatalf("--%s %s: %v", want.Flag, want, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("--%s %s (-want +got):\n%s", want.Flag, want, diff)
		}
	})
}

func FuzzParseExport(f *testing.F) {
	for i, s := range []string{
		"name=x,path=a,,b,readonly=on", "name=s,unix=@s,type=dgram,listen=on", "name=p,path=f,mode=write", "name=e", "tap0",
		",", "name=s,tcp=[::1]:1,connect=guest", "name=\xff,path=\xff", "ifname=a,,b", "name=s,udp=a:1,peer=any,type=dgram",
	} {
		f.Add(uint8(i), s)
	}
	f.Fuzz(func(t *testing.T, n uint8, s string) {
		flag := &exportFlags[int(n)%len(exportFlags)]
		e, err := flag.parse(s)
		if err != nil {
			if err.Error() == "" {
				t.Errorf("--%s %q: an error without words", flag.name, s)
			}
			return
		}
		o := e.socket()
		switch {
		case e.Flag != flag.name, e.Name == "" || len(e.Name) > maxNameLength,
			e.Flag == "socket" && (o.CheckAddress() != nil || e.Listen && e.GuestConnect || e.AnyPeer && !e.Dgram),
			e.Flag == "file" && e.Path == "", e.Flag == "tap" && e.Interface == "":
			t.Fatalf("--%s %q is read as %+v", flag.name, s, e)
		}
		again, err := flag.parse(e.String())
		if err != nil || again != e {
			t.Fatalf("--%s %q is read as %+v, written as %s and read back as %+v, %v", flag.name, s, e, e, again, err)
		}
	})
}

func TestExportsAreChecked(t *testing.T) {
	set := func(o *exportOptions, flags ...string) {
		t.Helper()
		for i := 0; i < len(flags); i += 2 {
			if err := (exportValue{exportFlagNamed(flags[i]), &o.list}).Set(flags[i+1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name string
		make func(o *exportOptions) []diskSpec
		says string // empty: it is right
	}{
		{"none", func(*exportOptions) []diskSpec { return nil }, ""},
		{"several", func(o *exportOptions) []diskSpec {
			set(o, "pipe", "name=p", "eventfd", "name=p", "tap", "t")
			return []diskSpec{{ID: "disk0"}}
		}, ""},
		{"two of one name", func(o *exportOptions) []diskSpec {
			set(o, "eventfd", "name=x", "file", "name=x,path=y")
			return nil
		}, "--file name=x,path=y: --eventfd name=x has the name x too"},
		{"a pipe's end", func(o *exportOptions) []diskSpec {
			set(o, "pipe", "name=p", "eventfd", "name=p.write")
			return nil
		}, "--eventfd name=p.write: --pipe name=p has the name p.write too"},
		{"too many", func(o *exportOptions) []diskSpec {
			for i := range 128 {
				set(o, "pipe", "name=p"+strings.Repeat("x", i%16)+strings.Repeat("y", i/16))
			}
			return nil
		}, "256 exports: a device has 255 files at most"},
		{"a disk of the device's name", func(o *exportOptions) []diskSpec {
			set(o, "eventfd", "name=x")
			return []diskSpec{{ID: "exports", Path: "a.img"}}
		}, "--disk a.img: id=exports is the name of the device"},
		{"a backend for nothing", func(o *exportOptions) []diskSpec {
			o.backend.value = backendRelay
			return nil
		}, "--export-backend without exports"},
		{"rings for nothing", func(o *exportOptions) []diskSpec {
			o.rings.value = 2
			return nil
		}, "--export-rings without exports"},
		{"a policy for nothing", func(o *exportOptions) []diskSpec {
			_ = o.policy.Set("deny=nop")
			return nil
		}, "--export-policy without exports"},
		{"a policy for a file", func(o *exportOptions) []diskSpec {
			set(o, "pipe", "name=p")
			_ = o.policy.Set("deny=write:p.write")
			return nil
		}, ""},
		{"a policy for a file that is not there", func(o *exportOptions) []diskSpec {
			set(o, "pipe", "name=p")
			_ = o.policy.Set("deny=write:p")
			return nil
		}, `no file is named "p"; there are p.read, p.write`},
		{"a policy for a file on a backend that looks at nothing", func(o *exportOptions) []diskSpec {
			set(o, "pipe", "name=p")
			_ = o.policy.Set("deny=write:p.write")
			o.backend.value = backendIsolated
			return nil
		}, "--export-backend isolated: only the relay looks at each request"},
	} {
		o := newExportOptions()
		err := o.check(tt.make(&o), false)
		var usage *usageError
		switch {
		case tt.says == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.says != "" && (!errors.As(err, &usage) || !strings.Contains(err.Error(), tt.says)):
			t.Errorf("%s: %v; want a usage error that says %q", tt.name, err, tt.says)
		}
	}
}

func TestPolicy(t *testing.T) {
	for _, tt := range []struct {
		in, says string
		deny     []uint8 // some that it denies
		leave    []uint8 // some that it does not
		flags    uint8
		files    map[string][]uint8 // all
	}{
		{in: "deny=accept", deny: []uint8{hostring.OpAccept}, leave: []uint8{0, hostring.OpConnect, 255}},
		{in: "deny=accept,connect,read_fixed", deny: []uint8{hostring.OpAccept, hostring.OpConnect, hostring.OpReadFixed}, leave: []uint8{0, hostring.OpRead}},
		{in: "allow=nop,read_fixed", deny: []uint8{hostring.OpRead, hostring.OpAccept, 63, 255}, leave: []uint8{hostring.OpNop, hostring.OpReadFixed}},
		{in: "allow=nop,read,deny=read", deny: []uint8{hostring.OpRead, 255}, leave: []uint8{hostring.OpNop}},
		{in: "deny-flag=link,async", flags: hostring.SQEIOLink | hostring.SQEAsync, leave: []uint8{0, 255}},
		{in: "allow-flag=link", flags: hostring.SQEIODrain | hostring.SQEIOHardlink | hostring.SQEAsync | hostring.SQECQESkipSuccess},
		{
			in: "deny=accept,write:file2,writev:file2,read:a:b,deny-flag=drain", deny: []uint8{hostring.OpAccept},
			leave: []uint8{hostring.OpWrite, hostring.OpRead}, flags: hostring.SQEIODrain,
			files: map[string][]uint8{"file2": {hostring.OpWritev, hostring.OpWrite}, "a:b": {hostring.OpRead}},
		},
		{in: "allow=read:f,poll_add:f", leave: []uint8{0, 255}, files: map[string][]uint8{"f": {
			hostring.OpReadv, hostring.OpWritev, hostring.OpFsync, hostring.OpReadFixed, hostring.OpWriteFixed, hostring.OpSyncFileRange,
			hostring.OpSendmsg, hostring.OpRecvmsg, hostring.OpAccept, hostring.OpConnect, hostring.OpFallocate, hostring.OpWrite,
			hostring.OpSend, hostring.OpRecv, hostring.OpShutdown,
		}}},
		{in: "", says: "must be deny=OPCODE"},
		{in: "accept", says: `"accept": must be deny=OPCODE`},
		{in: "forbid=accept", says: `"forbid=accept": must be deny=OPCODE`},
		{in: "deny=nop,flag=link", says: `"flag=link": must be deny=OPCODE`},
		{in: "deny=", says: `unknown opcode ""`},
		{in: "deny=accept,", says: `unknown opcode ""`},
		{in: "deny=ACCEPT", says: `unknown opcode "ACCEPT"; names are io_uring's in lower case`},
		{in: "allow=13", says: `unknown opcode "13"`},
		{in: "deny=write:", says: "deny=write:: the file's name is missing"},
		{in: "deny=nop:f", says: "deny=nop:f: no guest can use nop with a file; deny=nop speaks of all"},
		{in: "deny=timeout:f", says: "no guest can use timeout with a file"},
		{in: "deny-flag=fixed_file", says: `unknown SQE flag "fixed_file"; there are drain, link, hardlink, async and cqe_skip_success`},
		{in: "deny-flag=nop", says: `unknown SQE flag "nop"`},
	} {
		var p policyValue
		err := p.Set(tt.in)
		if tt.says != "" {
			if err == nil || !strings.Contains(err.Error(), tt.says) || p.deny != (abi.Opcodes{}) {
				t.Errorf("%q: %v, denies %v; want an error that says %q", tt.in, err, p.deny.List(), tt.says)
			}
			continue
		}
		if err != nil || p.String() != tt.in {
			t.Errorf("%q: %v, %q", tt.in, err, &p)
		}
		files := map[string][]uint8{}
		for name, ops := range p.files {
			files[name] = ops.List()
		}
		if p.flags != tt.flags || !maps.EqualFunc(files, tt.files, slices.Equal[[]uint8]) {
			t.Errorf("%q denies flags %#x and %v; want %#x and %v", tt.in, p.flags, files, tt.flags, tt.files)
		}
		for _, op := range tt.deny {
			if !p.deny.Has(op) {
				t.Errorf("%q leaves %s", tt.in, hostring.OpName(op))
			}
		}
		for _, op := range tt.leave {
			if p.deny.Has(op) {
				t.Errorf("%q denies %s", tt.in, hostring.OpName(op))
			}
		}
		if err := p.Set("deny=nop"); err == nil || !strings.Contains(err.Error(), "is given twice") {
			t.Errorf("a second policy: %v", err)
		}
	}
}

func TestEveryExportKeyIsInHelp(t *testing.T) {
	help := exportHelp()
	for _, f := range exportFlags {
		if !strings.Contains(help, "--"+f.name+" "+f.usage) {
			t.Errorf("--%s is not in the help:\n%s", f.name, help)
		}
		for _, k := range f.keys {
			if !strings.Contains(help, k.name+"=") {
				t.Errorf("key %s of --%s is not in the help:\n%s", k.name, f.name, help)
			}
		}
	}
}

func TestExportsComplete(t *testing.T) {
	got := exportFlagNamed("socket").complete("name=x,l")
	if !slices.Contains(got, "name=x,listen=on") || slices.ContainsFunc(got, func(s string) bool { return strings.HasSuffix(s, ",name=") }) {
		t.Errorf("completions %q; want listen's words and no second name", got)
	}
	if got := exportFlagNamed("pipe").complete("name=x,mode=r"); !slices.Equal(got, []string{"name=x,mode=read", "name=x,mode=write"}) {
		t.Errorf("completions %q", got)
	}
	var p policyValue
	if got := p.complete(""); !slices.Equal(got, []string{"deny=", "allow=", "deny-flag=", "allow-flag="}) {
		t.Errorf("completions %q", got)
	}
	if got := p.complete("deny=nop,deny-flag=link,"); !slices.Contains(got, "deny=nop,deny-flag=link,async") || !slices.Contains(got, "deny=nop,deny-flag=link,allow=") {
		t.Errorf("completions %q", got)
	}
	if got := p.complete("deny=nop,acc"); !slices.Contains(got, "deny=nop,accept") {
		t.Errorf("completions %q", got)
	}
}
