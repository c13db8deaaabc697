// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// initrd is a guest's initramfs: files one behind the other, each from a multiple
// of four bytes on, as the kernel takes archives.
type initrd struct {
	io.Reader
	size  int64 // bytes
	files []*os.File
}

// openInitrd opens the files; with none of them the initramfs is empty.
func openInitrd(paths []string) (_ *initrd, err error) {
	d := &initrd{}
	defer func() {
		if err != nil {
			_ = d.Close()
		}
	}()
	var parts []io.Reader
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("--initrd: %w", err)
		}
		d.files = append(d.files, f)
		info, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("--initrd: %w", err)
		}
		if !info.Mode().IsRegular() || info.Size() == 0 {
			return nil, fmt.Errorf("--initrd %s: must be a file that is not empty", path)
		}
		gap := -info.Size() & 3
		parts = append(parts, io.LimitReader(f, info.Size()), bytes.NewReader(make([]byte, gap)))
		d.size += info.Size() + gap
	}
	d.Reader = io.MultiReader(parts...)
	return d, nil
}

// Close closes the files.
func (d *initrd) Close() error {
	var all []error
	for _, f := range d.files {
		all = append(all, f.Close())
	}
	return errors.Join(all...)
}
