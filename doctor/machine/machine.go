package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"registry-module/doctor/report"
	"registry-module/upstream"
)

// Settings of this machine, for advice.
const (
	dataSetting  = "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"
	addrSetting  = "REGISTRY_HTTP_ADDR"
	adminSetting = "REGISTRY_HTTP_DEBUG_ADDR"
)

// knownFormat is the newest format of a data directory that package disk reads; see
// docs/disk-format.md.
const knownFormat = 1

// Machine is what the program is to use of this machine. Only DataDir, Addr and
// AdminAddr are needed.
type Machine struct {
	// Timeout bounds each step: what does not end by then is left behind. Default:
	// [report.DefaultTimeout].
	Timeout time.Duration
	// Now is the clock. Default: [time.Now].
	Now func() time.Time

	// DataDir is the data directory.
	DataDir string
	// MaxSize is how many bytes are kept at most; 0 is no limit.
	MaxSize int64
	// MinFree says how much of a file system of that size is to be left free; nil is
	// nothing.
	MinFree func(whole int64) int64

	// Net and Addr are where clients connect to, "tcp" or "unix", and TLS tells that
	// they have to use it.
	Net, Addr string
	TLS       bool
	// ClientCertificates tells that clients have to show one, and Prefix is what the
	// paths of the API begin with, in front of /v2/.
	ClientCertificates bool
	Prefix             string
	// AdminAddr is the TCP address for administration, and MetricsPath where its
	// metrics are; default "/metrics".
	AdminAddr   string
	MetricsPath string
}

// Check looks at what m gives to the program. It ends early when ctx does.
func (m Machine) Check(ctx context.Context) []report.Finding {
	steps := report.Steps{Timeout: m.Timeout}
	steps.Do(ctx, "system-clock", m.year)
	steps.Blocked = false
	steps.Do(ctx, "data-dir", func(context.Context) report.Finding { return dataDir(m.DataDir) })
	steps.Do(ctx, "format", func(context.Context) report.Finding { return dataFormat(m.DataDir) })
	steps.Blocked = false
	steps.Do(ctx, "space", func(context.Context) report.Finding { return m.space() })
	steps.Blocked = false
	steps.Do(ctx, "listener", m.listener)
	steps.Blocked = false
	steps.Do(ctx, "admin-listener", m.adminListener)
	return steps.Findings
}

// firstYear is before all years in which this program runs.
const firstYear = 2024

// year finds machines that have woken up without a clock that is kept by a battery.
func (m Machine) year(context.Context) report.Finding {
	now := time.Now()
	if m.Now != nil {
		now = m.Now()
	}
	if now.UTC().Year() < firstYear {
		return report.Fail("Set the clock of this machine, and keep it by NTP (timedatectl set-ntp true): nothing that has a certificate can be reached.",
			"this machine believes that it is %s", report.Minute(now))
	}
	return report.Passed("%s", report.Minute(now))
}

// ownDirs are the directories that the program writes to, below the data directory.
var ownDirs = []string{
	"docker", "docker/registry", "docker/registry/v2", "docker/registry/v2/blobs", "docker/registry/v2/repositories", "index", "partial",
}

// dataDir finds out whether this process can use it.
func dataDir(dir string) report.Finding {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		parent := existing(dir)
		if err := unix.Access(parent, unix.W_OK|unix.X_OK); err != nil {
			return report.Fail(fmt.Sprintf("Create it for this user: mkdir -p %s && chown -R %d:%d %[1]s (in a container, mount a volume there); or set %[4]s.",
				dir, os.Getuid(), os.Getgid(), dataSetting), "%s does not exist, and user %d cannot create it in %s", dir, os.Getuid(), parent)
		}
		return report.Passed("%s does not exist yet, and can be created", dir)
	case err != nil:
		return unusable(dir, dir, err)
	case !info.IsDir():
		return report.Fail("Set "+dataSetting+" to a directory.", "%s is not a directory", dir)
	}
	for _, sub := range ownDirs {
		path := filepath.Join(dir, filepath.FromSlash(sub))
		if err := unix.Access(path, unix.W_OK|unix.X_OK); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return unusable(dir, path, err)
		}
	}
	// What is not asked but tried takes account of everything.
	f, err := os.CreateTemp(dir, ".registry-module-doctor-*")
	if err != nil {
		return unusable(dir, dir, err)
	}
	_, err = f.WriteString("x")
	if err = errors.Join(err, f.Close(), os.Remove(f.Name())); err != nil {
		return unusable(dir, dir, err)
	}
	return report.Passed("%s is writable for user %d", dir, os.Getuid())
}

func unusable(dir, path string, err error) report.Finding {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return report.Fail(fmt.Sprintf("Run on the host: chown -R %d:%d DIRECTORY, where DIRECTORY is what is mounted to %s; or set %s.", os.Getuid(), os.Getgid(), dir, dataSetting),
			"%s is not writable for user %d", path, os.Getuid())
	case errors.Is(err, syscall.EROFS):
		return report.Fail("Mount it for writing, or set "+dataSetting+" to a directory elsewhere.", "%s is on a file system that is read-only", path)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return report.Fail("Make room on the file system, or set "+dataSetting+" to a directory elsewhere.", "%s cannot be written to: no space is left", path)
	default:
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathErr.Err
		}
		return report.Fail("Check the disk (dmesg), or set "+dataSetting+" to a directory elsewhere.", "%s cannot be used: %v", path, err)
	}
}

// existing is the nearest directory at or above dir that exists.
func existing(dir string) string {
	dir = filepath.Clean(dir)
	for {
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return dir
		}
		dir = parent
	}
}

// dataFormat says what is in the data directory.
func dataFormat(dir string) report.Finding {
	const name = "registry-module.json"
	text, err := os.ReadFile(filepath.Join(dir, name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(filepath.Join(dir, "docker", "registry", "v2")); err == nil {
			return report.Passed("written by the stock registry: it is taken over as it is")
		}
		return report.Passed("nothing is stored yet")
	case err != nil:
		return unusable(dir, filepath.Join(dir, name), err)
	}
	var format struct {
		Version int    `json:"version"`
		Remote  string `json:"remote"`
	}
	if err := json.Unmarshal(text, &format); err != nil {
		return report.Fail("If all content is of one remote, delete the file; otherwise restore it (docs/disk-format.md).",
			"%s is damaged", filepath.Join(dir, name))
	}
	if format.Version > knownFormat {
		return report.Fail("Use a newer version of registry-module.", "the data directory has format %d, and this program knows formats up to %d", format.Version, knownFormat)
	}
	if format.Remote == "" {
		return report.Passed("format %d", format.Version)
	}
	return report.Passed("format %d, bare names belong to %s", format.Version, new(upstream.Secrets).Clean(format.Remote))
}

// space compares what is free with the limits.
func (m Machine) space() report.Finding {
	var st unix.Statfs_t
	if err := unix.Statfs(existing(m.DataDir), &st); err != nil {
		return report.Fail("Check the disk (dmesg).", "the free space is not known: %v", err)
	}
	block := int64(st.Bsize) //nolint:unconvert // its type differs between architectures
	return m.judgeSpace(int64(st.Bavail)*block, int64(st.Blocks)*block)
}

func (m Machine) judgeSpace(free, whole int64) report.Finding {
	reserve := int64(0)
	if m.MinFree != nil {
		reserve = m.MinFree(whole)
	}
	text := size(free) + " of " + size(whole) + " are free"
	if reserve > 0 {
		text += ", of which " + size(reserve) + " stay free"
	}
	if m.MaxSize > 0 {
		text += "; at most " + size(m.MaxSize) + " are kept"
	}
	switch {
	case free <= reserve:
		return report.Fail("Make room on the file system of the data directory, or lower REGISTRY_CACHE_MINFREE: nothing new is kept.", "%s", text)
	case m.MaxSize > whole-reserve:
		return report.Warn("Set REGISTRY_CACHE_MAXSIZE to less than "+size(whole-reserve)+", or leave it out.", "%s, which is more than there can be", text)
	case free-reserve < 1<<30:
		return report.Warn("Images have some hundred MB each: make room on the file system of the data directory.", "%s", text)
	}
	return report.Passed("%s", text)
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
