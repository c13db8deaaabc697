// SPDX-License-Identifier: Apache-2.0

package boot

import "encoding/binary"

// AML of ACPI's definition blocks (ACPI 6.5, chapter 20): terms as bytes.

// amlLength puts the package length of body before it (20.2.4).
func amlLength(body []byte) []byte {
	if n := len(body) + 1; n < 1<<6 {
		return append([]byte{byte(n)}, body...)
	}
	if n := len(body) + 2; n < 1<<12 {
		return append([]byte{1<<6 | byte(n&0xf), byte(n >> 4)}, body...)
	}
	n := len(body) + 3 // the tables made here are short
	return append([]byte{2<<6 | byte(n&0xf), byte(n >> 4), byte(n >> 12)}, body...)
}

// concat is its arguments, one behind the other.
func concat(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// amlScope is Scope (\_SB) { terms }.
func amlScope(terms ...[]byte) []byte {
	return concat([]byte{0x10}, amlLength(concat([]byte(`\_SB_`), concat(terms...))))
}

// amlDevice is Device (name) { terms }.
func amlDevice(name string, terms ...[]byte) []byte {
	return concat([]byte{0x5b, 0x82}, amlLength(concat([]byte(name), concat(terms...))))
}

// amlName is Name (name, value).
func amlName(name string, value []byte) []byte { return concat([]byte{0x08}, []byte(name), value) }

// amlInt is an integer.
func amlInt(v uint32) []byte {
	switch {
	case v <= 1:
		return []byte{byte(v)}
	case v <= 0xff:
		return []byte{0x0a, byte(v)}
	}
	return binary.LittleEndian.AppendUint32([]byte{0x0c}, v)
}

// amlString is a string.
func amlString(s string) []byte { return concat([]byte{0x0d}, []byte(s), []byte{0}) }

// amlEISA is EisaId (id), of three letters and four hexadecimal digits.
func amlEISA(id string) []byte {
	v := uint32(id[0]-0x40)<<26 | uint32(id[1]-0x40)<<21 | uint32(id[2]-0x40)<<16
	for i := range 4 {
		d := uint32(id[3+i])
		if d >= 'A' {
			d -= 'A' - 10
		} else {
			d -= '0'
		}
		v |= d << (12 - 4*i)
	}
	return binary.BigEndian.AppendUint32([]byte{0x0c}, v)
}

// amlPackage is Package () { items }.
func amlPackage(items ...[]byte) []byte {
	return concat([]byte{0x12}, amlLength(concat([]byte{byte(len(items))}, concat(items...))))
}

// amlResources is ResourceTemplate () { descriptors }.
func amlResources(descriptors ...[]byte) []byte {
	b := concat(concat(descriptors...), []byte{0x79, 0}) // end tag, no checksum
	return concat([]byte{0x11}, amlLength(concat(amlInt(uint32(len(b))), b)))
}

// Resource descriptors (6.4).

// resIO is n ports from port on.
func resIO(port uint16, n byte) []byte {
	return []byte{0x47, 1, byte(port), byte(port >> 8), byte(port), byte(port >> 8), 1, n}
}

// resIRQ is an edge-triggered, active-high interrupt line.
func resIRQ(irq uint) []byte {
	mask := uint16(1) << irq
	return []byte{0x22, byte(mask), byte(mask >> 8)}
}

// Kinds of address space.
const (
	spaceMemory = 0
	spaceIO     = 1
	spaceBus    = 2
)

// resWord is the addresses from first to last that a bus forwards.
func resWord(kind, flags byte, first, last uint16) []byte {
	b := []byte{0x88, 13, 0, kind, 0x0c, flags} // fixed at both ends
	for _, v := range []uint16{0, first, last, 0, last - first + 1} {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	return b
}

// resDWord is resWord of 32 bits.
func resDWord(kind, flags byte, first, last uint32) []byte {
	b := []byte{0x87, 23, 0, kind, 0x0c, flags}
	for _, v := range []uint32{0, first, last, 0, last - first + 1} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}
