// SPDX-License-Identifier: Apache-2.0

package isolated

import "runtime"

// parent is the OS thread whose children the owners are. The kernel ends an owner
// with the thread that started it (prctl(2), PR_SET_PDEATHSIG), not with the
// process: so it is one that lives as long as the Backend.
type parent struct {
	work chan func()
	done chan struct{}
}

// newParent starts the thread.
func newParent() *parent {
	p := &parent{work: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		runtime.LockOSThread() // never unlocked: the thread ends here
		for f := range p.work {
			f()
		}
	}()
	return p
}

// do runs f on the thread.
func (p *parent) do(f func()) {
	done := make(chan struct{})
	p.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// close ends the thread, and every owner that is left.
func (p *parent) close() {
	close(p.work)
	<-p.done
}
