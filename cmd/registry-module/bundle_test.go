package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"registry-module/seed/bundle"
	"registry-module/upstream/upstreamtest"
)

// A bundle has the same bytes however it is made, and all of it can be pulled where it was
// loaded, by the server that runs there or without one.
func TestBundleTravels(t *testing.T) {
	o := newOnline(t)
	file := o.create(t)
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(o.create(t))
	if err != nil || !bytes.Equal(want, again) {
		t.Errorf("another bundle of the same: %d bytes and %d, %v", len(want), len(again), err)
	}
	stop := serving(t, testConfig(t, o.dir, o.host))
	if again, err = os.ReadFile(o.create(t)); err != nil || !bytes.Equal(want, again) {
		t.Errorf("by the server: %d bytes and %d, %v", len(want), len(again), err)
	}
	out, notes, err := command(t, "bundle", "create", "-", "--cached", "team/app:v1", "team/tool:v1")
	if err != nil || out != string(want) {
		t.Errorf("to standard output: %d bytes, %v, %s", len(out), err, notes)
	}
	stop()

	t.Run("without a server", func(t *testing.T) {
		dir := shortDir(t)
		inDir(t, dir)
		out, _, err := command(t, "bundle", "load", file)
		if err != nil || strings.Count(out, "pinned") != 3 {
			t.Fatalf("%v, printed\n%s", err, out)
		}
		before := have(t, dir)
		if _, _, err := command(t, "bundle", "load", file); err != nil || have(t, dir) != before {
			t.Errorf("again: %v", err)
		}
		cfg := testConfig(t, dir, "")
		serving(t, cfg)
		o.wantAll(t, cfg.Addr)
	})
	t.Run("by the server", func(t *testing.T) {
		dir := shortDir(t)
		inDir(t, dir)
		cfg := testConfig(t, dir, "")
		stop := serving(t, cfg)
		if _, err := pullAll(t, cfg.Addr, "team/app:v1"); err == nil {
			t.Error("it is there already")
		}
		receipt := filepath.Join(t.TempDir(), "receipt")
		if _, _, err := command(t, "bundle", "load", file, "--receipt", receipt); err != nil {
			t.Fatal(err)
		}
		o.wantAll(t, cfg.Addr)
		b, err := bundle.Open(file, bundle.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = b.Close() }()
		var last bundle.Progress
		if _, err := newControlClient(controlPath(dir)).Load(t.Context(), b, loadOptions{Progress: func(p bundle.Progress) { last = p }}); err != nil || last.TotalContents != 0 {
			t.Errorf("again: %v, stored %+v", err, last)
		}
		if text, err := os.ReadFile(receipt); err != nil {
			t.Error(err)
		} else if r, err := bundle.ReadHave(bytes.NewReader(text)); err != nil || len(r) != len(b.Description().Contents) {
			t.Errorf("receipt: %d contents, %v", len(r), err)
		}
		stop()
		serving(t, cfg)
		o.wantAll(t, cfg.Addr) // after another start
	})
	t.Run("where another remote is configured", func(t *testing.T) {
		dir := shortDir(t)
		inDir(t, dir)
		t.Setenv("REGISTRY_PROXY_REMOTEURL", "https://elsewhere.test")
		_, _, err := command(t, "bundle", "load", file)
		if err == nil || !strings.Contains(err.Error(), "REGISTRY_PROXY_REMOTEURL_N") || !strings.Contains(err.Error(), o.host) {
			t.Error(err)
		}
	})
}

// With --platform, only that is carried, whatever is stored.
func TestBundleOfPlatforms(t *testing.T) {
	o := newOnline(t)
	file := filepath.Join(t.TempDir(), "arm.tar")
	o.createAs(t, file, "team/app:v1", "--platform", "linux/arm64", "--no-referrers")
	out, _, err := command(t, "bundle", "inspect", file, "-o", "json", "--verify")
	var in bundle.Inspection
	if err != nil || json.Unmarshal([]byte(out), &in) != nil || len(in.Images) != 1 || !slices.Equal(in.Images[0].Platforms, []string{"linux/arm64"}) || in.Images[0].Manifests != 2 {
		t.Errorf("%v, %s", err, out)
	}
	_, _, err = command(t, "bundle", "create", file+"2", "--cached", "team/app:v1", "--platform", "linux/s390x")
	if err == nil || !strings.Contains(err.Error(), "linux/s390x is not among its platforms") {
		t.Error(err)
	}
	if _, err := os.Stat(file + "2"); err == nil {
		t.Error("a file was made")
	}
}

// A delta needs what the site has, and changes nothing where that is missing.
func TestBundleDelta(t *testing.T) {
	quiet(t)
	up := upstreamtest.New(t)
	base, err := random.Image(600<<10, 4)
	if err != nil {
		t.Fatal(err)
	}
	layer, err := random.Layer(50<<10, types.DockerLayer)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := mutate.AppendLayers(base, layer)
	if err != nil {
		t.Fatal(err)
	}
	up.AddImage("team/app", "v1", base)
	up.AddImage("team/app", "v2", changed)
	dir := shortDir(t)
	cfg := testConfig(t, dir, up.Host())
	stop := serving(t, cfg)
	for _, tag := range []string{"v1", "v2"} {
		if _, err := pullAll(t, cfg.Addr, "team/app:"+tag); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	tmp := t.TempDir()
	first, delta, list := filepath.Join(tmp, "first.tar"), filepath.Join(tmp, "delta.tar"), filepath.Join(tmp, "site.have")
	o := online{dir: dir}
	o.createAs(t, first, "team/app:v1")
	site, empty := shortDir(t), shortDir(t)
	inDir(t, site)
	if _, _, err := command(t, "bundle", "load", first); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(list, []byte(have(t, site)), 0o600); err != nil {
		t.Fatal(err)
	}
	o.createAs(t, delta, "team/app:v2", "--have", list)
	if info, err := os.Stat(delta); err != nil || info.Size() > 100<<10 {
		t.Errorf("%v, %v", info, err)
	}
	before := have(t, empty)
	if _, _, err := command(t, "bundle", "load", delta); !errors.Is(err, bundle.ErrMissing) || have(t, empty) != before {
		t.Errorf("without the base: %v", err)
	}
	receipt := filepath.Join(tmp, "receipt")
	inDir(t, site)
	if _, _, err := command(t, "bundle", "load", delta, "--receipt", receipt); err != nil {
		t.Fatal(err)
	}
	// The receipt is the next list.
	o.createAs(t, delta, "team/app:v2", "--have", receipt)
	if info, err := os.Stat(delta); err != nil || info.Size() > 20<<10 {
		t.Errorf("with the receipt: %v, %v", info, err)
	}
}

// What lies in a chunk that is lost is not loaded, and the rest is.
func TestBundleWithoutChunk(t *testing.T) {
	o := newOnline(t)
	file := o.create(t, "--chunk-size", "1MiB")
	if err := os.Remove(file + ".003"); err != nil {
		t.Fatal(err)
	}
	for name, server := range map[string]bool{"directly": false, "by the server": true} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			inDir(t, dir)
			if server {
				serving(t, testConfig(t, dir, ""))
			}
			receipt := filepath.Join(t.TempDir(), "receipt")
			out, _, err := command(t, "bundle", "load", file, "--receipt", receipt)
			if _, partly := errors.AsType[partlyError](err); !partly || !strings.Contains(err.Error(), "images.tar.003") || !strings.Contains(err.Error(), "load this again") || !strings.Contains(out, "loaded "+o.host+"/team/app:v1") || strings.Contains(out, "team/tool") {
				t.Errorf("%v, printed\n%s", err, out)
			}
			if text, err := os.ReadFile(receipt); err != nil || !bytes.Contains(text, []byte(`"missing"`)) {
				t.Errorf("receipt %s, %v", text, err)
			}
		})
	}
	out, _, err := command(t, "bundle", "inspect", file)
	if _, partly := errors.AsType[partlyError](err); !partly || !strings.Contains(out, "images.tar.003: missing") {
		t.Errorf("%v, printed\n%s", err, out)
	}
}

// All mistakes of a command line come at once.
func TestBundleUsage(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want []string
	}{
		"nothing named": {[]string{"create", "x.tar"}, []string{"name the images"}},
		"all and some":  {[]string{"create", "x.tar", "a", "--all"}, []string{"--all is all"}},
		"many": {[]string{"create", "-", "a", "--chunk-size", "1k", "-o", "json", "--platform", "ARM", "--have", "none", "--sign-key", "none", "-f", "none"},
			[]string{"cannot be split", "standard output is for the bundle", "--chunk-size", "ARM", "--have none", "--sign-key none", "-f none"}},
		"no name of an image": {[]string{"create", "x.tar", "A B"}, []string{"A B"}},
		"no directory":        {[]string{"create", "none/x.tar", "a"}, []string{"FILE none/x.tar"}},
		"load, no key":        {[]string{"load", "x.tar", "--trust-key", "none", "--receipt", "none/x", "-o", "xml"}, []string{"key none", "--receipt", "xml"}},
		"load nothing":        {[]string{"load"}, []string{"arg"}},
		"inspect, format":     {[]string{"inspect", "x.tar", "-o", "xml"}, []string{"xml"}},
		"other command":       {[]string{"make"}, []string{"create, load or inspect"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := command(t, append([]string{"bundle"}, tt.args...)...)
			if _, ok := errors.AsType[usageError](err); !ok {
				t.Fatalf("error %v, want one of usage", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
	for _, args := range [][]string{{"bundle"}, {"bundle", "create", "--help"}, {"bundle", "load", "--help"}, {"bundle", "inspect", "--help"}} {
		if out, _, err := command(t, args...); err != nil || !strings.Contains(out, "Examples:") {
			t.Errorf("%v: %v, printed\n%s", args, err, out)
		}
	}
}

// One bundle is loaded at a time. Who comes second waits for a while, and no longer than he
// wants to.
func TestBundleOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &contents{loading: newTurn()}
		c.loading.take(t.Context(), 0)
		if _, err := c.Load(t.Context(), nil, loadOptions{}); !errors.Is(err, errLoading) {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Load(ctx, nil, loadOptions{}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestChoosePlatform(t *testing.T) {
	have := []string{"linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "linux/arm64", "unknown/unknown"}
	for want, places := range map[string][]int{
		"linux/amd64": {0}, "linux/arm": {1, 2}, "linux/arm/v7": {2}, "linux/arm/v8": {2}, "linux/arm/v5": nil,
		"linux/arm64": {3, 4}, "linux/arm64/v8": {3, 4}, "linux/s390x": nil,
	} {
		if got := choosePlatform(want, have); !slices.Equal(got, places) {
			t.Errorf("%s: %v, want %v", want, got, places)
		}
	}
}
