package bundle_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/seed/bundle"
)

// A delta leaves out what the site has, and can be loaded only where that is so.
func TestDelta(t *testing.T) {
	s, roots := sample(t, 3000)
	before := describe(t, s, roots, bundle.DescribeOptions{})
	site := newSink(t)
	r, err := bundle.Load(context.Background(), site, stream(t, written(t, before, s, bundle.WriteOptions{})), bundle.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// One layer of one image changes.
	changed := s.image("amd64", s.layer("base", 3000), s.layer("changed", 5000))
	roots[1] = root("mcr.example.com", "azure/module", "1", changed)
	d := describe(t, s, roots, bundle.DescribeOptions{Have: r.Contents})
	carried := 0
	for _, c := range d.Contents {
		if !c.Absent {
			carried++
		}
	}
	if carried != 3 { // manifest, configuration, layer
		t.Errorf("%d contents are carried", carried)
	}
	p := written(t, d, s, bundle.WriteOptions{})
	if limit := 5000 + 20<<10; len(p) > limit {
		t.Errorf("the delta has %d bytes, more than %d", len(p), limit)
	}
	if index, _, _ := bytes.Cut(p[1536:], []byte(bundle.DescriptionName)); bytes.Contains(index, []byte("azure/module")) {
		t.Error("index.json has an image that is not all there")
	}

	elsewhere := newSink(t)
	elsewhere.content[changed.Digest] = true
	lacks := (*bundle.MissingError)(nil)
	r, err = bundle.Load(context.Background(), elsewhere, stream(t, p), bundle.LoadOptions{})
	if !errors.As(err, &lacks) || !errors.Is(err, bundle.ErrMissing) || len(lacks.Contents) != len(d.Contents)-carried || len(lacks.Images) != len(d.Images) {
		t.Errorf("error %v", err)
	}
	if elsewhere.begun > 0 || len(elsewhere.stores) > 0 || len(elsewhere.images) > 0 {
		t.Error("something was changed")
	}
	if len(r.Contents) != 1 || len(r.Missing) != len(d.Contents)-1 {
		t.Errorf("receipt %+v", r)
	}

	site.stores, site.images = nil, nil
	r, err = bundle.Load(context.Background(), site, stream(t, p), bundle.LoadOptions{NoPin: true})
	if err != nil || len(site.stores) != carried || !sameSet(site.images, names(d)) || r.Images[0].Pinned {
		t.Errorf("error %v, stored %q, images %q, receipt %+v", err, site.stores, site.images, r)
	}
}

func TestSignature(t *testing.T) {
	s, roots := sample(t, 3000)
	d := describe(t, s, roots, bundle.DescribeOptions{})
	unsigned := written(t, d, s, bundle.WriteOptions{})
	signed := written(t, d, s, bundle.WriteOptions{Sign: key(1)})
	// The signature of another description, under this one.
	other := written(t, describe(t, s, roots[:1], bundle.DescribeOptions{}), s, bundle.WriteOptions{Sign: key(1)})
	transplanted := bytes.Clone(signed)
	sig := func(p []byte) []byte {
		_, rest, _ := bytes.Cut(p, []byte(bundle.SignatureName))
		return rest[512-len(bundle.SignatureName):][:512]
	}
	copy(sig(transplanted), sig(other))
	broken := bytes.Clone(signed)
	sig(broken)[0] = 'x'
	for name, tt := range map[string]struct {
		bundle []byte
		trust  []byte // the seeds of the keys
		want   error
		state  bundle.SignatureState
	}{
		"unsigned, nothing asked":       {unsigned, nil, nil, bundle.Unsigned},
		"unsigned, asked":               {unsigned, []byte{1}, bundle.ErrUnsigned, bundle.Unsigned},
		"signed, nothing asked":         {signed, nil, nil, bundle.Unchecked},
		"signed":                        {signed, []byte{1}, nil, bundle.Trusted},
		"signed, one of several":        {signed, []byte{3, 1, 2}, nil, bundle.Trusted},
		"signed with another key":       {signed, []byte{2}, bundle.ErrUntrusted, bundle.Untrusted},
		"signature of another bundle":   {transplanted, []byte{1}, bundle.ErrUntrusted, bundle.Untrusted},
		"signature that cannot be read": {broken, []byte{1}, bundle.ErrUntrusted, bundle.Untrusted},
		"the same, nothing asked":       {broken, nil, nil, bundle.Unchecked},
	} {
		t.Run(name, func(t *testing.T) {
			var trust []ed25519.PublicKey
			for _, seed := range tt.trust {
				trust = append(trust, public(key(seed)))
			}
			in, err := bundle.Inspect(context.Background(), stream(t, tt.bundle), bundle.InspectOptions{TrustKeys: trust, Verify: true})
			if err != nil || in.Signature != tt.state || len(in.Lost) > 0 || len(in.Warnings) > 0 {
				t.Errorf("inspect: %+v, %v", in, err)
			}
			to := newSink(t)
			_, err = bundle.Load(context.Background(), to, stream(t, tt.bundle), bundle.LoadOptions{TrustKeys: trust})
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if tt.want != nil && to.ops > 0 {
				t.Error("the sink was asked for something")
			}
		})
	}
	if got, ok := stream(t, signed).Signature(); !ok || got.KeyID != bundle.KeyID(public(key(1))) {
		t.Errorf("signature %+v", got)
	}
}

// Whichever operation of the sink fails, loading again comes to the right end, and stores
// nothing twice.
func TestLoadRestart(t *testing.T) {
	s, roots := sample(t, 3000)
	d := describe(t, s, roots, bundle.DescribeOptions{})
	p := written(t, d, s, bundle.WriteOptions{})
	for at := 0; ; at++ {
		to := newSink(t)
		to.fail = at
		r, err := bundle.Load(context.Background(), to, stream(t, p), bundle.LoadOptions{})
		failed := to.ops > at
		if failed == (err == nil) || failed && !errors.Is(err, errSink) || to.open {
			t.Errorf("operation %d: error %v, open %v", at, err, to.open)
		}
		if len(r.Images) != len(to.images) {
			t.Errorf("operation %d: receipt %+v, images %q", at, r, to.images)
		}
		to.fail, to.images = -1, nil
		if _, err := bundle.Load(context.Background(), to, stream(t, p), bundle.LoadOptions{}); err != nil {
			t.Fatal(err)
		}
		if !sameSet(to.images, names(d)) || len(to.stores) != len(d.Contents) {
			t.Errorf("operation %d: images %q, %d stored", at, to.images, len(to.stores))
		}
		if !failed {
			return
		}
	}
}

// A subset has what is wanted, and is loaded where the rest is there.
func TestWriteSubset(t *testing.T) {
	s, roots := sample(t, 3000)
	d := describe(t, s, roots, bundle.DescribeOptions{})
	p := written(t, d, s, bundle.WriteOptions{Sign: key(1)})
	for name, want := range map[string]func(i int) bool{
		"all":    func(int) bool { return true },
		"none":   func(int) bool { return false },
		"even":   func(i int) bool { return i%2 == 0 },
		"first":  func(i int) bool { return i == 0 },
		"last":   func(i int) bool { return i == len(d.Contents)-1 },
		"a pair": func(i int) bool { return i == 3 || i == 4 },
	} {
		t.Run(name, func(t *testing.T) {
			wanted := func(c bundle.Content) bool {
				return want(slices.IndexFunc(d.Contents, func(o bundle.Content) bool { return o.Digest == c.Digest }))
			}
			var sub bytes.Buffer
			if err := bundle.WriteSubset(context.Background(), &sub, stream(t, p), wanted); err != nil {
				t.Fatal(err)
			}
			if name == "all" && !bytes.Equal(sub.Bytes(), p) {
				t.Error("all is not the same")
			}
			to := newSink(t)
			n := 0
			for _, c := range d.Contents {
				if to.content[c.Digest] = !wanted(c); wanted(c) {
					n++
				}
			}
			_, err := bundle.Load(context.Background(), to, stream(t, sub.Bytes()), bundle.LoadOptions{TrustKeys: []ed25519.PublicKey{public(key(1))}})
			if err != nil || len(to.stores) != n || !sameSet(to.images, names(d)) {
				t.Errorf("error %v, %d stored, images %q", err, len(to.stores), to.images)
			}
			if name == "all" {
				return
			}
			// Where the rest is not there, what did not come is named.
			to = newSink(t)
			r, err := bundle.Load(context.Background(), to, stream(t, sub.Bytes()), bundle.LoadOptions{})
			if !errors.Is(err, bundle.ErrPartly) || len(r.Missing) != len(d.Contents)-n || len(to.stores) != n {
				t.Errorf("error %v, receipt %+v", err, r)
			}
		})
	}
	// What is lost in what is sent stays lost, and what follows comes.
	damaged := bytes.Clone(p)
	damaged[len(damaged)-1024-512-2000] ^= 1 // in the last layer
	var sub bytes.Buffer
	lost := (*bundle.LostError)(nil)
	if err := bundle.WriteSubset(context.Background(), &sub, stream(t, damaged), nil); !errors.As(err, &lost) {
		t.Errorf("error %v", err)
	}
	to := newSink(t)
	r, err := bundle.Load(context.Background(), to, stream(t, sub.Bytes()), bundle.LoadOptions{})
	if !errors.Is(err, bundle.ErrPartly) || len(r.Missing) != 1 || r.Missing[0].Digest != lost.Content.Digest {
		t.Errorf("error %v, receipt %+v", err, r)
	}
}

// An end of the context ends loading, and is not taken for damage.
func TestLoadCancelled(t *testing.T) {
	s, roots := sample(t, 3000)
	p := written(t, describe(t, s, roots, bundle.DescribeOptions{}), s, bundle.WriteOptions{})
	ctx, cancel := context.WithCancelCause(context.Background())
	gone := errors.New("the operator has gone")
	to := newSink(t)
	_, err := bundle.Load(ctx, to, stream(t, p), bundle.LoadOptions{Progress: func(p bundle.Progress) {
		if p.Contents == 3 {
			cancel(gone)
		}
	}})
	if !errors.Is(err, gone) || errors.Is(err, bundle.ErrPartly) || len(to.stores) != 3 {
		t.Errorf("error %v, %d stored", err, len(to.stores))
	}
}

// What a site has is written and read, and so is a receipt, whatever else is in it.
func TestHave(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	var w bytes.Buffer
	if err := bundle.WriteHave(&w, []bundle.Content{{Digest: a, Size: 1, Offset: 7}, {Digest: b, Size: 2}, {Digest: a, Size: 1}}); err != nil {
		t.Fatal(err)
	}
	want := []bundle.Content{{Digest: a, Size: 1}, {Digest: b, Size: 2}}
	slices.SortFunc(want, func(a, b bundle.Content) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	entry := `{"digest":"` + string(a) + `","size":1}`
	for name, tt := range map[string]struct {
		in   string
		n    int
		fail string
	}{
		"written":          {in: w.String(), n: 2},
		"receipt":          {in: `{"version":1,"contents":[` + entry + `],"images":[{"image":"x","digest":"y","pinned":true}],"missing":[` + entry + `]}`, n: 1},
		"unknown fields":   {in: `{"x":{"y":[1,{"z":[]}]},"version":1,"contents":[{"new":1,` + entry[1:] + `]}`, n: 1},
		"unusable entries": {in: `{"version":1,"contents":[1,"x",null,{"digest":"md5:x","size":1},{"digest":"` + string(b) + `","size":-1},{"digest":5},` + entry + `]}`, n: 1},
		"empty list":       {in: `{"version":1,"contents":[]}`},
		"nothing":          {in: ``, fail: "unexpected EOF"},
		"no JSON":          {in: `hello`, fail: "invalid character"},
		"array":            {in: `[]`, fail: "has to be"},
		"truncated":        {in: w.String()[:w.Len()-20], fail: "unexpected EOF"},
		"other version":    {in: `{"version":2,"contents":[]}`, fail: "version 2"},
		"no version":       {in: `{"contents":[]}`, fail: "version 0"},
		"no contents":      {in: `{"version":1}`, fail: "no contents"},
		"nested":           {in: `{"version":1,"x":` + strings.Repeat("[", 1_000_000), fail: "lie in one another"},
		"a long value":     {in: `{"version":1,"contents":["` + strings.Repeat("x", 1_000_000) + `"]}`, fail: "more than 65536"},
		"contents no list": {in: `{"version":1,"contents":{}}`, fail: "has to be"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := bundle.ReadHave(strings.NewReader(tt.in))
			if tt.fail != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fail) {
					t.Errorf("error %v, want %q", err, tt.fail)
				}
				return
			}
			if err != nil || len(got) != tt.n || name == "written" && !slices.Equal(got, want) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

// A receipt of what was refused is one that can be read.
func TestReceiptOfRefused(t *testing.T) {
	s, roots := sample(t, 600)
	p := written(t, describe(t, s, roots, bundle.DescribeOptions{}), s, bundle.WriteOptions{})
	r, err := bundle.Load(context.Background(), newSink(t), stream(t, p), bundle.LoadOptions{TrustKeys: []ed25519.PublicKey{public(key(1))}})
	if !errors.Is(err, bundle.ErrUnsigned) {
		t.Fatal(err)
	}
	text, _ := json.Marshal(r)
	if got, err := bundle.ReadHave(bytes.NewReader(text)); err != nil || len(got) > 0 {
		t.Errorf("%s: %v, %v", text, got, err)
	}
}

// forgetful loses content while nothing has asked it to keep any.
type forgetful struct {
	*sink
	loses digest.Digest
}

func (f *forgetful) Begin(ctx context.Context, images []bundle.Image, contents []bundle.Content) error {
	delete(f.content, f.loses)
	return f.sink.Begin(ctx, images, contents)
}

// What is removed between the look at what is there and the begin is stored again, or missed.
func TestRemovedBeforeBegin(t *testing.T) {
	s, roots := sample(t, 600)
	d := describe(t, s, roots, bundle.DescribeOptions{})
	lost := d.Images[0].Blobs[0]
	to := newSink(t)
	for _, c := range d.Contents {
		to.content[c.Digest] = true
	}
	r, err := bundle.Load(context.Background(), &forgetful{to, lost}, stream(t, written(t, d, s, bundle.WriteOptions{})), bundle.LoadOptions{})
	if err != nil || !slices.Equal(to.stores, []digest.Digest{lost}) || len(r.Images) != len(d.Images) {
		t.Errorf("error %v, stored %q", err, to.stores)
	}
	delta := describe(t, s, roots, bundle.DescribeOptions{Have: d.Contents})
	to.images = nil
	_, err = bundle.Load(context.Background(), &forgetful{to, lost}, stream(t, written(t, delta, s, bundle.WriteOptions{})), bundle.LoadOptions{})
	if lacks := (*bundle.MissingError)(nil); !errors.As(err, &lacks) || lacks.Contents[0].Digest != lost || len(to.images) > 0 || to.open {
		t.Errorf("error %v, images %q, open %v", err, to.images, to.open)
	}
}

// Inspect tells what is where.
func TestInspect(t *testing.T) {
	file, d, _ := split(t, t.TempDir())
	b, err := bundle.Open(file, bundle.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	in, err := bundle.Inspect(context.Background(), b, bundle.InspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if in.Contents != len(d.Contents) || in.Absent != 0 || in.Verified || len(in.Images) != 4 || len(in.Chunks) != 5 || len(in.Lost)+len(in.Warnings) > 0 {
		t.Errorf("%+v", in)
	}
	for _, i := range in.Images {
		if strings.HasSuffix(i.Image, "app:1.0") && (i.Manifests != 4 || i.Size < 3_000_000 || len(i.Platforms) != 2 || i.Lost) {
			t.Errorf("%+v", i)
		}
	}
}

// Loading takes memory for the description, not for what is carried.
func TestStreamMemory(t *testing.T) {
	s := newStore()
	big := s.layer("big", 8<<20)
	d := describe(t, s, []bundle.Image{root("h.example", "a", "1", s.image("amd64", big))}, bundle.DescribeOptions{})
	p := written(t, d, s, bundle.WriteOptions{})
	n := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			opened, err := bundle.NewStream(bytes.NewReader(p))
			if err != nil {
				b.Fatal(err)
			}
			for blob, err := range opened.Blobs(context.Background(), nil) {
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, blob); err != nil {
					b.Fatal(err)
				}
			}
			if b.N >= 2 {
				break
			}
		}
	})
	if got := n.AllocedBytesPerOp(); got > 1<<20 {
		t.Errorf("%d bytes are allocated", got)
	}
}
