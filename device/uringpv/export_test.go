// SPDX-License-Identifier: Apache-2.0

package uringpv

import "time"

// SetTimeout changes how long RING_DESTROY and RESET wait.
func (d *Device) SetTimeout(t time.Duration) { d.timeout = t }
