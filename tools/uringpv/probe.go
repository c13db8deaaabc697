// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/uringpv/uringpv/device/uringpv/isolated"
	"github.com/uringpv/uringpv/device/uringpv/passthrough"
	"github.com/uringpv/uringpv/hostring"
	"github.com/uringpv/uringpv/internal/feature"
	"github.com/uringpv/uringpv/vmm"
)

// probeReport is what this host can do.
type probeReport struct {
	Kernel    string          `json:"kernel"`
	KVM       kvmProbe        `json:"kvm"`
	IOUring   ioUringProbe    `json:"io_uring"`
	Features  []featureProbe  `json:"features"`
	Memlock   feature.Memlock `json:"memlock"`    // bytes
	OpenFiles feature.Limit   `json:"open_files"` // descriptors
	FileSize  feature.Limit   `json:"file_size"`  // bytes
	Backends  []backendProbe  `json:"backends"`
}

type kvmProbe struct {
	Kind   string `json:"kind"`
	Usable bool   `json:"usable"`
	Why    string `json:"why,omitempty"`

	// LinuxGuests says whether a Linux kernel can run on it.
	LinuxGuests bool   `json:"linux_guests"`
	WhyNoLinux  string `json:"why_no_linux,omitempty"`
}

type ioUringProbe struct {
	Usable bool   `json:"usable"`
	Why    string `json:"why,omitempty"`
	// Disabled is kernel.io_uring_disabled, where the kernel has it.
	Disabled *int `json:"disabled,omitempty"`
}

// featureProbe is one feature of io_uring, found by trying it.
type featureProbe struct {
	Name   string `json:"name"`
	Since  string `json:"since"`  // the first Linux with it
	Result string `json:"result"` // yes, no, inconclusive
	Why    string `json:"why,omitempty"`
}

type backendProbe struct {
	Name  string `json:"name"`
	Works bool   `json:"works"`
	Why   string `json:"why,omitempty"` // it does not work, or how far it does
}

func newProbeCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Say what this host can do",
		Long: `Probe says what this host can do: its kind of KVM, io_uring's features one by one
with the Linux version that brought each, limits, which backends work and, where
one does not, why. Features are found by trying them; nothing on the host changes.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := probe()
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(r)
			}
			return writeProbe(cmd.OutOrStdout(), r)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func probe() (*probeReport, error) {
	var r probeReport
	var err error
	if r.Kernel, err = feature.KernelRelease(); err != nil {
		return nil, err
	}
	if r.Memlock, err = feature.ProbeMemlock(); err != nil {
		return nil, err
	}
	if r.OpenFiles, err = feature.ProbeOpenFiles(); err != nil {
		return nil, err
	}
	if r.FileSize, err = feature.ProbeFileSize(); err != nil {
		return nil, err
	}

	kvm := feature.ProbeKVM()
	r.KVM = kvmProbe{Kind: kvm.Kind, Usable: kvm.Err == nil, Why: reason(kvm.Err)}
	if r.KVM.Usable {
		err := vmm.CheckLinux()
		r.KVM.LinuxGuests, r.KVM.WhyNoLinux = err == nil, reason(err)
	}

	available := hostring.Available()
	r.IOUring = ioUringProbe{Usable: available == nil, Why: reason(available)}
	if value, ok := feature.IOUringDisabled(); ok {
		r.IOUring.Disabled = &value
	}
	r.Features = []featureProbe{}
	if available == nil {
		for _, f := range hostring.ProbeFeatures() {
			r.Features = append(r.Features, featureProbe{Name: f.Name, Since: f.Since, Result: f.Result.String(), Why: reason(f.Why)})
		}
	}
	r.Backends = probeBackends(r.Memlock)
	return &r, nil
}

// probeBackends says which backends work for a guest of the default size.
func probeBackends(memlock feature.Memlock) []backendProbe {
	available := hostring.Available()
	relay := backendProbe{Name: backendRelay, Works: available == nil, Why: reason(available)}
	supported := passthrough.Supported()
	pass := backendProbe{Name: backendPassthrough, Works: supported == nil, Why: reason(supported)}
	if supported == nil {
		pass.lockable(memlock)
	}
	supported = isolated.Supported()
	isol := backendProbe{Name: backendIsolated, Works: supported == nil, Why: reason(supported)}
	if supported == nil {
		isol.lockable(memlock)
	}
	return []backendProbe{pass, isol, relay}
}

// lockable takes back that a backend which pins guest RAM works, where it cannot.
func (b *backendProbe) lockable(memlock feature.Memlock) {
	if memlock.Holds(defaultMemory) {
		return
	}
	b.Works = false
	b.Why = fmt.Sprintf("guest RAM of %s needs as much lockable memory, and RLIMIT_MEMLOCK is %s; raise it (ulimit -l) or give CAP_IPC_LOCK",
		byteSize(defaultMemory), byteSize(memlock.Soft))
}

// reason is err's text in one line, empty for nil.
func reason(err error) string {
	if err == nil {
		return ""
	}
	return oneLine(err.Error())
}

func writeProbe(w io.Writer, r *probeReport) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value, why string) {
		if why != "" {
			value += "\t" + why
		}
		fmt.Fprintf(tw, "%s\t%s\n", name, value)
	}
	row("Linux", r.Kernel, "")
	row("KVM", r.KVM.Kind, r.KVM.Why)
	if r.KVM.Usable {
		row("Linux guests", yesNo(r.KVM.LinuxGuests), r.KVM.WhyNoLinux)
	}
	row("io_uring", yesNo(r.IOUring.Usable), r.IOUring.Why)
	memlock := limitText(r.Memlock.Limit, true)
	if r.Memlock.Exempt {
		memlock += ", not applied: CAP_IPC_LOCK"
	}
	row("lockable memory", memlock, "")
	row("open files", limitText(r.OpenFiles, false), "")
	row("file size", limitText(r.FileSize, true), "")

	fmt.Fprintf(tw, "\nBACKEND\tWORKS\n")
	for _, b := range r.Backends {
		row(b.Name, yesNo(b.Works), b.Why)
	}
	if len(r.Features) > 0 {
		fmt.Fprintf(tw, "\nFEATURE\tHERE\tSINCE\n")
	}
	for _, f := range r.Features {
		since := "Linux " + f.Since
		if f.Why != "" {
			since += "\t" + f.Why
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", f.Name, f.Result, since)
	}
	return tw.Flush()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// limitText writes a resource limit: its soft value, and the hard one if it
// differs.
func limitText(l feature.Limit, bytes bool) string {
	one := func(n uint64) string {
		switch {
		case n == feature.Unlimited:
			return "unlimited"
		case bytes:
			return byteSize(n).String()
		default:
			return fmt.Sprint(n)
		}
	}
	if l.Soft == l.Hard {
		return one(l.Soft)
	}
	return fmt.Sprintf("%s, can be raised to %s", one(l.Soft), one(l.Hard))
}
