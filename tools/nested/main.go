// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/uringpv/uringpv/images"
	"github.com/uringpv/uringpv/internal/interrupt"
)

// Exit statuses besides the program's own.
const (
	exitUsage   = 2
	exitTimeout = 124 // as timeout(1) has it
	exitMachine = 125 // the machine failed, not the program
)

func main() {
	if os.Getpid() == 1 {
		runInit()
	}
	ctx, end, stop := interrupt.Context(context.Background())
	code := 0
	root := newRootCommand(&code)
	root.SetOut(&output{os.Stdout, func() { end(syscall.SIGPIPE) }})
	root.SetErr(os.Stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "nested: %v\n", err)
		code = exitStatus(ctx, err)
	}
	stop()
	os.Exit(code)
}

// machineError is a machine that did not run its program to the end.
type machineError struct {
	code int
	err  error
}

func (e *machineError) Error() string { return e.err.Error() }
func (e *machineError) Unwrap() error { return e.err }

func newRootCommand(code *int) *cobra.Command {
	root := &cobra.Command{
		Use:   "nested",
		Short: "Run a program on an emulated machine with a real kvm-amd",
		Long: `nested runs a static program in a machine that QEMU emulates, without /dev/kvm
and without root. The machine's CPU has AMD-V, so that kvm-amd works in it.

Exit status: the program's own; 128 and the signal's number if a signal ended it, or
nested; 124 after --timeout; 125 if the machine failed; 2 wrong usage.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newPrepareCommand(), newRunCommand(code), newTestCommand(), newQEMUCommand())
	return root
}

func newPrepareCommand() *cobra.Command {
	var kernel string
	var cache images.CacheOptions
	cmd := &cobra.Command{
		Use:   "prepare",
		Short: "Make the machine and print its directory",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cache.Report = cmd.ErrOrStderr()
			c, err := images.OpenCache(cache)
			if err != nil {
				return &machineError{exitMachine, err}
			}
			dir, err := prepare(cmd.Context(), c, kernel)
			if err != nil {
				return &machineError{exitMachine, err}
			}
			fmt.Fprintln(cmd.OutOrStdout(), dir)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&kernel, "kernel", "6.12", "the machine's own kernel: 6.1, 6.12 or newest")
	cacheFlags(f, &cache)
	return cmd
}

// cacheFlags are the flags that say where Debian's packages come from and go to.
func cacheFlags(f *pflag.FlagSet, o *images.CacheOptions) {
	f.StringVar(&o.Dir, "cache", os.Getenv("URINGPV_TEST_CACHE"), "directory of downloads (default $URINGPV_TEST_CACHE, or uringpv in the user's cache directory)")
	f.StringVar(&o.Mirrors.Main, "mirror", "", "URI of Debian's archive (default: the one that apt uses)")
	f.StringVar(&o.Mirrors.Security, "security-mirror", "", "URI of its security updates (default: the one that apt uses, or Debian's own)")
}

func newQEMUCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "qemu",
		Short: "Print the command of the machine's QEMU, in words with blanks between",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := images.OpenCache(images.CacheOptions{Report: cmd.ErrOrStderr()})
			if err != nil {
				return &machineError{exitMachine, err}
			}
			command, _, err := findQEMU(cmd.Context(), c)
			if err != nil {
				return &machineError{exitMachine, err}
			}
			fmt.Fprintln(cmd.OutOrStdout(), strings.Join(command, " "))
			return nil
		},
	}
}

func newRunCommand(code *int) *cobra.Command {
	r := &run{}
	cmd := &cobra.Command{
		Use:   "run --machine DIR [flags] -- PROGRAM [ARGS...]",
		Short: "Boot the machine and run a program in it",
		Long: `run boots the machine and runs PROGRAM in it, a static executable, in a directory
with the files of the current one's testdata. Its stdout and stderr come out on
stdout, its exit status is the command's.

Environment variables that begin with REQUIRE_ or URINGPV_ are passed on.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.stdout, r.stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			status, err := r.run(cmd.Context(), args)
			if err != nil {
				if _, ok := errors.AsType[*machineError](err); ok {
					return err
				}
				return &machineError{exitMachine, err}
			}
			*code = status
			return nil
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows PROGRAM is PROGRAM's
	f.StringVar(&r.machine, "machine", os.Getenv("NESTED_MACHINE"), "directory that `nested prepare` printed (default $NESTED_MACHINE)")
	f.IntVar(&r.cpus, "cpus", 2, "virtual CPUs")
	f.IntVar(&r.memory, "memory", 3072, "RAM in MiB")
	f.DurationVar(&r.timeout, "timeout", 10*time.Minute, "end the machine after this time")
	f.IntVar(&r.disk, "disk", 4096, "size of the scratch disk in MiB, an ext4 on NVMe at /disk; 0: none")
	f.StringArrayVar(&r.put, "put", nil, "HOST[:GUEST]: put a file or directory into the machine, at the same path if GUEST is left out; repeatable")
	f.StringArrayVar(&r.images, "image", nil, "FILE: give the machine a disk with this content, /images/NAME; what it writes there is lost; repeatable")
	f.BoolVar(&r.tty, "tty", false, "give the program the terminal")
	f.BoolVarP(&r.verbose, "verbose", "v", false, "show the machine's console on stderr")
	return cmd
}
