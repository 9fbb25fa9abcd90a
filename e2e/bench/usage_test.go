package main

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestWriteBytes(t *testing.T) {
	const text = "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n"
	if n, err := writeBytes(text); err != nil || n != 4096 {
		t.Errorf("got %d, %v; want 4096", n, err)
	}
	if n, err := writeBytes("rchar: 1\n"); err == nil {
		t.Errorf("got %d without write_bytes, want an error", n)
	}
}

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
