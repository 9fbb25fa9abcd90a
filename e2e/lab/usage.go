package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Usage is what a process has used so far.
type Usage struct {
	// RSS and PeakRSS are resident memory, now and at the most, in bytes.
	RSS, PeakRSS int64
	// Anonymous is the part of RSS that no file is behind: the kernel cannot take it
	// back.
	Anonymous int64
	// CPU is user and system time together.
	CPU time.Duration
}

// Usage reads what the process itself, without children, has used. It must be
// running.
func (p *Process) Usage() (Usage, error) {
	u, err := usage(p.PID())
	if err != nil {
		return Usage{}, fmt.Errorf("reading the usage of %s: %w", p.spec.Name, err)
	}
	return u, nil
}

// ResetPeak makes [Usage.PeakRSS] start anew from what is resident now.
func (p *Process) ResetPeak() error {
	// proc(5): writing 5 to clear_refs resets VmHWM.
	path := fmt.Sprintf("/proc/%d/clear_refs", p.PID())
	if err := os.WriteFile(path, []byte("5"), 0); err != nil {
		return fmt.Errorf("resetting the peak memory of %s: %w", p.spec.Name, err)
	}
	return nil
}

// Files returns what the process has open, as proc(5) names it: paths, and such as
// "socket:[1234]".
func (p *Process) Files() ([]string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", p.PID())
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading what %s has open: %w", p.spec.Name, err)
	}
	var files []string
	for _, e := range entries {
		file, err := os.Readlink(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("reading what %s has open: %w", p.spec.Name, err)
		}
		files = append(files, file)
	}
	return files, nil
}

// Written returns how many bytes the process has had written to disks so far, or has
// left to the kernel to be written: the pages that it has made dirty, those of mapped
// files too, and not what file systems write of their own. It is good after the end of
// the process, too.
func (p *Process) Written() (int64, error) {
	select {
	case <-p.done:
		// getrusage(2) counts blocks of 512 bytes.
		if u, ok := p.cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			return int64(u.Oublock) * 512, nil
		}
		return 0, fmt.Errorf("reading what %s has written: the system does not tell", p.spec.Name)
	default:
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("reading what %s has written: %w", p.spec.Name, err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			return strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("reading what %s has written: no write_bytes in %q", p.spec.Name, text)
}

func usage(pid int) (Usage, error) {
	var u Usage
	var err error
	if u.RSS, u.PeakRSS, u.Anonymous, err = memory(fmt.Sprintf("/proc/%d/status", pid)); err != nil {
		return Usage{}, err
	}
	if u.CPU, err = cpuTime(fmt.Sprintf("/proc/%d/stat", pid)); err != nil {
		return Usage{}, err
	}
	return u, nil
}

// memory reads VmRSS, VmHWM and RssAnon, in kibibytes, from a /proc/pid/status.
func memory(status string) (rss, peak, anonymous int64, err error) {
	f, err := os.Open(status)
	if err != nil {
		return 0, 0, 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "VmRSS:":
			rss, err = strconv.ParseInt(fields[1], 10, 64)
		case "VmHWM:":
			peak, err = strconv.ParseInt(fields[1], 10, 64)
		case "RssAnon:":
			anonymous, err = strconv.ParseInt(fields[1], 10, 64)
		}
		if err != nil {
			return 0, 0, 0, err
		}
	}
	if peak == 0 {
		return 0, 0, 0, errors.New("no VmHWM (has the process ended?)")
	}
	return rss << 10, peak << 10, anonymous << 10, nil
}

// cpuTime reads utime and stime from a /proc/pid/stat.
func cpuTime(stat string) (time.Duration, error) {
	b, err := os.ReadFile(stat)
	if err != nil {
		return 0, err
	}
	// Field 2 is the program's name in parentheses and may hold anything.
	// Counted from after it, utime and stime (14 and 15) are 11 and 12.
	_, rest, ok := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("cannot read %q", b)
	}
	utime, err1 := strconv.ParseInt(fields[11], 10, 64)
	stime, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	// proc(5) counts in ticks of 1/sysconf(_SC_CLK_TCK) s, which is 100 on every
	// Linux that Go runs on.
	const tick = time.Second / 100
	return time.Duration(utime+stime) * tick, nil
}
