package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// versions are three of an image, each with one layer that is not in the one before.
type versions struct {
	one, two, three lab.Image
	// changed are the layers of two and three that are new.
	changed2, changed3 lab.RawBlob
	base               []lab.RawBlob // in all of them
}

func newVersions(t *testing.T) (v versions) {
	t.Helper()
	layer := func(seed uint64, size int64) lab.RawBlob { return must(lab.NoiseLayer(seed, size))(t) }
	v.base = []lab.RawBlob{layer(801, 4*mib), layer(802, 3*mib), layer(803, 200<<10)}
	v.changed2, v.changed3 = layer(804, 2*mib), layer(805, 500<<10)
	of := func(tag string, last lab.RawBlob) lab.Image {
		return must(lab.LayeredImage("delta/app", tag, v.base[0], v.base[1], v.base[2], last))(t)
	}
	v.one, v.two, v.three = of("1.0", layer(806, 2*mib)), of("2.0", v.changed2), of("3.0", v.changed3)
	return v
}

// onlyChanged expects a bundle that is no larger than what has changed, and a MiB.
func onlyChanged(t *testing.T, file string, changed lab.RawBlob) {
	t.Helper()
	info := must(os.Stat(file))(t)
	t.Logf("one layer of %d bytes has changed: the bundle has %d more", changed.Size, info.Size()-changed.Size)
	if info.Size() > changed.Size+mib {
		t.Errorf("the bundle has %d bytes, want %d and a MiB at most", info.Size(), changed.Size)
	}
	if info.Size() < changed.Size {
		t.Errorf("the bundle has %d bytes, less than the layer that has changed", info.Size())
	}
}

// TestBundleDelta carries what has changed between versions of an image to a site that has
// said what it has, by `ls -o have` and then by receipts.
func TestBundleDelta(t *testing.T) {
	for name, byServer := range map[string]bool{"directly": false, "by a server": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVersions(t)
			up := origin(t, lab.OriginOptions{}, v.one, v.two, v.three)
			office, site := newDepot(t, up), newDepot(t, up)
			base, delta2, delta3 := office.file("base.tar"), office.file("delta2.tar"), office.file("delta3.tar")
			office.good(t, append([]string{"bundle", "create", base}, atRemote(v.one)...)...)

			var s *lab.Server
			if byServer {
				s = site.serve(t)
			}
			at := func(args ...string) lab.Outcome {
				t.Helper()
				takeDown(t, up) // the site has no link
				defer bringUp(t, up)
				return site.good(t, args...)
			}
			at("bundle", "load", base)
			have := site.write(t, "site.have", []byte(at("ls", "-o", "have").Stdout))
			covers(t, have, v.one)
			office.good(t, "bundle", "create", delta2, atRemote(v.two)[0], "--have", have)
			onlyChanged(t, delta2, v.changed2)
			receipt := site.file("receipt.json")
			at("bundle", "load", delta2, "--receipt", receipt)
			covers(t, receipt, v.two)

			office.good(t, "bundle", "create", delta3, atRemote(v.three)[0], "--have", receipt)
			onlyChanged(t, delta3, v.changed3)
			at("bundle", "load", delta3)
			// A second time, nothing is to be done.
			at("bundle", "load", delta3)

			takeDown(t, up)
			if s != nil {
				for _, img := range []lab.Image{v.one, v.two, v.three} {
					everything(t, s, img)
				}
				stop(t, s)
			}
			site.servesAlone(t, v.one, v.two, v.three)
		})
	}
}

// covers expects that a have file or a receipt names all content of an image.
func covers(t *testing.T, file string, img lab.Image) {
	t.Helper()
	var have struct {
		Version  int
		Contents []struct {
			Digest digest.Digest
			Size   int64
		}
	}
	text := must(os.ReadFile(file))(t)
	if err := json.Unmarshal(text, &have); err != nil || have.Version != 1 {
		t.Fatalf("%s: version %d, %v\n%.300s", file, have.Version, err, text)
	}
	sizes := map[digest.Digest]int64{}
	last := digest.Digest("")
	for _, c := range have.Contents {
		if c.Digest <= last {
			t.Errorf("%s: %s comes after %s", file, c.Digest, last)
		}
		last = c.Digest
		sizes[c.Digest] = c.Size
	}
	for _, m := range img.Manifests {
		if sizes[m.Digest] != int64(len(m.Bytes)) {
			t.Errorf("%s: manifest %s has %d bytes there, want %d", file, m.Digest, sizes[m.Digest], len(m.Bytes))
		}
	}
	for _, b := range img.Blobs {
		if sizes[b.Digest] != b.Size {
			t.Errorf("%s: blob %s has %d bytes there, want %d", file, b.Digest, sizes[b.Digest], b.Size)
		}
	}
}

// TestBundleWithoutBase loads what has changed where that does not help: nothing changes, and
// what is missing is named.
func TestBundleWithoutBase(t *testing.T) {
	t.Parallel()
	v := newVersions(t)
	up := origin(t, lab.OriginOptions{}, v.one, v.two)
	office := newDepot(t, up)
	base, delta, have := office.file("base.tar"), office.file("delta.tar"), office.file("have")
	office.good(t, append([]string{"bundle", "create", base}, atRemote(v.one)...)...)
	office.write(t, "have", []byte(office.good(t, "ls", "-o", "have").Stdout))
	office.good(t, "bundle", "create", delta, atRemote(v.two)[0], "--have", have)
	other := noise(t, "delta/other", 50<<10)
	half := must(lab.LayeredImage("delta/half", "1.0", v.base[2], v.base[0]))(t)
	up.Add(other, half)
	for _, img := range []lab.Image{other, half} {
		office.good(t, append([]string{"bundle", "create", office.file(path.Base(img.Repo) + ".tar")}, atRemote(img)...)...)
	}
	takeDown(t, up)

	for name, tt := range map[string]struct {
		images  []lab.Image // that are there before
		missing []lab.RawBlob
	}{
		"nothing is there": {nil, v.base},
		"another image":    {[]lab.Image{other}, v.base},
		"some layers":      {[]lab.Image{half}, v.base[1:2]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for way, byServer := range map[string]bool{"directly": false, "by a server": true} {
				site := newDepot(t, up)
				for _, img := range tt.images {
					site.good(t, "bundle", "load", office.file(path.Base(img.Repo)+".tar"))
				}
				if byServer {
					stop(t, site.serve(t)) // it makes what it needs
				}
				before, listed := site.content(t), len(site.list(t))
				var s *lab.Server
				if byServer {
					s = site.serve(t)
				}
				o := site.run(t, "bundle", "load", delta)
				if o.Status != 1 {
					t.Errorf("%s: %v\nwant status 1", way, o)
				}
				for _, b := range tt.missing {
					if !strings.Contains(o.Stderr+o.Stdout, b.Digest.Encoded()[:12]) {
						t.Errorf("%s: it does not say that %s is missing\n%v", way, b.Digest, o)
					}
				}
				if len(tt.missing) == 1 && strings.Contains(o.Stderr+o.Stdout, v.base[0].Digest.Encoded()[:12]) {
					t.Errorf("%s: it says that %s is missing, which is there\n%v", way, v.base[0].Digest, o)
				}
				if s != nil {
					a := get(t, manifestURL(s, v.two.Repo, v.two.Tag))
					if a.Status == http.StatusOK {
						t.Errorf("%s: the image is served by its tag", way)
					}
					stop(t, s)
				}
				if len(before) == 0 {
					// It may be made into a data directory of nothing.
					if n, _, err := lab.CheckStore(site.data()); n != 0 || err != nil {
						t.Errorf("%s: %d blobs are stored, %v, want none", way, n, err)
					}
				} else {
					site.unchanged(t, before)
				}
				if n := len(site.list(t)); n != listed {
					t.Errorf("%s: %d images are listed, before that %d", way, n, listed)
				}
				if n := site.visible(t, append(tt.images, v.two)...); n != len(tt.images) {
					t.Errorf("%s: %d images are served, want %d", way, n, len(tt.images))
				}
			}
		})
	}
}
