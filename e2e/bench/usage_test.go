package main

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestChildUsage compares what /proc tells with what the kernel tells the
// process itself.
func TestChildUsage(t *testing.T) {
	own := func() time.Duration {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			t.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	for own() < 50*time.Millisecond {
		// something to count
	}
	before := own()
	u, err := childUsage(fmt.Sprintf("/proc/%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	// User and system time are each rounded down to ticks of 10 ms.
	if after := own(); u.CPU > after || u.CPU < before-20*time.Millisecond {
		t.Errorf("CPU time is %v, want between %v and %v", u.CPU, before, after)
	}
	if u.RSS < mib || u.PeakRSS < u.RSS {
		t.Errorf("RSS is %d and its peak %d, want at least %d and not less than that", u.RSS, u.PeakRSS, mib)
	}
	if u, err := childUsage("/proc/none"); err == nil {
		t.Errorf("a process that is not there has used %+v, want an error", u)
	}
}
