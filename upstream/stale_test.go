package upstream_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"registry-module/auth"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// TestSecretFileIsGone goes on with the password of a file that is gone, and says so once.
func TestSecretFileIsGone(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "secret"})
	path := write(t, "password", []byte("secret"))
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	r := newRemote(t, upstream.Options{URL: reg.URL(), Log: log, Credentials: auth.New(auth.Options{Username: "me", PasswordFile: path})})
	said := func(what string, levels ...string) {
		t.Helper()
		for range 3 {
			get(t, r, "a/b", "v1")
		}
		text := out.String()
		out.Reset()
		if strings.Count(text, "\n") != len(levels) || len(levels) > 0 && !strings.Contains(text, "level="+levels[0]) || !strings.Contains(text, what) || strings.Contains(text, "secret") {
			t.Errorf("the log says %q", text)
		}
	}
	said("")
	for range 2 {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		said("reading the password from "+path+": no such file", "warning")
		if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		said("can be read again", "info")
	}
}
