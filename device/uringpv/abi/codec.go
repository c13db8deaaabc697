// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"encoding/binary"
	"errors"
)

// Struct is any structure of the contract.
type Struct interface {
	Cmd | Identity | File | Range | Params | RingSetup | Register | Enter | RingStats
}

// ErrTooBig says that a payload holds something that this version of the
// contract does not know: the command's result is -E2BIG.
var ErrTooBig = errors.New("payload has content behind the structure that the device knows")

// size is the size of T in memory, in bytes.
func size[T Struct]() int {
	var v T
	return binary.Size(&v)
}

// Encode is v as it lies in memory.
func Encode[T Struct](v *T) []byte {
	// The only error is a T without a fixed size, and no Struct is one.
	b, _ := binary.Append(make([]byte, 0, size[T]()), binary.LittleEndian, v)
	return b
}

// Decode reads a T from b by the rule for structures that may grow
// (docs/protocol.md, section 3): what b lacks is zero, what b has beyond T must
// be zero, else the error is ErrTooBig.
func Decode[T Struct](b []byte) (T, error) {
	var v T
	n := size[T]()
	if len(b) < n {
		b = append(make([]byte, 0, n), b...)[:n]
	}
	for _, c := range b[n:] {
		if c != 0 {
			return v, ErrTooBig
		}
	}
	_, err := binary.Decode(b[:n], binary.LittleEndian, &v)
	return v, err
}

// Text copies s into dst, padded with NUL. Of a longer s it takes what fits
// beside one NUL, without splitting a UTF-8 sequence.
func Text(dst []uint8, s string) {
	n := min(len(s), len(dst)-1)
	for n > 0 && n < len(s) && s[n]&0xc0 == 0x80 {
		n--
	}
	clear(dst[copy(dst, s[:n]):])
}

// TextOf is the text in b, up to the first NUL.
func TextOf(b []uint8) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
