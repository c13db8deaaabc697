// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/uringpv/uringpv/internal/interrupt"
)

func main() {
	os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs one command line and returns the exit status. It returns only
// when everything that the command made has been taken down.
func execute(args []string, stdout, stderr io.Writer) int {
	ctx, end, stop := interrupt.Context(context.Background())
	defer stop()

	out, errout := &patientWriter{w: stdout, gone: func() { end(syscall.SIGPIPE) }}, &patientWriter{w: stderr}
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errout)
	err := root.ExecuteContext(ctx)
	if flushErr := out.Flush(); err == nil && flushErr != nil {
		err = fmt.Errorf("write to stdout: %w", flushErr)
	}
	if cause := context.Cause(ctx); isBrokenPipe(cause) {
		err = cause // whatever came of it
	}
	if err != nil && !isReported(err) {
		fmt.Fprintf(errout, "uringpv: %s\n", oneLine(err.Error()))
	}
	_ = errout.Flush() // there is nowhere left to say that it failed
	return exitStatus(err)
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "uringpv",
		Short: "Virtual machines whose guests do I/O on the host's io_uring",
		Long: `uringpv runs KVM virtual machines whose guests do their I/O on the host's own
io_uring: the guest fills submission rings in its own memory, the host's kernel
consumes them, and completions come back as interrupts. While a ring is busy, an
I/O costs no VM exit, no system call and no copy.

Begin with "uringpv run", which boots a small built-in guest that tests the whole
path on a scratch disk, or "uringpv probe", which says what this host can do.

Exit status: 0 all is well, 1 a failure, 2 wrong usage, 129, 130 and 143 ended by
SIGHUP, SIGINT and SIGTERM, 141 nobody reads stdout any more. Results are on stdout,
logs and errors on stderr.`,
		Args:          noSuchCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       versionString(),
		// A slip of one or two letters gets a proposal.
		SuggestionsMinimumDistance: 2,
	}
	root.Flags().Bool("version", false, "print the version") // no -v, which is --verbose elsewhere
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.AddCommand(newRunCommand(), newProbeCommand(), newBenchCommand(), newImageCommand(), newVersionCommand())
	for _, c := range root.Commands() {
		c.Args = noArguments
	}
	return root
}

// noSuchCommand refuses what follows the program's name and is no command of its.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef("unknown command %q; did you mean %q?", args[0], strings.Join(near, `" or "`))
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return usagef("unknown command %q; there are %s", args[0], strings.Join(names, ", "))
}

// noArguments refuses arguments beside flags, of commands that take none.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usagef("%s: unexpected argument %q; the command takes only flags, %q lists them", cmd.Name(), args[0], cmd.CommandPath()+" --help")
}

// newLogger logs to w: warnings, and more with each -v.
func newLogger(w io.Writer, verbosity int) *slog.Logger {
	level := slog.LevelWarn
	switch {
	case verbosity == 1:
		level = slog.LevelInfo
	case verbosity > 1:
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
