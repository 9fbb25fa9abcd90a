package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSeedSettings(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const token = "0123456789abcdef"
	seeds, good := file("seed.yml", "no seed file: is read only for a run"), file("token", token+"\n")
	large := file("large.yml", strings.Repeat("#", 2<<20))
	empty, short, two := file("empty", " \n"), file("short", "c0ffee\n"), file("two", "0123456789abcdef c0ffee0123456789\n")
	first, second := file("a.pem", "keys are read for a bundle"), file("b.pem", "")
	for name, tt := range map[string]struct {
		text    string
		environ []string
		want    string // of what is read
		wrong   []string
	}{
		"none":          {want: " [] "},
		"variables":     {environ: []string{"REGISTRY_SEED_FILE=" + seeds, "REGISTRY_SEED_TOKENFILE=" + good, "REGISTRY_BUNDLE_TRUSTKEYS=" + first + " " + second}, want: seeds + " [" + first + " " + second + "] " + good},
		"file":          {text: "version: 0.1\nseed: {file: " + seeds + ", tokenfile: " + good + "}\nbundle: {trustkeys: [" + first + "]}", want: seeds + " [" + first + "] " + good},
		"large file":    {environ: []string{"REGISTRY_SEED_FILE=" + large}, want: large + " [] "},
		"no such files": {environ: []string{"REGISTRY_SEED_FILE=" + dir + "/none", "REGISTRY_SEED_TOKENFILE=" + dir + "/none", "REGISTRY_BUNDLE_TRUSTKEYS=" + first + "," + dir + "/none"}, wrong: []string{`REGISTRY_SEED_FILE (seed.file): "` + dir + `/none" cannot be read`, `REGISTRY_SEED_TOKENFILE (seed.tokenfile): "` + dir + `/none" cannot be read`, `REGISTRY_BUNDLE_TRUSTKEYS (bundle.trustkeys): "` + dir + `/none" cannot be read`}},
		"a directory":   {environ: []string{"REGISTRY_SEED_FILE=" + dir}, wrong: []string{"REGISTRY_SEED_FILE (seed.file)", "is a directory"}},
		"no token":      {environ: []string{"REGISTRY_SEED_TOKENFILE=" + empty}, wrong: []string{"REGISTRY_SEED_TOKENFILE (seed.tokenfile)", "openssl rand -hex 32"}},
		"short token":   {environ: []string{"REGISTRY_SEED_TOKENFILE=" + short}, wrong: []string{"less than 16 characters"}},
		"two words":     {environ: []string{"REGISTRY_SEED_TOKENFILE=" + two}, wrong: []string{"more than a token"}},
		"token itself":  {environ: []string{"REGISTRY_SEED_TOKENFILE=c0ffee0123456789c0ffee0123456789"}, wrong: []string{"REGISTRY_SEED_TOKENFILE (seed.tokenfile)", "and not what it holds"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := loadWith(t, tt.text, tt.environ...)
			if tt.wrong == nil {
				if err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprintf("%s %s %s", c.SeedFile, c.BundleTrustKeys, c.SeedTokenFile); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
				return
			}
			for _, want := range tt.wrong {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %s", err, want)
				}
			}
			for _, secret := range []string{"c0ffee", token} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("a token is in %v", err)
				}
			}
		})
	}
	if got, err := ReadToken(good); err != nil || got != token {
		t.Errorf("%q, %v", got, err)
	}
	for _, path := range []string{empty, short, two, dir + "/none"} {
		if got, err := ReadToken(path); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "c0ffee") {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}
