// Package idleio reads files without being in the way of others: of who reads and
// writes them for somebody that waits, and of what the page cache holds for them.
//
// It promises nothing about time: where nobody else uses the disk, it is as fast as
// anything, and where others do, it may come to a stand. What a kernel, or a disk's
// scheduler, does not support is left out in silence. It imports nothing of this
// module.
package idleio

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs fn on a thread of its own, whose input and output has the priority class
// "idle": the disk serves it when nobody else wants something of it. See
// ioprio_set(2); the scheduler "bfq" heeds it, others may not. What fn starts in other
// goroutines is not covered. Do returns what fn returns, when it has; fn ends early
// when ctx does, and is not started once it has.
func Do(ctx context.Context, fn func(ctx context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		// The thread is not given back, but ends with the goroutine: nobody else gets
		// one that is idle.
		runtime.LockOSThread()
		setIdle()
		err := fmt.Errorf("idle work has ended without a result") // by runtime.Goexit, as in a test
		defer func() { done <- err }()
		err = fn(ctx)
	}()
	return <-done
}

// setIdle gives this thread the class idle.
func setIdle() {
	const (
		who       = 1 // IOPRIO_WHO_PROCESS, of which 0 is this thread
		classIdle = 3 // IOPRIO_CLASS_IDLE
		shift     = 13
	)
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, who, 0, classIdle<<shift) // else it is not idle
}

// Drop tells the kernel that the n bytes of f from off on need not be in its page
// cache, as far as they have been written, and in the units in which it keeps them, which
// can be larger than a page: what a look at all content has read is not
// to push out what is in use. N is 0 for all up to the end. F is an open file of any
// kind that is one for the kernel.
func Drop(f interface{ Fd() uintptr }, off, n int64) {
	if off < 0 || n < 0 {
		return
	}
	_ = unix.Fadvise(int(f.Fd()), off, n, unix.FADV_DONTNEED) // else it stays
}
