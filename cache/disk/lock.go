package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/gofrs/flock"

	"registry-module/internal/durable"
)

// lockName is the file that is locked by who owns the directory. What is in it says
// who that is, and counts for nothing.
const lockName = "registry-module.lock"

// InUseError is the error of [Open] for a directory that another process has. What
// that one has not told about itself is empty, or 0.
type InUseError struct {
	Dir     string
	PID     int
	Command string
	Host    string
}

// Error says who has the directory, and what can be done.
func (e *InUseError) Error() string {
	who := "another process"
	if e.PID > 0 {
		who = fmt.Sprintf("process %d", e.PID)
		if e.Command != "" {
			who += " (" + e.Command + ")"
		}
		if e.Host != "" {
			who += " on host " + e.Host
		}
	}
	return fmt.Sprintf("data directory %s is in use by %s: stop it, or choose another directory with REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", e.Dir, who)
}

// owner is the content of the lock file.
type owner struct {
	PID     int    `json:"pid"`
	Command string `json:"command,omitempty"`
	// Host is the name of the host, or of the container: a pid means something
	// only there.
	Host string `json:"host,omitempty"`
}

// takeLock makes sure that one process writes to the directory. The kernel
// releases the lock with the process, so nothing stale is left by a crash.
func (s *Store) takeLock() error {
	s.lock = flock.New(s.path(lockName))
	ok, err := s.lock.TryLock()
	if err != nil {
		return err
	}
	if !ok {
		o := readOwner(s.path(lockName))
		return &InUseError{Dir: s.root, PID: o.PID, Command: o.Command, Host: o.Host}
	}
	writeOwner(s.path(lockName))
	return nil
}

// writeOwner says in the lock file, which is locked, who we are. Where that fails,
// as on a full disk, the error of another process is less clear.
func writeOwner(name string) {
	host, _ := os.Hostname() // then it is empty
	text, err := json.Marshal(owner{PID: os.Getpid(), Command: command(os.Args), Host: host})
	if err != nil {
		return
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return
	}
	_, _ = f.Write(append(text, '\n'))
	_ = f.Close()
}

// command is the name of the program and of its command; other arguments may be
// secrets.
func command(args []string) string {
	if len(args) == 0 {
		return ""
	}
	name := filepath.Base(args[0])
	if len(args) > 1 && regexp.MustCompile(`^[a-z][a-z-]*$`).MatchString(args[1]) {
		name += " " + args[1]
	}
	return name
}

// readOwner returns what the lock file says; nothing of what cannot be so.
func readOwner(name string) owner {
	const limit = 4 << 10
	data, err := durable.ReadFile(durable.OS{}, name, limit)
	if err != nil {
		return owner{}
	}
	var o owner
	if json.Unmarshal(data, &o) != nil || o.PID <= 0 {
		return owner{}
	}
	o.Command, o.Host = printable(o.Command), printable(o.Host)
	return o
}

// printable is what of s can be shown on a terminal in one line.
func printable(s string) string {
	const limit = 100
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), limit)]
}

// notWritable tells the operator how to mend the most frequent mistake, a bind
// mount that belongs to root.
func notWritable(root string, err error) error {
	if _, ok := errors.AsType[*InUseError](err); ok {
		return err
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("data directory %s is not writable for user %d: %w; on the host run: %s",
			root, os.Getuid(), err, chown())
	}
	return fmt.Errorf("data directory %s: %w", root, err)
}

// chown is the command that gives the data directory to us.
func chown() string {
	return fmt.Sprintf("chown -R %d:%d DIRECTORY", os.Getuid(), os.Getgid())
}

// advise adds to err, of reading something in the data directory, what is to be
// done if we are not allowed to.
func (s *Store) advise(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: it is not readable for user %d; on the host run, for the directory that is %s: %s && chmod -R u+rwX DIRECTORY",
			err, os.Getuid(), s.root, chown())
	}
	return err
}

// Close gives the directory up. Blobs that are open stay readable.
func (s *Store) Close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}
