package disk_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"registry-module/cache/disk"
)

func TestOneOwner(t *testing.T) {
	host, err := os.Hostname()
	must(t, err)
	us := fmt.Sprintf("in use by process %d (", os.Getpid())
	for name, tt := range map[string]struct {
		content string // of the lock file; what Open has written where empty
		want    string
	}{
		"as written":      {"", us},
		"with the host":   {"", "on host " + host},
		"what to do":      {"", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"},
		"pid alone":       {`{"pid":7}`, "in use by process 7: stop it"},
		"older program":   {" ", "in use by another process"},
		"no JSON":         {"\x00\x00\x00", "in use by another process"},
		"other JSON":      {`[{"pid":1}]`, "in use by another process"},
		"no pid":          {`{"pid":-1,"host":"h"}`, "in use by another process"},
		"too long":        {`{"pid":1,"host":"` + strings.Repeat("x", 8<<10) + `"}`, "in use by another process"},
		"escapes":         {`{"pid":7,"command":"a\u001b[2Jb\nc"}`, "in use by process 7 (a[2Jbc):"},
		"long name":       {`{"pid":7,"command":"` + strings.Repeat("x", 200) + `"}`, "(" + strings.Repeat("x", 100) + "):"},
		"a huge number":   {`{"pid":1e300}`, "in use by another process"},
		"of another type": {`{"pid":"7"}`, "in use by another process"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir)
			if tt.content != "" {
				writeFile(t, filepath.Join(dir, "registry-module.lock"), tt.content)
			}
			_, err := disk.Open(dir, disk.Options{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("second owner: error %v, want one with %q", err, tt.want)
			}
			inUse, ok := errors.AsType[*disk.InUseError](err)
			if !ok || inUse.Dir != dir {
				t.Errorf("error %#v, want an InUseError of %s", err, dir)
			}
		})
	}
}

// What an earlier owner has left in the file keeps nobody away, nor does it stay.
func TestNextOwner(t *testing.T) {
	dir := t.TempDir()
	lock := filepath.Join(dir, "registry-module.lock")
	writeFile(t, lock, `{"pid":7,"command":"`+strings.Repeat("x", 3000))
	must(t, open(t, dir).Close())
	open(t, dir)
	got, err := os.ReadFile(lock)
	if err != nil || !strings.Contains(string(got), fmt.Sprintf(`"pid":%d`, os.Getpid())) || strings.Contains(string(got), "xxx") {
		t.Errorf("lock file %q, %v", got, err)
	}
}

// Arguments of commands can be secrets.
func TestCommand(t *testing.T) {
	for want, args := range map[string][]string{
		"":                      nil,
		"registry-module":       {"/bin/registry-module"},
		"registry-module serve": {"registry-module", "serve", "/etc/config.yml"},
		"a":                     {"a", "--password=x"},
		"b":                     {"b", "secret123"},
	} {
		if got := disk.Command(args); got != want {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
}
