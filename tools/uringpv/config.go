// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// namedMachine is one machine of a --config file: what a `uringpv run` of its own
// would be, and a name.
type namedMachine struct {
	name    string
	options *runOptions
}

// Keys of a machine that are no flags of run, and flags of run that are no keys:
// those are for all machines, on the command line.
const keyName = "name"

var notKeys = []string{flagConfig, "report", "verbose", "help"}

// maxMachines is the most machines of a file: a process has room for 64, and a trial
// of what the host can do takes one.
const maxMachines = 63

// readConfig reads a file of machines, YAML or JSON: an object whose "machines" is
// a list of objects. Their keys are run's flags, and name; a flag that may be
// repeated takes a list. The error is a *usageError that names the file, the line
// and what would be right, or the file's.
func readConfig(path string) ([]namedMachine, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flagConfig, err)
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(b))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, usagef("--%s %s: the file is empty; it has a list, \"machines\"", flagConfig, path)
	case err != nil:
		return nil, usagef("--%s %s: %v", flagConfig, path, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, usagef("--%s %s: more than one document", flagConfig, path)
	}
	machines, err := machinesOf(doc.Content[0])
	if err != nil {
		var at *lineError
		if errors.As(err, &at) {
			return nil, usagef("--%s %s:%d: %s", flagConfig, path, at.line, at.text)
		}
		return nil, err
	}
	return machines, nil
}

// lineError is what is wrong in a line of the file.
type lineError struct {
	line int
	text string
}

func (e *lineError) Error() string { return e.text }

func wrong(n *yaml.Node, format string, args ...any) error {
	return &lineError{n.Line, fmt.Sprintf(format, args...)}
}

func machinesOf(root *yaml.Node) ([]namedMachine, error) {
	list, err := field(root, "machines")
	if err != nil {
		return nil, err
	}
	if list.Kind != yaml.SequenceNode || len(list.Content) == 0 || len(list.Content) > maxMachines {
		return nil, wrong(list, "machines: must be a list of 1 to %d machines", maxMachines)
	}
	var out []namedMachine
	for i, n := range list.Content {
		m, err := machineOf(n, i)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o namedMachine) bool { return o.name == m.name }) {
			return nil, wrong(n, "machine %s: there are two of this name", m.name)
		}
		out = append(out, m)
	}
	return out, nil
}

// field is the value of the one key that n has.
func field(n *yaml.Node, key string) (*yaml.Node, error) {
	if n.Kind != yaml.MappingNode {
		return nil, wrong(n, "must be an object with the key %q", key)
	}
	var found *yaml.Node
	for i := 0; i < len(n.Content); i += 2 {
		switch k := n.Content[i]; {
		case k.Value != key:
			return nil, wrong(k, "%s: unknown key; there is %q", k.Value, key)
		case found != nil:
			return nil, wrong(k, "%s: a second time", key)
		default:
			found = resolved(n.Content[i+1])
		}
	}
	if found == nil {
		return nil, wrong(n, "there is no %q", key)
	}
	return found, nil
}

// validName is a machine's name: it begins each line that the machine writes.
var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)

// machineOf reads the i-th machine. Without a name it is m0, m1 and so on.
func machineOf(n *yaml.Node, i int) (namedMachine, error) {
	n = resolved(n)
	if n.Kind != yaml.MappingNode {
		return namedMachine{}, wrong(n, "machine %d: must be an object with the keys %q and run's flags, without --", i, keyName)
	}
	m := namedMachine{name: fmt.Sprintf("m%d", i), options: newRunOptions()}
	cmd := runCommand(m.options)
	flags := cmd.Flags()
	seen := map[string]bool{}
	for k := 0; k < len(n.Content); k += 2 {
		key, value := n.Content[k], resolved(n.Content[k+1])
		if seen[key.Value] {
			return m, wrong(key, "machine %s: %s: a second time; several values are a list", m.name, key.Value)
		}
		seen[key.Value] = true
		if key.Value == keyName {
			if value.Kind != yaml.ScalarNode || !validName.MatchString(value.Value) {
				return m, wrong(value, "name %q: must be 1 to 32 letters, digits, dots, dashes and underscores", value.Value)
			}
			m.name = value.Value
			continue
		}
		flag := flags.Lookup(key.Value)
		if flag == nil || slices.Contains(notKeys, key.Value) {
			return m, wrong(key, "machine %s: %s: no such key; there are %q and run's flags, such as guest, kernel, disk and memory", m.name, key.Value, keyName)
		}
		values := []*yaml.Node{value}
		if value.Kind == yaml.SequenceNode {
			if values = value.Content; len(values) > 1 && !repeatable(flag.Value) {
				return m, wrong(value, "machine %s: %s: takes one value", m.name, key.Value)
			}
		}
		for _, v := range values {
			if v = resolved(v); v.Kind != yaml.ScalarNode || v.Tag == "!!null" {
				return m, wrong(v, "machine %s: %s: must be a value as on the command line, or a list of such", m.name, key.Value)
			}
			if err := flags.Set(key.Value, v.Value); err != nil {
				return m, wrong(v, "machine %s: %v", m.name, flagError(cmd, err))
			}
		}
	}
	m.options.defaults(flags)
	if err := m.options.check(); err != nil {
		return m, wrong(n, "machine %s: %v", m.name, err)
	}
	return m, nil
}

// repeatable says whether a flag of this kind may be given several times.
func repeatable(v pflag.Value) bool {
	switch v.(type) {
	case *diskList, exportValue, pflag.SliceValue:
		return true
	}
	return false
}

// resolved is what an alias stands for, and n itself if it is none.
func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}
