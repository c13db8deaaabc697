// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/uringpv/uringpv/internal/interrupt"
)

// Exit statuses. A signal's is that of its interrupt.Error.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// usageError is a command line that cannot be what its author meant.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// failedCases is a run that went to its end and found failures. The report has
// said which.
type failedCases struct{ failed int }

func (e *failedCases) Error() string { return fmt.Sprintf("%d cases failed", e.failed) }

// isReported reports whether the user has seen what err says, or does not want to: who
// has closed a pipe knows that.
func isReported(err error) bool {
	var failed *failedCases
	return errors.As(err, &failed) || isBrokenPipe(err)
}

// isBrokenPipe reports whether err is the end of a run whose output nobody reads.
func isBrokenPipe(err error) bool {
	var signal *interrupt.Error
	return errors.As(err, &signal) && signal.Signal == syscall.SIGPIPE
}

func exitStatus(err error) int {
	var usage *usageError
	var signal *interrupt.Error
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &signal):
		return signal.Status()
	case errors.As(err, &usage):
		return exitUsage
	default:
		return exitFailure
	}
}

// oneLine makes one line of an error that other packages composed of several.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// flagError says in one line which flag is wrong and where to see what is right.
func flagError(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	var unknown *pflag.NotExistError
	var lacking *pflag.ValueRequiredError
	switch {
	case errors.As(err, &invalid):
		return usagef("--%s %q: %v", invalid.GetFlag().Name, invalid.GetValue(), invalid.Unwrap())
	case errors.As(err, &unknown):
		name := "--" + unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			name = "-" + unknown.GetSpecifiedName()
		}
		return usagef("unknown flag %s; %q lists the flags", name, cmd.CommandPath()+" --help")
	case errors.As(err, &lacking):
		return usagef("--%s needs a value: %s", lacking.GetFlag().Name, lacking.GetFlag().Usage)
	default:
		return usagef("%v; %q lists the flags", err, cmd.CommandPath()+" --help")
	}
}
