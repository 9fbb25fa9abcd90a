package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// gzipped is content as gzip packs it.
func gzipped(t *testing.T, content []byte) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// zstdPacked is content as zstd packs it.
func zstdPacked(t *testing.T, content []byte) string {
	t.Helper()
	w := must(zstd.NewWriter(nil))(t)
	defer w.Close()
	return string(w.EncodeAll(content, nil))
}

// entry is one of a tar.
type entry struct {
	tar.Header
	content []byte
	// block is the header as it was read, which is written again with another size; nil for
	// an entry that was not read.
	block []byte
}

// entries are those of a bundle.
func entries(t *testing.T, bundle []byte) (all []entry) {
	t.Helper()
	for _, p := range parts(t, bundle) {
		all = append(all, entry{tar.Header{Name: p.name}, bundle[p.start:p.end], bundle[p.start-512 : p.start]})
	}
	return all
}

// packed is a tar of entries, which need not make sense.
func packed(t *testing.T, all ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, e := range all {
		if e.block != nil {
			b.Write(resized(e.block, len(e.content)))
			b.Write(e.content)
			b.Write(make([]byte, (512-len(e.content)%512)%512))
			continue
		}
		e.Size = int64(len(e.content))
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.content); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

// resized is a header with another size.
func resized(block []byte, size int) []byte {
	b := bytes.Clone(block)
	copy(b[124:135], fmt.Sprintf("%011o", size))
	return summed(b)
}

// summed is a header with the right checksum.
func summed(b []byte) []byte {
	copy(b[148:156], "        ")
	sum := 0
	for _, v := range b {
		sum += int(v)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// tricks are entries that unpack where they do not belong, or are no files.
func tricks(outside string) map[string]tar.Header {
	reg := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o777} }
	blob := "blobs/sha256/" + strings.Repeat("a", 64)
	return map[string]tar.Header{
		"absolute":         reg(outside),
		"dots":             reg("../../../../../../../../../.." + outside),
		"dots in a blob":   reg("blobs/sha256/../../../../../../../../../.." + outside),
		"backslashes":      reg(`..\..\evil`),
		"NUL":              {Typeflag: tar.TypeReg, Name: "blobs/sha256/evil", PAXRecords: map[string]string{"comment": "evil"}},
		"symbolic link":    {Typeflag: tar.TypeSymlink, Name: blob, Linkname: outside},
		"link to a parent": {Typeflag: tar.TypeSymlink, Name: "blobs", Linkname: "/"},
		"hard link":        {Typeflag: tar.TypeLink, Name: blob, Linkname: "/etc/passwd"},
		"device":           {Typeflag: tar.TypeChar, Name: blob, Devmajor: 1, Devminor: 5},
		"block device":     {Typeflag: tar.TypeBlock, Name: blob, Devmajor: 8},
		"FIFO":             {Typeflag: tar.TypeFifo, Name: blob},
		"directory":        {Typeflag: tar.TypeDir, Name: "blobs/sha256/", Mode: 0},
		"long name":        reg(strings.Repeat("blobs/", 5000) + "x"),
		"empty name":       {Typeflag: tar.TypeReg, Name: ".", Mode: 0o644},
	}
}

// described is a bundle whose description is another one, with all that says what that has.
func described(t *testing.T, all []entry, change func(map[string]any)) []byte {
	t.Helper()
	var d map[string]any
	for i := range all {
		if all[i].Name != bundleDescription {
			continue
		}
		dec := json.NewDecoder(bytes.NewReader(all[i].content))
		dec.UseNumber()
		if err := dec.Decode(&d); err != nil {
			t.Fatal(err)
		}
	}
	change(d)
	return withDescription(t, all, must(json.Marshal(d))(t))
}

// withDescription is as described, with any text.
func withDescription(t *testing.T, all []entry, text []byte) []byte {
	t.Helper()
	changed := make([]entry, 0, len(all))
	var before digest.Digest
	for _, e := range all {
		if e.Name == bundleDescription {
			before, e.content = digest.FromBytes(e.content), text
		}
		changed = append(changed, e)
	}
	for i := range changed {
		if changed[i].Name == "index.json" {
			changed[i].content = bytes.ReplaceAll(changed[i].content, []byte(before), []byte(digest.FromBytes(text)))
		}
	}
	return packed(t, changed...)
}

// TestBundleInputs loads what is no bundle, or is meant to harm: there is nothing outside of
// the data directory afterwards, and nothing in it that is wrong.
func TestBundleInputs(t *testing.T) {
	t.Parallel()
	c := newCargo(t)
	all := entries(t, c.plain)
	if !bytes.Equal(packed(t, all...), c.plain) {
		t.Fatal("packed again, the bundle has other bytes: what follows would show nothing")
	}
	outside := filepath.Join(tempDir(t), "evil")
	zeros := make([]byte, 100*mib)
	bombs := map[string][]byte{
		// A hundred members of 100 MiB.
		"gzip of 10 GB": bytes.Repeat([]byte(gzipped(t, zeros)), 100),
		"zstd of 10 GB": bytes.Repeat([]byte(zstdPacked(t, zeros)), 100),
	}
	t.Logf("10 GB of zeros: %d bytes by gzip, %d by zstd", len(bombs["gzip of 10 GB"]), len(bombs["zstd of 10 GB"]))
	absurd := packed(t, all[:2]...)
	absurd = append(absurd[:len(absurd)-1024], gnuHeader("blobs/sha256/"+strings.Repeat("a", 64), math.MaxInt64)...)

	nothing := map[string][]byte{
		"empty": nil, "random bytes": random(256 << 10), "zeros": make([]byte, 1<<20), "text": []byte("registry.example.test/library/alpine\n"),
		"gzip of a bundle": []byte(gzipped(t, c.plain)), "zstd of a bundle": []byte(zstdPacked(t, c.plain)),
		"gzip of 10 GB": bombs["gzip of 10 GB"], "zstd of 10 GB": bombs["zstd of 10 GB"],
		"a tar of nothing": packed(t), "another tar": packed(t, entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd"}, content: []byte("root")}),
		"no description":                 packed(t, all[:2]...),
		"the first twice":                packed(t, append([]entry{all[0]}, all...)...),
		"an absurd size":                 absurd,
		"description: text":              withDescription(t, all, []byte("no JSON")),
		"description: deep":              withDescription(t, all, bytes.Repeat([]byte("["), 1e6)),
		"description: 40 MB":             withDescription(t, all, []byte(`{"version":1,"images":[`+strings.Repeat(`{},`, 13e6)+`{}],"contents":[]}`)),
		"description: null":              withDescription(t, all, []byte(`null`)),
		"description: 48 MB of images":   withDescription(t, all, []byte(`{"version":1,"images":[`+strings.Repeat(`{},             `, 3e6)+`{}],"contents":[]}`)),
		"description: 48 MB of contents": withDescription(t, all, []byte(`{"version":1,"images":[],"contents":[`+strings.Repeat(`{},             `, 3e6)+`{}]}`)),
	}
	for what, change := range lies() {
		nothing["description: "+what] = described(t, all, change)
	}
	for what, h := range tricks(outside) {
		nothing["first: "+what] = packed(t, append([]entry{{Header: h}}, all...)...)
	}

	t.Run("refused", func(t *testing.T) {
		for what, content := range nothing {
			t.Run(what, func(t *testing.T) {
				t.Parallel()
				d := newDepot(t, c.up)
				d.good(t, "bundle", "load", d.write(t, "good.tar", c.plain))
				file := d.write(t, "carried.tar", content)
				d.refusal(t, nil, nil, "bundle", "load", file)
				d.refusal(t, bytes.NewReader(content), nil, "bundle", "load", "-")
				if what != "description: remote of no network" { // it can be looked at
					d.refusal(t, nil, nil, "bundle", "inspect", file)
				}
			})
		}
	})

	// What stands behind a head that is right is right itself, or is not loaded.
	t.Run("behind the head", func(t *testing.T) {
		var loads []loading
		head := 3
		for what, h := range tricks(outside) {
			in := func(at int) []byte {
				e := append([]entry(nil), all[:at]...)
				return packed(t, append(append(e, entry{Header: h}), all[at:]...)...)
			}
			loads = append(loads, loading{what: what + " before the blobs", bundle: in(head)},
				loading{what: what + " among them", bundle: in(len(all) - 2)}, loading{what: what + " last", bundle: in(len(all))})
		}
		twice := append([]entry(nil), all...)
		evil := all[len(all)-1]
		evil.content = bytes.Repeat([]byte("x"), len(evil.content))
		loads = append(loads,
			loading{what: "a blob twice, the second wrong", bundle: packed(t, append(twice, evil)...)},
			loading{what: "all twice", bundle: append(bytes.Clone(c.plain), c.plain...)},
			loading{what: "blobs in another order", bundle: packed(t, append(append(append([]entry(nil), all[:head]...), all[len(all)-1]), all[head:len(all)-1]...)...)},
			loading{what: "more zeros", bundle: append(bytes.Clone(c.plain), make([]byte, mib)...)})
		for i := range loads {
			loads[i].way = loadWay(i) % loadWays
		}
		c.load(t, loads)
	})
	if _, err := os.Lstat(outside); err == nil {
		t.Errorf("%s is there", outside)
	}

	t.Run("no files", func(t *testing.T) {
		d := newDepot(t, c.up)
		d.good(t, "bundle", "load", d.write(t, "good.tar", c.plain))
		for _, file := range []string{d.dir, "nowhere.tar", "/dev/zero", "/dev/null"} {
			d.refusal(t, nil, []string{filepath.Base(file)}, "bundle", "load", file)
			d.refusal(t, nil, nil, "bundle", "inspect", file)
		}
	})
}

// gnuHeader is a header of a file with a size in base 256, whatever that is.
func gnuHeader(name string, size int64) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	b[124] = 0x80
	for i := range 8 {
		b[128+i] = byte(size >> (56 - 8*i))
	}
	copy(b[136:], "00000000000\x00        0")
	copy(b[257:], "ustar  \x00")
	return summed(b)
}

// lies are descriptions of what cannot be.
func lies() map[string]func(map[string]any) {
	image := func(d map[string]any, key string, value any) { d["images"].([]any)[0].(map[string]any)[key] = value }
	content := func(d map[string]any, key string, value any) { d["contents"].([]any)[0].(map[string]any)[key] = value }
	return map[string]func(map[string]any){
		"another version":      func(d map[string]any) { d["version"] = 99 },
		"no version":           func(d map[string]any) { delete(d, "version") },
		"repository with dots": func(d map[string]any) { image(d, "repository", "../../../../etc") },
		"absolute repository":  func(d map[string]any) { image(d, "repository", "/etc/passwd") },
		"upper case":           func(d map[string]any) { image(d, "repository", "UPPER") },
		"tag with dots":        func(d map[string]any) { image(d, "tag", "../../../x") },
		"tag of two dots":      func(d map[string]any) { image(d, "tag", "..") },
		"remote with a path":   func(d map[string]any) { image(d, "remote", "../../etc") },
		"remote of no name":    func(d map[string]any) { image(d, "remote", "") },
		"remote of no network": func(d map[string]any) { image(d, "remote", "host:99999") },
		"algorithm":            func(d map[string]any) { content(d, "digest", "md5:d41d8cd98f00b204e9800998ecf8427e") },
		"digest with dots":     func(d map[string]any) { content(d, "digest", "sha256:../../../../../../etc/passwd") },
		"size below 0":         func(d map[string]any) { content(d, "size", -1) },
		"absurd size":          func(d map[string]any) { content(d, "size", int64(math.MaxInt64)) },
		"size of no number":    func(d map[string]any) { content(d, "size", json.Number("1e400")) },
		"offset below 0":       func(d map[string]any) { content(d, "offset", -512) },
		"offset far behind":    func(d map[string]any) { content(d, "offset", int64(math.MaxInt64-511)) },
		"contents twice":       func(d map[string]any) { d["contents"] = append(d["contents"].([]any), d["contents"].([]any)...) },
		"no contents":          func(d map[string]any) { d["contents"] = []any{} },
		"manifest of nothing":  func(d map[string]any) { image(d, "digest", "sha256:"+strings.Repeat("0", 64)) },
		"an image in a circle": func(d map[string]any) {
			i := d["images"].([]any)[0].(map[string]any)
			others, _ := i["manifests"].([]any)
			i["manifests"] = append([]any{map[string]any{"digest": i["digest"], "mediaType": i["mediaType"]}}, others...)
		},
		"blobs of nothing": func(d map[string]any) { image(d, "blobs", []any{"sha256:" + strings.Repeat("0", 64)}) },
		"cursor":           func(d map[string]any) { image(d, "tag", "\x1b[2J") },
	}
}
