package auth_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/auth"
)

func TestSecretOfFile(t *testing.T) {
	for name, tt := range map[string]struct{ content, want string }{
		"bare":                   {"s3cret", "s3cret"},
		"line break":             {"s3cret\n", "s3cret"},
		"Windows' line break":    {"s3cret\r\n", "s3cret"},
		"only one line break":    {"s3cret\n\n", "s3cret\n"},
		"spaces belong to it":    {" s3cret \n", " s3cret "},
		"line breaks within it":  {"s3\ncret\n", "s3\ncret"},
		"bytes that are no text": {"\xff\xfe\n", "\xff\xfe"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, "", tt.content)
			wantConfig(t, auth.New(auth.Options{Username: "me", PasswordFile: path}), user("me", tt.want))
			wantConfig(t, auth.New(auth.Options{IdentityTokenFile: path}), authn.AuthConfig{IdentityToken: tt.want})
		})
	}
}

func TestSecretFileThatNeverWas(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	held := filepath.Join(dir, "held")
	if err := syscall.Mkfifo(held, 0o600); err != nil {
		t.Fatal(err)
	}
	holder, err := os.OpenFile(held, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	for name, tt := range map[string]struct{ path, says string }{
		"missing":                   {filepath.Join(dir, "missing"), "no such file"},
		"empty":                     {write(t, "", ""), "empty"},
		"only a line break":         {write(t, "", "\r\n"), "empty"},
		"a directory":               {dir, "is a directory"},
		"a pipe that nobody writes": {fifo, "not a regular file"},
		"a pipe that is held open":  {held, "not a regular file"},
		"a device":                  {os.DevNull, "not a regular file"},
		"huge":                      {write(t, "", strings.Repeat("s3cret", 200_000)), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, auth.New(auth.Options{Username: "me", PasswordFile: tt.path}), "the password", tt.path, tt.says)
			wantError(t, auth.New(auth.Options{IdentityTokenFile: tt.path}), "the identity token", tt.path, tt.says)
		})
	}
}

func TestSecretFileIsReplaced(t *testing.T) {
	path := write(t, "", "one\n")
	a := newChanging(t, auth.Options{Username: "me", PasswordFile: path})
	wantConfig(t, a, user("me", "one"))
	if a.Renew(user("me", "one")) {
		t.Error("the file has not changed, but has other credentials")
	}

	// The same length and, most likely, the same time stamp.
	write(t, path, "two\n")
	if !a.Renew(user("me", "one")) {
		t.Error("the file has changed, but has no other credentials")
	}
	wantConfig(t, a, user("me", "two"))

	// What is in the middle of being replaced keeps its last value.
	wantStale(t, a, "")
	write(t, path, "")
	wantConfig(t, a, user("me", "two"))
	wantStale(t, a, "reading the password from "+path+": it is empty")
	if a.Renew(user("me", "two")) {
		t.Error("an empty file has other credentials")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantConfig(t, a, user("me", "two"))
	wantStale(t, a, "no such file")
	write(t, path, "three")
	wantConfig(t, a, user("me", "three"))
	wantStale(t, a, "")
}

// TestSecretFileOfKubernetes replaces a file as Kubernetes does: the file is a link
// into a link to a directory, and that is replaced.
func TestSecretFileOfKubernetes(t *testing.T) {
	dir := t.TempDir()
	publish := func(version, password string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "password"), password)
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	publish("..1", "one")
	path := filepath.Join(dir, "password")
	if err := os.Symlink("..data/password", path); err != nil {
		t.Fatal(err)
	}
	a := newChanging(t, auth.Options{Username: "me", PasswordFile: path})
	wantConfig(t, a, user("me", "one"))
	publish("..2", "two")
	if err := os.RemoveAll(filepath.Join(dir, "..1")); err != nil {
		t.Fatal(err)
	}
	wantConfig(t, a, user("me", "two"))
}

// wantStale fails unless a says that its credentials are old, and why, or that they are
// not where says is empty.
func wantStale(t *testing.T, a any, says string) {
	t.Helper()
	err := a.(interface{ Stale() error }).Stale()
	if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
		t.Errorf("the credentials are old: %v, want %q", err, says)
	}
}
