// SPDX-License-Identifier: Apache-2.0

package uring

import (
	"encoding/binary"
	"fmt"
	"os"
	"regexp"
	"testing"

	"github.com/uringpv/uringpv/device/uringpv/abi"
)

// Sizes are those of linux/io_uring.h and guest/kmod/uringpv_user.h.
func TestStructuresHaveTheDriversSizes(t *testing.T) {
	for _, tt := range []struct {
		v    any
		want int
	}{
		{SQE{}, sqeSize}, {CQE{}, cqeSize},
		{userSetup{}, 8 + abi.ParamsSize + 8 + 8 + 8 + 32}, {userEnter{}, 32}, {userRegister{}, 16}, {userChunk{}, 32},
		{iovec{}, 16}, {filesUpdate{}, 16}, {rsrcRegister{}, rsrcSize}, {rsrcUpdate2{}, rsrcSize},
	} {
		if got := binary.Size(tt.v); got != tt.want {
			t.Errorf("%T has %d bytes, want %d", tt.v, got, tt.want)
		}
	}
}

// The numbers of the ioctls and the offsets of mappings are written down twice, in C
// and in Go.
func TestNumbersAreTheHeaders(t *testing.T) {
	b, err := os.ReadFile("../kmod/uringpv_user.h")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"URINGPV_IOC":           "0xb5",
		"URINGPV_USER_MAPPED":   fmt.Sprintf("%#x", userMapped),
		"URINGPV_USER_NO_EXTRA": fmt.Sprintf("%#x", userNoExtra),
		"URINGPV_OFF_DOORBELL":  fmt.Sprintf("%#xull", uint64(offDoorbell)),
		"URINGPV_OFF_POOL":      fmt.Sprintf("%#xull", uint64(offPool)),
		"URINGPV_IOC_SETUP":     "_IOWR(URINGPV_IOC, 1, struct uringpv_user_setup)",
		"URINGPV_IOC_ENTER":     "_IOW(URINGPV_IOC, 2, struct uringpv_user_enter)",
		"URINGPV_IOC_REGISTER":  "_IOW(URINGPV_IOC, 3, struct uringpv_user_register)",
		"URINGPV_IOC_CHUNK":     "_IOWR(URINGPV_IOC, 4, struct uringpv_user_chunk)",
		"URINGPV_IOC_FILE":      "_IOR(URINGPV_IOC, 16, struct uringpv_user_file)",
	} {
		m := regexp.MustCompile(`(?m)^#define ` + name + ` (.*?)( */\*.*)?$`).FindSubmatch(b)
		if m == nil || string(m[1]) != want {
			t.Errorf("%s is %q in the header, want %q", name, m, want)
		}
	}
	for _, tt := range []struct{ got, want uintptr }{
		{iocSetup, 0xc0d0b501}, {iocEnter, 0x4020b502}, {iocRegister, 0x4010b503}, {iocChunk, 0xc020b504},
	} {
		if tt.got&^(0x3fff<<16) != tt.want&^(0x3fff<<16) {
			t.Errorf("ioctl %#x, want %#x but for the size", tt.got, tt.want)
		}
	}
}
