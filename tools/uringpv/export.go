// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/uringpv/uringpv/device/uringpv/export"
)

// exportSpec is one --file, --socket, --pipe, --eventfd or --tap: something of
// the host's besides disks that the guest may use. It can be compared.
type exportSpec struct {
	Flag string // without its dashes
	Name string // in the guest

	Path             string // of a file; of a named pipe, empty for a fresh one
	ReadOnly, Direct bool   // of a file
	WriteEnd         bool   // of a named pipe: the end that the guest writes

	Network      export.Network // of a socket
	Address      string
	Dgram        bool
	Listen       bool
	GuestConnect bool
	AnyPeer      bool

	Interface string // of a TAP
}

// exportKey is one key of such a flag.
type exportKey struct {
	name string
	hint string // the form of its value, for help
	doc  string
	set  func(e *exportSpec, value string) error
	get  func(e exportSpec) string // empty: as if the key were not given
}

// exportFlag is one of the flags.
type exportFlag struct {
	name  string
	short string // what it is, in two words
	usage string // the form of its value, for help
	doc   string
	keys  []exportKey
	check func(e *exportSpec, given map[string]bool) error
}

var exportFlags = []exportFlag{
	{
		name: "file", short: "a file", usage: "name=NAME,path=PATH[,KEY=VALUE...]",
		doc: "a regular file or a block device, read and written at offsets; it never grows",
		keys: []exportKey{
			nameKey,
			textKey("path", "PATH", "the file", func(e *exportSpec) *string { return &e.Path }),
			wordKey("readonly", "on", "off", "open the file for reading only", func(e *exportSpec) *bool { return &e.ReadOnly }),
			wordKey("direct", "on", "off", "bypass the host's page cache, O_DIRECT", func(e *exportSpec) *bool { return &e.Direct }),
		},
		check: func(_ *exportSpec, given map[string]bool) error { return needs(given, "name", "path") },
	},
	{
		name: "socket", short: "a socket", usage: "name=NAME,unix=PATH|udp=HOST:PORT|tcp=HOST:PORT[,KEY=VALUE...]",
		doc: "a socket of the host's, connected when the run begins if no key says otherwise",
		keys: []exportKey{
			nameKey,
			addressKey(export.Unix, "PATH", "a UNIX socket; with '@' first a name without a file"),
			addressKey(export.UDP, "HOST:PORT", "a UDP socket"),
			addressKey(export.TCP, "HOST:PORT", "a TCP socket"),
			wordKey("type", "dgram", "stream", "datagrams or a stream, for a UNIX socket", func(e *exportSpec) *bool { return &e.Dgram }),
			wordKey("listen", "on", "off", "the address is the socket's own: a stream's guest accepts connections", func(e *exportSpec) *bool { return &e.Listen }),
			wordKey("connect", "guest", "start", "leave it to the guest to connect it, to this address only", func(e *exportSpec) *bool { return &e.GuestConnect }),
			wordKey("peer", "any", "one", "let datagrams go to any address that the host reaches", func(e *exportSpec) *bool { return &e.AnyPeer }),
		},
		check: checkSocket,
	},
	{
		name: "pipe", short: "a pipe", usage: "name=NAME[,path=FIFO,mode=read|write]",
		doc: "a fresh pipe, whose ends are NAME.read and NAME.write, or one end of a named pipe",
		keys: []exportKey{
			nameKey,
			textKey("path", "FIFO", "the named pipe", func(e *exportSpec) *string { return &e.Path }),
			{
				name: "mode", hint: "read|write", doc: "what the guest does with the named pipe",
				set: func(e *exportSpec, v string) error {
					if v != "read" && v != "write" {
						return errors.New("must be read or write")
					}
					e.WriteEnd = v == "write"
					return nil
				},
				get: func(e exportSpec) string {
					switch {
					case e.Path == "":
						return ""
					case e.WriteEnd:
						return "write"
					}
					return "read"
				},
			},
		},
		check: func(_ *exportSpec, given map[string]bool) error {
			if given["path"] != given["mode"] {
				return errors.New("path=FIFO and mode=read|write go together; leave out both for a fresh pipe")
			}
			return needs(given, "name")
		},
	},
	{
		name: "eventfd", short: "an eventfd", usage: "name=NAME",
		doc:   "an eventfd: a counter that reads and writes of 8 bytes change",
		keys:  []exportKey{nameKey},
		check: func(_ *exportSpec, given map[string]bool) error { return needs(given, "name") },
	},
	{
		name: "tap", short: "a network interface", usage: "IFNAME | name=NAME,ifname=IFNAME",
		doc: "a TAP interface of the host's network: an Ethernet frame for each read and write",
		keys: []exportKey{
			nameKey,
			{
				name: "ifname", hint: "IFNAME", doc: "the interface; one that is not there is made for the run",
				set: func(e *exportSpec, v string) error {
					if v == "" || len(v) > export.MaxInterface || v == "." || v == ".." || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' }) {
						return fmt.Errorf("a network interface's name has 1 to %d characters, no space, '/' or ':'", export.MaxInterface)
					}
					e.Interface = v
					return nil
				},
				get: func(e exportSpec) string { return e.Interface },
			},
		},
		check: func(e *exportSpec, given map[string]bool) error {
			if err := needs(given, "ifname"); err != nil {
				return err
			}
			if e.Name == "" {
				return nameKey.set(e, e.Interface)
			}
			return nil
		},
	},
}

// maxNameLength is the longest name of an export, in characters. That of a pipe's
// end is longer.
const maxNameLength = 31

var nameKey = exportKey{
	name: "name", hint: "NAME", doc: "its name in the guest",
	set: func(e *exportSpec, v string) error {
		for i, r := range v {
			letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
			if !letter && (i == 0 || !strings.ContainsRune("._-", r)) {
				return errors.New("a name is letters, digits, '.', '_' and '-', and begins with a letter or a digit")
			}
		}
		if len(v) < 1 || len(v) > maxNameLength {
			return fmt.Errorf("a name has 1 to %d characters", maxNameLength)
		}
		e.Name = v
		return nil
	},
	get: func(e exportSpec) string { return e.Name },
}

// textKey is a key whose value is any text but an empty one.
func textKey(name, hint, doc string, field func(*exportSpec) *string) exportKey {
	return exportKey{
		name: name, hint: hint, doc: doc,
		set: func(e *exportSpec, v string) error {
			switch {
			case v == "":
				return errors.New("must not be empty")
			case strings.ContainsRune(v, 0):
				return errors.New("a path has no NUL character")
			}
			*field(e) = v
			return nil
		},
		get: func(e exportSpec) string { return *field(&e) },
	}
}

// wordKey is a key with two words for its value, the second the default.
func wordKey(name, yes, no, doc string, field func(*exportSpec) *bool) exportKey {
	return exportKey{
		name: name, hint: yes + "|" + no, doc: fmt.Sprintf("%s (default %s)", doc, no),
		set: func(e *exportSpec, v string) error {
			if v != yes && v != no {
				return fmt.Errorf("must be %s or %s", yes, no)
			}
			*field(e) = v == yes
			return nil
		},
		get: func(e exportSpec) string {
			if *field(&e) {
				return yes
			}
			return ""
		},
	}
}

// addressKey is the key of a kind of address.
func addressKey(network export.Network, hint, doc string) exportKey {
	return exportKey{
		name: string(network), hint: hint, doc: doc,
		set: func(e *exportSpec, v string) error {
			if e.Network != "" {
				return fmt.Errorf("a socket has one address, and %s=%s is given", e.Network, e.Address)
			}
			e.Network, e.Address = network, v
			return nil
		},
		get: func(e exportSpec) string {
			if e.Network == network {
				return e.Address
			}
			return ""
		},
	}
}

// needs says which of keys is not given.
func needs(given map[string]bool, keys ...string) error {
	for _, k := range keys {
		if !given[k] {
			return fmt.Errorf("%s= is missing", k)
		}
	}
	return nil
}

// checkSocket checks what no key of --socket can see by itself.
func checkSocket(e *exportSpec, given map[string]bool) error {
	if err := needs(given, "name"); err != nil {
		return err
	}
	if e.Network == "" {
		return errors.New("the address is missing: unix=PATH, udp=HOST:PORT or tcp=HOST:PORT")
	}
	dgram := e.Network == export.UDP || e.Network == export.Unix && e.Dgram
	switch {
	case given["type"] && e.Network != export.Unix && e.Dgram != dgram:
		return fmt.Errorf("type= is for UNIX sockets: %s has no choice", e.Network)
	case e.Listen && e.GuestConnect:
		return errors.New("listen=on and connect=guest: a socket listens or is connected")
	case e.AnyPeer && !dgram:
		return errors.New("peer=any is for datagrams: a stream has one peer")
	}
	e.Dgram = dgram
	o := e.socket()
	if err := o.CheckAddress(); err != nil {
		return fmt.Errorf("%s=%s: %w", e.Network, e.Address, err)
	}
	return nil
}

// socket is what to open for a --socket.
func (e exportSpec) socket() export.SocketOptions {
	return export.SocketOptions{
		Name: e.Name, Network: e.Network, Address: e.Address, Dgram: e.Dgram,
		Listen: e.Listen, GuestConnect: e.GuestConnect, AnyPeer: e.AnyPeer,
	}
}

// exportFlagNamed is the flag of that name, which there is.
func exportFlagNamed(name string) *exportFlag {
	return &exportFlags[slices.IndexFunc(exportFlags, func(f exportFlag) bool { return f.name == name })]
}

// key is the flag's key of that name, or nil.
func (f *exportFlag) key(name string) *exportKey {
	i := slices.IndexFunc(f.keys, func(k exportKey) bool { return k.name == name })
	if i < 0 {
		return nil
	}
	return &f.keys[i]
}

// keyNames are the keys' names, for messages.
func (f *exportFlag) keyNames() string {
	var names []string
	for _, k := range f.keys {
		names = append(names, k.name)
	}
	return strings.Join(names, ", ")
}

// parse reads key=value[,key=value...]. A comma in a value is written twice.
func (f *exportFlag) parse(s string) (exportSpec, error) {
	e := exportSpec{Flag: f.name}
	fields := splitCommas(s)
	if f.name == "tap" && !strings.Contains(fields[0], "=") {
		fields[0] = "ifname=" + fields[0]
	}
	given := map[string]bool{}
	for _, field := range fields {
		name, value, ok := strings.Cut(field, "=")
		k := f.key(name)
		switch {
		case k == nil:
			return exportSpec{}, fmt.Errorf("unknown key %q; there are %s", name, f.keyNames())
		case !ok:
			return exportSpec{}, fmt.Errorf("key %s has no value; write %s=%s", name, name, k.hint)
		case given[name]:
			return exportSpec{}, fmt.Errorf("key %s is given twice", name)
		}
		given[name] = true
		if err := k.set(&e, value); err != nil {
			return exportSpec{}, fmt.Errorf("%s=%s: %w", name, value, err)
		}
	}
	if err := f.check(&e, given); err != nil {
		return exportSpec{}, err
	}
	return e, nil
}

// String writes e so that its flag's parse reads the same again.
func (e exportSpec) String() string {
	var fields []string
	for _, k := range exportFlagNamed(e.Flag).keys {
		if v := k.get(e); v != "" && !(k.name == "type" && e.Network != export.Unix) {
			fields = append(fields, k.name+"="+strings.ReplaceAll(v, ",", ",,"))
		}
	}
	return strings.Join(fields, ",")
}

// names are the names of its files in the guest.
func (e exportSpec) names() []string {
	if e.Flag == "pipe" && e.Path == "" {
		return []string{e.Name + export.ReadEnd, e.Name + export.WriteEnd}
	}
	return []string{e.Name}
}

// exportValue is the value of one of the flags: they share a list, so that the
// files are in the command line's order.
type exportValue struct {
	flag *exportFlag
	list *[]exportSpec
}

func (v exportValue) String() string {
	if v.list == nil { // pflag asks a zero value for its default
		return ""
	}
	var all []string
	for _, e := range *v.list {
		if e.Flag == v.flag.name {
			all = append(all, e.String())
		}
	}
	return strings.Join(all, " ")
}

func (v exportValue) Set(s string) error {
	e, err := v.flag.parse(s)
	if err != nil {
		return err
	}
	*v.list = append(*v.list, e)
	return nil
}

func (v exportValue) Type() string { return "KEY=VALUE[,...]" }

// complete offers what may follow toComplete.
func (f *exportFlag) complete(toComplete string) []string {
	fields := splitCommas(toComplete)
	last := fields[len(fields)-1]
	head := toComplete[:len(toComplete)-len(last)]
	given := map[string]bool{}
	for _, field := range fields[:len(fields)-1] {
		name, _, _ := strings.Cut(field, "=")
		given[name] = true
	}
	var out []string
	for _, k := range f.keys {
		if given[k.name] || strings.Contains(last, "=") && !strings.HasPrefix(last, k.name+"=") {
			continue
		}
		values := []string{""}
		if strings.Contains(k.hint, "|") {
			values = strings.Split(k.hint, "|")
		}
		for _, v := range values {
			out = append(out, head+k.name+"="+v)
		}
	}
	return out
}

// exportHelp is the table of the flags' keys for `uringpv run --help`.
func exportHelp() string {
	var b strings.Builder
	for _, f := range exportFlags {
		fmt.Fprintf(&b, "  --%s %s\n      %s\n", f.name, f.usage, f.doc)
		for _, k := range f.keys[1:] {
			fmt.Fprintf(&b, "      %-22s %s\n", k.name+"="+k.hint, k.doc)
		}
	}
	return b.String()
}
