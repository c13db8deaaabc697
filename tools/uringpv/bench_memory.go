// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ownMemory is a process's resident memory in bytes, without guest RAM.
func ownMemory(pid int) (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sum, guest := int64(0), false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 5 && strings.Contains(fields[0], "-"):
			guest = strings.Contains(lines.Text(), "/memfd:"+guestRAM)
		case len(fields) == 3 && fields[0] == "Rss:" && !guest:
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return 0, err
			}
			sum += kib << 10
		}
	}
	return sum, lines.Err()
}

// guestRAM is the name of guest RAM's memfd.
const guestRAM = "guest-ram"
