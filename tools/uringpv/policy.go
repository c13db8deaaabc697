// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/hostring"
)

// policyValue is which opcodes the guest may not use, of those that the backend
// has: the value of --export-policy.
type policyValue struct {
	deny abi.Opcodes
	text string // as it was given
}

func (p *policyValue) String() string { return p.text }

// Set reads deny=OPCODE[,OPCODE...] or allow=OPCODE[,OPCODE...].
func (p *policyValue) Set(s string) error {
	if p.text != "" {
		return fmt.Errorf("is given twice, %s before; one policy names all opcodes", p.text)
	}
	verb, list, ok := strings.Cut(s, "=")
	if !ok || verb != "deny" && verb != "allow" {
		return errors.New("must be deny=OPCODE[,OPCODE...] or allow=OPCODE[,OPCODE...]")
	}
	var named abi.Opcodes
	for name := range strings.SplitSeq(list, ",") {
		op, ok := hostring.OpNamed(name)
		if !ok {
			return fmt.Errorf("unknown opcode %q; names are io_uring's in lower case, such as accept, connect or read_fixed", name)
		}
		one := abi.OpcodesOf(op)
		named = named.Union(&one)
	}
	p.text, p.deny = s, named
	if verb == "allow" {
		var all abi.Opcodes
		for i := range all {
			all[i] = 0xff
		}
		p.deny = all.Without(&named)
	}
	return nil
}

func (*policyValue) Type() string { return "POLICY" }

// complete offers opcodes' names.
func (p *policyValue) complete(toComplete string) []string {
	verb, list, ok := strings.Cut(toComplete, "=")
	if !ok {
		return []string{"deny=", "allow="}
	}
	head := verb + "=" + list[:strings.LastIndexByte(list, ',')+1]
	var out []string
	for op := range hostring.OpPipe + 1 {
		out = append(out, head+hostring.OpName(op))
	}
	return out
}
