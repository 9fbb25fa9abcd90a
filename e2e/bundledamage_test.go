package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"registry-module/e2e/lab"
)

// The names of entries of a bundle; docs/disk-format.md has them.
const (
	bundleDescription = "registry-module/bundle.json"
	bundleSignature   = "registry-module/bundle.sig.json"
)

// cargo is a bundle of small images, signed and not, and where it comes from.
type cargo struct {
	up             *lab.Origin // down
	images         []lab.Image
	plain, signed  []byte
	trust, another string // files with public keys; the bundle is not signed with another
}

func newCargo(t *testing.T) *cargo {
	t.Helper()
	multi := sample(t, lab.OCIIndex).In("cargo/multi", "1.0")
	shared := must(lab.NoiseLayer(61, 20<<10))(t)
	asked := []lab.Image{
		multi,
		must(lab.LayeredImage("cargo/one", "1.0", shared, must(lab.NoiseLayer(62, 30<<10))(t)))(t),
		must(lab.LayeredImage("cargo/two", "latest", must(lab.NoiseLayer(63, 3000))(t), shared))(t),
	}
	c := &cargo{images: append(slices.Clone(asked), must(lab.CosignTags(multi.Repo, multi.Root()))(t)...)}
	c.up = origin(t, lab.OriginOptions{}, c.images...)
	d := newDepot(t, c.up)
	key, public := keys(t)
	_, other := keys(t)
	c.trust, c.another = d.write(t, "trust.pub", public), d.write(t, "another.pub", other)
	d.write(t, "sign.key", key)
	d.good(t, append([]string{"bundle", "create", "plain.tar"}, atRemote(asked...)...)...)
	d.good(t, append([]string{"bundle", "create", "signed.tar", "--sign-key", "sign.key"}, atRemote(asked...)...)...)
	c.plain, c.signed = must(os.ReadFile(d.file("plain.tar")))(t), must(os.ReadFile(d.file("signed.tar")))(t)
	takeDown(t, c.up)
	return c
}

// keys makes a pair as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` do.
func keys(t *testing.T) (private, public []byte) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))(t)}),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(pub))(t)})
}

// part is an entry of a bundle, by its positions in it.
type part struct {
	name               string
	header, start, end int64
}

// parts are those of a bundle.
func parts(t *testing.T, bundle []byte) (all []part) {
	t.Helper()
	r := bytes.NewReader(bundle)
	entries := tar.NewReader(r)
	for header := int64(0); ; {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		start := int64(len(bundle)) - int64(r.Len())
		all = append(all, part{h.Name, header, start, start + h.Size})
		header = start + (h.Size+511)/512*512
	}
}

// partCalled is the one with the name.
func partCalled(t *testing.T, all []part, name string) part {
	t.Helper()
	i := slices.IndexFunc(all, func(p part) bool { return p.name == name })
	if i < 0 {
		t.Fatalf("the bundle has no %s: %v", name, all)
	}
	return all[i]
}

// flipped is a bundle with one byte that is another.
func flipped(bundle []byte, at int64) []byte {
	b := slices.Clone(bundle)
	b[at] ^= byte(1 << (at % 8))
	return b
}

// loadWay is how a bundle gets to where it is loaded.
type loadWay int

const (
	fromFile  loadWay = iota
	fromStdin         // from its first byte to its last
	toServer          // by way of one that runs
	loadWays
)

// loading is a load of a bundle that is not as it was made.
type loading struct {
	what   string
	bundle []byte
	args   []string // beside load and the file
	way    loadWay
	// refused is set where nothing at all may be loaded.
	refused bool
}

// load loads each of them into an empty directory, and returns how many images of the cargo
// are served then, to the byte, by what was loaded.
func (c *cargo) load(t *testing.T, all []loading) map[string]int {
	t.Helper()
	queue := make(chan loading, len(all))
	for _, l := range all {
		queue <- l
	}
	close(queue)
	var wg sync.WaitGroup
	var mu sync.Mutex
	served := map[string]int{}
	for range 3 { // they wait for the disk, too
		wg.Go(func() {
			for l := range queue {
				t.Run(l.what, func(t *testing.T) {
					n := c.loadOne(t, l)
					mu.Lock()
					defer mu.Unlock()
					served[l.what] = n
				})
			}
		})
	}
	wg.Wait()
	return served
}

func (c *cargo) loadOne(t *testing.T, l loading) (whole int) {
	d := newDepot(t, c.up)
	from, stdin := d.write(t, "carried.tar", l.bundle), io.Reader(nil)
	if l.way == fromStdin {
		from, stdin = "-", bytes.NewReader(l.bundle)
	}
	var s *lab.Server
	if l.way == toServer {
		s = d.serve(t)
	}
	o := d.runWith(t, stdin, append([]string{"bundle", "load", from}, l.args...)...)
	if s != nil {
		stop(t, s)
	}
	whole = d.visible(t, c.images...)
	switch {
	case l.refused && (o.Status != 1 || whole > 0):
		t.Errorf("%d images are served, want none, and status 1: %v", whole, o)
	case o.Status == 0 && whole < len(c.images):
		t.Errorf("%d images of %d are served, and it has done all: %v", whole, len(c.images), o)
	case o.Status != 0 && o.Status != 1 && o.Status != 3:
		t.Errorf("want status 1, or 3 where some of it was loaded: %v", o)
	case o.Status != 0 && strings.TrimSpace(o.Stderr) == "":
		t.Errorf("it does not say why: %v", o)
	case o.Status == 3 && whole == 0:
		t.Errorf("it says that some of it was loaded, and nothing is served: %v", o)
	}
	if whole == 0 && len(d.list(t)) > 0 {
		t.Errorf("no image is served, and there are some in the list: %v", d.list(t))
	}
	return whole
}

// tally counts how many loads have ended with all images, with some, and with none.
func (c *cargo) tally(served map[string]int) (all, some, none int) {
	for _, n := range served {
		switch n {
		case 0:
			none++
		case len(c.images):
			all++
		default:
			some++
		}
	}
	return all, some, none
}

// TestBundleFlipped changes one byte of a bundle, at many positions, among them the first and
// the last and some in all headers. What is loaded is right, and where something is missing
// the command says so.
func TestBundleFlipped(t *testing.T) {
	t.Parallel()
	c := newCargo(t)
	all := parts(t, c.plain)
	size := int64(len(c.plain))
	special := []int64{0, size - 1}
	for _, p := range all {
		// The fields of a header (POSIX.1-2017, pax, "ustar Interchange Format"): name, mode,
		// size, checksum, type, magic, prefix.
		for _, field := range []int64{0, 100, 124, 148, 156, 257, 345} {
			special = append(special, p.header+field)
		}
		if p.start < p.end {
			special = append(special, p.start, p.end-1)
		}
	}
	seed := mathrand.Uint64()
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	random.Shuffle(len(special)-2, func(i, j int) { special[i+2], special[j+2] = special[j+2], special[i+2] })
	n := sized(60, 200)
	positions := slices.Clone(special[:min(len(special), n/2)])
	for len(positions) < n {
		if at := random.Int64N(size); !slices.Contains(positions, at) {
			positions = append(positions, at)
		}
	}
	loads := []loading{{what: "as it was made", bundle: c.plain}}
	for i, at := range positions {
		loads = append(loads, loading{what: fmt.Sprintf("byte %d", at), bundle: flipped(c.plain, at), way: loadWay(i) % loadWays})
	}
	served := c.load(t, loads)
	if served["as it was made"] != len(c.images) {
		t.Errorf("%d of %d images are served of what is not damaged", served["as it was made"], len(c.images))
	}
	whole, some, none := c.tally(served)
	t.Logf("%d bytes, seed %d, %d positions: %d times all images are served, %d times some, %d times none", size, seed, n, whole, some, none)
	if some == 0 || none == 0 {
		t.Error("what is whole is to be loaded where a blob is damaged, and nothing where the head is")
	}
}

// TestBundleTruncated cuts a bundle short.
func TestBundleTruncated(t *testing.T) {
	t.Parallel()
	c := newCargo(t)
	size := int64(len(c.plain))
	lengths := []int64{0, 1, 511, 512, 513, size - 1, size - 512, size - 1024, size - 1025}
	all := parts(t, c.plain)
	for i := range 6 {
		p := all[i*(len(all)-1)/5]
		lengths = append(lengths, p.header, p.start, p.end)
	}
	seed := mathrand.Uint64()
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	for len(lengths) < 32 {
		lengths = append(lengths, random.Int64N(size))
	}
	slices.Sort(lengths)
	var loads []loading
	for i, n := range slices.Compact(lengths) {
		if n < size {
			loads = append(loads, loading{what: fmt.Sprintf("%d bytes", n), bundle: c.plain[:n], way: loadWay(i) % loadWays})
		}
	}
	whole, some, none := c.tally(c.load(t, loads))
	t.Logf("seed %d, cut %d times: %d times all images are served, %d times some, %d times none", seed, len(loads), whole, some, none)
	if none == 0 {
		t.Error("of a bundle that is cut in its head something is served")
	}
}

// TestBundleSigned loads with a key to trust: nothing of what is not signed with it, or whose
// list of digests is another one.
func TestBundleSigned(t *testing.T) {
	t.Parallel()
	c := newCargo(t)
	all := parts(t, c.signed)
	description, signature := partCalled(t, all, bundleDescription), partCalled(t, all, bundleSignature)
	unsigned := slices.Concat(c.signed[:signature.header], c.signed[(signature.end+511)/512*512:])
	trust := []string{"--trust-key", c.trust}
	loads := []loading{
		{what: "as it was made", bundle: c.signed, args: trust},
		{what: "two keys", bundle: c.signed, args: append([]string{"--trust-key", c.another}, trust...)},
		{what: "without a key", bundle: c.signed},
		{what: "never signed", bundle: c.plain, args: trust, refused: true},
		{what: "without the signature", bundle: unsigned, args: trust, refused: true},
		{what: "another key", bundle: c.signed, args: []string{"--trust-key", c.another}, refused: true},
	}
	seed := mathrand.Uint64()
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	for i := range sized(16, 60) {
		at := description.start + random.Int64N(description.end-description.start)
		switch i {
		case 0:
			at = description.start
		case 1:
			at = description.end - 1
		}
		loads = append(loads, loading{what: fmt.Sprintf("description %d byte %d", i, at-description.start), bundle: flipped(c.signed, at), args: trust, way: loadWay(i) % loadWays, refused: true})
	}
	for i := range sized(6, 20) {
		at := signature.start + random.Int64N(signature.end-signature.start)
		// Not all of its text is the signature.
		loads = append(loads, loading{what: fmt.Sprintf("signature %d byte %d", i, at-signature.start), bundle: flipped(c.signed, at), args: trust, way: loadWay(i) % loadWays})
	}
	t.Logf("seed %d", seed)
	served := c.load(t, loads)
	for _, what := range []string{"as it was made", "two keys", "without a key"} {
		if n := served[what]; n != len(c.images) {
			t.Errorf("%s: %d of %d images are served", what, n, len(c.images))
		}
	}

	// The keys of the configuration count for commands, too.
	for what, l := range map[string]struct {
		bundle []byte
		status int
	}{"signed": {c.signed, 0}, "unsigned": {c.plain, 1}} {
		d := newDepot(t, c.up, lab.Env{"REGISTRY_BUNDLE_TRUSTKEYS": c.trust})
		if o := d.run(t, "bundle", "load", d.write(t, "carried.tar", l.bundle)); o.Status != l.status {
			t.Errorf("a key in the configuration, %s: %v\nwant status %d", what, o, l.status)
		}
		if n := len(d.list(t)); (n > 0) != (l.status == 0) {
			t.Errorf("a key in the configuration, %s: %d images are listed", what, n)
		}
	}
}
