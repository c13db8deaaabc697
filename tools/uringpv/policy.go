// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/uringpv/uringpv/device/uringpv"
	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
)

// policyHelp is what `uringpv run --help` says of --export-policy.
const policyHelp = `--export-policy RULE[,RULE...] takes from that device what the guest may not ask for;
an SQE that asks gets -EACCES. A value without a key is one more of the key before it:
  deny=OPCODE            not this opcode: io_uring's name in lower case, such as accept
                         or read_fixed
  allow=OPCODE           no opcode but those that are allowed so
  deny=OPCODE:NAME       not this opcode with the file of that name, nor with what is
                         accepted from it; the device gets the backend relay
  allow=OPCODE:NAME      no opcode but those with that file
  deny-flag=FLAG         not this flag of SQEs: drain, link, hardlink, async or
                         cqe_skip_success
  allow-flag=FLAG        no flag but those
For example deny=accept,connect,write:data,deny-flag=async`

// policyFlags are the IOSQE_* that a policy can speak of: every SQE has
// IOSQE_FIXED_FILE, and no device IOSQE_BUFFER_SELECT.
var policyFlags = []struct {
	name string
	flag uint8
}{
	{"drain", hostring.SQEIODrain}, {"link", hostring.SQEIOLink}, {"hardlink", hostring.SQEIOHardlink},
	{"async", hostring.SQEAsync}, {"cqe_skip_success", hostring.SQECQESkipSuccess},
}

// policyKeys are the keys of rules.
var policyKeys = []string{"deny", "allow", "deny-flag", "allow-flag"}

// policyValue is the value of --export-policy: what the guest may not ask for, of
// what the backend has.
type policyValue struct {
	deny  abi.Opcodes
	flags uint8                  // IOSQE_* that are denied
	files map[string]abi.Opcodes // opcodes that are denied for single files, by name
	text  string                 // as it was given
}

func (p *policyValue) String() string { return p.text }

// Set reads KEY=VALUE[,VALUE...][,KEY=VALUE...]...
func (p *policyValue) Set(s string) error {
	if p.text != "" {
		return fmt.Errorf("is given twice, %s before; one policy has all rules, separated by commas", p.text)
	}
	rules := policyRules{files: map[string]*policyScope{}}
	key := ""
	for field := range strings.SplitSeq(s, ",") {
		k, value, ok := strings.Cut(field, "=")
		if !ok {
			k, value = key, field
		}
		if !slices.Contains(policyKeys, k) {
			return fmt.Errorf("%q: must be deny=OPCODE[:NAME], allow=OPCODE[:NAME], deny-flag=FLAG or allow-flag=FLAG", field)
		}
		key = k
		if err := rules.add(key, value); err != nil {
			return err
		}
	}
	*p = rules.policy(s)
	return nil
}

// policyRules is what rules name.
type policyRules struct {
	opcodes policyScope
	files   map[string]*policyScope
	flags   struct {
		deny, allow uint8
		only        bool // allow counts
	}
}

// policyScope is the opcodes that rules name for all files, or for one.
type policyScope struct {
	deny, allow abi.Opcodes
	only        bool // allow counts
}

// denied is what is left of all when the scope's rules have had their say.
func (s *policyScope) denied(all abi.Opcodes) abi.Opcodes {
	if !s.only {
		return s.deny
	}
	rest := all.Without(&s.allow)
	return rest.Union(&s.deny)
}

// add takes one value of a key.
func (r *policyRules) add(key, value string) error {
	if key == "deny-flag" || key == "allow-flag" {
		i := slices.IndexFunc(policyFlags, func(f struct {
			name string
			flag uint8
		}) bool {
			return f.name == value
		})
		switch {
		case i < 0:
			return fmt.Errorf("unknown SQE flag %q; there are drain, link, hardlink, async and cqe_skip_success", value)
		case key == "deny-flag":
			r.flags.deny |= policyFlags[i].flag
		default:
			r.flags.allow, r.flags.only = r.flags.allow|policyFlags[i].flag, true
		}
		return nil
	}
	name, file, single := strings.Cut(value, ":")
	op, ok := hostring.OpNamed(name)
	scope := &r.opcodes
	switch {
	case !ok:
		return fmt.Errorf("unknown opcode %q; names are io_uring's in lower case, such as accept, connect or read_fixed", name)
	case single && file == "":
		return fmt.Errorf("%s=%s: the file's name is missing, OPCODE:NAME", key, value)
	case single && !uringpv.NamesFile(op):
		return fmt.Errorf("%s=%s: no guest can use %s with a file; %s=%s speaks of all", key, value, name, key, name)
	case single:
		if r.files[file] == nil {
			r.files[file] = &policyScope{}
		}
		scope = r.files[file]
	}
	one := abi.OpcodesOf(op)
	if key == "deny" {
		scope.deny = scope.deny.Union(&one)
	} else {
		scope.allow, scope.only = scope.allow.Union(&one), true
	}
	return nil
}

// policy is what all rules mean together.
func (r *policyRules) policy(text string) policyValue {
	var all, ofFiles abi.Opcodes
	for op := range 256 {
		one := abi.OpcodesOf(uint8(op))
		all = all.Union(&one)
		if uringpv.NamesFile(uint8(op)) {
			ofFiles = ofFiles.Union(&one)
		}
	}
	p := policyValue{deny: r.opcodes.denied(all), flags: r.flags.deny, text: text}
	for _, f := range policyFlags {
		if r.flags.only && r.flags.allow&f.flag == 0 {
			p.flags |= f.flag
		}
	}
	for name, s := range r.files {
		if p.files == nil {
			p.files = map[string]abi.Opcodes{}
		}
		p.files[name] = s.denied(ofFiles)
	}
	return p
}

// check says which rule speaks of a file that there is not.
func (p *policyValue) check(names []string) error {
	for _, name := range slices.Sorted(maps.Keys(p.files)) {
		if !slices.Contains(names, name) {
			return fmt.Errorf("no file is named %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// apply is files with what the policy says of single ones.
func (p *policyValue) apply(files []uringpv.File) []uringpv.File {
	files = slices.Clone(files)
	for i := range files {
		files[i].Deny = p.files[files[i].Name]
	}
	return files
}

func (*policyValue) Type() string { return "POLICY" }

// complete offers keys, and the values of the last one.
func (p *policyValue) complete(toComplete string) []string {
	head := toComplete[:strings.LastIndexByte(toComplete, ',')+1]
	last := toComplete[len(head):]
	key, _, ok := strings.Cut(last, "=")
	var out []string
	if ok {
		head += key + "="
	} else {
		for _, k := range policyKeys {
			out = append(out, head+k+"=")
		}
		before := head[:strings.LastIndexByte(head, '=')+1]
		key = strings.TrimSuffix(before[strings.LastIndexByte(before, ',')+1:], "=")
	}
	switch key {
	case "deny", "allow":
		for op := range hostring.OpPipe + 1 {
			out = append(out, head+hostring.OpName(op))
		}
	case "deny-flag", "allow-flag":
		for _, f := range policyFlags {
			out = append(out, head+f.name)
		}
	}
	return out
}
