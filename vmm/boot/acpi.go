// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/uringpv/uringpv/memmap"
)

// ACPI says what a machine consists of, for the tables by which a guest's kernel
// finds it (ACPI 6.5, chapter 5).
type ACPI struct {
	CPUs int // local APIC ids from 0 on

	PCIWindowStart, PCIWindowEnd uint32 // of BARs

	PMPorts     uint16 // the power-management registers, see the PM constants
	SCI         byte   // their interrupt
	SerialPorts uint16
	SerialIRQ   byte
	PanicPort   uint16 // pvpanic's
}

// Power-management registers, as offsets from ACPI.PMPorts, and their sizes.
const (
	PMEvent     = 0 // PM1a_EVT_BLK: status, enable
	PMEventLen  = 4
	PMControl   = 4 // PM1a_CNT_BLK
	PMTimer     = 8
	PMReset     = 12 // a byte of PMResetValue restarts the machine
	PMLen       = 16
	SleepTypeS5 = 5 // SLP_TYP of soft-off, what \_S5 says
)

// PMResetValue is what a guest writes to PMReset.
const PMResetValue = 1

// Where the tables lie: the BIOS's area, where a kernel also finds the RSDP by
// itself.
const (
	acpiAddr = 0xe0000
	acpiEnd  = 0x100000
)

// Load writes the tables into m and returns the RSDP's GPA.
func (a ACPI) Load(m *memmap.Memory) (rsdp uint64, err error) {
	if a.CPUs < 1 || a.CPUs > 254 {
		return 0, fmt.Errorf("ACPI: %d CPUs: must be 1 to 254", a.CPUs)
	}
	image, rsdp := a.tables(acpiAddr)
	if len(image) > acpiEnd-acpiAddr {
		return 0, fmt.Errorf("ACPI tables of %d bytes: there is room for %d", len(image), acpiEnd-acpiAddr)
	}
	return rsdp, m.WriteAt(image, acpiAddr)
}

// tables are all tables as they lie at GPA at, and the RSDP's GPA.
func (a ACPI) tables(at uint64) (image []byte, rsdp uint64) {
	place := func(b []byte) uint64 {
		for len(image)%64 != 0 { // what the FACS asks for
			image = append(image, 0)
		}
		here := at + uint64(len(image))
		image = append(image, b...)
		return here
	}
	facs := make([]byte, 64)
	copy(facs, "FACS")
	binary.LittleEndian.PutUint32(facs[4:], 64)
	facs[32] = 2 // version
	facsAt := place(facs)
	dsdt := place(table("DSDT", 2, a.dsdt()))
	fadt := place(table("FACP", 6, a.fadt(facsAt, dsdt)))
	madt := place(table("APIC", 4, a.madt()))
	xsdt := place(table("XSDT", 1, words(fadt, madt)))

	r := make([]byte, 36)
	copy(r, "RSD PTR ")
	copy(r[9:], oemID)
	r[15] = 2 // revision
	binary.LittleEndian.PutUint32(r[20:], uint32(len(r)))
	binary.LittleEndian.PutUint64(r[24:], xsdt)
	r[8] = checksum(r[:20])
	r[32] = checksum(r)
	return image, place(r)
}

const oemID = "URINGP"

// table is a table with its header (5.2.6).
func table(signature string, revision byte, body []byte) []byte {
	h := make([]byte, 36, 36+len(body))
	copy(h, signature)
	h[8] = revision
	copy(h[10:], oemID)
	copy(h[16:], "URINGPVM")
	binary.LittleEndian.PutUint32(h[24:], 1)
	copy(h[28:], "UPV ")
	binary.LittleEndian.PutUint32(h[32:], 1)
	h = append(h, body...)
	binary.LittleEndian.PutUint32(h[4:], uint32(len(h)))
	h[9] = checksum(h)
	return h
}

// checksum is what makes the sum of b's bytes zero.
func checksum(b []byte) byte {
	sum := byte(0)
	for _, c := range b {
		sum += c
	}
	return -sum
}

// gas is a Generic Address Structure of an I/O port (5.2.3.2).
type gas struct {
	Space, Width, Offset, Access byte
	Addr                         uint64
}

// ioGAS is a register of n bytes.
func ioGAS(port uint16, n byte) gas {
	access := map[byte]byte{1: 1, 2: 2, 4: 3}[n]
	return gas{Space: 1, Width: 8 * n, Access: access, Addr: uint64(port)}
}

// fadtBody is the FADT behind its header (5.2.9).
type fadtBody struct {
	FACS, DSDT                          uint32
	_, Profile                          byte
	SCI                                 uint16
	SMICommand                          uint32
	Enable, Disable, S4, PState         byte
	PM1aEvent, PM1bEvent                uint32
	PM1aControl, PM1bControl            uint32
	PM2, Timer, GPE0, GPE1              uint32
	EventLen, ControlLen, PM2Len        byte
	TimerLen, GPE0Len, GPE1Len, GPE1Bas byte
	CState                              byte
	C2Latency, C3Latency                uint16
	FlushSize, FlushStride              uint16
	Duty                                [2]byte
	DayAlarm, MonthAlarm, Century       byte
	BootArch                            uint16
	_                                   byte
	Flags                               uint32
	Reset                               gas
	ResetValue                          byte
	ARM                                 uint16
	Minor                               byte
	XFACS, XDSDT                        uint64
	XPM1aEvent, XPM1bEvent              gas
	XPM1aControl, XPM1bControl          gas
	XPM2, XTimer, XGPE0, XGPE1          gas
	SleepControl, SleepStatus           gas
	Hypervisor                          [8]byte
}

// Bits of BootArch and Flags.
const (
	bootLegacyDevices = 1 << 0 // COM1
	bootNoVGA         = 1 << 2
	bootNoRTC         = 1 << 5

	fadtWBINVD        = 1 << 0
	fadtC1            = 1 << 2
	fadtNoPowerButton = 1 << 4
	fadtNoSleepButton = 1 << 5
	fadtTimer32       = 1 << 8
	fadtReset         = 1 << 10
)

func (a ACPI) fadt(facs, dsdt uint64) []byte {
	pm := func(off uint16) uint32 { return uint32(a.PMPorts + off) }
	f := fadtBody{
		FACS: uint32(facs), DSDT: uint32(dsdt), SCI: uint16(a.SCI),
		PM1aEvent: pm(PMEvent), PM1aControl: pm(PMControl), Timer: pm(PMTimer),
		EventLen: PMEventLen, ControlLen: 2, TimerLen: 4,
		C2Latency: 0xfff, C3Latency: 0xfff, // there are none
		BootArch: bootLegacyDevices | bootNoVGA | bootNoRTC,
		Flags:    fadtWBINVD | fadtC1 | fadtNoPowerButton | fadtNoSleepButton | fadtTimer32 | fadtReset,
		Reset:    ioGAS(a.PMPorts+PMReset, 1), ResetValue: PMResetValue, Minor: 5,
		XDSDT:      dsdt,
		XPM1aEvent: ioGAS(a.PMPorts+PMEvent, 4), XPM1aControl: ioGAS(a.PMPorts+PMControl, 2), XTimer: ioGAS(a.PMPorts+PMTimer, 4),
	}
	copy(f.Hypervisor[:], oemID)
	return littleEndian(f)
}

// littleEndian is v, of a fixed size, as it lies in guest memory.
func littleEndian(v any) []byte {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
		panic(err) // a type without a fixed size: the first test finds that
	}
	return b.Bytes()
}

// The IOAPIC and the local APICs are KVM's, where every PC has them.
const (
	ioapicAddr = 0xfec00000
	lapicAddr  = 0xfee00000
)

// madt is the MADT behind its header (5.2.12): CPUs, the IOAPIC, and where its
// pins differ from the PIC's lines.
func (a ACPI) madt() []byte {
	b := binary.LittleEndian.AppendUint32(nil, lapicAddr)
	b = binary.LittleEndian.AppendUint32(b, 1) // there are 8259s too
	for id := range a.CPUs {
		b = append(b, 0, 8, byte(id), byte(id), 1, 0, 0, 0)
	}
	b = append(b, 1, 12, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, ioapicAddr)
	b = binary.LittleEndian.AppendUint32(b, 0)
	override := func(irq byte, gsi uint32, flags uint16) {
		b = append(b, 2, 10, 0, irq)
		b = binary.LittleEndian.AppendUint32(b, gsi)
		b = binary.LittleEndian.AppendUint16(b, flags)
	}
	override(0, 2, 0)                   // the timer
	override(a.SCI, uint32(a.SCI), 0xd) // level-triggered, active high
	return append(b, 4, 6, 0xff, 0, 0, 1)
}

// dsdt is the DSDT behind its header: the PCI root, the serial port, pvpanic, and
// how to switch off.
func (a ACPI) dsdt() []byte {
	return concat(
		amlScope(
			amlDevice("PCI0",
				amlName("_HID", amlEISA("PNP0A03")),
				amlName("_UID", amlInt(0)),
				amlName("_CRS", amlResources(
					resWord(spaceBus, 0, 0, 0),
					resIO(0xcf8, 8),
					resWord(spaceIO, 3, 0, 0xcf7),
					resWord(spaceIO, 3, 0xd00, 0xffff),
					resDWord(spaceMemory, 1, a.PCIWindowStart, a.PCIWindowEnd-1),
				)),
			),
			amlDevice("COM1",
				amlName("_HID", amlEISA("PNP0501")),
				amlName("_UID", amlInt(1)),
				amlName("_CRS", amlResources(resIO(a.SerialPorts, 8), resIRQ(uint(a.SerialIRQ)))),
			),
			amlDevice("PEVT",
				amlName("_HID", amlString("QEMU0001")),
				amlName("_STA", amlInt(0xf)),
				amlName("_CRS", amlResources(resIO(a.PanicPort, 1))),
			),
		),
		amlName(`\_S5_`, amlPackage(amlInt(SleepTypeS5), amlInt(SleepTypeS5), amlInt(0), amlInt(0))),
	)
}
