// SPDX-License-Identifier: Apache-2.0

// Package images makes the disk images that guests use.
//
// It owns the images' making and their removal. It must not know what reads
// them: no device, no monitor, no io_uring.
//
// Its one invariant: what it makes for one run is gone when the process is,
// whatever ended the process.
package images
