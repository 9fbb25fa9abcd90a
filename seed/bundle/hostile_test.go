package bundle_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/seed/bundle"
)

// loadOnlyRight loads what open gives, and reports what is wrong of what has become visible.
// The sink checks that content is right, and that images are complete.
func loadOnlyRight(tb testing.TB, d bundle.Description, open func() (*bundle.Bundle, error)) (added int) {
	tb.Helper()
	b, err := open()
	if err != nil {
		if !errors.Is(err, bundle.ErrInvalid) {
			tb.Errorf("error %v does not say that it is no bundle", err)
		}
		return 0
	}
	defer func() { _ = b.Close() }()
	to := newSink(tb)
	r, err := bundle.Load(context.Background(), to, b, bundle.LoadOptions{})
	right := names(d)
	for _, i := range to.images {
		if !slices.Contains(right, i) {
			tb.Errorf("%s is added", i)
		}
	}
	if len(to.images) < len(right) && err == nil {
		tb.Errorf("there is no error, and only %q", to.images)
	}
	if len(r.Images) != len(to.images) {
		tb.Errorf("receipt %+v", r)
	}
	return len(to.images)
}

// small is a bundle of a few KiB: two images, of which one is attached to what is not there.
func small(tb testing.TB, o bundle.WriteOptions) (p []byte, d bundle.Description) {
	tb.Helper()
	s, roots := sample(tb, 600)
	d = describe(tb, s, roots[1:3], bundle.DescribeOptions{})
	return written(tb, d, s, o), d
}

// Each third byte of the head is flipped, and some of the others, one at a time: what is
// added is right, and most of it comes.
func TestFlipped(t *testing.T) {
	t.Parallel()
	p, d := small(t, bundle.WriteOptions{})
	dir := t.TempDir()
	head := bytes.Index(p, []byte("blobs/sha256/"))
	all, tries := 0, 0
	for at := 0; at < len(p); at++ {
		at += 2 // 3 at a time meets every place in a block, and every bit, and so does 17
		if at > head {
			at += 14
		}
		tries++
		flipped := bytes.Clone(p)
		flipped[min(at, len(p)-1)] ^= byte(1 << (at % 8))
		all += loadOnlyRight(t, d, func() (*bundle.Bundle, error) { return bundle.NewStream(bytes.NewReader(flipped)) })
		if at%5 == 0 {
			file := filepath.Join(dir, "b")
			if err := os.WriteFile(file, flipped, 0o600); err != nil {
				t.Fatal(err)
			}
			loadOnlyRight(t, d, func() (*bundle.Bundle, error) { return bundle.Open(file, bundle.OpenOptions{}) })
		}
	}
	if got := float64(all) / float64(tries*len(d.Images)); got < 0.2 {
		t.Errorf("only %.2f of the images are loaded", got)
	}
}

// The same of a signed one, where nothing at all may come that is not signed.
func TestFlippedSigned(t *testing.T) {
	t.Parallel()
	p, d := small(t, bundle.WriteOptions{Sign: key(1)})
	head := bytes.Index(p, []byte("blobs/sha256/"))
	for at := 0; at < head; at += 3 {
		flipped := bytes.Clone(p)
		flipped[at] ^= byte(1 << (at % 8))
		b, err := bundle.NewStream(bytes.NewReader(flipped))
		if err != nil {
			continue
		}
		to := newSink(t)
		_, err = bundle.Load(context.Background(), to, b, bundle.LoadOptions{TrustKeys: []ed25519.PublicKey{public(key(1))}})
		if err != nil && to.ops > 0 || err == nil && !sameSet(to.images, names(d)) {
			t.Errorf("byte %d: %v, %q", at, err, to.images)
		}
	}
}

func TestTruncated(t *testing.T) {
	t.Parallel()
	p, d := small(t, bundle.WriteOptions{})
	dir := t.TempDir()
	for n := 0; n < len(p); n += 51 {
		loadOnlyRight(t, d, func() (*bundle.Bundle, error) { return bundle.NewStream(bytes.NewReader(p[:n])) })
		if n%2 == 0 {
			file := filepath.Join(dir, "b")
			if err := os.WriteFile(file, p[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			loadOnlyRight(t, d, func() (*bundle.Bundle, error) { return bundle.Open(file, bundle.OpenOptions{}) })
		}
	}
}

// What is no bundle is refused with an error that says what it is.
func TestForeign(t *testing.T) {
	p, _ := small(t, bundle.WriteOptions{})
	entries := func(headers ...*tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			if h.Mode == 0 && h.Typeflag != tar.TypeXGlobalHeader {
				h.Mode = 0o644
			}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(make([]byte, h.Size)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	layout := func(h tar.Header) []byte { h.Name = v1.ImageLayoutFile; return entries(&h) }
	huge := bytes.Clone(p)
	copy(huge, bundle.AppendHeader(nil, v1.ImageLayoutFile, 8<<30-1))
	huger := bytes.Clone(p)
	copy(huger, bundle.AppendHeader(nil, v1.ImageLayoutFile, math.MaxInt64))
	for name, tt := range map[string]struct {
		in   []byte
		want string
	}{
		"nothing":       {nil, "ends within"},
		"text":          {bytes.Repeat([]byte("hello "), 1000), "no tar"},
		"zeros":         {make([]byte, 10240), "no tar"},
		"gzip":          {append([]byte("\x1f\x8b\x08"), p...), "decompress it first (gzip -d)"},
		"zstd":          {append([]byte("\x28\xb5\x2f\xfd"), p...), "decompress it first (zstd -d)"},
		"xz":            {append([]byte("\xfd7zXZ\x00"), p...), "decompress it first (xz -d)"},
		"short gzip":    {[]byte("\x1f\x8b"), "decompress it first"},
		"docker save":   {entries(&tar.Header{Name: "manifest.json", Size: 5}), `begins with "manifest.json"`},
		"other layout":  {entries(&tar.Header{Name: v1.ImageLayoutFile, Size: 5}, &tar.Header{Name: v1.ImageIndexFile, Size: 5}, &tar.Header{Name: "blobs/", Typeflag: tar.TypeDir}), "image layout of another program"},
		"absolute":      {entries(&tar.Header{Name: "/etc/passwd", Size: 5}), `begins with "/etc/passwd"`},
		"parent":        {entries(&tar.Header{Name: "../x", Size: 5}), `begins with "../x"`},
		"link":          {layout(tar.Header{Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), "another program"},
		"hard link":     {layout(tar.Header{Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}), "another program"},
		"device":        {layout(tar.Header{Typeflag: tar.TypeBlock, Devmajor: 8}), "another program"},
		"pipe":          {layout(tar.Header{Typeflag: tar.TypeFifo}), "another program"},
		"PAX":           {layout(tar.Header{Size: 30, PAXRecords: map[string]string{"X.y": strings.Repeat("z", 100_000)}}), "bundle create has not made"},
		"global PAX":    {entries(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"size": "5"}}), "bundle create has not made"},
		"8 GiB layout":  {huge, "more than 512"},
		"larger layout": {huger, "another program"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := bundle.NewStream(bytes.NewReader(tt.in))
			if !errors.Is(err, bundle.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// Behind a right head, anything but what was described is nothing.
func TestForeignBehindHead(t *testing.T) {
	p, d := small(t, bundle.WriteOptions{})
	at := bytes.Index(p, []byte("blobs/sha256/"))
	first := int(bundle.HeaderSize(d.Contents[0]) + d.Contents[0].Size)
	first += (512 - first%512) % 512
	link := func(kind byte) []byte {
		var b bytes.Buffer
		h := &tar.Header{Name: bundle.BlobName(d.Contents[0]), Typeflag: kind, Linkname: "/etc/passwd", Mode: 0o644}
		if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for name, blobs := range map[string][]byte{
		"none":           make([]byte, 1024),
		"twice":          append(bytes.Clone(p[at:at+first]), p[at:]...),
		"backwards":      append(bytes.Clone(p[at+first:len(p)-1024]), p[at:]...),
		"a link first":   append(link(tar.TypeSymlink), p[at:]...),
		"a device first": append(link(tar.TypeChar), p[at:]...),
		"larger":         append(bundle.AppendHeader(nil, bundle.BlobName(d.Contents[0]), 1<<40), p[at+512:]...),
		"other name":     append(bundle.AppendHeader(nil, "../../x", d.Contents[0].Size), p[at+512:]...),
		"endless":        append(bytes.Clone(p[at:len(p)-1024]), bytes.Repeat([]byte("x"), 1<<20)...),
		"more behind it": append(bytes.Clone(p[at:]), p...),
	} {
		t.Run(name, func(t *testing.T) {
			in := append(bytes.Clone(p[:at]), blobs...)
			loadOnlyRight(t, d, func() (*bundle.Bundle, error) { return bundle.NewStream(bytes.NewReader(in)) })
			times := map[digest.Digest]int{}
			for blob := range stream(t, in).Blobs(context.Background(), nil) {
				if times[blob.Content.Digest]++; times[blob.Content.Digest] > 1 {
					t.Errorf("%s is yielded again", blob.Content.Digest)
				}
			}
		})
	}
}

// Descriptions that are wrong are refused, when written and when read.
func TestValidate(t *testing.T) {
	s, roots := sample(t, 600)
	good := func() bundle.Description {
		d := describe(t, s, roots, bundle.DescribeOptions{})
		d.Images, d.Contents = slices.Clone(d.Images), slices.Clone(d.Contents)
		return d
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	unknown := digest.FromString("unknown")
	for name, tt := range map[string]struct {
		change func(d *bundle.Description)
		want   string
	}{
		"version":             {func(d *bundle.Description) { d.Version = 2 }, "version 2"},
		"no version":          {func(d *bundle.Description) { d.Version = 0 }, "version 0"},
		"negative size":       {func(d *bundle.Description) { d.Contents[2].Size = -1 }, "size of -1"},
		"sizes that overflow": {func(d *bundle.Description) { d.Contents[2].Size = math.MaxInt64 }, "size of"},
		"sum that overflows": {func(d *bundle.Description) {
			d.Contents[0].Size, d.Contents[0].Absent = math.MaxInt64/4, true
			d.Contents[0].Offset = 0
		}, "size of"},
		"digest":             {func(d *bundle.Description) { d.Contents[0].Digest = "sha256:../../x" }, "digest"},
		"digest of md5":      {func(d *bundle.Description) { d.Contents[0].Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" }, "digest"},
		"content twice":      {func(d *bundle.Description) { d.Contents[1] = d.Contents[0] }, "twice"},
		"offset":             {func(d *bundle.Description) { d.Contents[1].Offset++ }, "cannot be at"},
		"negative offset":    {func(d *bundle.Description) { d.Contents[1].Offset = -512 }, "cannot be at"},
		"absent with offset": {func(d *bundle.Description) { d.Contents[1].Absent = true }, "cannot be at"},
		"content of no image": {func(d *bundle.Description) {
			d.Contents = append(d.Contents, bundle.Content{Digest: unknown, Absent: true})
		}, "no image"},
		"image twice":         {func(d *bundle.Description) { d.Images[1] = d.Images[0] }, "twice"},
		"images out of order": {func(d *bundle.Description) { slices.Reverse(d.Images) }, "out of order"},
		"tag for two": {func(d *bundle.Description) {
			d.Images[1].Remote, d.Images[1].Repository, d.Images[1].Tag = "mcr.example.com", "azure/module", "1"
		}, ""},
		"remote with a path":     {func(d *bundle.Description) { d.Images[0].Remote += "/x" }, "no host"},
		"no remote":              {func(d *bundle.Description) { d.Images[0].Remote = "" }, "invalid"},
		"parent as repository":   {func(d *bundle.Description) { d.Images[0].Repository = "../x" }, "invalid"},
		"absolute repository":    {func(d *bundle.Description) { d.Images[0].Repository = "/x" }, "invalid"},
		"upper case":             {func(d *bundle.Description) { d.Images[0].Repository = "X" }, "invalid reference"},
		"long repository":        {func(d *bundle.Description) { d.Images[0].Repository = strings.Repeat("x", 256) }, "longer"},
		"tag":                    {func(d *bundle.Description) { d.Images[0].Tag = "a/b" }, "invalid tag"},
		"unknown manifest":       {func(d *bundle.Description) { d.Images[0].Digest = unknown }, "not among"},
		"size of the manifest":   {func(d *bundle.Description) { d.Images[0].Size++ }, "not among"},
		"unknown child":          {func(d *bundle.Description) { d.Images[0].Manifests = []bundle.Manifest{{Digest: unknown}} }, "not among"},
		"unknown blob":           {func(d *bundle.Description) { d.Images[0].Blobs = []digest.Digest{unknown} }, "not among"},
		"itself as child":        {func(d *bundle.Description) { d.Images[0].Manifests = []bundle.Manifest{{d.Images[0].Digest, "a/b"}} }, "named twice"},
		"media type":             {func(d *bundle.Description) { d.Images[0].MediaType = "x\n" }, "media type"},
		"no media type":          {func(d *bundle.Description) { d.Images[0].MediaType = "" }, "media type"},
		"platform":               {func(d *bundle.Description) { d.Images[0].Platforms = []string{"a\x1b[2J"} }, "platform"},
		"too many platforms":     {func(d *bundle.Description) { d.Images[0].Platforms = make([]string, 1001) }, "platforms"},
		"too many images":        {func(d *bundle.Description) { d.Images = make([]bundle.Image, 20_001) }, "20001 images"},
		"too many contents":      {func(d *bundle.Description) { d.Contents = make([]bundle.Content, 150_001) }, "150001"},
		"manifest of 5 MiB":      {func(d *bundle.Description) { d.Images[0].Size, d.Contents[0].Size = 5<<20, 5<<20 }, "cannot be at"},
		"everything, and absent": {func(d *bundle.Description) { *d = bundle.Description{Version: 1} }, "-"},
	} {
		t.Run(name, func(t *testing.T) {
			d := good()
			tt.change(&d)
			err := d.Validate()
			if tt.want == "-" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, bundle.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
			if err := bundle.Write(context.Background(), new(bytes.Buffer), d, s, bundle.WriteOptions{}); !errors.Is(err, bundle.ErrInvalid) {
				t.Errorf("writing: error %v", err)
			}
			content, _ := json.Marshal(d)
			if _, err := bundle.NewStream(bytes.NewReader(bundle.HeadOf(content))); !errors.Is(err, bundle.ErrInvalid) {
				t.Errorf("reading: error %v", err)
			}
		})
	}
}

// What a head says takes little memory, whatever it says: nothing of it is decoded before it
// is judged.
func TestHostileHead(t *testing.T) {
	const mib = 1 << 20
	fill := func(begin, element string, size int, end string) []byte {
		element += strings.Repeat(" ", max(0, 16-len(element)))
		return []byte(begin + strings.Repeat(element, size/len(element)) + end)
	}
	dgst := `"` + string(digest.FromString("x")) + `"`
	image := `{"remote":"h.example","repository":"r","digest":` + dgst + `,"mediaType":"a/b",`
	head := func(description []byte) func() []byte {
		return func() []byte { return bundle.HeadOf(description) }
	}
	for name, tt := range map[string]struct {
		in   func() []byte
		want string
	}{
		"images":         {head(fill(`{"version":1,"images":[`, `{},`, 6*mib, `{}]}`)), "image"},
		"contents":       {head(fill(`{"version":1,"contents":[`, `{},`, 6*mib, `{}]}`)), "digest"},
		"blobs":          {head(fill(`{"version":1,"images":[{"blobs":[`, `"",`, 6*mib, `""]}]}`)), "digest"},
		"manifests":      {head(fill(`{"version":1,"images":[{"manifests":[`, `{},`, 6*mib, `{}]}]}`)), "digest"},
		"platforms":      {head(fill(`{"version":1,"images":[{"platforms":[`, `"a",`, 6*mib, `"a"]}]}`)), "platforms"},
		"same images":    {head(fill(`{"version":1,"images":[`, image+`"size":0},`, 4*mib, image+`"size":0}]}`)), "more than 20000 images"},
		"same contents":  {head(fill(`{"version":1,"contents":[`, `{"digest":`+dgst+`},`, 13*mib, `{"digest":`+dgst+`}]}`)), "more than 150000"},
		"nested":         {head([]byte(`{"version":1,"x":` + strings.Repeat("[", 2*mib))), "lie in one another"},
		"nested objects": {head([]byte(`{"version":1,"x":` + strings.Repeat(`{"x":`, mib))), "lie in one another"},
		"long text":      {head([]byte(`{"version":1,"x":"` + strings.Repeat("x", mib) + `"}`)), "more than 65536"},
		"white space":    {head(fill(`{"version":1,`, " ", mib, `"x":1}`)), "more than 65536"},
		"many members":   {head(fill(`{"version":1,"images":[{`, `"x":1,`, mib, `"x":1}]}`)), "comes twice"},
		"images twice":   {head([]byte(`{"version":1,"images":[],"images":[]}`)), "comes twice"},
		"version behind": {head([]byte(`{"images":[],"version":1}`)), "begin with its version"},
		"more behind":    {head([]byte(`{"version":1,"images":[]} {}`)), "something follows"},
		"other kinds":    {head([]byte(`{"version":1,"images":{}}`)), "has to be"},
		"no object":      {head([]byte(`[1]`)), "has to be"},
		"half a number":  {head([]byte(`{"version":1,"contents":[{"digest":` + dgst + `,"size":1.5}]}`)), "whole number"},
		"size as a text": {head([]byte(`{"version":1,"contents":[{"digest":` + dgst + `,"size":"1"}]}`)), "has to be"},
		"too large":      {head(fill(`{"version":1,"x":[`, `1,`, 17*mib, `1]}`)), "more than 16777216"},
		"index.json": {func() []byte {
			return bundle.HeadWith(string(fill(`{"annotations":{`, `"":"",`, 7*mib, `"":""}}`)), nil)
		}, "comes twice"},
		"nested index.json": {func() []byte {
			return bundle.HeadWith(`{"manifests":`+strings.Repeat("[", 7*mib), nil)
		}, "lie in one another"},
		"large index.json": {func() []byte {
			return bundle.HeadWith(string(fill(`{"manifests":[`, `{},`, 9*mib, `{}]}`)), nil)
		}, "more than 8388608"},
	} {
		t.Run(name, func(t *testing.T) {
			in := tt.in()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := bundle.NewStream(bytes.NewReader(in))
			runtime.ReadMemStats(&after)
			if !errors.Is(err, bundle.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %.500v, want %q", err, tt.want)
			}
			// Of that most is garbage at once: the head itself is read into buffers that
			// grow, and the texts of what is skipped or is there again.
			limit := uint64(100)
			if strings.HasPrefix(name, "same ") { // as many as there may be, each of them judged
				limit = 400
			}
			if got := (after.TotalAlloc - before.TotalAlloc) / mib; got > limit {
				t.Errorf("%d MiB were allocated in all, more than %d", got, limit)
			}
		})
	}
}

// A large description that is valid, all of whose images are lost, takes a few times its
// size while it is loaded.
func TestLargeDescription(t *testing.T) {
	d := bundle.Description{Version: 1}
	for n := range 20_000 {
		d.Contents = append(d.Contents, bundle.Content{Digest: digest.FromString(fmt.Sprint(n)), Absent: n > 0})
	}
	d.Contents[0].Offset = 512
	for n := range 5_000 {
		i := bundle.Image{Remote: "h.example", Repository: fmt.Sprintf("r%05d", n), Digest: d.Contents[0].Digest, MediaType: "a/b"}
		if n == 0 {
			for _, c := range d.Contents[1:] {
				i.Blobs = append(i.Blobs, c.Digest)
			}
		}
		d.Images = append(d.Images, i)
	}
	content, err := json.Marshal(d)
	if err != nil || len(content) < 4<<20 {
		t.Fatalf("%d bytes, %v", len(content), err)
	}
	in := bundle.HeadOf(content)
	d, content = bundle.Description{}, nil
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	b := stream(t, in)
	to := newSink(t)
	for _, c := range b.Description().Contents[1:] {
		to.content[c.Digest] = true
	}
	r, err := bundle.Load(context.Background(), to, b, bundle.LoadOptions{})
	after := heap()
	if !errors.Is(err, bundle.ErrPartly) || len(r.Failed) != 5_000 || len(err.Error()) > 10_000 {
		t.Errorf("error of %d bytes, %d images", len(err.Error()), len(r.Failed))
	}
	if after > before && after-before > 25<<20 {
		t.Errorf("%d MiB are in use", (after-before)>>20)
	}
	runtime.KeepAlive(b)
	runtime.KeepAlive(in)
}

// What could not be read again is not written.
func TestWriteTooLarge(t *testing.T) {
	s := newStore()
	d := describe(t, s, []bundle.Image{root("h.example", "x", "1", s.image("amd64"))}, bundle.DescribeOptions{})
	first := d.Images[0]
	d.Images = nil
	for n := range 15_000 {
		first.Repository = strings.Repeat("x", 200) + fmt.Sprintf("%05d", n)
		d.Images = append(d.Images, first)
	}
	err := bundle.Write(context.Background(), new(bytes.Buffer), d, s, bundle.WriteOptions{})
	if !errors.Is(err, bundle.ErrInvalid) || !strings.Contains(err.Error(), "make several bundles") {
		t.Errorf("error %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	p, d := small(f, bundle.WriteOptions{Sign: key(1)})
	f.Add(p)
	f.Add(p[:len(p)/2])
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, open := range []func() (*bundle.Bundle, error){
			func() (*bundle.Bundle, error) { return bundle.NewStream(bytes.NewReader(in)) },
			func() (*bundle.Bundle, error) {
				file := filepath.Join(t.TempDir(), "b")
				if err := os.WriteFile(file, in, 0o600); err != nil {
					t.Fatal(err)
				}
				return bundle.Open(file, bundle.OpenOptions{})
			},
		} {
			b, err := open()
			if err != nil {
				continue
			}
			if trusted := b.Trust([]ed25519.PublicKey{public(key(1))}) == nil; trusted && fmt.Sprint(b.Description()) != fmt.Sprint(d) {
				t.Error("something else is trusted")
			}
			// The sink reports what is wrong.
			_, _ = bundle.Load(context.Background(), newSink(t), b, bundle.LoadOptions{})
			_ = b.Close()
		}
	})
}

func FuzzDescription(f *testing.F) {
	_, d := small(f, bundle.WriteOptions{})
	content, _ := json.Marshal(d)
	f.Add(content)
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := bundle.NewStream(bytes.NewReader(bundle.HeadOf(in)))
		if err != nil {
			if !errors.Is(err, bundle.ErrInvalid) {
				t.Error(err)
			}
			return
		}
		if err := b.Description().Validate(); err != nil {
			t.Error(err)
		}
		_, _ = bundle.Load(context.Background(), newSink(t), b, bundle.LoadOptions{})
	})
}

func FuzzReadHave(f *testing.F) {
	f.Add([]byte(`{"version":1,"contents":[{"digest":"` + string(digest.FromString("a")) + `","size":1}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		contents, err := bundle.ReadHave(bytes.NewReader(in))
		if err != nil {
			return
		}
		var w bytes.Buffer
		if err := bundle.WriteHave(&w, contents); err != nil {
			t.Fatal(err)
		}
		again, err := bundle.ReadHave(&w)
		if err != nil || !slices.Equal(again, contents) {
			t.Errorf("%v, %v, want %v", again, err, contents)
		}
	})
}
