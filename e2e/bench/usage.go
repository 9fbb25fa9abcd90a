package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"registry-module/e2e/lab"
)

// usage is what the server has used so far, its children included: nginx is a
// master with workers. Memory that they share counts for each.
func (s *server) usage() (lab.Usage, error) {
	u, err := s.proc.Usage()
	if err != nil {
		return lab.Usage{}, err
	}
	children, err := s.children()
	if err != nil {
		return lab.Usage{}, err
	}
	for _, pid := range children {
		c, err := childUsage("/proc/" + pid)
		if err != nil {
			return lab.Usage{}, fmt.Errorf("reading the usage of %s: %w", s.name, err)
		}
		u.RSS += c.RSS
		u.PeakRSS += c.PeakRSS
		u.CPU += c.CPU
	}
	return u, nil
}

// written is how many bytes the server has had written to disks so far, its children
// included; 0 for one that is not ours.
func (s *server) written() (int64, error) {
	if s.proc == nil {
		return 0, nil
	}
	sum, err := s.proc.Written()
	if err != nil {
		return 0, err
	}
	children, err := s.children()
	if err != nil {
		return 0, err
	}
	for _, pid := range children {
		text, err := os.ReadFile("/proc/" + pid + "/io")
		if err != nil {
			return 0, fmt.Errorf("reading what %s has written: %w", s.name, err)
		}
		n, err := writeBytes(string(text))
		if err != nil {
			return 0, fmt.Errorf("reading what %s has written: %w", s.name, err)
		}
		sum += n
	}
	return sum, nil
}

// writeBytes reads write_bytes from a /proc/pid/io; see proc(5).
func writeBytes(io string) (int64, error) {
	for line := range strings.Lines(io) {
		if value, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			return strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("no write_bytes in %q", io)
}

// preciseCPU is the CPU time that the threads of the server and of its children have used,
// to the nanosecond, for what takes hardly any. That of threads which have ended is not in
// it.
func (s *server) preciseCPU() (sum time.Duration, err error) {
	children, err := s.children()
	if err != nil {
		return 0, err
	}
	for _, pid := range append(children, strconv.Itoa(s.proc.PID())) {
		// Documentation/scheduler/sched-stats.rst of Linux: the first is the time on
		// the CPU in nanoseconds.
		threads, err := filepath.Glob("/proc/" + pid + "/task/*/schedstat")
		if err != nil || len(threads) == 0 {
			return 0, fmt.Errorf("reading the CPU time of %s: it has no threads: %v", s.name, err)
		}
		for _, path := range threads {
			text, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // it has ended meanwhile
			}
			if err != nil {
				return 0, fmt.Errorf("reading the CPU time of %s: %w", s.name, err)
			}
			ns, _, _ := strings.Cut(string(text), " ")
			n, err := strconv.ParseInt(ns, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("reading the CPU time of %s: %w", s.name, err)
			}
			sum += time.Duration(n)
		}
	}
	return sum, nil
}

// children are the process ids of what the server has started.
func (s *server) children() ([]string, error) {
	path := fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", s.proc.PID())
	children, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the usage of %s: %w", s.name, err)
	}
	return strings.Fields(string(children)), nil
}

// childUsage reads the usage of a process that package lab has not started
// itself, from its directory in /proc; see proc(5).
func childUsage(dir string) (u lab.Usage, err error) {
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		kib := strings.TrimSuffix(strings.TrimSpace(value), " kB")
		switch name {
		case "VmRSS":
			u.RSS, err = strconv.ParseInt(kib, 10, 64)
		case "VmHWM":
			u.PeakRSS, err = strconv.ParseInt(kib, 10, 64)
		}
		if err != nil {
			return u, err
		}
	}
	u.RSS, u.PeakRSS = u.RSS<<10, u.PeakRSS<<10

	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return u, err
	}
	// The second field, in parentheses, may hold anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const utime, stime = 14 - 3, 15 - 3 // proc(5) counts from 1, and fields begin with the third
	if len(fields) <= stime {
		return u, fmt.Errorf("cannot read %s/stat: %q", dir, stat)
	}
	user, err1 := strconv.ParseInt(fields[utime], 10, 64)
	system, err2 := strconv.ParseInt(fields[stime], 10, 64)
	const tick = time.Second / 100 // sysconf(_SC_CLK_TCK), as on every Linux that Go runs on
	u.CPU = time.Duration(user+system) * tick
	return u, errors.Join(err1, err2)
}

// cpuDuring is the CPU time that the server uses while f runs, 0 for one that is
// not ours.
func (s *server) cpuDuring(f func() error) (time.Duration, error) {
	if s.proc == nil {
		return 0, f()
	}
	before, err := s.usage()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := s.usage()
	if err != nil {
		return 0, err
	}
	return after.CPU - before.CPU, nil
}

// loadAverage is how many processes have wanted a processor in the last minute.
func loadAverage() (float64, error) {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, fmt.Errorf("looking how busy the machine is: %w", err)
	}
	first, _, _ := strings.Cut(string(raw), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0, fmt.Errorf("looking how busy the machine is: %w", err)
	}
	return load, nil
}

// settle writes back what a server has left in memory, so that the next one
// does not pay for it.
func settle() { syscall.Sync() }
