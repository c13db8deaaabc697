// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/uringpv/uringpv/device/uringpv/abi"
	"github.com/uringpv/uringpv/device/uringpv/export"
	"github.com/uringpv/uringpv/images"
	"github.com/uringpv/uringpv/vmm"
)

// conformanceSize is the size in bytes of the files that the conformance guest
// works on, and of its scratch disk: they have to be the same where one bound of
// the process holds all of them (passthrough).
const conformanceSize = 1 << 20

// conformanceNames are the names of those files in the guest.
var conformanceNames = []string{
	"connector", "connector2", "connector3", "dgram-a", "dgram-b", "eventfd", "file", "file2", "listener",
	"pipe.read", "pipe.write", "ro", "stream-a", "stream-b", "tcp-listener",
}

// conformanceExports are the files of one run of the conformance guest.
type conformanceExports struct {
	openExports
	listener string // path of the socket that the guest may connect to
	dir      string // it lies in
}

// makeConformanceExports makes them, for one run on a backend.
func makeConformanceExports(ctx context.Context, backend vmm.Choice) (_ *conformanceExports, err error) {
	c := &conformanceExports{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.dir, err = os.MkdirTemp("", "upv-"); err != nil {
		return nil, fmt.Errorf("a directory for a socket: %w", err)
	}
	c.listener = filepath.Join(c.dir, "s")
	socket := export.SocketOptions{Name: "listener", Network: export.Unix, Address: c.listener, Listen: true}
	connector := export.SocketOptions{Name: "connector", Network: export.Unix, Address: c.listener, GuestConnect: true}
	tcp := export.SocketOptions{Name: "tcp-listener", Network: export.TCP, Address: "127.0.0.1:0", Listen: true}
	connector2, connector3 := connector, connector
	connector2.Name, connector3.Name = "connector2", "connector3"
	for _, open := range []func() (*export.Export, error){
		func() (*export.Export, error) { return scratchFile("file", "ro") },
		func() (*export.Export, error) { return scratchFile("file2", "") },
		func() (*export.Export, error) { return export.SocketPair("stream-a", "stream-b", false) },
		func() (*export.Export, error) { return export.SocketPair("dgram-a", "dgram-b", true) },
		func() (*export.Export, error) { return export.OpenSocket(ctx, socket) },
		func() (*export.Export, error) { return export.OpenSocket(ctx, connector) },
		func() (*export.Export, error) { return export.OpenSocket(ctx, connector2) },
		func() (*export.Export, error) { return export.OpenSocket(ctx, connector3) },
		func() (*export.Export, error) { return export.OpenPipe(export.PipeOptions{Name: "pipe"}) },
		func() (*export.Export, error) { return export.OpenEventfd("eventfd") },
		func() (*export.Export, error) { return export.OpenSocket(ctx, tcp) },
	} {
		if err := c.add(open()); err != nil {
			return nil, err
		}
	}
	if backend == backendIsolated {
		// It takes no datagram socket but one that may talk to anybody.
		for _, e := range c.all {
			for i, f := range e.Files() {
				e.Files()[i].AnyPeer = f.Kind == abi.FileDgram
			}
		}
	}
	return c, nil
}

// close ends all and removes what was made.
func (c *conformanceExports) close() error {
	err := c.openExports.close()
	if c.dir != "" {
		err = errors.Join(err, os.Remove(c.dir))
		c.dir = ""
	}
	return err
}

// scratchFile is a file without a name, and its read-only twin if that has one.
func scratchFile(name, twin string) (e *export.Export, err error) {
	s, err := images.NewScratch("", conformanceSize, images.Zeros)
	if err != nil {
		return nil, err
	}
	e, err = export.OpenFile(export.FileOptions{Name: name, Path: s.Path(), Twin: twin})
	return e, errors.Join(err, s.Close()) // the export has it open
}
